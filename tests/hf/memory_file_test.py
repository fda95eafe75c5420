"""Memory in a file: what is read is what wake and sleep give, in any pieces and in constant memory; it comes back bit for bit, answers as it did, and no other model's is taken."""
import dataclasses
import hashlib
import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from sleepnet import decode, memory, seeds
from sleepnet.config import ModelConfig, SleepConfig
from sleepnet.errors import UsageError
from sleepnet.hf import check
from sleepnet.hf.__main__ import main as hf_main
from sleepnet.tokenizers import Bytes
from sleepnet.memory import models, reading
from sleepnet.memory.__main__ import main
from sleepnet.models.hybrid import Hybrid

SMALL = ModelConfig(vocab_size=256, window=8, pattern="AG", width=8, heads=1, head_dim=8, mlp_width=8, pad_id=-1, sleep=SleepConfig(passes=2))
TEXT = "Schläft ein Lied\nin allen Dingen\n"  # 34 bytes: four windows, and two tokens of a fifth


def model_of(config=SMALL, seed=0, stop=()):
    return models.Model("small", Hybrid(config, seeds.rngs(seed)), Bytes(), stop, lambda text: f"<{text}>")


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "lied.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def held(model, text):
    return memory.read(model, text)


GRAPH = nnx.split(nnx.eval_shape(lambda: Hybrid(SMALL, nnx.Rngs(0))), nnx.Param)[0]
WAKE = jax.jit(lambda params, tokens, state: nnx.merge(GRAPH, params).wake(tokens, state))
SLEEP = jax.jit(lambda params, state, passes: nnx.merge(GRAPH, params).sleep(state, passes), static_argnames="passes")


def by_hand(model, state, tokens, passes):
    """Token after token awake; asleep where a window ends, and at the end. Logits of the last token, and the state."""
    params = nnx.split(model.model, nnx.Param)[1]
    for t, token in enumerate(tokens):
        logits, state = WAKE(params, jnp.asarray([[token]], jnp.int32), state)
        if passes and ((t + 1) % SMALL.window == 0 or t + 1 == len(tokens)):
            state = SLEEP(params, state, passes=passes)
    return logits[0, 0], state


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_what_is_remembered_is_what_wake_and_sleep_give(model, held):
    _, wanted = by_hand(model, model.model.init_state(1), list(TEXT.encode()), 2)
    np.testing.assert_allclose(held.state.fast_weights.layers[0], wanted.fast_weights.layers[0], rtol=1e-4, atol=1e-5)
    assert np.abs(wanted.fast_weights.layers[0]).max() > 0.01
    told = held.told["texts"]
    assert told == [{"name": "lied.txt", "bytes": 34, "sha256": hashlib.sha256(TEXT.encode()).hexdigest(), "tokens": 34, "windows": 5, "passes": 2}]


def test_pieces_make_no_difference_and_letters_may_be_cut(model, text, held, monkeypatch):
    monkeypatch.setattr(reading, "_PIECE", 5)  # cuts the ä
    same(memory.read(model, text).state, held.state)


def test_a_long_text_needs_no_more_memory_than_a_short_one(tmp_path):
    """All that grows with the text goes through here: windows of ids, and nothing else is kept."""
    fake = models.Model("fake", Hybrid(dataclasses.replace(SMALL, window=512), seeds.rngs(0)), Bytes(), (), str)

    def peak(size):
        (tmp_path / "long.txt").write_bytes(b"a line of words, and another\n" * (size // 29))
        tracemalloc.start()
        count = sum(len(ids) for ids, _ in reading._windows(reading._pieces(tmp_path / "long.txt", hashlib.sha256()), fake, 512))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == size // 29 * 29
        return most

    assert peak(3_000_000) < 1.05 * peak(300_000)


def test_a_file_gives_back_the_state_and_its_answers(model, held, tmp_path):
    held.save(tmp_path / "mem.safetensors")
    again = memory.load(tmp_path / "mem.safetensors", model)
    same(again.state, held.state)
    assert again.told == held.told
    (_, one), (_, other) = (memory.ask(model, each, "Und", count=7)[0] for each in (held, again))
    assert one == other


def test_an_answer_is_that_of_single_steps(model, held):
    """Token after token, with a sleep where the window ends: the log-probabilities of what two rows drew, and what the greedy one said."""
    drawn = [answer for _, answer in memory.ask(model, held, "Und die", count=6, law=decode.Law(temperature=1.0), samples=2)]
    greedy = memory.ask(model, held, "Und die", count=6)[0][1]
    assert drawn[0].tokens != drawn[1].tokens and greedy.logps == [0.0] * 6
    for answer in (*drawn, greedy):
        logits, state = by_hand(model, held.state, list(b"Und die"), 0)
        for t, token in enumerate(answer.tokens):
            if answer is greedy:
                assert token == int(jnp.argmax(logits))
            else:
                assert answer.logps[t] == pytest.approx(float(jax.nn.log_softmax(logits)[token]), abs=1e-4)
            if (len(b"Und die") + t) % SMALL.window == 0:
                state = SLEEP(nnx.split(model.model, nnx.Param)[1], state, passes=1)
            logits, state = by_hand(model, state, [token], 0)
    fresh = memory.ask(model, memory.Memory(model.model.init_state(1), held.told), "Und die", count=6, law=decode.Law(temperature=1.0), samples=2)[0][1]
    assert abs(fresh.logps[0] - drawn[0].logps[0]) > 1e-3  # what was read makes a difference


def test_an_answer_ends_at_a_stop_token(model, held):
    _, answer = memory.ask(model, held, "Und die", count=6)[0]
    stop = answer.tokens[3]
    first = answer.tokens.index(stop)
    assert memory.ask(model, held, "Und die", count=6, stop=(stop, 9999))[0][1].tokens == answer.tokens[:first]


def test_reading_on_leaves_the_first_as_it_is(model, held, text, tmp_path):
    before = jax.tree.map(np.array, held.state)
    more = memory.read(model, text, on=held, passes=1)
    same(before, jax.tree.map(np.array, held.state))
    _, wanted = by_hand(model, held.state, list(TEXT.encode()), 1)
    np.testing.assert_allclose(more.state.fast_weights.layers[0], wanted.fast_weights.layers[0], rtol=1e-4, atol=1e-5)
    assert [(each["windows"], each["passes"]) for each in more.told["texts"]] == [(5, 2), (5, 1)]


def test_what_outlives_a_window_besides_comes_back(text, tmp_path):
    """Sliding eviction, convolutions that remember."""
    config = dataclasses.replace(SMALL, window=4, sleep=SleepConfig(passes=1, eviction="sliding", keep_tails=True))
    model = model_of(config)
    held = memory.read(model, text)
    held.save(tmp_path / "mem.safetensors")
    assert {name.split(".")[0] for name in load_file(tmp_path / "mem.safetensors")} == {"fast_weights", "keys", "values", "valid", "conv_tails"}
    same(memory.load(tmp_path / "mem.safetensors", model).state, held.state)


def test_norms_are_those_of_each_head(held):
    layer = np.asarray(held.state.fast_weights.layers[0])
    assert list(held.norms()) == [1] and held.norms()[1] == pytest.approx([np.linalg.norm(layer[0, 0])])


# Refused

def refused(match, call, *arguments, **named):
    with pytest.raises(UsageError, match=match) as found:
        call(*arguments, **named)
    assert "\n" not in str(found.value)


def test_another_models_memory_is_refused(model, held, text, tmp_path):
    held.save(tmp_path / "mem.safetensors")
    other = model_of(seed=1)
    refused("is what another model remembers", memory.load, tmp_path / "mem.safetensors", other)
    refused("another model's memory", memory.read, other, text, on=held)
    wider = dataclasses.replace(model, model=nnx.merge(*nnx.split(model.model)))
    wider.model.config = dataclasses.replace(SMALL, sleep=SleepConfig(eviction="sliding"))
    refused("keys.0 is none, the model as it is opened asks for", memory.load, tmp_path / "mem.safetensors", wider)
    refused("is there already", held.save, tmp_path / "mem.safetensors")


def test_what_is_no_memory_is_refused(model, held, tmp_path):
    file = held.save(tmp_path / "mem.safetensors")
    whole, arrays = file.read_bytes(), load_file(file)
    refused("there is no such file", memory.load, tmp_path / "none.safetensors", model)
    file.write_bytes(whole[:-3])
    refused("can't be read", memory.load, file, model)
    save_file(arrays, file)
    refused("does not say what a memory of version 1 says", memory.load, file, model)
    for told in ({**held.told, "version": 2}, {**held.told, "texts": [{}]}, []):
        save_file(arrays, file, {"sleepnet.memory": json.dumps(told)})
        refused("does not say what a memory of version 1 says", memory.load, file, model)
    save_file({name: value * np.nan for name, value in arrays.items()}, file, {"sleepnet.memory": json.dumps(held.told)})
    refused("holds numbers that are not finite", memory.load, file, model)
    save_file({name: value[:, :, 1:].copy() for name, value in arrays.items()}, file, {"sleepnet.memory": json.dumps(held.told)})
    refused("the model as it is opened asks for", memory.load, file, model)


def test_what_is_no_text_is_refused(model, tmp_path):
    path = tmp_path / "x.txt"
    refused("there is no such file", memory.read, model, path)
    path.write_bytes(b"")
    refused("holds no text", memory.read, model, path)
    path.write_bytes("gut".encode() + b"\xff\xfe")
    refused("not UTF-8: byte 3", memory.read, model, path)
    path.write_bytes("gutä".encode()[:-1])
    refused("not UTF-8: byte 3", memory.read, model, path)
    path.write_text("2 3 x")
    refused("give its tokens as numbers with blanks between them, not 'x'", memory.read, dataclasses.replace(model, tokenizer=models.Ids()), path)
    path.write_text("2 3 256")
    refused("has tokens 0 … 255, and the text holds 256", memory.read, dataclasses.replace(model, tokenizer=models.Ids()), path)


def test_a_state_that_does_not_hold_is_refused(text, tmp_path):
    broken = model_of()
    broken.model.blocks[1].mixer.v.kernel[...] = jnp.full_like(broken.model.blocks[1].mixer.v.kernel[...], jnp.inf)
    refused("S is not finite behind window 1", memory.read, broken, text)


# As a person meets it

@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A tiny released hybrid, imported."""
    folder = tmp_path_factory.mktemp("opened")
    assert hf_main(["tiny", str(folder / "tiny"), "--family=gated_deltanet"]) == 0
    assert hf_main(["import", str(folder / "tiny"), f"--out={folder / 'in'}", "--window=8"]) == 0
    return folder / "in"


def test_all_four_commands(opened, text, tmp_path, capsys):
    mem, more = tmp_path / "mem.safetensors", tmp_path / "more.safetensors"
    line = lambda *words: (main(list(map(str, words))), capsys.readouterr().out)
    assert line("read", opened, f"--text={text}", f"--out={mem}") == (0, f"34 tokens in 5 windows of 8, N = 1: 384 bytes of S, in {mem}\n")
    first = mem.read_bytes()
    assert line("fork", opened, f"--memory={mem}", f"--text={text}", f"--out={more}")[0] == 0 and mem.read_bytes() == first
    code, shown = line("show", opened, f"--memory={more}")
    assert code == 0 and shown.count("lied.txt (sha256") == 2 and "‖S‖ of each head" in shown and "5 windows, N = 1" in shown
    code, said = line("ask", opened, f"--memory={mem}", "Und", "--count=3", "--samples=2", "--temperature=1", "--logps")
    assert code == 0 and said.startswith("-")


def test_a_model_that_comes_trained_reads_numbers():
    found = models.open_model("depo8_sleep4")
    assert found.tokenizer.encode("3 4\n5") == [3, 4, 5] and found.tokenizer.decode([3, 4]) == "3 4"
    refused("has no chat template", found.chat, "hello")


def test_a_command_that_can_not_be_met_is_one_line(opened, text, tmp_path, capsys):
    mem = tmp_path / "mem.safetensors"
    mem.write_bytes(b"x")

    def line(*words):
        assert main(list(map(str, words))) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("python -m sleepnet.memory: ")
        return error

    assert "is there already" in line("read", opened, f"--text={text}", f"--out={mem}") and mem.read_bytes() == b"x"
    assert "can't be read" in line("ask", opened, f"--memory={mem}", "Und")
    assert "has no fast weights, and a sleep keeps nothing" in line("read", check.GOLDENS / "llama", f"--text={text}", f"--out={tmp_path / 'a'}")
    assert "loops 3 times where it predicts" in line("read", check.GOLDENS / "ouro", f"--text={text}", f"--out={tmp_path / 'a'}")
    assert "is no folder" in line("read", tmp_path / "none", f"--text={text}", f"--out={tmp_path / 'a'}")
    assert "--passes=0 must be at least 1" in line("read", opened, f"--text={text}", f"--out={tmp_path / 'a'}", "--passes=0")
    assert "top_p=0.0 must be above 0" in line("ask", opened, f"--memory={mem}", "Und", "--top-p=0")
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    assert "is not UTF-8: byte 0" in line("read", opened, f"--text={tmp_path / 'bad.txt'}", f"--out={tmp_path / 'a'}")
    assert not (tmp_path / "a").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["ask", str(opened), f"--memory={mem}", "Und", "--stop=a"])
    assert "argument --stop: 'a' are no token ids, such as 2,7" in capsys.readouterr().err
