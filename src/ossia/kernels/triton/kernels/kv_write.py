# pyright: standard
"""Keys and values to the paged cache: RoPE, and e4m3 with a power-of-two scale per key.

In: rows of the fused projection and their cache slots. Out: the cache's bytes.

e4m3 (FP8): all lanes of a key share the smallest power of two that brings the largest to 448 or less; a value's lanes
likewise. The exponent, biased as in float32, is stored as a byte. Encoding uses integer arithmetic, so all GPUs give
the same bits.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

import triton
import triton.language as tl

from ossia.kernels.ops import BLOCK as _BLOCK
from ossia.kernels.triton.kernels.tiles import to_bf16

BLOCK: tl.constexpr = tl.constexpr(_BLOCK)
BF16, FP8, FP8_BY_HAND = 0, 1, 2  # cache kinds; BY_HAND: no widening instruction (before 8.9, and AMD)


@triton.jit
def rotation(position, lane, inverse, concentration):
    """Cosine and sine of a position's angles, which are first rounded to float32 as in the reference.

    Reduced in float64 to an eighth of a turn, then cephes' polynomials (Moshier), within 1e-7. The GPU's own functions
    need local memory for large arguments.
    """
    angle = position.to(tl.float32) * tl.load(inverse + lane)
    turns = tl.floor(angle * 0.6366197723675814 + 0.5)
    x = (angle.to(tl.float64) - turns.to(tl.float64) * 1.5707963267948966).to(tl.float32)
    z = x * x
    sin = x + x * z * ((z * -1.9515295891e-4 + 8.3321608736e-3) * z - 1.6666654611e-1)
    cos = (z * z) * ((z * 2.443315711809948e-5 - 1.388731625493765e-3) * z + 4.166664568298827e-2) - 0.5 * z + 1.0
    quarter = turns.to(tl.int32)
    is_odd, of_sin, of_cos = (quarter & 1) == 1, (quarter & 2) == 2, ((quarter + 1) & 2) == 2
    cos, sin = tl.where(is_odd, sin, cos), tl.where(is_odd, cos, sin)
    return tl.where(of_cos, -cos, cos) * concentration, tl.where(of_sin, -sin, sin) * concentration


@triton.jit
def exponent_of(x_low, x_high):
    """[N, lanes] twice -> [N, 1]: the biased exponent of the least power of two p with |x| <= 448 p."""
    amax = tl.maximum(tl.max(tl.abs(x_low), axis=1), tl.max(tl.abs(x_high), axis=1))
    bits = (amax * (1.0 / 448.0)).to(tl.int32, bitcast=True)
    return tl.minimum(tl.maximum((bits + 0x7FFFFF) >> 23, 1), 253)[:, None]


@triton.jit
def power(exponent):
    return (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def to_e4m3(x):
    """float32 to the nearest e4m3 code, ties to even, clamped at 448."""
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    # below 2^-6, codes are 2^-9 apart, like floats near 2^14
    small = (size.to(tl.float32, bitcast=True) + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
    code = tl.minimum(tl.where(size < 0x3C800000, small, normal), 0x7E)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def keep_half(x, data, at, lane, exponent, inside, KIND: tl.constexpr, D: tl.constexpr):
    """Store lanes [N, lanes] of keys or values to the cache's rows `at` [N, 1]."""
    if KIND == 0:
        tl.store(data + at * D + lane, to_bf16(x), mask=inside)
    else:
        tl.store(data + at * D + lane, to_e4m3(x * power(254 - exponent)), mask=inside)


@triton.jit
def keep_heads(
    qkv, t, group, position, slot, keys, values, key_scales, value_scales, inverse, concentration,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Store keys (rotated) and values of `group` for rows `t` to their slots; all [N, 1]. Negative slots are skipped."""
    HALF: tl.constexpr = D // 2
    lane, inside = tl.arange(0, HALF)[None, :], slot >= 0
    at = ((slot // BLOCK).to(tl.int64) * GROUPS + group) * BLOCK + slot % BLOCK
    key = qkv + t.to(tl.int64) * ((HEADS + 2 * GROUPS) * D) + (HEADS + group) * D + lane
    low = tl.load(key, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(key + HALF, mask=inside, other=0.0).to(tl.float32)
    cos, sin = rotation(position, lane, inverse, concentration)
    k_low, k_high = low * cos - high * sin, high * cos + low * sin
    v_low = tl.load(key + GROUPS * D, mask=inside, other=0.0).to(tl.float32)
    v_high = tl.load(key + GROUPS * D + HALF, mask=inside, other=0.0).to(tl.float32)
    of_key, of_value = exponent_of(k_low, k_high), exponent_of(v_low, v_high)
    keep_half(k_low, keys, at, lane, of_key, inside, KIND, D)
    keep_half(k_high, keys + HALF, at, lane, of_key, inside, KIND, D)
    keep_half(v_low, values, at, lane, of_value, inside, KIND, D)
    keep_half(v_high, values + HALF, at, lane, of_value, inside, KIND, D)
    if KIND != 0:
        tl.store(key_scales + at, of_key.to(tl.uint8), mask=inside)
        tl.store(value_scales + at, of_value.to(tl.uint8), mask=inside)


@triton.jit
def keep_kernel(
    qkv, positions, slots, keys, values, key_scales, value_scales, inverse, concentration, ROWS,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, KIND: tl.constexpr, EACH: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    """One program: all groups (EACH, a power of two) of N / EACH rows."""
    pair = tl.arange(0, N)[:, None]
    t, group = tl.program_id(0) * (N // EACH) + pair // EACH, pair % EACH
    inside = (t < ROWS) & (group < GROUPS)
    position = tl.load(positions + t, mask=inside, other=0)
    slot = tl.load(slots + t, mask=inside, other=-1)
    keep_heads(
        qkv, t, group, position, slot, keys, values, key_scales, value_scales, inverse, concentration,
        HEADS, GROUPS, D, KIND,
    )  # fmt: skip


@triton.jit
def widened(code, KIND: tl.constexpr):
    """Cached numbers for tensor instructions: bfloat16, or float16 of e4m3. By hand: 2^-8 times that."""
    if KIND == 0:
        return code
    elif KIND == 1:
        return code.to(tl.float8e4nv, bitcast=True).to(tl.float16)
    else:
        bits = code.to(tl.uint16)
        return (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True)
