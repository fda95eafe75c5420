"""Trains one model on one task; a run that was stopped goes on where it stood.

Examples:
  python -m sleepnet.train --config=experiments/depo_cpu.py --workdir=runs/depo
  python -m sleepnet.train --config=experiments/depo_cpu.py --workdir=runs/narrow --config.model.width=32 --config.train.steps=300
  python -m sleepnet.train --config=experiments/rule110_thought_cpu.py --workdir=runs/rule110_thought
  python -m sleepnet.train --config=experiments/text_cpu.py:once --workdir=runs/text/once

--config.task.name=text reads text: the standard library of this Python, or with --config.task.arguments.tokens=FOLDER what
`python -m sleepnet.tasks tokenize` made of yours.

--config.task.folder=FOLDER reads the examples from a folder that `python -m sleepnet.tasks export` wrote; it must hold train.steps ·
train.batch_size of the run's task, arguments and seed, split train.

On several hosts: the same command on each, at the same time, with --coordinator=host0:1234 --process_count=4 --process_id=0 (… 1, 2, 3) and a
--workdir that all of them see (--coordinator=auto alone on a TPU pod slice or under Slurm). Each reads its own rows of every batch; process 0
writes the logs. When one dies the others end within a minute and name it; the same commands go on from the newest checkpoint.

A config file defines get_config(); every key of it can be set as --config.key=value. The folder gets config.json, task.json,
metrics.jsonl, tensorboard/, checkpoints/, compiled/ (what a resumed run need not compile again; native code, so remove it from a run that you got from somebody else before you go on with
it) and, at the end, result.json. Then: python -m sleepnet.eval --workdir=DIR

A line of metrics says what its seconds went to: input_seconds (the devices had run dry and waited for a batch), compute_seconds,
checkpoint_seconds, evaluation_seconds. --config.profile=100:105 writes a JAX trace of these steps to profile/.

SIGTERM, SIGHUP (a terminal that closes; nohup keeps it away) or SIGUSR1 (Slurm's --signal) saves a checkpoint at the step reached, prints "preempted at step …" and exits with 0; the same command goes on from there,
to the same numbers. A second one ends the process at once. A folder has one run at work in it: a second is told which and ends. A checkpoint that is truncated, incomplete or another run's stops the
command with one line; with --config.resume=latest-good it is set aside in damaged/ and the newest good one is used.
"""
import shlex

from absl import flags
from ml_collections import config_flags

from sleepnet import cli, trust

FLAGS = flags.FlagValues()
config_flags.DEFINE_config_file("config", None, "config file of the run", lock_config=True, flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "folder of the run: new, empty, or this run's own; one that all hosts see", flag_values=FLAGS)
flags.DEFINE_string("coordinator", None, "of several processes: HOST:PORT of process 0, or auto where JAX can find out ($JAX_COORDINATOR_ADDRESS)", flag_values=FLAGS)
flags.DEFINE_integer("process_id", None, "of several processes: which one this is, from 0 ($JAX_PROCESS_ID)", flag_values=FLAGS)
flags.DEFINE_integer("process_count", None, "of several processes: how many there are ($JAX_NUM_PROCESSES)", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    """Trains what the flags name."""
    del argv
    from sleepnet.config import parse
    from sleepnet.errors import UsageError

    for flag in ("config", "workdir"):
        if FLAGS[flag].value is None:
            raise UsageError(f"--{flag} is missing: python -m sleepnet.train --config=FILE --workdir=DIR")
    config = parse(FLAGS.config)
    # After the config is checked: JAX takes seconds to start
    from sleepnet.train import hosts
    from sleepnet.train.loop import train
    from sleepnet.train.preempt import Preempted

    hosts.connect(FLAGS.coordinator, FLAGS.process_id, FLAGS.process_count)
    try:
        with hosts.Watch():
            result = train(config, FLAGS.workdir, quiet=not hosts.primary())
    except Preempted as stop:
        if hosts.primary():
            print(stop)
        return
    except (UsageError, FloatingPointError, OSError) as error:
        if hosts.several():
            hosts.fail(str(error))
        if isinstance(error, FloatingPointError):
            raise UsageError(str(error)) from error
        raise
    if not hosts.primary():
        return
    print(
        f"{result['steps']} steps, {result['tokens']:,} tokens, {result['flops']:.3g} FLOPs, {result['seconds']:.0f} s on {result['device']}; "
        f"grade it with: {shlex.join(['python', '-m', 'sleepnet.eval', f'--workdir={FLAGS.workdir}', *trust.flags()])}"
    )


if __name__ == "__main__":
    cli.run(main, FLAGS)
