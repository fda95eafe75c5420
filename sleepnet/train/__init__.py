"""Training: `step.py` is pure and jitted, `loop.py` the run around it; `python -m sleepnet.train`."""
