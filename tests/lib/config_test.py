"""Configuration: what is refused and how it is said, what is converted, and that nothing is lost on the way to JSON and back."""
import dataclasses
import json
import typing

import pytest

from sleepnet import config as configs
from sleepnet.config import EvalConfig, MeshConfig, ModelConfig, OptimConfig, RunConfig, SleepConfig, TaskConfig, TrainConfig, from_dict, parse, to_dict
from sleepnet.errors import UsageError

CLASSES = (SleepConfig, ModelConfig, TaskConfig, OptimConfig, TrainConfig, EvalConfig, RunConfig)


def test_the_default_is_the_default_of_every_class():
    assert parse(configs.default()) == RunConfig()


def test_every_key_has_one_of_the_types_that_a_flag_can_set():
    """A field that defaults to None could not be overridden on the command line."""
    for cls in CLASSES:
        for field in dataclasses.fields(cls):
            assert field.type in (int, float, bool, str, tuple[int, ...], dict[str, typing.Any]) or dataclasses.is_dataclass(field.type), field.name
            assert getattr(cls(), field.name) is not None


def test_values_changed_in_a_config_file_arrive():
    config = configs.default()
    config.seed = 7
    config.model.sleep.passes = 2
    config.train.random_passes = (1, 4)
    config.task.arguments = {"nodes": 5, "name_tokens": [1, 2]}
    run = parse(config)
    assert (run.seed, run.model.sleep.passes, run.train.random_passes) == (7, 2, (1, 4))
    assert run.task.arguments == {"nodes": 5, "name_tokens": (1, 2)}
    assert dataclasses.replace(run, seed=0, model=ModelConfig(), train=TrainConfig(), task=TaskConfig()) == RunConfig()


def test_a_run_comes_back_from_json_as_it_was():
    run = RunConfig(
        seed=3, resume="never", task=TaskConfig("rule110", {"width": 12, "pair": (1, 2)}),
        model=ModelConfig(pattern="AGGA", beta_max=2.0, sleep=SleepConfig(eviction="sliding", loop_start=1, loop_stop=3)),
        optim=OptimConfig(clip=0.0), train=TrainConfig(random_passes=(1, 2)), eval=EvalConfig(passes=(8,)),
    )
    plain = to_dict(run)
    assert plain["train"]["random_passes"] == [1, 2] and plain["model"]["sleep"]["loop_stop"] == 3
    assert from_dict(RunConfig, json.loads(json.dumps(plain))) == run


@pytest.mark.parametrize(
    "values, message",
    [
        ({"sed": 1}, r"unknown config key sed; did you mean 'seed'\?"),
        ({"model": {"witdh": 1}}, r"unknown config key model.witdh; did you mean 'width'\?"),
        ({"model": {"sleep": {"pases": 2}}}, r"unknown config key model.sleep.pases; did you mean 'passes'\?"),
        ({"train": {"zzz": 2}}, r"unknown config key train.zzz; known: accumulate, batch_size, eval_every, "),
    ],
)
def test_an_unknown_key_names_the_nearest(values, message):
    with pytest.raises(UsageError, match=message):
        from_dict(RunConfig, values)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"seed": 1.0}, "seed=1.0 must be a int"),
        ({"seed": True}, "seed=True must be a int"),
        ({"resume": 1}, "resume=1 must be a str"),
        ({"model": {"pattern": 3}}, "model.pattern=3 must be a str"),
        ({"optim": {"clip": "1"}}, "optim.clip='1' must be a finite float"),
        ({"optim": {"clip": float("nan")}}, "optim.clip=nan must be a finite float"),
        ({"optim": {"adam_rate": float("inf")}}, "optim.adam_rate=inf must be a finite float"),
        ({"optim": {"clip": True}}, "optim.clip=True must be a finite float"),
        ({"train": {"random_passes": (1, 2.0)}}, "train.random_passes=.* must be a tuple of integers"),
        ({"eval": {"passes": "12"}}, "eval.passes='12' must be a tuple of integers"),
    ],
)
def test_a_value_of_another_type_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        from_dict(RunConfig, values)


def test_integers_become_floats_and_single_numbers_tuples():
    run = from_dict(RunConfig, {"optim": {"clip": 2}, "train": {"random_passes": 3}, "eval": {"passes": [1, 2]}})
    assert type(run.optim.clip) is float and run.optim.clip == 2.0
    assert run.train.random_passes == (3,) and run.eval.passes == (1, 2)


def test_resume_understands_its_earlier_names():
    values = (True, "latest"), ("True", "latest"), (False, "never"), ("False", "never"), ("latest-good", "latest-good")
    assert [from_dict(RunConfig, {"resume": given}).resume for given, _ in values] == [wanted for _, wanted in values]


REFUSED = [
    (RunConfig, {"profile": "5:5"}, "profile='5:5' must be start:stop with start < stop, such as 100:105"),
    (RunConfig, {"profile": "99:105", "train": TrainConfig(steps=99)}, "profile='99:105' begins behind the last step: train.steps=99, the first is 0"),
    (MeshConfig, {"tensor": 0}, "mesh.tensor=0 must be at least 1, or -1 for all devices that are left"),
    (RunConfig, {"profile": "5-9"}, "profile='5-9' must be start:stop"),
    (RunConfig, {"compile_cache": ""}, "compile_cache='' must be workdir, off, or a folder"),
    (TrainConfig, {"batch_size": 6, "accumulate": 4}, "train.batch_size=6 must be a multiple of train.accumulate=4"),
    (ModelConfig, {"remat": "all"}, "model.remat='all' is not one of none, pass, chunk, named"),
    (ModelConfig, {"remat": "chunk", "sleep": SleepConfig(remat=True)}, "model.remat='chunk' and model.sleep.remat=True, which is model.remat='pass'"),
    (RunConfig, {"resume": "newest"}, "resume='newest' is not one of latest, latest-good, never"),
    (TrainConfig, {"keep_best": "loss"}, "train.keep_best='loss' is not one of "),
    (TrainConfig, {"keep_best": "exact_accuracy", "eval_every": 0}, "train.save_every=500 must be a multiple of train.eval_every=0 for train.keep_best"),
    (TrainConfig, {"keep_best": "exact_accuracy", "eval_every": 300}, "train.save_every=500 must be a multiple of train.eval_every=300"),
    (SleepConfig, {"passes": 0}, "sleep.passes=0 must be at least 1"),
    (SleepConfig, {"predict_passes": 0}, "sleep.predict_passes=0 must be at least 1"),
    (SleepConfig, {"gradient_passes": 0}, "sleep.gradient_passes=0 must be at least 1"),
    (SleepConfig, {"eviction": "soft"}, "sleep.eviction='soft' is not one of hard, sliding, none"),
    (SleepConfig, {"carry": "both"}, "sleep.carry='both' is not one of hidden, reinject"),
    (SleepConfig, {"gradient": "none"}, "sleep.gradient='none' is not one of full, last, implicit"),
    (ModelConfig, {"pattern": ""}, "model.pattern='' must be letters A"),
    (ModelConfig, {"pattern": "AM"}, "model.pattern='AM' must be letters A"),
    (ModelConfig, {"width": 0}, "model.width=0 must be at least 1"),
    (ModelConfig, {"heads": 0}, "model.heads=0"),
    (ModelConfig, {"head_dim": 0}, "model.head_dim=0"),
    (ModelConfig, {"head_dim": 7}, "model.head_dim=7 must be even"),
    (ModelConfig, {"conv_width": 0}, "model.conv_width=0"),
    (ModelConfig, {"mlp_width": -1}, "model.mlp_width=-1 must be at least 0"),
    (ModelConfig, {"rule": "oja"}, "model.rule='oja' is unknown; known: delta, gated_delta, gated_hebbian, hebbian, kda, momentum; a rule of your own is 'module:NAME', a sleepnet.rules.Rule"),
    (ModelConfig, {"dtype": "float16"}, "model.dtype='float16' is not one of float32, bfloat16"),
    (ModelConfig, {"beta_max": 0.0}, r"model.beta_max=0.0 must lie in \(0, 2\]"),
    (ModelConfig, {"beta_max": 2.1}, "model.beta_max=2.1"),
    (ModelConfig, {"sleep": SleepConfig(loop_start=2)}, "model.sleep.loop_start=2, loop_stop=-1: not a span of the 2 blocks"),
    (ModelConfig, {"sleep": SleepConfig(loop_stop=3)}, "loop_stop=3: not a span"),
    (ModelConfig, {"sleep": SleepConfig(loop_start=1, loop_stop=1)}, "not a span"),
    (ModelConfig, {"sleep": SleepConfig(loop_start=-1)}, "not a span"),
    (OptimConfig, {"learning_rate": 0.0}, "optim.learning_rate=0.0 must be positive"),
    (OptimConfig, {"adam_rate": -1.0}, "optim.adam_rate=-1.0 must be positive"),
    (OptimConfig, {"decay": 1.5}, "optim.decay=1.5 must lie between 0 and 1"),
    (OptimConfig, {"final": -0.1}, "optim.final=-0.1 must lie between 0 and 1"),
    (OptimConfig, {"warmup": -1}, "optim.warmup=-1"),
    (OptimConfig, {"clip": -1.0}, "optim.clip=-1.0"),
    *((TrainConfig, {key: 0}, f"train.{key}=0 must be at least 1") for key in ("steps", "batch_size", "log_every", "save_every", "keep", "eval_examples")),
    (TrainConfig, {"keep_period": -1}, "train.keep_period=-1 must be at least 0"),
    (TrainConfig, {"eval_every": -1}, "train.eval_every=-1 must be at least 0"),
    (TrainConfig, {"random_passes": (1, 0)}, "train.random_passes=0 must be at least 1"),
    (EvalConfig, {"examples": 0}, "eval.examples=0"),
    (EvalConfig, {"batch_size": 0}, "eval.batch_size=0"),
    (EvalConfig, {"passes": (0,)}, "eval.passes=0"),
]


@pytest.mark.parametrize("cls, values, message", REFUSED, ids=lambda value: None if isinstance(value, (dict, str)) else value.__name__)
def test_an_impossible_value_is_refused_by_its_key(cls, values, message):
    cls()
    with pytest.raises(UsageError, match=message):
        cls(**values)


def test_the_loop_and_the_survivors_follow_from_the_config():
    assert ModelConfig(pattern="AGAG").loop == (0, 4)
    assert ModelConfig(pattern="AGAG", sleep=SleepConfig(loop_start=1, loop_stop=3)).loop == (1, 3)
    assert ModelConfig(window=9).survivors == 0
    assert ModelConfig(window=9, sleep=SleepConfig(eviction="sliding")).survivors == 8


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1
