"""What a TPU chip can do, and how long a compiled program needs on it at least.

Peaks, HBM, the interconnect's bandwidth and which axes are rings are what Google states (docs.cloud.google.com/tpu/docs/ v4, v5e, v5p-training and
v6e, read in November 2026; of v6e also its older 1,640 GB/s of HBM and 3,584 Gbit/s of links are about). For v4 no bandwidth of a link is stated:
its 24 TB/s through the middle of 16 × 16 × 16 chips are 47 GB/s through each of 512 links, one way. Not stated by anybody: a hop's latency.
"""
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sleepnet.errors import UsageError

HOP = 1e-6  # seconds from one chip to its neighbour


@dataclasses.dataclass(frozen=True)
class Chip:
    """Facts of one chip.

    Attributes:
      flops: a second, products of bfloat16.
      hbm: bytes.
      bandwidth: bytes of HBM a second.
      link: bytes a second through one link, one way; the stated figure is of all links, both ways.
      wraps: an axis of the slice is a ring where its length is a multiple of this, else a line.
    """

    flops: float
    hbm: float
    bandwidth: float
    link: float
    wraps: int


CHIPS = {
    "v4": Chip(275e12, 32 * 2**30, 1200e9, 24e12 / 512, 4),
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 400e9 / 4 / 2, 16),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 1200e9 / 6 / 2, 4),
    "v6e": Chip(918e12, 32 * 2**30, 1600e9, 800e9 / 4 / 2, 16),
}


def slice_of(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the sides of a slice such as `v5p:4x4x4`.

    Raises:
      UsageError: a chip without facts, or sides that are no numbers.
    """
    name, _, sides = topology.partition(":")
    if name not in CHIPS or not all(side.isdigit() and int(side) for side in sides.split("x")):
        raise UsageError(f"--topology={topology!r} must be a chip and the sides of its slice, such as v5p:4x4x4 or v6e:16x16; chips: {', '.join(CHIPS)}")
    return CHIPS[name], tuple(int(side) for side in sides.split("x"))


def collective_seconds(row: Mapping[str, Any], chip: Chip, sides: Sequence[int]) -> float:
    """Seconds of one collective, alone on the links of the axes that its group extends along; `row` as `hlo.read` returns it.

    n chips pass on (n − 1) / n of the whole array, an all-reduce twice that. A ring is used both ways, a line one way.
    """
    long = [(length, length == side and side % chip.wraps == 0) for length, side in zip(row["extent"], sides) if length > 1]
    links = sum(2 if ring else 1 for _, ring in long) or 1
    hops = sum(length // 2 if ring else length - 1 for length, ring in long)
    rounds = 2 if row["kind"] == "all-reduce" else 1
    share = 1 if row["kind"] == "collective-permute" else (row["chips"] - 1) / row["chips"]
    return rounds * (share * row["bytes"] / (links * chip.link) + hops * HOP)


def predict(figures: Mapping[str, Any], chip: Chip, sides: Sequence[int]) -> dict[str, Any]:
    """The least time of one run, were products, HBM and links each busy at their peak and all at once.

    Args:
      figures: of a program, as `compiler.measure` returns it.
      chip, sides: of the slice.

    Returns:
      seconds of compute, HBM and interconnect, the largest of them as `step`, which one it is as `bound`, and `share`: the model's own
      FLOPs over what the chip could do in that time.
    """
    seconds = {
        "compute": figures["flops"] / chip.flops,
        "HBM": figures["bytes"] / chip.bandwidth,
        "interconnect": math.fsum(row["count"] * collective_seconds(row, chip, sides) for row in figures["collectives"]),
    }
    bound = max(seconds, key=seconds.get)
    step = seconds[bound]
    return {**seconds, "step": step, "bound": bound, "share": figures["flops_model"] / step / chip.flops if step else 0.0}
