"""k-hop induction, the task: `task.py` asks, `law.py` says what guessing scores."""
from sleepnet.tasks.khop.task import Khop

__all__ = ["Khop"]
