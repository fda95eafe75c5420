"""A memory asked: a prompt read behind what is remembered, and what follows."""
from collections.abc import Sequence

from sleepnet import decode, talk
from sleepnet.memory.file import Memory
from sleepnet.memory.models import Model


def ask(
    model: Model, memory: Memory, text: str, *, count: int = 64, law: decode.Law = decode.GREEDY, chat: bool = False, stop: Sequence[int] = (), samples: int = 1, seed: int = 0
) -> list[tuple[str, talk.Answer]]:
    """(text, its tokens and their log-probabilities) of each answer; the memory itself stays as it is.

    Args:
      model, memory: as `open_model`, and `read` or `load`, give them.
      text: the prompt.
      chat: it is a person's turn in the model's own template.
      stop: ids that end an answer besides the model's own.
      count, law, samples, seed: as `sleepnet.talk.follow` takes them.

    Raises:
      UsageError: as `sleepnet.talk.follow`; or there is no template.
    """
    prompt = model.tokenizer.encode(model.chat(text) if chat else text, special=not chat)
    sleep = model.model.config.sleep
    how = {"state": memory.state, "law": law, "stop": (*model.stop, *stop), "passes": sleep.passes if sleep.after_predicting else 1, "samples": samples, "seed": seed}
    answers = talk.follow(model.model, prompt, count, **how)
    return [(model.tokenizer.decode(answer.tokens), answer) for answer in answers]
