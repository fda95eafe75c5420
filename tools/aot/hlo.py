"""What a compiled TPU program does in one run of one chip, read from its HLO text: FLOPs, bytes of HBM, collectives, loops times their trips.

XLA's own cost analysis counts the body of a loop once and takes arrays in vector memory for traffic.
"""
import collections
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from aot.text import Array, Computation, Instruction, parse

_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# moves nothing by itself
_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all", "partition-id", "replica-id",
    "opt-barrier", "add-dependency",
}
_SLICES = ("slice", "dynamic-slice", "gather", "slice-start")


def trips(condition: Computation, computations: dict[str, Computation]) -> int | None:
    """How often a loop with this condition runs: `i < N` from 0, as `lax.scan` makes it; None where it is anything else."""
    every = [*condition.instructions.values()]
    for one in tuple(every):
        every += [inner for name in one.called("calls") for inner in computations[name].instructions.values()]
    bounds = [int(match[1]) for one in every if one.opcode == "constant" and (match := re.match(r"(\d+)\)", one.rest))]
    return bounds[0] if len(bounds) == 1 and any("direction=LT" in one.rest for one in every) else None


def product_flops(one: Instruction, left: Array, right: Array) -> int:
    """FLOPs of a dot or a convolution: 2 for each product of numbers that are not padding or the holes of a dilation."""
    out = math.prod(one.arrays[0].shape)
    if one.opcode == "dot":
        summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)[1]
        return 2 * out * math.prod(left.shape[int(axis)] for axis in summed.split(",") if axis)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", match[1] if (match := re.search(r"window=\{([^}]*)\}", one.rest)) else ""))
    spatial = sorted(set(labels[1]) - set("bf"))
    numbers = lambda key, default: [int(n) for n in window[key].split("x")] if key in window else [default] * len(spatial)
    pads = [int(p.split("_")[0]) for p in window["pad"].split("x")] if "pad" in window else [0] * len(spatial)
    total = 2 * right.shape[labels[2].index("i")] * one.arrays[0].shape[labels[3].index("b")] * one.arrays[0].shape[labels[3].index("f")]
    for at, (stride, lhs, rhs, pad) in enumerate(zip(numbers("stride", 1), numbers("lhs_dilate", 1), numbers("rhs_dilate", 1), pads)):
        size = [array.shape[label.index(spatial[at])] for array, label in ((left, labels[1]), (right, labels[2]), (one.arrays[0], labels[3]))]
        place = np.arange(size[2])[:, None] * stride + np.arange(size[1])[None] * rhs - pad
        total *= int(np.sum((place >= 0) & (place <= (size[0] - 1) * lhs) & (place % lhs == 0)))
    return total


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _device_ids(text: str) -> np.ndarray:
    """The devices of `[4,2]T(1,0)`, counted over 4 × 2 and transposed, or of `0,2,1,3`, one by one."""
    if match := re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        ids = np.arange(math.prod(_numbers(match[1]))).reshape(_numbers(match[1]))
        return ids.transpose(_numbers(match[2])) if match[2] else ids
    return np.array(_numbers(text))


def group_of(rest: str, devices: int) -> list[int]:
    """The first group of devices that a collective spans, from its attributes."""
    if match := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
        pairs = [[int(n) for n in pair] for pair in re.findall(r"(\d+),(\d+)", match[1])]
        return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0][:1])  # to itself a chip sends nothing
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return _numbers(match[1])
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\]\S*)", rest):
        return _device_ids(match[2]).reshape(_numbers(match[1]))[0].tolist()
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\S+)\))?\s*\{([^}]*)\}", rest):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        ids = _device_ids(match[2] or f"[{math.prod(sizes.values())}]").reshape(*sizes.values())
        for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", match[3]):
            axis = list(sizes).index(name)
            if before:  # a part of the axis: (parts before, size)
                step = sizes[name] // (int(before) * int(size))
                ids = np.take(ids, np.arange(int(size)) * step, axis=axis)
            sizes[name] = -1
        return ids[tuple(slice(None) if size == -1 else slice(0, 1) for size in sizes.values())].ravel().tolist()
    if match := re.search(r"replica_groups=(?!\{\})(.*)", rest):
        raise ValueError(f"a collective's groups are written in a way this tool does not read: {match[1][:120]}")
    return list(range(devices))


def extent(group: Sequence[int], places: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """How many different coordinates a group of chips has along each axis of the slice: (4, 4, 1) is a plane."""
    return tuple(len(set(axis)) for axis in zip(*(places[i] for i in group)))


class _Reader:
    """Adds up what the computations do, each as often as it runs."""

    def __init__(self, text: str, places: Sequence[tuple[int, ...]]):
        self.computations, self.entry = parse(text)
        self.places = places
        self.flops = self.kernel_flops = self.bytes = self.unknown_loops = 0
        self.collectives = collections.Counter()

    def operands(self, one: Instruction, scope: Computation) -> list[Array]:
        return [scope.instructions[name].arrays[0] for name in one.operands if name in scope.instructions and scope.instructions[name].arrays]

    def walk(self, name: str, times: int, fused: bool = False, begun: set[str] | None = None) -> None:
        """Adds a computation that runs so many `times`; inside a fusion no bytes move, and collectives that have `begun` go on."""
        scope = self.computations[name]
        begun = set() if begun is None else begun
        for one in scope.instructions.values():
            if not fused and one.opcode not in _FREE and not one.opcode.endswith(("-done", "-update")):
                self.bytes += times * self.traffic(one, scope)
            kind = one.opcode.removesuffix("-start")
            channel = match[0] if fused and (match := re.search(r"channel_id=\d+", one.rest)) else one.name
            if kind in _COLLECTIVES and channel not in begun:  # in fusions its start, steps and end can be several; outside a channel can be used again
                begun.add(channel)
                arrays = [array for other in one.operands if other in scope.instructions for array in scope.instructions[other].arrays]
                if kind == "all-reduce" and "all-reduce-scatter" in name:
                    kind = "reduce-scatter"
                group = group_of(one.rest, len(self.places))
                whole = sum(array.nbytes for array in arrays) * (len(group) if kind == "all-gather" else 1)
                self.collectives[kind, len(group), extent(group, self.places), int(whole)] += times
            elif one.opcode in ("dot", "convolution"):
                self.flops += times * product_flops(one, *self.operands(one, scope)[:2])
            elif one.opcode == "custom-call" and (match := re.search(r'"cost_estimate":\{"flops":"(\d+)"', one.rest)):
                self.kernel_flops += times * int(match[1])
            if one.opcode == "while":
                (condition,), (body,) = one.called("condition"), one.called("body")
                count = trips(self.computations[condition], self.computations)
                self.unknown_loops += count is None
                self.walk(body, times * (1 if count is None else count), fused)
            elif one.opcode in ("fusion", "call", "conditional", "async-start", "custom-call"):
                for other in one.called("calls", "to_apply", "branch_computations", "called_computations"):
                    if other in self.computations:
                        inside = one.opcode in ("fusion", "async-start", "custom-call")
                        self.walk(other, times, fused or inside, begun if inside else None)

    def traffic(self, one: Instruction, scope: Computation) -> float:
        """Bytes of HBM that an instruction reads and writes."""
        held = lambda arrays: sum(array.nbytes for array in arrays if not array.on_chip)
        if one.opcode in _SLICES:
            return held(one.arrays[:1]) + (one.arrays[0].nbytes if held(self.operands(one, scope)[:1]) else 0)
        if one.opcode == "dynamic-update-slice":
            return 2 * held(self.operands(one, scope)[1:2])
        if one.opcode == "fusion":
            return self.fusion_traffic(one, scope)
        results = one.arrays[:1] if one.opcode.endswith("-start") else one.arrays  # (result, operand, context)
        return held(results) + held(self.operands(one, scope))

    def fusion_traffic(self, one: Instruction, scope: Computation) -> float:
        """Of a fusion: a parameter of which slices alone are read counts as these, an array changed in place as what is put there."""
        inside = self.computations[one.called("calls")[0]]
        given = {int(match[1]): p.name for p in inside.instructions.values() if p.opcode == "parameter" and (match := re.match(r"(\d+)\)", p.rest))}
        root, total = inside.root, 0.0
        in_place = root.opcode == "dynamic-update-slice" and root.operands[0] in given.values()
        for number, name in enumerate(one.operands):
            array = scope.instructions[name].arrays[0] if name in scope.instructions and scope.instructions[name].arrays else None
            if array is None or array.on_chip:
                continue
            users = [user for user in inside.instructions.values() if given.get(number) in user.operands]
            if in_place and root.operands[0] == given.get(number):
                continue
            if users and all(user.opcode in _SLICES and user.operands[0] == given[number] for user in users):
                total += sum(user.arrays[0].nbytes for user in users)
            else:
                total += array.nbytes
        if in_place:
            update = inside.instructions[root.operands[1]].arrays[0].nbytes
            return total + (0 if one.arrays[0].on_chip else update)
        return total + sum(array.nbytes for array in one.arrays if not array.on_chip)


def read(text: str, places: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """What one chip does in one run of a compiled program.

    Args:
      text: `compiled.as_text()`.
      places: each chip's coordinates in the slice, in the order of the mesh.

    Returns:
      flops (products and what the kernels' CostEstimate says), kernel_flops (the latter alone), bytes (of HBM, read and written), unknown_loops
      (counted once), and collectives: {kind, chips, extent, bytes (of the whole array, before or after), count} each.
    """
    reader = _Reader(text, places)
    reader.walk(reader.entry, 1)
    keys = ("kind", "chips", "extent", "bytes")
    rows = [dict(zip(keys, key)) | {"count": count} for key, count in reader.collectives.items() if key[1] > 1]
    rows.sort(key=lambda row: -row["bytes"] * row["count"])
    return {
        "flops": reader.flops + reader.kernel_flops, "kernel_flops": reader.kernel_flops, "bytes": reader.bytes,
        "unknown_loops": reader.unknown_loops, "collectives": rows,
    }


def shortage(message: str) -> dict[str, Any]:
    """What the compiler says of a program that does not fit: a line, and the largest buffers as {bytes, shape, operator}."""
    unit = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    buffers = []
    for block in re.split(r"\n\s*\d+\. Size: ", message)[1:]:
        size = re.match(r"([\d.]+)([BKMGT])?", block)
        get = lambda key: match[1].strip() if (match := re.search(rf"{key}: (.*)", block)) else ""
        buffers.append({"bytes": int(float(size[1]) * unit[size[2] or "B"]), "shape": get("Shape"), "operator": get("Operator")})
    words = [line for line in message.splitlines() if "RESOURCE_EXHAUSTED" in line] or message.splitlines()[:1]
    told = re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm", message) or re.search(r"required .*?\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)", message)
    line = f"needs {told[1]} of the {told[2]} that the compiler has for it" if told else words[0].strip()
    return {"message": line, "buffers": sorted(buffers, key=lambda buffer: -buffer["bytes"])[:10]}
