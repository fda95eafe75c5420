"""sleepnet: language models that sleep."""

__version__ = "0.1.0"
