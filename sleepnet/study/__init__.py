"""Studies: arms × seeds on the same data in the same order, and one report on all of them.

A config file's `get_config()` starts from `sleepnet.study.spec.default()`; `python -m sleepnet.study` runs it. Nothing is
imported here: a worker chooses its cores before JAX is loaded.
"""
