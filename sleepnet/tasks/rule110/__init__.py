"""Rule 110, the task: `task.py` asks, `layout.py` has the arguments and places, `arrays.py` draws many examples at once, `automaton.py` steps."""
from sleepnet.tasks.rule110.task import Rule110

__all__ = ["Rule110"]
