"""What compilers say of the kernels on chips that are not here, from the committed budgets of tools/aot_kernels.py and tools/aot_cuda.py."""
import json
import pathlib

import aot_kernels

BUDGETS = {"TPU": "aot_budget.json", "GPU": "aot_cuda_budget.json"}  # of the GPU's kernels all are bfloat16


def rows(rule: str, dtype: str, folder: pathlib.Path = pathlib.Path(__file__).parents[1]) -> list[dict]:
    """One row a kernel of `rule` and `dtype`: its platform, its name in the budget, and the figures that the budget holds it to.

    TPU: cycles per token and head, beside the target where there is one, and VMEM. GPU: registers, shared memory, spilled bytes of each of the op's kernels.
    """
    found = []
    for platform, name in BUDGETS.items():
        for kernel, figures in json.loads((folder / name).read_text()).items():
            words = kernel.split() + (["bfloat16"] if platform == "GPU" else [])
            if rule in words and dtype in words:
                if platform == "TPU" and (target := aot_kernels.target(aot_kernels.Job.named(kernel))):
                    figures["target"] = target
                parts = {kernel: figures} if platform == "TPU" else {f"{kernel} {part}": told for part, told in figures.items()}
                found += [{"platform": platform, "kernel": part, **told} for part, told in parts.items()]
    return found


def line(row: dict) -> str:
    """A row in words."""
    figures = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row.items() if key not in ("platform", "kernel", "target"))
    met = f"; target {row['target']} cycles: {'met' if row['cycles'] <= row['target'] else 'missed'}" if "target" in row else ""
    return f"{row['platform']:4} {row['kernel']:36} {figures}{met}"
