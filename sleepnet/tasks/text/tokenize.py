"""`python -m sleepnet.tasks tokenize`: documents into a token file, once."""
import argparse
from collections.abc import Iterator

from sleepnet import tokenizers
from sleepnet.tasks.machinery.screen import bar
from sleepnet.tasks.text import readers, token_file
from sleepnet.tasks.text.corpus import library_named

TEXT = "text as tokens, in a folder of their own: what --config.task.name=text --config.task.arguments.tokens=FOLDER trains on"


def add(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="given", nargs="+", metavar="PATH", help="files and folders: .jsonl, .parquet, .array_record (of ids), all else is text in UTF-8")
    source.add_argument("--standard_library", action="store_true", help="the sources of the running Python's standard library without its tests, in the splits that they have as bytes")
    source.add_argument("--tfds", metavar="NAME", help="a TFDS data set that is on disk; with --split and --data_dir")
    parser.add_argument("--out", required=True, metavar="DIR", help="a folder, new or empty")
    parser.add_argument("--tokenizer", default="bytes", metavar="FILE", help="a tokenizer.json, or its folder (default bytes, which need nothing)")
    parser.add_argument("--suffix", nargs="+", default=[], metavar=".py", help="of a folder, only files whose names end so (default all)")
    parser.add_argument("--field", default="text", help="where the text stands in JSON lines, parquet and TFDS (default text)")
    parser.add_argument("--ids", default="uint16", help="of .array_record: uint16, int32, uint32 or int64 (default uint16)")
    parser.add_argument("--split", default="train", help="of a TFDS data set (default train)")
    parser.add_argument("--data_dir", metavar="DIR", help="where TFDS data sets lie (default ~/tensorflow_datasets)")


def run(options: argparse.Namespace) -> int:
    """Writes the token file that the flags ask for."""
    tokenizer = tokenizers.get(options.tokenizer)
    if options.standard_library:
        found, told = readers.standard_library(), library_named()
    elif options.given:
        found, told = readers.files(options.given, field=options.field, ids=options.ids, suffixes=tuple(options.suffix)), " ".join(options.given)
    else:
        found = readers.data_set(options.tfds, split=options.split, data_dir=options.data_dir, field=options.field)
        told = f"TFDS {options.tfds}, {options.split}"
    held = {"name": tokenizer.name, "sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size}
    with bar("documents", None) as step:
        folder = token_file.write(options.out, _documents(found, tokenizer), source=told, tokenizer=held, progress=step)
    about = token_file.load(folder).about
    print(f"{options.out} holds {about['documents']:,} documents, {about['tokens']:,} tokens of {about['tokenizer']}: sha256 {about['sha256'][:12]}")
    return 0


def _documents(found: Iterator[readers.Read], tokenizer: tokenizers.Bytes | tokenizers.Json) -> Iterator[token_file.Document]:
    for name, key, content in found:
        if isinstance(content, str):
            yield token_file.Document(name, key, tokenizer.encode(content), len(content.encode()))
        else:
            yield token_file.Document(name, key, content, 0)
