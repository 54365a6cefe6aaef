"""PTX text as a program: the one entry function of a module, cut into blocks."""

import re
from dataclasses import dataclass

WIDTHS = {"pred": 1, **{f"{k}{n}": n for k in "busf" for n in (16, 32, 64)}, "bf16x2": 32}


class Unsupported(Exception):
    """An instruction or operand that the emulator does not know."""


@dataclass(frozen=True)
class Instruction:
    """`@guard opcode operands`; a vector operand {a, b} is a list."""

    number: int
    parts: tuple[str, ...]  # of the opcode, between its dots
    operands: tuple
    guard: tuple[str, bool] | None  # predicate, whether negated
    text: str

    @property
    def head(self) -> str:
        return self.parts[0]

    @property
    def warp_wide(self) -> bool:
        """Tells whether all lanes of a warp must come to it together."""
        return "sync" in self.parts

    @property
    def block_barrier(self) -> bool:
        return self.parts[:2] == ("bar", "sync")


@dataclass(frozen=True)
class Program:
    """Blocks run from their first to their last instruction; branches only end them.

    A block of a warp-wide instruction begins with the first such, so lanes meet where blocks begin.
    """

    name: str
    target: str
    parameters: tuple[str, ...]
    widths: dict[str, int]  # of registers, in bits
    blocks: tuple[tuple[Instruction, ...], ...]
    labels: dict[str, int]  # the block that each stands before
    shared: str | None  # the name of its shared memory


def parse(text: str) -> Program:
    """Read a module with one entry function and no others."""
    text = re.sub(r"//.*|^\s*\.loc\b.*$", "", text, flags=re.M)
    entry = re.search(r"\.entry\s+([\w$]+)\s*\((.*?)\)(.*?)\{", text, flags=re.S)
    if not entry or text.count(".entry") != 1 or re.search(r"^\s*\.func\b", text, flags=re.M):
        raise Unsupported("anything but one entry function")
    if ".b8" in entry[2]:
        raise Unsupported("parameters by value")
    shared = re.findall(r"\.shared\s.*?([\w$]+)(?:\[\d*\])?;", text)
    if len(shared) > 1:
        raise Unsupported(f"several arrays in shared memory: {shared}")
    widths, blocks, labels, number = {}, [[]], {}, 0
    for statement in re.split(r";|(?<=:)\s", text[entry.end() : text.index("\n}", entry.end())]):
        statement = " ".join(statement.split())
        while label := re.match(r"([\w$]+):", statement):
            if blocks[-1]:
                blocks.append([])
            labels[label[1]] = len(blocks) - 1
            statement = statement[label.end() :].strip()
        if declared := re.match(r"\.reg \.(\w+) ([%\w]+)<(\d+)>", statement):
            kind, name, count = declared.groups()
            widths |= {f"{name}{n}": WIDTHS[kind] for n in range(int(count))}
        if not statement or re.match(r"\.(reg|pragma|shared)", statement):
            continue
        instruction = _instruction(number, statement)
        number += 1
        met = any(i.warp_wide for i in blocks[-1])
        if blocks[-1] and instruction.warp_wide and (not met or instruction.block_barrier):
            blocks.append([])
        blocks[-1].append(instruction)
        if instruction.head in ("bra", "ret") or instruction.block_barrier:
            blocks.append([])
    names = tuple(re.findall(r"([\w$]+)\s*(?:,|$)", entry[2].strip()))
    target = re.search(r"\.target\s+(\w+)", text)[1]
    blocks = tuple(map(tuple, blocks if blocks[-1] else blocks[:-1]))
    return Program(entry[1], target, names, widths, blocks, labels, (shared or [None])[0])


def _instruction(number: int, statement: str) -> Instruction:
    found = re.match(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)$", statement)
    if not found:
        raise Unsupported(statement)
    negated, guard, opcode, rest = found.groups()
    operands = tuple(
        [p.strip() for p in o[1:-1].split(",")] if o.startswith("{") else o
        for o in (o.strip() for o in re.findall(r"\s*\{[^}]*\}|\s*\[[^\]]*\]|[^,]+", rest))
        if o
    )
    parts = tuple(opcode.replace("::entry", "").split("."))
    return Instruction(
        number, parts, operands, (guard, bool(negated)) if guard else None, statement
    )
