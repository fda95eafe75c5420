"""What a model remembers of a text, as a file: read, kept, asked, read on from; `python -m sleepnet.memory --help`."""
from sleepnet.memory.asking import ask
from sleepnet.memory.file import Memory, load
from sleepnet.memory.models import open_model
from sleepnet.memory.reading import read

__all__ = ["Memory", "ask", "load", "open_model", "read"]
