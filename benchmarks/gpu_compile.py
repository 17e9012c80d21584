"""What the Triton kernels become for cards that are not at hand: a table of registers, spills, shared bytes, instructions.

In: a model's sizes and a target. Out: a table in Markdown, or JSON; the exit status is 1 if a kernel spills or does not fit.
It does not know what a kernel computes, and measures no time.

    python benchmarks/gpu_compile.py --target sm_90 --shape gpt-oss-20b --only experts
"""

import argparse
import json
import sys
from importlib import import_module

from ossia.kernels.triton.tools.specs import SHARED, SIZES, TARGETS, Compiled, KernelSpec, compiled

FILES = ("linear", "route", "moe", "attention", "sample")  # those that offer `kernel_specs`


def offered(shape: str, target: str) -> list[KernelSpec]:
    """Every kernel that a file of ossia.kernels.triton.kernels offers for the target."""
    found = []
    for name in FILES:
        file = import_module(f"ossia.kernels.triton.kernels.{name}")
        found += file.kernel_specs(SIZES[shape], target == "sm_90", target.startswith("sm_"))
    return found


def is_sound(found: Compiled, target: str) -> bool:
    return not found.spilled and found.shared <= SHARED[target]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=[*TARGETS], action="append", help="may be given again; all unless given")
    parser.add_argument("--shape", choices=[*SIZES], default="gpt-oss-20b")
    parser.add_argument("--only", default="", help="kernels whose names hold this")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    lines, sound = [], True
    if not chosen.json:
        print("| target | kernel | warps | stages | registers | spilled | shared bytes | 16-byte loads | tensor |")
        print("|---|---|---|---|---|---|---|---|---|")
    for target in chosen.target or TARGETS:
        for spec in offered(chosen.shape, target):
            if chosen.only not in spec.name:
                continue
            found = compiled(spec, target)
            sound &= is_sound(found, target)
            lines.append({"target": target, "kernel": spec.name, **found._asdict()})
            if not chosen.json:
                print(
                    f"| {target} | {spec.name} | {spec.num_warps} | {spec.num_stages} |",
                    *(f"{x} |" for x in found),
                    flush=True,
                )
    if chosen.json:
        print(json.dumps(lines))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
