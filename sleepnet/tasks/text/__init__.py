"""text, a source: `readers.py` finds documents, `token_file.py` holds them as tokens, `corpus.py` splits them and cuts them, `task.py` makes examples."""
from sleepnet.tasks.text.task import Text

__all__ = ["Text"]
