# pyright: standard
"""Parts of all Triton kernels: a dot product and a sum in fixed order, and copies to the device.

In: tiles in registers; host arrays. Out: tiles; device tensors.

A row's bits must not depend on other rows. So every sum over a width has an order that no tile size changes: products
in ascending steps of the tensor instruction, squares in `LANES` lanes combined by a fixed tree. Only `tl.fma` fuses a
multiply-add (`enable_fp_fusion=False` at each launch), and no kernel is compiled separately for a number of rows
(`do_not_specialize`).
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
    """acc + a @ b, bfloat16 in and float32 out. The interpreter's own dot would read bfloat16 bits as integers."""
    if INTERPRETED:
        acc = tl.dot(a.to(tl.float32), b.to(tl.float32), acc)
    else:
        acc = tl.dot(a, b, acc)
    return acc


@triton.jit
def to_bf16(x):
    """float32 to the nearest bfloat16, ties to even. The interpreter's own cast truncates."""
    if INTERPRETED:
        bits = x.to(tl.uint32, bitcast=True)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
        y = tl.where(x == x, rounded, x.to(tl.bfloat16))
    else:
        y = x.to(tl.bfloat16)
    return y


@triton.jit
def column_sums(x, LANES: tl.constexpr, COLUMNS: tl.constexpr):
    """[LANES, COLUMNS] -> [COLUMNS]: adjacent values are added, then adjacent sums, independent of the register
    layout.
    """
    for i in tl.static_range(1, LANES.bit_length()):
        x = tl.reshape(x, (LANES >> i, 2, COLUMNS))
        even, odd = tl.split(tl.permute(x, (0, 2, 1)))
        x = even + odd
    return tl.reshape(x, (COLUMNS,))


def on_device(host: HostArray, device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A host tensor (uint16 is bfloat16) on the device, as `dtype`."""
    return bits_on_device(host, device).to(dtype)


def bits_on_device(host: Any, device: torch.device | str) -> Tensor:
    """The same numbers on the device; uint16 becomes bfloat16."""
    return upload(host, device)


def power_of_two(count: int) -> int:
    """The least power of two that is not below `count`."""
    return 1 << max(0, count - 1).bit_length()


def is_amd() -> bool:
    """Whether torch is built for AMD GPUs."""
    return torch.version.hip is not None


def least_tokens(amd: bool) -> int:
    """The narrowest tile of rows for tensor instructions. Triton pads narrower ones on NVIDIA GPUs only."""
    return 16 if amd else 1


def has_warp_groups(device: torch.device) -> bool:
    """Whether the GPU has warp-group matrix instructions (Hopper, datacenter Blackwell).

    Such a GPU has registers and shared memory for larger tiles.
    """
    return device.type == "cuda" and not is_amd() and torch.cuda.get_device_capability(device)[0] in (9, 10)
