"""Words for GPU kernels: numbers of one lane, memory, loops, what lanes of a warp do together.

A kernel is a Python function that runs once, while it is compiled; what it does with a `Number`
becomes code of one lane, in 128 threads (four warps) a block. Floats are float32, integers are
int32, indices into memory count elements (in shared memory: words of four bytes).

Everything that is private in JAX, and all PTX, is in this file.
"""

from collections.abc import Callable, Sequence
from functools import partialmethod
from typing import Union

import jax
import numpy as np
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import arith, llvm, nvvm, scf
from jax.experimental.mosaic.gpu import utils
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

WARPS = 4
THREADS = 32 * WARPS

Operand = Union["Number", int, float]  # Python numbers become constants
Parts = Sequence[Sequence["Number"]]  # packed pairs of a fragment, one row a part; see `split`

_EVERY_LANE = -1  # mask of a warp's lanes
_HIGH_HALF = -65536  # 0xffff0000


def _int_type() -> ir.Type:
    return ir.IntegerType.get_signless(32)


def _float_type() -> ir.Type:
    return ir.F32Type.get()


def _constant(value, kind: ir.Type) -> ir.Value:
    return utils.c(float(value) if str(kind) == "f32" else int(value), kind)


def _operator(build: Callable[[ir.Value, ir.Value], ir.Value]) -> Callable:
    return lambda number, other: Number(build(number.value, number._other(other)))


class Number:
    """A float, an integer or a truth value of one lane; Python numbers mix in as constants.

    A constant added to an integer is carried along (`offset`), so that an address takes it as an
    immediate and not as an addition of its own.
    """

    def __init__(self, base: ir.Value, offset: int = 0):
        self.base, self.offset = base, offset

    @property
    def value(self) -> ir.Value:
        """The number as MLIR has it, offset included."""
        if not self.offset:
            return self.base
        return arith.addi(self.base, _constant(self.offset, self.base.type))

    @property
    def is_float(self) -> bool:
        """True for a float."""
        return str(self.base.type) == "f32"

    def _other(self, other) -> ir.Value:
        return other.value if isinstance(other, Number) else _constant(other, self.base.type)

    def _with(self, other, for_floats: Callable, for_integers: Callable) -> "Number":
        function = for_floats if self.is_float else for_integers
        return Number(function(self.value, self._other(other)))

    def __add__(self, other):
        if self.is_float:
            return Number(arith.addf(self.value, self._other(other)))
        if isinstance(other, Number):
            return Number(arith.addi(self.base, other.base), self.offset + other.offset)
        return Number(self.base, self.offset + other)

    def __mul__(self, other):
        if self.is_float or isinstance(other, Number):
            return self._with(other, arith.mulf, arith.muli)
        scaled = arith.muli(self.base, _constant(other, self.base.type))
        return Number(scaled, self.offset * other)

    def __sub__(self, other):
        if self.is_float or isinstance(other, Number):
            return self._with(other, arith.subf, arith.subi)
        return Number(self.base, self.offset - other)

    def __rsub__(self, other):
        return Number(self._other(other)) - self

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return _ptx("neg.f32", _float_type(), self)  # an operand's sign in the machine's code

    __floordiv__, __mod__ = _operator(arith.divui), _operator(arith.remui)  # of numbers >= 0
    __and__, __or__ = _operator(arith.andi), _operator(arith.ori)
    __lshift__, __rshift__ = _operator(arith.shli), _operator(arith.shrui)

    def _compare(self, other, name: str) -> "Number":
        if self.is_float:  # false with a NaN
            predicate = arith.CmpFPredicate[f"O{name}"]
            return Number(arith.cmpf(predicate, self.value, self._other(other)))
        name = name.lower() if name == "EQ" else f"s{name.lower()}"
        return Number(arith.cmpi(arith.CmpIPredicate[name], self.value, self._other(other)))

    __lt__, __le__ = partialmethod(_compare, name="LT"), partialmethod(_compare, name="LE")
    __gt__, __ge__ = partialmethod(_compare, name="GT"), partialmethod(_compare, name="GE")
    equals = partialmethod(_compare, name="EQ")

    def where(self, yes: Operand, no: Operand) -> "Number":
        """Of a truth value: `yes` or `no`, one of them a Number."""
        kind = (yes if isinstance(yes, Number) else no).base.type
        pick = [n.value if isinstance(n, Number) else _constant(n, kind) for n in (yes, no)]
        return Number(arith.select(self.value, *pick))

    def as_float(self) -> "Number":
        """The same 32 bits as a float."""
        return Number(arith.bitcast(_float_type(), self.value))


def integer(value: int) -> Number:
    """A constant."""
    return Number(_constant(value, _int_type()))


def zeros(count: int) -> list[Number]:
    """So many floats that are 0."""
    return [Number(_constant(0.0, _float_type())) for _ in range(count)]


def minimum(a: Number, b: Operand) -> Number:
    """The smaller one; of a number and a NaN, the number."""
    return a._with(b, arith.minnumf, arith.minsi)


def maximum(a: Number, b: Operand) -> Number:
    """The larger one; of a number and a NaN, the number."""
    return a._with(b, arith.maxnumf, arith.maxsi)


# Instructions of PTX


def _letter(kind: ir.Type) -> str:
    return "f" if str(kind) == "f32" else "r"


def _ptx(instruction: str, result: ir.Type, *operands: Number) -> Number:
    """One instruction without side effects."""
    places = ", ".join(f"${n}" for n in range(len(operands) + 1))
    constraints = ["=" + _letter(result), *(_letter(o.base.type) for o in operands)]
    values = [o.value for o in operands]
    return Number(
        llvm.inline_asm(
            result,
            values,
            f"{instruction} {places};",
            ",".join(constraints),
            has_side_effects=False,
        )
    )


def _ptx_of_four(text: str, kind: ir.Type, constraints: str, values, side_effects: bool):
    """An instruction with four results of one kind."""
    struct = ir.Type.parse(f"!llvm.struct<({', '.join([str(kind)] * 4)})>")
    outputs = ",".join(["=" + _letter(kind)] * 4)
    result = llvm.inline_asm(
        struct, values, text, f"{outputs},{constraints}", has_side_effects=side_effects
    )
    return [Number(llvm.extractvalue(kind, result, [n])) for n in range(4)]


def fma(a: Number, b: Number, c: Number) -> Number:
    """Product of a and b, plus c, rounded once."""
    return _ptx("fma.rn.f32", _float_type(), a, b, c)


def absolute(a: Number) -> Number:
    """The absolute value of a float."""
    return _ptx("abs.f32", _float_type(), a)


def power_of_two(a: Number) -> Number:
    """2 ** a, within 2 units of the last place."""
    return _ptx("ex2.approx.ftz.f32", _float_type(), a)


def reciprocal(a: Number) -> Number:
    """One divided by a float, approximately."""
    return _ptx("rcp.approx.ftz.f32", _float_type(), a)


def reciprocal_root(a: Number) -> Number:
    """One divided by a float's square root, approximately."""
    return _ptx("rsqrt.approx.ftz.f32", _float_type(), a)


def ceil(a: Number) -> Number:
    """The integer above a float; saturates."""
    return _ptx("cvt.rpi.s32.f32", _int_type(), a)


def floor(a: Number) -> Number:
    """The integer below a float; saturates."""
    return _ptx("cvt.rmi.s32.f32", _int_type(), a)


def count_ones(a: Number) -> Number:
    """Number of bits that are set."""
    return _ptx("popc.b32", _int_type(), a)


def pack(low: Number, high: Number) -> Number:
    """Two floats rounded to bfloat16, in the halves of an integer."""
    return _ptx("cvt.rn.bf16x2.f32", _int_type(), high, low)


def unpack(pair: Number) -> tuple[Number, Number]:
    """The two bfloat16 in an integer as floats: (low, high)."""
    return (pair << 16).as_float(), (pair & _HIGH_HALF).as_float()


def split(low: Number, high: Number, parts: int) -> list[Number]:
    """Two floats as `parts` packed pairs of bfloat16 that add up to them, the largest first."""
    pairs = [pack(low, high)]
    if parts == 2:
        rounded = unpack(pairs[0])
        pairs.append(pack(low - rounded[0], high - rounded[1]))
    return pairs


# Who a lane is


def thread() -> Number:
    """0 to 127."""
    return _special("%tid.x")


def block() -> Number:
    """Number of the block."""
    return _special("%ctaid.x")


def _special(name: str) -> Number:
    # The compiler may read a special register again instead of keeping it.
    return Number(
        llvm.inline_asm(_int_type(), [], f"mov.u32 $0, {name};", "=r", has_side_effects=False)
    )


# What lanes do together. Barriers, votes and shuffles are operations of nvvm, not PTX text: LLVM
# knows that all lanes must come to them and does not copy them into branches.


def barrier() -> None:
    """All threads of the block wait for each other and see each other's memory."""
    number, threads = (_constant(n, _int_type()) for n in (1, THREADS))
    nvvm.barrier(barrier_id=number, number_of_threads=threads)


def warp_barrier() -> None:
    """The lanes of a warp wait for each other and see each other's memory."""
    nvvm.bar_warp_sync(_constant(_EVERY_LANE, _int_type()))


def ballot(condition: Number) -> Number:
    """Bit n of the result: lane n's condition."""
    mask = _constant(_EVERY_LANE, _int_type())
    return Number(nvvm.vote_sync(mask, condition.value, nvvm.VoteSyncKind.ballot))


def _shuffle(a: Number, by, kind) -> Number:
    bits = arith.bitcast(_int_type(), a.value) if a.is_float else a.value
    by = by.value if isinstance(by, Number) else _constant(by, _int_type())
    every, last = _constant(_EVERY_LANE, _int_type()), _constant(31, _int_type())
    moved = Number(nvvm.shfl_sync(every, bits, by, last, kind))
    return moved.as_float() if a.is_float else moved


def from_lane(a: Number, lane: Operand) -> Number:
    """The value of lane `lane`."""
    return _shuffle(a, lane, nvvm.ShflKind.idx)


def across(a: Number, distance: int) -> Number:
    """The value of the lane whose number differs in the bit `distance`."""
    return _shuffle(a, distance, nvvm.ShflKind.bfly)


def matmul(
    totals: Sequence[Sequence[Number]], left: Sequence[Parts], right: Sequence[Parts]
) -> list[list[Number]]:
    """Add left @ right to totals of several fragments, [16, 16] @ [16, 8], on tensor cores.

    left: the parts of four packed pairs, right: of two; see `split`. The product of two low parts
    is negligible. Products of different fragments follow each other, so that none waits for the
    one before. PTX ISA, "Matrix Fragments for mma.m16n8k16".
    """
    text = (
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
    )
    totals = list(totals)
    for i, j in ((1, 0), (0, 1), (0, 0)):  # small ones first
        for n, (a, b) in enumerate(zip(left, right, strict=True)):
            if i < len(a) and j < len(b):
                values = [x.value for x in (*a[i], *b[j], *totals[n])]
                constraints = "r,r,r,r,r,r,f,f,f,f"
                totals[n] = _ptx_of_four(text, _float_type(), constraints, values, False)
    return totals


# Control


def loop(
    start: Operand, stop: Operand, step: Operand, carry: Sequence[Number], body: Callable
) -> list[Number]:
    """Fold `carry = body(i, carry)` over i in range(start, stop, step)."""
    ends = (n if isinstance(n, Number) else integer(n) for n in (start, stop, step))
    op = scf.ForOp(*(n.value for n in ends), [c.value for c in carry])
    with ir.InsertionPoint(op.body):
        out = body(Number(op.induction_variable), [Number(a) for a in op.inner_iter_args])
        scf.YieldOp([c.value for c in out or ()])
    return [Number(r) for r in op.results]


def when(condition: Number, body: Callable[[], object]) -> None:
    """Run the body where the condition holds; it gives no values."""
    op = scf.IfOp(condition.value)
    with ir.InsertionPoint(op.then_block):
        body()
        scf.YieldOp([])


# Memory


class Global:
    """An array in global memory: float32, bfloat16 or int32."""

    def __init__(self, reference: ir.Value):
        kind = ir.MemRefType(reference.type).element_type
        self.narrow = str(kind) == "bf16"
        self.kind = ir.IntegerType.get_signless(16) if self.narrow else kind
        pointer = utils.memref_ptr(reference)
        self.pointer = llvm.addrspacecast(ir.Type.parse("!llvm.ptr<1>"), pointer)

    def load(self, index: Number, count: int = 1) -> list[Number]:
        """`count` neighbours (1, 2 or 4, aligned to their size); bfloat16 become floats."""
        address = _element(self.pointer, index, self.kind)
        if not self.narrow:
            return _load(address, self.kind, count)
        if count > 1:
            pairs = _load(address, _int_type(), count // 2)
            return [half for pair in pairs for half in unpack(pair)]
        half = llvm.load(self.kind, address, alignment=2)
        return [unpack(Number(arith.extui(_int_type(), half)))[0]]

    def store(self, index: Number, values: Sequence[Number]) -> None:
        """Neighbours, aligned to their size; floats become the array's type."""
        address = _element(self.pointer, index, self.kind)
        if not self.narrow:
            return _store(address, values)
        if len(values) > 1:
            return _store(address, [pack(*p) for p in zip(values[::2], values[1::2], strict=True)])
        half = arith.trunci(self.kind, pack(values[0], values[0]).value)
        llvm.store(half, address, alignment=2)


class Shared:
    """Words of four bytes in the block's shared memory."""

    def __init__(self, pointer: ir.Value, start: Number | int = 0):
        self.pointer, self.start = pointer, start

    @classmethod
    def of(cls, reference: ir.Value) -> "Shared":
        """All of the memory that a kernel asked for."""
        return cls(utils.memref_ptr(reference))

    def __add__(self, words) -> "Shared":
        start = words + self.start if isinstance(words, Number) else self.start + words
        return Shared(self.pointer, start)

    def _address(self, index) -> ir.Value:
        return _element(self.pointer, (self + index).start, _int_type())

    def load(self, index: Operand, count: int = 1) -> list[Number]:
        """`count` floats (1, 2 or 4, aligned to their size)."""
        return _load(self._address(index), _float_type(), count)

    def load_integer(self, index: Operand) -> Number:
        """One integer."""
        return _load(self._address(index), _int_type(), 1)[0]

    def store(self, index: Operand, values: Sequence[Number]) -> None:
        """Neighbours, aligned to their size."""
        _store(self._address(index), values)

    def load_matrices(self, index: Operand, transposed: bool) -> list[Number]:
        """Four matrices of 8 x 8 bfloat16 as fragments; lane n's index says where row n begins.

        Of matrix m = n // 8 a lane gets two neighbours of row (lane // 4), columns
        2 (lane % 4) and the next; transposed, of the transposed matrix.
        """
        address = llvm.ptrtoint(_int_type(), self._address(index))
        kind = ".trans" if transposed else ""
        text = f"ldmatrix.sync.aligned.m8n8.x4{kind}.shared.b16 {{$0,$1,$2,$3}}, [$4];"
        # Side effects keep it between the barriers that it stands between.
        return _ptx_of_four(text, _int_type(), "r", [address], True)


def _element(pointer: ir.Value, index, kind: ir.Type) -> ir.Value:
    if not isinstance(index, Number):
        return utils.getelementptr(pointer, [index], kind)
    pointer = utils.getelementptr(pointer, [index.base], kind)
    return utils.getelementptr(pointer, [index.offset], kind) if index.offset else pointer


def _load(address: ir.Value, kind: ir.Type, count: int) -> list[Number]:
    if count == 1:
        return [Number(llvm.load(kind, address, alignment=4))]
    vector = llvm.load(ir.VectorType.get((count,), kind), address, alignment=4 * count)
    places = (_constant(n, _int_type()) for n in range(count))
    return [Number(llvm.extractelement(vector, place)) for place in places]


def _store(address: ir.Value, values: Sequence[Number]) -> None:
    if len(values) == 1:
        llvm.store(values[0].value, address, alignment=4)
        return
    vector = llvm.mlir_undef(ir.VectorType.get((len(values),), values[0].value.type))
    for n, value in enumerate(values):
        vector = llvm.insertelement(vector, value.value, _constant(n, _int_type()))
    llvm.store(vector, address, alignment=4 * len(values))


# A kernel


def kernel(
    name: str,
    body: Callable,
    outputs: jax.ShapeDtypeStruct | Sequence[jax.ShapeDtypeStruct],
    shared_words: int,
    blocks: int,
) -> Callable:
    """A function of arrays that runs `body(shared, *inputs, *outputs)` in each of `blocks` blocks.

    outputs: a jax.ShapeDtypeStruct, or a list of them. Blocks lie along x, which takes 2^31 - 1.
    """

    def program(*references):
        @plgpu.inline_mgpu(arg_types=(plgpu.RefType(),) * len(references))
        def code(_, *memory):
            body(Shared.of(memory[-1]), *map(Global, memory[:-1]))

        code(*references)

    program.__name__ = name
    return plgpu.kernel(
        program,
        out_type=outputs,
        grid=(blocks,),
        grid_names=("block",),
        scratch_types=[plgpu.SMEM((shared_words,), np.int32)],
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )


def shape(dimensions: Sequence[int], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    """Shape and type of an output."""
    return jax.ShapeDtypeStruct(tuple(dimensions), dtype)
