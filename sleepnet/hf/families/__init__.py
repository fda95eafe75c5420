"""One file a family: how its config.json and its tensors become ours, as data."""
