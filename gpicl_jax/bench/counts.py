"""What a program costs: products of its jaxpr; kernels, bytes, collectives and loops of its compiled text."""

import math
import re
from collections import Counter
from typing import Any, NamedTuple

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "token": 0} | {f"{kind}{n}": n // 8 for kind in "suf" for n in (8, 16, 32, 64)}
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id", "iota"}
_COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all"}
_SLICES = {"dynamic-slice", "slice", "gather"}
_SHAPE = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.+?) ([a-z][\w-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_WORKSPACE = re.compile(r", s8\[\d+\]\{0\}(?=\)$)")  # of a library's product; nobody reads it
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r"(?:calls|body|to_apply|branch_computations|true_computation|false_computation)=\{?([%\w.,\s-]+)\}?")


def product_flops(jaxpr: Any, platform: str) -> float:
    """Returns the FLOPs of all matrix products and convolutions, 2 for each multiplication and addition.

    A scan counts as often as it runs, a while loop of unknown length once, of branches the largest, and of those for
    platforms the one of `platform`.

    Example:
      >>> import jax
      >>> step = jax.make_jaxpr(lambda x: jax.lax.scan(lambda x, _: (x @ x, None), x, length=5)[0])
      >>> product_flops(step(jax.numpy.ones((10, 10))).jaxpr, "cpu")
      10000.0
    """
    return sum(_equation_flops(equation, platform) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _equation_flops(equation: Any, platform: str) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2.0 * equation.outvars[0].aval.size * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        out_features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * equation.outvars[0].aval.size * kernel.size / out_features
    if name == "cond":
        platforms = params.get("branches_platforms")
        branches = params["branches"]
        if platforms:
            branches = [branch for branch, names in zip(branches, platforms, strict=True) if not names or platform in names][:1]
        return max(product_flops(branch, platform) for branch in branches)
    inner = (product_flops(each, platform) for value in params.values() for each in _jaxprs(value))
    return params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)


def _jaxprs(value: Any) -> list[Any]:
    values = value if isinstance(value, tuple | list) else [value]
    return [each for each in values if hasattr(getattr(each, "jaxpr", each), "eqns")]


class Instruction(NamedTuple):
    """One line of a compiled program: its shape, its operation, its operands' names, and the rest of the line."""

    name: str
    shape: str
    operation: str
    operands: list[str]
    rest: str


class Cost(NamedTuple):
    """What a compiled program does in one run of its entry.

    Attributes:
      bytes_moved: bytes that kernels read from memory and write to it.
      kernels: how many kernels it starts.
      reduced: bytes that all-reduces take.
      collectives: how often each collective runs.
      loops: its loops.
      once: those of them whose length is unknown, which count once.
    """

    bytes_moved: float = 0.0
    kernels: float = 0.0
    reduced: float = 0.0
    collectives: Counter = Counter()  # noqa: RUF012
    loops: int = 0
    once: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, number: int) -> "Cost":
        """Returns the cost of so many runs. A loop stays one loop."""
        collectives = Counter({name: number * count for name, count in self.collectives.items()})
        numbers = (number * each for each in (self.bytes_moved, self.kernels, self.reduced))
        return Cost(*numbers, collectives, self.loops, self.once)


def program_cost(text: str) -> Cost:
    """Returns the cost of an optimised HLO program, as `compiled.as_text()` gives it.

    A loop of known length counts as often as it runs, others once, and of branches the one that moves most. A kernel reads its
    operands and writes its result. Of an operand that it only slices, it reads the slice. What lies in a TPU's vector memory
    moves no bytes. What a GPU finds in its cache counts.

    Example:
      >>> import jax
      >>> loop = jax.jit(lambda x: jax.lax.scan(lambda x, _: (jax.numpy.sin(x @ x), None), x, length=7)[0])
      >>> program_cost(loop.lower(jax.numpy.ones((64, 64))).compile().as_text()).loops
      1
    """
    computations, entry = _parse(text)
    return _Counter(computations).cost(entry)


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    computations, entry, current = {}, "", []
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            name, shape, operation, rest = found.groups()
            operands = re.findall(r"%([\w.-]+)", rest[: _closing(rest)])
            current.append(Instruction(name, shape, operation, operands, rest))
    return computations, entry


def _closing(text: str) -> int:
    """Returns where the bracket that is open before `text` closes."""
    depth = 1
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if not depth:
            return index
    return len(text)


def shape_bytes(shape: str, vector_memory: bool = False) -> int:
    """Returns the bytes of a shape, a tuple's items together, without those in a TPU's `vector_memory` unless asked for.

    Example:
      >>> shape_bytes("(f32[2,3]{1,0}, bf16[4]{0:T(256)S(1)}, s32[])")
      28
    """
    found = _SHAPE.findall(shape)
    return sum(
        _BYTES.get(kind, 1) * math.prod(map(int, filter(None, sizes.split(","))))
        for kind, sizes, layout in found
        if vector_memory or "S(" not in layout
    )


class _Counter:
    def __init__(self, computations: dict[str, list[Instruction]]) -> None:
        self.computations = computations
        self._costs: dict[str, Cost] = {}

    def cost(self, name: str) -> Cost:
        if name not in self._costs:
            instructions = self.computations[name]
            shapes = {each.name: each.shape for each in instructions}
            self._costs[name] = sum((self._instruction(each, shapes) for each in instructions), Cost())
        return self._costs[name]

    def _instruction(self, each: Instruction, shapes: dict[str, str]) -> Cost:
        operation = each.operation.removesuffix("-start")
        if operation in _FREE or operation.endswith("-done"):
            return Cost()
        called = self._called(each)
        if operation == "while":
            trips = self._trips(each)
            return self.cost(called[-1]).times(trips or 1) + Cost(loops=1, once=0 if trips else 1)
        if operation == "conditional":
            return max(map(self.cost, called), key=lambda cost: cost.bytes_moved)
        if operation in ("call", "async"):
            return sum(map(self.cost, called), Cost())
        read, written = [shape_bytes(shapes.get(name, "")) for name in each.operands], shape_bytes(each.shape)
        if operation in _COLLECTIVES:
            given = sum(shape_bytes(shapes.get(name, ""), vector_memory=True) for name in each.operands)
            return Cost(2.0 * sum(read), 1, given if operation == "all-reduce" else 0, Counter({operation: 1}))
        return self._kernel(each, called, read, written)

    def _kernel(self, each: Instruction, called: list[str], read: list[int], written: int) -> Cost:
        operation = each.operation.removesuffix("-start")
        if operation == "copy" and operation != each.operation:  # its shape names both ends
            written = max(0, written - sum(read))
        elif operation == "custom-call":
            written = shape_bytes(_WORKSPACE.sub("", each.shape))
        elif operation == "fusion" and called:
            read, written = _fused(self.computations[called[0]], read, written)
        elif operation in _SLICES:
            read = [written]
        elif operation == "dynamic-update-slice":
            read, written = [read[1]], read[1]
        return Cost(sum(read) + written, 1)

    def _trips(self, loop: Instruction) -> int | None:
        """Returns how often a loop runs: as XLA says, or the constant that its condition compares a counter with, or None."""
        if known := _TRIPS.search(loop.rest):
            return int(known[1])
        condition = self.computations[re.search(r"condition=%?([\w.-]+)", loop.rest)[1]]
        constants = {each.name: each.rest.split(")")[0] for each in condition if each.operation == "constant"}
        last = condition[-1]
        counted = last.operation == "compare" and "direction=LT" in last.rest
        return next((int(constants[name]) for name in last.operands if counted and name in constants), None)

    def _called(self, each: Instruction) -> list[str]:
        """Returns the computations that an instruction calls, of a loop its body alone."""
        found = [name.strip().lstrip("%") for names in _CALLED.findall(each.rest) for name in names.split(",")]
        return [name for name in found if name in self.computations]


def _fused(body: list[Instruction], read: list[int], written: int) -> tuple[list[int], int]:
    """Returns the bytes that a fusion reads of each operand, and those that it writes, from those of whole arrays."""
    shapes, users, read = {each.name: each.shape for each in body}, _users(body), list(read)
    for each in body:
        uses = users.get(each.name, []) if each.operation == "parameter" else []
        if not uses or any(operands[0] != each.name for _, operands in uses):
            continue
        index, operations = int(re.match(r"(\d+)", each.rest)[1]), {use.operation for use, _ in uses}
        if operations <= _SLICES:
            read[index] = min(read[index], sum(shape_bytes(use.shape) for use, _ in uses))
        elif operations == {"dynamic-update-slice"}:
            updates = sum(shape_bytes(shapes[use.operands[1]]) for use, _ in uses)
            read[index], written = 0, max(0, written - shape_bytes(each.shape)) + updates
    return read, written


def _users(body: list[Instruction]) -> dict[str, list[tuple[Instruction, list[str]]]]:
    """Returns who uses each array, with all operands of that use. A bitcast is its operand."""
    same: dict[str, str] = {}
    users: dict[str, list[tuple[Instruction, list[str]]]] = {}
    for each in body:
        operands = [same.get(name, name) for name in each.operands]
        if each.operation == "bitcast":
            same[each.name] = operands[0]
            continue
        for name in set(operands):
            users.setdefault(name, []).append((each, operands))
    return users
