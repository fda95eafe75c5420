"""Released models: opened from a local folder, checked, and written back; `python -m sleepnet.hf --help`."""
from sleepnet.hf import cache
from sleepnet.hf.model import load

__all__ = ["cache", "load"]
