"""A stream of skills, the task: `task.py` asks, `rules.py` draws the rule tables that overlap, and what guessing scores on them."""
from sleepnet.tasks.skills.task import Skills

__all__ = ["Skills"]
