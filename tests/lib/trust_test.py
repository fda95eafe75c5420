"""Whatever a downloaded folder says, reading it imports nothing: every command that reads saved configurations, and how the person allows a module."""
import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds

from sleepnet import build, cli, lock, origin, rules, tasks, trust
from sleepnet.checkpoint import Checkpoints, claim, load_model, read_claim
from sleepnet.config import ModelConfig, RunConfig, TaskConfig, TrainConfig, from_dict, parse, to_dict
from sleepnet.errors import UsageError
from sleepnet.eval import __main__ as evaluation
from sleepnet.models import __main__ as models, zoo
from sleepnet.study import ledger, pool, spec as specs, worker
from sleepnet.tasks import exported
from sleepnet.train import __main__ as training

TOOLS = Path(__file__).parents[2] / "tools"
EVIL = "evil_rules:RULE"
# tells that it was imported; a rule all the same, so that nothing but the question of trust refuses it
CODE = "import pathlib\npathlib.Path(__file__).with_name('ran').write_text('')\nfrom sleepnet.rules import Rule\nRULE = Rule(window=lambda **given: None, flops=7)\n"
CONFIG = RunConfig(
    task=TaskConfig("depo", {"nodes": 5, "hops": 2, "queries": 2, "names": 3, "name_tokens": (1, 2), "min_nodes": 2}),
    model=ModelConfig(width=8, heads=1, head_dim=8, mlp_width=8),
    train=TrainConfig(steps=6, log_every=1, save_every=2),
)
STUDY = specs.StudySpec(
    "Mine", "", (0,), CONFIG, (specs.Arm("four", "four", {"model.sleep.passes": 4}), specs.Arm("one", "one", {"model.sleep.passes": 1})), "four"
)
REFUSED = rf"asks for code of the module evil_rules \(model.rule='{EVIL}'\): if you know and trust it, add --trust=evil_rules "


def evil(values):
    """`values` with every rule replaced."""
    if isinstance(values, dict):
        return {key: EVIL if key in ("rule", "model.rule") else evil(value) for key, value in values.items()}
    return [evil(value) for value in values] if isinstance(values, list) else values


def rewrite(path):
    path.write_text(json.dumps(evil(json.loads(path.read_text()))))


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A run's folder with a checkpoint, and a study's with an outcome; never written to."""
    folder, task = tmp_path_factory.mktemp("honest"), build.task_of(CONFIG)
    claim(folder / "run", CONFIG, task)
    checkpoints = Checkpoints(folder / "run", origin.card(CONFIG, task))
    checkpoints.save(2, {"params": {"w": jnp.ones(3)}}, {"next_index": 2})
    checkpoints.close()
    with lock.held(folder / "study", "a study"):
        ledger.claim(folder / "study", STUDY, ["a command"])
    for run in ledger.runs(folder / "study", STUDY):
        ledger.prepare(run)
        outcome = {"arm": run.arm, "seed": 0, "config": to_dict(run.config), "steps": 6, "flops": 1.0, "result": {}, "rows": [], "curve": []}
        run.outcome.write_text(json.dumps(outcome | {"versions": {}, "device": "none"}))
    return folder


@pytest.fixture
def downloaded(honest, tmp_path, monkeypatch):
    """The same by someone who means ill, with their module beside it; one stands there, and has named nothing. Nothing of it may have run in the end."""
    folder = shutil.copytree(honest, tmp_path / "downloaded")
    (folder / "evil_rules.py").write_text(CODE)
    for path in (*folder.rglob("config.json"), *folder.rglob("study.json"), *folder.rglob("run.json"), *folder.rglob("outcome.json"), *folder.rglob("_CHECKPOINT_METADATA")):
        rewrite(path)
    arms = json.loads((folder / "study/study.json").read_text())
    arms["spec"]["base"]["model"]["rule"] = "gated_delta"
    arms["spec"]["arms"][0]["overrides"]["model.rule"] = EVIL
    (folder / "arms").mkdir()
    (folder / "arms/study.json").write_text(json.dumps(arms))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(trust, "_NAMED", set())
    yield folder
    rules._elsewhere.cache_clear()
    ran = "evil_rules" in sys.modules or (folder / "ran").exists()
    sys.modules.pop("evil_rules", None)
    assert ran == (folder / "wanted").exists()


@pytest.fixture
def call(monkeypatch, capsys):
    """(exit code, stdout, stderr) of a command's module."""

    def run(module, *arguments):
        for name in module.FLAGS:
            module.FLAGS[name].unparse()
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run(module.main, module.FLAGS)
        return stop.value.code or 0, *capsys.readouterr()

    return run


def tool(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def study():
    import sleepnet.study.__main__ as module

    return importlib.reload(module)  # fresh flags


def refused(found, match):
    code, out, err = found
    assert code == 2 and out == "" and err.count("\n") == 1
    with pytest.raises(UsageError, match=match):
        raise UsageError(err)


def test_standing_in_the_folder_itself(downloaded):
    """The report's own words, in a process of their own; Python looks for modules here first."""
    done = subprocess.run(
        [sys.executable, "-m", "sleepnet.eval", "--workdir=run"], env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=False
    )
    refused((done.returncode, done.stdout, done.stderr), f"^error: .*/run/config.json {REFUSED}")


def test_evaluation_and_shipping(downloaded, call):
    refused(call(evaluation, "--workdir=run"), f"^error: .*/run/config.json {REFUSED}")
    refused(call(tool("ship_checkpoint"), "--workdir=run", "--name=x", "--made_with=y"), f"run/config.json {REFUSED}")


def test_inspection_shows_it_and_needs_no_trust(downloaded, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert tool("inspect_checkpoint").main(["run"]) == 0
    assert f"model.rule = '{EVIL}'" in capsys.readouterr().out


def test_a_run_does_not_go_on_from_it(downloaded):
    """Neither from a folder whose config names it, nor from a checkpoint whose card does: what training looks at, in this order."""
    task = build.task_of(CONFIG)
    with pytest.raises(UsageError, match=f"run belongs to another run: model.rule is '{EVIL}' there and 'gated_delta' here"):
        claim(downloaded / "run", CONFIG, task)
    checkpoints = Checkpoints(downloaded / "run", origin.card(CONFIG, task))
    with pytest.raises(UsageError, match=rf"another run's \(model.rule is '{EVIL}' there"):
        checkpoints.restore(2, {"params": {"w": jnp.ones(3)}})
    assert checkpoints.restore_good({"params": {"w": jnp.ones(3)}})[:2] == (None, None)
    checkpoints.close()


def test_a_models_card(downloaded, monkeypatch, call, capsys):
    monkeypatch.setattr(zoo, "CHECKPOINTS", downloaded / "zoo")
    (downloaded / "zoo/kind").mkdir(parents=True)
    task = build.task_of(CONFIG)
    card = {"model": evil(to_dict(CONFIG.model)), "task": {**task.spec(), "hash": task.spec_hash}, "made_with": "", "exact_accuracy": {}}
    (downloaded / "zoo/kind/card.json").write_text(json.dumps(card))
    refused(call(evaluation, "--model=kind"), f"zoo/kind/card.json {REFUSED}")
    for arguments in (["list"], ["show", "kind"]):
        assert models.main(arguments) == 2
    assert "--trust=evil_rules" in capsys.readouterr().err
    (downloaded / "wanted").touch()
    assert models.main(["show", "kind", "--trust=evil_rules"]) == 0


@pytest.mark.parametrize("arguments, match", [
    (["--report_only", "--workdir=study"], f"study/study.json {REFUSED}"),
    (["--report_only", "--results=study", "--out=out"], f"study/study.json {REFUSED}"),
    (["--report_only", "--workdir=arms"], f"arm 'four': .*/arms/study.json {REFUSED}"),
    (["--overview=."], f"arm 'four': .*/arms/study.json {REFUSED}"),
    (["--config=mine.py", "--workdir=study"], f"study belongs to another study: base.model.rule is '{EVIL}' there"),
    (["--config=mine.py", "--workdir=arms"], f"arms belongs to another study: arm 'four' has overrides=.*{EVIL}"),
    (["--config=mine.py", "--workdir=new", "--results=study"], "study belongs to another study: base.model.rule"),
])
def test_a_study(downloaded, call, monkeypatch, arguments, match):
    (downloaded / "mine.py").write_text(f"from sleepnet.study import spec\ndef get_config():\n    return spec.ml_collections.ConfigDict({specs.to_dict(STUDY)!r})\n")
    refused(call(study(), *arguments), match)


def test_outcomes_that_may_be_used_again(downloaded, call, monkeypatch):
    """They are compared, and none is one's own."""
    monkeypatch.setattr(pool, "_accelerated", lambda: False)
    monkeypatch.setattr(pool, "execute", lambda runs, *_: [])
    (downloaded / "mine.py").write_text(f"from sleepnet.study import spec\ndef get_config():\n    return spec.ml_collections.ConfigDict({specs.to_dict(STUDY)!r})\n")
    (downloaded / "tree/other").mkdir(parents=True)
    shutil.copy("study/four/seed0/outcome.json", "tree/other/four-seed0.json")
    code, out, _ = call(study(), "--config=mine.py", "--workdir=new", "--reuse=tree")
    assert code == 0 and "taken from" not in out
    (downloaded / "new/four/seed0").mkdir(parents=True, exist_ok=True)
    shutil.copy("study/four/seed0/outcome.json", "new/four/seed0/outcome.json")
    refused(call(study(), "--config=mine.py", "--workdir=new"), f"was made with model.rule='{EVIL}', this study asks for 'gated_delta'")


def test_an_outcome_says_where_it_is_written_to_by_no_name_of_its_own(downloaded):
    """--results writes ARM-seedK.json."""
    path = downloaded / "study/four/seed0/outcome.json"
    values = json.loads(path.read_text()) | {"arm": "../../elsewhere", "config": to_dict(dataclasses.replace(CONFIG))}
    path.write_text(json.dumps(values))
    from sleepnet.study import outcomes

    with pytest.raises(UsageError, match=r"is of arm '../../elsewhere': not its outcome"):
        outcomes.load(downloaded / "study", STUDY)
    path.write_text(json.dumps(values | {"arm": "four", "seed": "0/../../elsewhere"}))
    with pytest.raises(UsageError, match="whole number for its seed"):
        outcomes.load(downloaded / "study", STUDY)


def test_a_studys_worker(downloaded, monkeypatch):
    """It trusts what the study was told by the person, on its command line, and nothing in the folder."""
    with pytest.raises(UsageError, match=f"seed0/run.json {REFUSED}"):
        worker.work(downloaded / "study/four/seed0")
    (run, *_) = ledger.runs(downloaded / "study", STUDY)
    assert not [word for word in pool.worker_command(run, (0,)) if word.startswith("--trust")]
    trust.allow("my_rules", "lab.rules")
    command = pool.worker_command(run, (0,))
    trust._NAMED.clear()
    monkeypatch.setattr(worker, "pin", lambda cores: None)
    monkeypatch.setattr(worker, "end_with_parent", lambda: None)
    monkeypatch.setattr(worker, "work", lambda folder: None)
    worker.main(command[3:])
    assert trust.allowed() == ("lab.rules", "my_rules")


def test_what_training_proposes_works(downloaded, call, monkeypatch):
    (downloaded / "mine.py").write_text("from sleepnet.config import default\nget_config = default\n")
    result = {"steps": 1, "tokens": 1, "flops": 1.0, "seconds": 1.0, "device": "none"}
    monkeypatch.setattr("sleepnet.train.loop.train", lambda *arguments, **more: result)
    arguments = ("--config=mine.py", "--workdir=run")
    assert call(training, *arguments)[1].endswith("python -m sleepnet.eval --workdir=run\n")
    (downloaded / "wanted").touch()
    assert call(training, *arguments, f"--config.model.rule={EVIL}")[1].endswith("python -m sleepnet.eval --workdir=run --trust=evil_rules\n")


def test_who_trusts_a_module_says_so(downloaded, call, monkeypatch):
    seen = []
    monkeypatch.setattr("sleepnet.checkpoint.load_model", lambda workdir: seen.append(read_claim(Path(workdir))[0].model.rule) or sys.exit(0))
    refused(call(evaluation, "--workdir=run", "--trust=other_rules,evil"), f"run/config.json {REFUSED}")
    (downloaded / "wanted").touch()
    assert call(evaluation, "--workdir=run", "--trust=other_rules,evil_rules")[0] == 0 and seen == [EVIL]


@pytest.mark.parametrize("name", [
    lambda: parse({"model": {"rule": EVIL}}),
    lambda: ModelConfig(rule=EVIL),
    lambda: specs.parse({"base": to_dict(CONFIG), "arms": [{"name": "a", "overrides": {"model.rule": EVIL}}]}),
    lambda: specs.Arm("a", "a", {"model.rule": EVIL}),
    lambda: zoo.config_of("cpu_gdn", rule=EVIL),
    lambda: trust.allow("evil_rules"),
])
def test_what_a_persons_own_code_or_config_names_is_named(downloaded, name):
    with pytest.raises(UsageError, match=REFUSED):
        read_claim(downloaded / "run")
    with pytest.raises(UsageError, match=f"a saved configuration {REFUSED}"):
        from_dict(RunConfig, {"model": {"rule": EVIL}})
    name()
    (downloaded / "wanted").touch()
    assert read_claim(downloaded / "run")[0].model.rule == EVIL
    assert from_dict(RunConfig, {"model": {"rule": EVIL}}).model.rule == EVIL


@pytest.mark.parametrize("rule", ["evil_rules;curl x:RULE", "еvil_rules:RULE", "evil_rules:RULE.window", "evil_rules\n:RULE", "--help:RULE", "$(x):RULE"])
def test_a_line_to_be_copied_holds_a_plain_name_or_none(downloaded, rule):
    with pytest.raises(UsageError) as said:
        from_dict(RunConfig, {"model": {"rule": rule}})
    assert "--trust" not in str(said.value) and "must be a known name, or 'module:NAME'" in str(said.value)


def test_trust_takes_modules_alone(downloaded, call):
    refused(call(evaluation, "--workdir=run", f"--trust={EVIL}"), f"--trust={EVIL} must be names of modules, such as --trust=my_rules")
    assert "--trust" in call(evaluation, "--help")[1]


@pytest.mark.parametrize("format", ["array_record", "npz"])
def test_an_export(downloaded, format):
    """TFDS would import what features.json names, numpy unpickle what an array holds; the manifest has the right sums."""
    task = tasks.get("depo", **CONFIG.task.arguments)
    folder = exported.write(task, downloaded / format, format=format, split="train", count=3)
    manifest = json.loads((folder / "manifest.json").read_text())
    (path,) = folder.rglob("features.json" if format == "array_record" else "*.npz")
    if format == "array_record":
        path.write_text(path.read_text().replace("tensorflow_datasets.core.features.features_dict.FeaturesDict", "evil_rules.Features"))
        assert "evil_rules.Features" in path.read_text()
    else:
        arrays = dict(np.load(path))
        np.savez(path, **arrays | {"tokens": np.array([Evil()] * 3, object)})
    manifest["files"] = {name: exported._content(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if format == "array_record":
        assert exported.load(folder).batch(0, "train", 0, 3)["tokens"].shape == (3, task.seq_len)
    else:
        with pytest.raises(UsageError, match="can't be read"):
            exported.load(folder)
    assert "evil_rules" not in sys.modules
    with pytest.raises((ValueError, TypeError, AttributeError)):  # but first the bait is taken, by who reads it so
        tfds.builder_from_directory(path.parent) if format == "array_record" else len(np.load(path, allow_pickle=True)["tokens"][0])
    (downloaded / "wanted").touch()


class Evil:
    """Imports the module when it is unpickled."""

    def __reduce__(self):
        return importlib.import_module, ("evil_rules",)


def test_one_place_imports_what_a_configuration_names():
    """`rules.py` imports what a Rule, which is code, says; a registry its own package's modules; two run config files that a person named or the house ships."""
    sources = {path.relative_to(TOOLS.parent).as_posix(): path.read_text() for path in (TOOLS.parent / "sleepnet").rglob("*.py")}
    by = lambda word: {name for name, text in sources.items() if word in text}
    assert by("import_module(") == {"sleepnet/trust.py", "sleepnet/rules.py", "sleepnet/registry.py"}
    assert by("runpy") == {"sleepnet/config_files.py", "sleepnet/study/factor.py"}
    assert not by("pickle.") | by("allow_pickle") | by("__import__") | by(" exec(") | by("builder_from_directory")


def test_a_run_that_is_ones_own_goes_on(tmp_path, downloaded):
    """Its config names the module, so that its folder may."""
    (downloaded / "wanted").touch()
    mine = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, rule=EVIL))
    claim(tmp_path / "own", mine, build.task_of(mine))
    claim(tmp_path / "own", mine, build.task_of(mine))
    with pytest.raises(UsageError, match="has no checkpoint yet"):
        load_model(tmp_path / "own")
