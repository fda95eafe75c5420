"""gsm, the task: `graph.py` → `problem.py` → `text.py` write it, `fillers.py` surround it, `reader.py` solves it from the text alone."""
from sleepnet.tasks.gsm.task import Gsm

__all__ = ["Gsm"]
