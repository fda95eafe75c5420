"""Text: what stands there is read, what comes next is predicted, window after window of one document.

    tokens     x_s … x_{s+T−1}      of one document, from a multiple s of T on
    targets    x_{s+1} … x_{s+T}
Behind the document's last token there is no label; what stands there, token 0, changes no label either, since nothing is read behind it.

Letters: T tokens of an example, L of a window, B examples of a batch.
"""
import dataclasses
import functools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet import tokenizers
from sleepnet.errors import UsageError
from sleepnet.tasks.machinery.arguments import choice, require, whole
from sleepnet.tasks.machinery.shuffle import shuffled
from sleepnet.tasks.machinery.splits import SPLITS, mix64
from sleepnet.tasks.registry import register
from sleepnet.tasks.source import WIDTH, Source
from sleepnet.tasks.text import token_file
from sleepnet.tasks.text.corpus import Corpus, standard_library


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Source):
    """Text as it stands, cut into windows that predict the next token.

    Arguments:
      tokens: folder of a token file (`python -m sleepnet.tasks tokenize`); empty: the standard library of the running Python, in bytes.
      tokenizer: "bytes", or the tokenizer.json that the tokens must be of, such as that of the model to train; empty: whichever they are of.
      window: L.
      windows: of an example; T = window · windows.
      held_out: one of so many documents is the test's, and one validation's, by the hash of its name or content.
      short: what is done with documents shorter than a window: pad, skip, or refuse.
    """

    name: ClassVar[str] = "text"
    version: ClassVar[int] = 1
    pad: ClassVar[int] = -1

    tokens: str = ""
    tokenizer: str = ""
    window: int = 64
    windows: int = 8
    held_out: int = 16
    short: str = "pad"

    def __post_init__(self):
        for key, least in (("window", 1), ("windows", 1), ("held_out", 3)):
            whole(key, getattr(self, key), least)
        choice("short", self.short, ("pad", "skip", "refuse"))
        held = self.corpus.tokenizer
        require(
            not self.tokenizer or tokenizers.hash_of(self.tokenizer) == held["sha256"],
            f"task.arguments.tokens={self.tokens!r} are of the tokenizer {held['name']} ({held['sha256'][:12]}), not of {self.tokenizer}: write them again (python -m sleepnet.tasks tokenize)",
        )
        if self.short == "refuse":
            self._refuse_short()
        self._set(vocab_size=int(held["vocab_size"]), seq_len=self.window * self.windows, predicts=(True,) * self.windows)
        self._stretches  # a split without a document is told now, not at the first look at it

    def _refuse_short(self) -> None:
        lengths = np.diff(self.corpus.starts)
        if (short := np.flatnonzero(lengths < self.window)).size:
            first = f"{self.corpus.names()[short[0]]} has {lengths[short[0]]}"
            raise UsageError(f"{len(short)} documents are shorter than task.arguments.window={self.window} tokens, {first}: take a smaller window, or short=pad or skip")

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The documents."""
        return token_file.load(self.tokens) if self.tokens else standard_library()

    @functools.cached_property
    def _stretches(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Split → its documents, and the stretches of all of them up to the end of each: int64 each."""
        found = {}
        for split in SPLITS:
            members = self.corpus.members(split, self.held_out, self.window if self.short == "skip" else 1)
            longer = f" of more than task.arguments.window={self.window} tokens, and short='skip' leaves the others out" if self.short == "skip" else ""
            require(len(members) > 0, f"split {split!r} of {self.corpus.about['source']} has no document{longer}: give more of them (a book can be cut into chapters), or another held_out than {self.held_out}")
            labels = np.diff(self.corpus.starts)[members] - 1
            found[split] = members, np.cumsum(-(-labels // self.seq_len))
        return found

    def stretches(self, split: str) -> int:
        """How many examples there are before the first comes again."""
        return int(self._stretches[choice("split", split, tuple(SPLITS))][1][-1])

    def _drawn(self, seed: int, split: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each example its document, where it begins there and the document's tokens; every stretch once before one comes again, in another order each time."""
        (word, number), (members, ends) = self._key(seed, split), self._stretches[split]
        count = np.uint64(ends[-1])
        epoch = mix64(mix64(np.full(len(indices), word, np.uint64)) + np.uint64(number)) + indices // count
        stretch = shuffled(indices % count, int(count), mix64(epoch)).astype(np.int64)
        row = np.searchsorted(ends, stretch, "right")
        begin = (stretch - np.concatenate([[0], ends])[row]) * self.seq_len
        return members[row], begin, np.diff(self.corpus.starts)[members[row]]

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        document, begin, length = self._drawn(seed, split, self._indices(indices))
        return self._read(document, begin, length)

    def _read(self, document: np.ndarray, begin: np.ndarray, length: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of T tokens from `begin` of each document on."""
        place_BxT = begin[:, None] + np.arange(self.seq_len + 1)
        there_BxT = place_BxT < length[:, None]
        token_BxT = np.where(there_BxT, self.corpus.tokens[self.corpus.starts[document][:, None] + np.where(there_BxT, place_BxT, 0)], 0).astype(np.int32)
        return {"tokens": token_BxT[:, :-1], "targets": token_BxT[:, 1:], "loss_mask": there_BxT[:, 1:]}

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        document, begin, _ = (int(value[0]) for value in self._drawn(seed, split, self._indices([index])))
        start, stop = (int(end) for end in self.corpus.starts[document : document + 2])
        words = self.corpus.tokens[start:stop].tolist()[begin : begin + self.seq_len + 1]
        words += [0] * (self.seq_len + 1 - len(words))
        labels = min(stop - start - begin - 1, self.seq_len)
        return {"tokens": np.array(words[:-1], np.int32), "targets": np.array(words[1:], np.int32), "loss_mask": np.arange(self.seq_len) < labels}

    def beginnings(self, split: str, documents: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The first T tokens of at most so many documents of a split, those with the smallest keys: a batch, and which documents they are, int64 [B]."""
        members = self._stretches[choice("split", split, tuple(SPLITS))][0]
        chosen = members[np.argsort(self.corpus.keys[members], kind="stable")[: whole("documents", documents, 1)]]
        return self._read(chosen, np.zeros(len(chosen), np.int64), np.diff(self.corpus.starts)[chosen]), chosen

    def bytes_per_token(self, documents: np.ndarray) -> float | None:
        """Mean bytes of text that a token of these documents stands for; None where nobody knows."""
        sizes, lengths = self.corpus.sizes[documents], np.diff(self.corpus.starts)[documents]
        return float(sizes.sum() / lengths.sum()) if (sizes > 0).all() else None

    def spec(self) -> dict[str, Any]:
        """The documents by their hash, not by where they lie."""
        told = {key: value for key, value in super().spec()["arguments"].items() if key not in ("tokens", "tokenizer")}
        return {"name": self.name, "version": self.version, "arguments": told, "corpus": dict(self.corpus.about)}

    @property
    def title(self) -> str:
        about = self.corpus.about
        return f"text: {about['source']} ({about['tokens']:,} tokens of {about['tokenizer']}, {about['sha256'][:12]}), {self.windows} windows of {self.window}"

    def token(self, number: int) -> str:
        if self.corpus.tokenizer["name"] != tokenizers.Bytes.name:
            return f"⟨{number}⟩"
        return repr(chr(number))[1:-1] if number < 128 else f"\\x{number:02x}"

    def explain(self) -> str:
        about, counts = self.corpus.about, {split: (len(self._stretches[split][0]), self.stretches(split)) for split in SPLITS}
        told = ", ".join(f"{split} {documents:,} in {stretches:,} stretches" for split, (documents, stretches) in counts.items())
        return (
            f"Text as it stands: {about['source']}, {about['documents']:,} documents of {about['tokens']:,} tokens ({about['tokenizer']}; sha256 {about['sha256'][:12]}). At each token the next is "
            f"predicted; an example is a stretch of one document. Documents: {told}."
        )

    def mark(self, example: Mapping[str, Any]) -> str:
        labels, lines = int(example["loss_mask"].sum()), []
        for w in range(self.windows):
            words = example["tokens"][w * self.window : min((w + 1) * self.window, labels + 1)].tolist()
            if words:
                text = "".join(map(self.token, words)) if self.corpus.tokenizer["name"] == tokenizers.Bytes.name else " ".join(map(self.token, words))
                lines.append(textwrap.fill(f"window {w + 1}: {text}", WIDTH, subsequent_indent="    ", break_long_words=True, drop_whitespace=False))
        return "\n".join([*lines, f"{labels} labels: at each of these tokens the one behind it."])
