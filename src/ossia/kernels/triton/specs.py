"""A kernel as it is compiled for the real shapes, so that its registers, spills and instructions can be looked at without a card.

In: nothing. Out: the type that every kernel module's `kernel_specs` lists.
It does not know a compiler or a target.
"""

from typing import Any, NamedTuple


class KernelSpec(NamedTuple):
    name: str
    fn: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int
