# pyright: standard
"""Vectors of 64 bytes as LLVM code: loads, broadcasts, look-ups, int8 dot products, FMA, exp, reductions.

In: an LLVM builder and the target that Numba compiles for. Out: instructions of that target.

LLVM splits a vector that is wider than the machine's. Only dot products and look-ups are written per target. Arm's dot
product multiplies signed by signed bytes, x86's unsigned by signed bytes: see `MachineTarget.bias`.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from llvmlite import binding, ir
from numba.core import config, types
from numba.extending import intrinsic as numba_intrinsic

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
BYTES, WORDS, FLOATS = ir.VectorType(I8, 64), ir.VectorType(I32, 16), ir.VectorType(F32, 16)
POINTER = I8.as_pointer()
LANES = 16  # lanes of 32 bits

# minimax polynomial of e^x for |x| <= log(2) / 2, the first two coefficients fixed at 1; Taylor's is off by 2.7 ulp
_EXP = (1.0, 1.0, 0.49999994, 0.16666520, 0.041668393, 0.0083687808, 0.0013814462)
_EXP2 = (1.0, 0.6931242, 0.24024099, 0.055906434, 0.009582853)  # 2^x for |x| <= 0.5, within 3e-6
_LOWEST_EXP = -87.0  # exp below this is less than float32's smallest normal number
_HIGHEST_EXP = 88.0


class MachineTarget(NamedTuple):
    """The host's vector features. unsigned: weight bytes are stored with a bias that makes them unsigned."""

    name: str
    unsigned: bool
    fused: bool  # has a fused multiply-add
    pairs: bool = False  # multiplies pairs of bfloat16: two products per lane
    permutes: bool = False  # looks up bytes in a table of 64 (AVX-512 VBMI)
    auto_prefetch: bool = False  # reads a plain stream faster without software prefetch

    def bias(self, amount: int) -> int:
        """The amount that is added to a weight's signed code before it is stored."""
        return amount if self.unsigned else 0


_PAIRS = "llvm.x86.avx512bf16.dpbf16ps.512"


def _knows_pairs() -> bool:
    """Whether this LLVM accepts the bfloat16 pair dot product with words as arguments, and converts them itself."""
    declared = binding.parse_assembly(f"declare <16 x float> @{_PAIRS}(<16 x float>, <16 x i32>, <16 x i32>)")
    return "bfloat" in str(declared)


def target_of(arch: str, features: frozenset[str]) -> MachineTarget:
    """The best supported of AVX-512 VNNI, AVX-VNNI, AVX2, Arm dot product, and portable LLVM code."""
    if arch in ("x86_64", "amd64"):
        if {"avx512f", "avx512bw", "avx512vnni"} <= features:
            pairs = "avx512bf16" in features and _knows_pairs()
            return MachineTarget("avx512vnni", True, True, pairs, permutes="avx512vbmi" in features)
        if {"avx2", "fma"} <= features:
            return MachineTarget("avxvnni", True, True) if "avxvnni" in features else MachineTarget("avx2", False, True)
        return MachineTarget("portable", False, "fma" in features)
    if arch in ("aarch64", "arm64"):
        return MachineTarget("neon", False, True) if "dotprod" in features else MachineTarget("portable", False, True)
    return MachineTarget("portable", False, False)


def host_target() -> MachineTarget:
    """The target of the machine that Numba compiles for. NUMBA_CPU_NAME and NUMBA_CPU_FEATURES apply, as in Numba."""
    features_set: str | None = getattr(config, "CPU_FEATURES")  # noqa: B009 - Numba sets it at import, unseen by type checkers
    cpu: str | None = getattr(config, "CPU_NAME")  # noqa: B009
    if features_set is None:
        features = {name for name, there in binding.get_host_cpu_features().items() if there}
    else:
        features = {name[1:] for name in features_set.split(",") if name.startswith("+")}
    target = target_of(binding.get_default_triple().split("-")[0], frozenset(features))
    return target._replace(auto_prefetch=(cpu or binding.get_host_cpu_name()) == "znver4")


class Emit:
    """An LLVM builder with vector operations. Pointers are byte pointers; offsets are byte counts, in Python or LLVM."""

    def __init__(self, builder: ir.IRBuilder, target: MachineTarget) -> None:
        self.b, self.target = builder, target

    # pointers

    def whole(self, value: Any) -> Any:
        return ir.Constant(I64, value) if isinstance(value, int) else value

    def at(self, pointer: Any, offset: Any) -> Any:
        return pointer if isinstance(offset, int) and offset == 0 else self.b.gep(pointer, [self.whole(offset)])

    def load(self, pointer: Any, kind: ir.Type) -> Any:
        loaded: Any = self.b.load(self.b.bitcast(pointer, kind.as_pointer()))
        loaded.align = 1
        return loaded

    def store(self, value: Any, pointer: Any) -> None:
        stored: Any = self.b.store(value, self.b.bitcast(pointer, value.type.as_pointer()))
        stored.align = 1

    def prefetch(self, pointer: Any, near: bool = True) -> None:
        """Prefetch a cache line: into the L1 cache (near), or into L2."""
        name, module = "llvm.prefetch.p0", self.b.module
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32])
        function = module.globals.get(name) or ir.Function(module, kind, name)
        self.b.call(function, [pointer, *(ir.Constant(I32, each) for each in (0, 3 if near else 2, 1))])

    @contextmanager
    def loop(self, count: Any, carried: Sequence[Any] = ()) -> Generator["EmittedLoop"]:
        """A loop that runs `count` times, at least once, with loop-carried values.

        Call `loop.carry(...)` at the end of the body. `loop.out` holds the final values.
        """
        b, before = self.b, self.b.block
        body, after = b.append_basic_block("body"), b.append_basic_block("after")
        b.branch(body)
        b.position_at_end(body)
        index = b.phi(I64)
        index.add_incoming(self.whole(0), before)
        phis = []
        for value in carried:
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        state = EmittedLoop(index, phis)
        yield state
        following = b.add(index, self.whole(1))
        index.add_incoming(following, b.block)
        for phi, value in zip(phis, state.out, strict=True):
            phi.add_incoming(value, b.block)
        again: Any = b.cbranch(b.icmp_signed("<", following, self.whole(count)), body, after)
        again.set_metadata("llvm.loop", self._rolled())
        b.position_at_end(after)

    def _rolled(self) -> ir.MDValue:
        """Loop metadata that forbids LLVM to unroll.

        Zen 4's hardware prefetcher tracks load instructions. With more than 24 of them in a loop, it reads at a third
        of its rate.
        """
        module = self.b.module
        off = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
        node: Any = ir.values.MDValue(module, (), name=str(len(module.metadata)))
        node.operands = (node, off)  # the self reference makes the metadata distinct per loop
        return node

    # constants and broadcasts

    def constant(self, kind: ir.VectorType, value: Any) -> ir.Constant:
        values = value if isinstance(value, (list, tuple)) else [value] * kind.count
        return ir.Constant(kind, list(values))

    def floats(self, value: float) -> ir.Constant:
        return self.constant(FLOATS, value)

    def splat(self, value: Any, kind: ir.VectorType) -> Any:
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, one, self.constant(ir.VectorType(I32, kind.count), 0))

    def broadcast(self, pointer: Any, kind: ir.VectorType) -> Any:
        """One element from memory into every lane."""
        return self.splat(self.load(pointer, kind.element), kind)

    # numbers

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        if not self.target.fused:
            return self.b.fadd(self.b.fmul(x, y), z)
        return self._call("llvm.fma.v16f32", FLOATS, x, y, z)

    def minimum(self, x: Any, y: Any) -> Any:
        return self._call("llvm.minnum.v16f32", FLOATS, x, y)

    def maximum(self, x: Any, y: Any) -> Any:
        return self._call("llvm.maxnum.v16f32", FLOATS, x, y)

    def larger(self, x: Any, y: Any) -> Any:
        """The larger of two, in one instruction where `maximum` takes three. Returns y if either is NaN."""
        return self.b.select(self.b.fcmp_ordered(">", x, y), x, y)

    def magnitude(self, x: Any) -> Any:
        return self._call("llvm.fabs.v16f32", FLOATS, x)

    def nearest(self, x: Any) -> Any:
        """Rounded to whole numbers, ties to even."""
        return self._call("llvm.rint.v16f32", FLOATS, x)

    def exp(self, x: Any) -> Any:
        """e^x within 2 ulp; exactly 1 at 0; 0 below -87; no overflow above 88."""
        b = self.b
        held = self.maximum(self.minimum(x, self.floats(_HIGHEST_EXP)), self.floats(_LOWEST_EXP))
        turns = self.nearest(b.fmul(held, self.floats(math.log2(math.e))))
        rest = self.fma(turns, self.floats(-0.693359375), held)  # log 2 in two parts keeps the rest exact
        rest = self.fma(turns, self.floats(2.12194440e-4), rest)
        value = self.floats(_EXP[-1])
        for coefficient in reversed(_EXP[:-1]):
            value = self.fma(value, rest, self.floats(coefficient))
        exponent = b.shl(b.fptosi(turns, WORDS), self.constant(WORDS, 23))
        scaled = b.bitcast(b.add(b.bitcast(value, WORDS), exponent), FLOATS)
        return b.select(b.fcmp_ordered("<", x, self.floats(_LOWEST_EXP)), self.floats(0.0), scaled)

    def exp_short(self, x: Any) -> Any:
        """e^x for x <= 0 to 18 bits, for attention weights that are rounded to 8 bits. Exactly 1 at 0; 0 below -87."""
        b, whole = (
            self.b,
            self.floats(1.5 * 2.0**23),
        )  # added to a number, it leaves the nearest integer in the low bits
        per_turn = self.floats(math.log2(math.e))
        turns = self.fma(x, per_turn, whole)
        rest = self.fma(x, per_turn, b.fneg(b.fsub(turns, whole)))
        value = self.floats(_EXP2[-1])
        for coefficient in reversed(_EXP2[:-1]):
            value = self.fma(value, rest, self.floats(coefficient))
        exponent = b.shl(b.bitcast(turns, WORDS), self.constant(WORDS, 23))
        scaled = b.bitcast(b.add(b.bitcast(value, WORDS), exponent), FLOATS)
        return b.select(b.fcmp_ordered("<", x, self.floats(_LOWEST_EXP)), self.floats(0.0), scaled)

    def reduce(self, x: Any, join: Callable[[Any, Any], Any]) -> Any:
        """One value of all lanes: halves are joined repeatedly, always in the same order."""
        width = x.type.count
        while width > 1:
            width //= 2
            low, high = list(range(width)), list(range(width, 2 * width))
            x = join(self._lanes(x, low), self._lanes(x, high))
        return self.b.extract_element(x, ir.Constant(I32, 0))

    def sum(self, x: Any) -> Any:
        return self.reduce(x, self.b.fadd)

    def highest(self, x: Any) -> Any:
        return self.reduce(x, self.larger)

    # bfloat16 as 16 bits

    def load_bf16(self, pointer: Any) -> Any:
        wide = self.b.zext(self.load(pointer, ir.VectorType(I16, LANES)), WORDS)
        return self.b.bitcast(self.b.shl(wide, self.constant(WORDS, 16)), FLOATS)

    def unpaired(self, pairs: Any) -> tuple[Any, Any]:
        """The second and the first numbers of 16 bfloat16 pairs (WORDS), as float32."""
        high = self.b.and_(pairs, self.constant(WORDS, -(1 << 16)))
        low = self.b.shl(pairs, self.constant(WORDS, 16))
        return self.b.bitcast(high, FLOATS), self.b.bitcast(low, FLOATS)

    def dot2(self, sums: Any, x: Any, y: Any) -> Any:
        """sums[lane] += two products of bfloat16 pairs (WORDS); needs `MachineTarget.pairs`. Fused, the pair's second
        first.
        """
        return self._call(_PAIRS, FLOATS, sums, x, y)

    def to_bf16(self, x: Any) -> Any:
        """The nearest bfloat16, ties to even, as <16 x i16>."""
        b, bits = self.b, self.b.bitcast(x, WORDS)
        odd = b.and_(b.lshr(bits, self.constant(WORDS, 16)), self.constant(WORDS, 1))
        rounded = b.add(b.add(bits, self.constant(WORDS, 0x7FFF)), odd)
        return b.trunc(b.lshr(rounded, self.constant(WORDS, 16)), ir.VectorType(I16, LANES))

    # bytes

    def dot4(self, sums: Any, weights: Any, values: Any) -> Any:
        """sums[lane] += the lane's four weight bytes times four signed bytes of `values` (WORDS)."""
        match self.target.name:
            case "avx512vnni":
                name = "llvm.x86.avx512.vpdpbusd.512"
                return self._call(name, WORDS, sums, weights, self.b.bitcast(values, BYTES))
            case "avxvnni":
                return self._halves(2, self._vnni_256, sums, weights, values)
            case "avx2":
                return self._halves(2, self._sign_256, sums, weights, values)
            case "neon":
                return self._halves(4, self._sdot_128, sums, weights, values)
        return self._plain_dot(sums, weights, values)

    def lookup(self, table: Sequence[int], indexes: Any) -> Any:
        """Bytes of a table of 16, by indexes 0..15 (BYTES)."""
        match self.target.name:
            case "avx512vnni":
                return self._call("llvm.x86.avx512.pshuf.b.512", BYTES, self.constant(BYTES, [*table] * 4), indexes)
            case "avxvnni" | "avx2":
                return self._shuffles(2, "llvm.x86.avx2.pshuf.b", table, indexes)
            case "neon":
                return self._shuffles(4, "llvm.aarch64.neon.tbl1.v16i8", table, indexes)
        return self._choose(table, indexes, 8)

    def lookup_nibbles(self, table: Sequence[int], packed: Any) -> tuple[Any, Any]:
        """Bytes of a table of 16, by the low nibbles of 64 bytes, and by the high nibbles."""
        shifted = self.b.bitcast(self.b.lshr(self.b.bitcast(packed, WORDS), self.constant(WORDS, 4)), BYTES)
        if self.target.permutes:  # the table is repeated four times, so the bits above a nibble do not matter
            name, known = "llvm.x86.avx512.permvar.qi.512", self.constant(BYTES, [*table] * 4)
            return self._call(name, BYTES, known, packed), self._call(name, BYTES, known, shifted)
        mask = self.constant(BYTES, 15)
        return self.lookup(table, self.b.and_(packed, mask)), self.lookup(table, self.b.and_(shifted, mask))

    # per target

    def _call(self, name: str, result: ir.Type, *args: Any) -> Any:
        module = self.b.module
        kind = ir.FunctionType(result, [each.type for each in args])
        return self.b.call(module.globals.get(name) or ir.Function(module, kind, name), args)

    def _lanes(self, x: Any, lanes: Sequence[int]) -> Any:
        return self.b.shuffle_vector(x, x, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))

    def _joined(self, parts: Sequence[Any]) -> Any:
        while len(parts) > 1:
            count = parts[0].type.count
            order = ir.Constant(ir.VectorType(I32, 2 * count), list(range(2 * count)))
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [self.b.shuffle_vector(low, high, order) for low, high in pairs]
        return parts[0]

    def _cut(self, x: Any, parts: int) -> list[Any]:
        size = x.type.count // parts
        return [self._lanes(x, range(i * size, (i + 1) * size)) for i in range(parts)]

    def _halves(self, parts: int, dot: Callable[[Any, Any, Any], Any], sums: Any, weights: Any, values: Any) -> Any:
        cut = [self._cut(x, parts) for x in (sums, weights, self.b.bitcast(values, BYTES))]
        return self._joined([dot(*three) for three in zip(*cut, strict=True)])

    def _vnni_256(self, sums: Any, weights: Any, values: Any) -> Any:
        return self._call("llvm.x86.avx512.vpdpbusd.256", sums.type, sums, weights, values)

    def _sign_256(self, sums: Any, weights: Any, values: Any) -> Any:
        """|w| times x with w's sign. Two products of at most 127 * 127 fit 16 bits, so nothing saturates."""
        short, flag = ir.VectorType(I16, 16), ir.Constant(ir.IntType(1), 0)
        size = self._call("llvm.abs.v32i8", weights.type, weights, flag)
        signed = self._call("llvm.x86.avx2.psign.b", values.type, values, weights)
        pairs = self._call("llvm.x86.avx2.pmadd.ub.sw", short, size, signed)
        return self.b.add(sums, self._call("llvm.x86.avx2.pmadd.wd", sums.type, pairs, self.constant(short, 1)))

    def _sdot_128(self, sums: Any, weights: Any, values: Any) -> Any:
        return self._call("llvm.aarch64.neon.sdot.v4i32.v16i8", sums.type, sums, weights, values)

    def _plain_dot(self, sums: Any, weights: Any, values: Any) -> Any:
        b, wide = self.b, ir.VectorType(I32, 64)
        products = b.mul(b.sext(weights, wide), b.sext(b.bitcast(values, BYTES), wide))
        for i in range(4):
            sums = b.add(sums, self._lanes(products, range(i, 64, 4)))
        return sums

    def _shuffles(self, parts: int, name: str, table: Sequence[int], indexes: Any) -> Any:
        cut = self._cut(indexes, parts)
        known = self.constant(cut[0].type, [*table] * (4 // parts))
        return self._joined([self._call(name, each.type, known, each) for each in cut])

    def _choose(self, table: Sequence[int], indexes: Any, bit: int) -> Any:
        if bit == 0:
            return self.constant(BYTES, table[0])
        is_set = self.b.icmp_unsigned("!=", self.b.and_(indexes, self.constant(BYTES, bit)), self.constant(BYTES, 0))
        low, high = self._choose(table[:bit], indexes, bit // 2), self._choose(table[bit:], indexes, bit // 2)
        return self.b.select(is_set, high, low)


class EmittedLoop:
    """A loop's counter and carried values. `carry` sets the values of the next iteration."""

    def __init__(self, index: Any, carried: list[Any]) -> None:
        self.index, self.carried, self.out = index, carried, list(carried)

    def carry(self, *values: Any) -> None:
        self.out = list(values)


Body = Callable[..., Any]


def intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's `intrinsic`, typed so that callers omit the first parameter, which compiled code does not pass."""
    return numba_intrinsic(function)


def arguments(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> list[Any]:
    """An intrinsic's arguments for `Emit`: arrays as byte pointers, numbers unchanged."""
    out = []
    for kind, value in zip(signature.args, args, strict=True):
        if isinstance(kind, types.Array):
            value = builder.bitcast(context.make_array(kind)(context, builder, value).data, POINTER)
        out.append(value)
    return out


def emitter(body: Body) -> Callable[..., Any]:
    """A code generator for an intrinsic. `body(emit, *arguments)` emits the instructions and returns the result, or
    None.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        value = body(Emit(builder, TARGET), *arguments(context, builder, signature, args))
        return context.get_dummy_value() if value is None else value

    return generate


def wants(*kinds: Any, gives: Any = types.void) -> Any:
    """An intrinsic's signature: arrays as given, integers as int64, other types unchanged."""
    return gives(*[types.int64 if isinstance(kind, types.Integer) else types.unliteral(kind) for kind in kinds])


TARGET = host_target()
