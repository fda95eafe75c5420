"""The text of a compiled program, HLO, as computations of instructions."""
import dataclasses
import math
import re

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's type; `on_chip` in vector memory or smaller, which costs no HBM traffic."""

    dtype: str
    shape: tuple[int, ...]
    on_chip: bool

    @property
    def nbytes(self) -> float:
        return math.prod(self.shape) * _BYTES.get(self.dtype, 1 if self.dtype.startswith("f8") else 0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of HLO."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    rest: str

    def called(self, *keys: str) -> list[str]:
        """The computations that it names under these keys."""
        found = [match for key in keys for match in re.findall(rf"\b{key}=(?:{{([^}}]*)}}|%?([\w.\-]+))", self.rest)]
        return [name.strip().lstrip("%") for many, one in found for name in (many.split(",") if many else [one])]


@dataclasses.dataclass(frozen=True)
class Computation:
    """Its instructions by name, in order; the last one of a computation is not always its root."""

    instructions: dict[str, Instruction]
    root: Instruction


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"no closing bracket in {text[:80]!r}")


def _arrays(text: str) -> tuple[Array, ...]:
    found = re.findall(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?", text)
    return tuple(Array(dtype, tuple(int(n) for n in shape.split(",") if n), "S(" in layout) for dtype, shape, layout in found)


def _instruction(line: str) -> tuple[bool, Instruction] | None:
    head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    end = _closing(line, head.end()) + 1 if line[head.end()] == "(" else line.index(" ", head.end())
    opcode = re.compile(r"\s*([\w\-]+)\(").match(line, end)
    stop = _closing(line, opcode.end() - 1)
    operands = tuple(re.findall(r"%([\w.\-]+)", line[opcode.end():stop]))
    return bool(head[1]), Instruction(head[2], _arrays(line[head.end():end]), opcode[1], operands, line[opcode.end():])


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a module by name, and the name of the one that is run."""
    found, entry, name, body, root = {}, "", None, {}, None
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
            name, body, root = head[2], {}, None
            entry = name if head[1] else entry
        elif line.startswith("}") and name:
            found[name] = Computation(body, root or list(body.values())[-1])
            name = None
        elif name and (read_line := _instruction(line)):
            is_root, one = read_line
            body[one.name] = one
            root = one if is_root else root
    return found, entry
