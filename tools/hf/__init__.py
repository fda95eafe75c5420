"""Parts of the tools about released models."""
