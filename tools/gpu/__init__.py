"""Behind gpu_check.py its `parts`; behind gpu_train.py the `packs` that carry a run from leg to leg."""
