"""Models: one mixer a file, `hybrid.py` the whole, `zoo.py` names and checkpoints."""
