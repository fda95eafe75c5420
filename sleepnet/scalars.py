"""numpy's numbers as Python's own, which is all that a configuration, JSON or a hash of them knows."""
from typing import Any

import numpy as np


def python(value: Any) -> Any:
    """The value with every number and array of numpy, or of what makes itself one (JAX), as Python's; arrays become tuples, containers are made anew."""
    if isinstance(value, dict):
        return {python(key): python(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(python, value))
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        return array.item() if array.ndim == 0 else tuple(map(python, array))
    return value
