"""What every Triton kernel here is made of: a dot in fixed order, a sum in fixed order, tensors put on the device.

In: tiles in registers; host arrays. Out: tiles; device tensors.
It does not know weights' formats or what a layer is.

A row's bits must not depend on the rows beside it. So every sum over a width is taken in an order that no tile size
changes: products in ascending steps of the tensor instruction, squares in `LANES` lanes that meet in a fixed tree.
Nothing is contracted to a fused multiply-add but where `tl.fma` says so (`enable_fp_fusion=False` at each launch), and
no kernel is compiled anew for a number of rows (`do_not_specialize`).
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from ossia.kernels.ops import HostArray
from ossia.kernels.triton.upload import upload

INTERPRETED: tl.constexpr = tl.constexpr(bool(knobs.runtime.interpret))


@triton.jit
def dot(a, b, acc):
    """acc + a @ b, bfloat16 in and float32 out. The interpreter's own dot takes bfloat16 for the integers of its bits."""
    if INTERPRETED:
        acc = tl.dot(a.to(tl.float32), b.to(tl.float32), acc)
    else:
        acc = tl.dot(a, b, acc)
    return acc


@triton.jit
def to_bf16(x):
    """float32 to the nearest bfloat16, ties to even; the interpreter would cut the bits off."""
    if INTERPRETED:
        bits = x.to(tl.uint32, bitcast=True)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
        y = tl.where(x == x, rounded, x.to(tl.bfloat16))
    else:
        y = x.to(tl.bfloat16)
    return y


@triton.jit
def column_sums(x, LANES: tl.constexpr, COLUMNS: tl.constexpr):
    """[LANES, COLUMNS] -> [COLUMNS]: neighbours are added, then neighbouring sums, whatever the layout in registers."""
    for i in tl.static_range(1, LANES.bit_length()):
        x = tl.reshape(x, (LANES >> i, 2, COLUMNS))
        even, odd = tl.split(tl.permute(x, (0, 2, 1)))
        x = even + odd
    return tl.reshape(x, (COLUMNS,))


def on_device(host: HostArray, device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A host tensor, its bits read as they are meant, in `dtype` on the device."""
    return bits_on_device(host, device).to(dtype)


def bits_on_device(host: Any, device: torch.device | str) -> Tensor:
    """The same numbers on the device; uint16 is bfloat16."""
    return upload(host, device)


def power_of_two(count: int) -> int:
    """The least power of two that is not below `count`."""
    return 1 << max(0, count - 1).bit_length()


def is_amd() -> bool:
    """Whether torch is built for AMD's cards."""
    return torch.version.hip is not None


def least_tokens(amd: bool) -> int:
    """The narrowest tile of rows that becomes tensor instructions: Triton pads narrower ones on NVIDIA's cards alone."""
    return 16 if amd else 1


def has_warp_groups(device: torch.device) -> bool:
    """Whether the card multiplies in groups of four warps, straight from shared memory (Hopper, datacentre Blackwell).

    Such a card has registers and shared memory for larger tiles.
    """
    return device.type == "cuda" and not is_amd() and torch.cuda.get_device_capability(device)[0] in (9, 10)
