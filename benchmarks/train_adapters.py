"""Is LoRA over ossia-mini as fast as training all of its weights? Whole runs of `ossia train`, in turn.

In: steps and rounds. Out: tokens a second of both, compiled and not, and their ratio. Each run is a process of its own
with the same data, tokens a step and threads; the first steps, which compile, do not count. `--threads` holds for
torch and Numba alike: threads of one that wait for the other's would count as time.
Run: python benchmarks/train_adapters.py [--rounds 3] [--steps 16] [--threads 1]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WARM_UP = 3
DATA = 'generator = "ossia.mini.curriculum.dialogues:dialogue"'
RECIPE = """
seed = 1
start = "ossia-mini"
[checkpoint]
log_every = 1
plot = false
[{kind}]
steps = {steps}
{tokens} = 4500
precision = "bf16"
compile = {compile}
{own}
[[{kind}.data]]
{data}
"""
KINDS = {
    "all weights": ("sft", "batch_tokens", '[sft.optimizer]\nkind = "adamw"'),
    "LoRA": ("lora", "batch_tokens", 'targets = ["self_attn.*", "mlp.router", "mlp.experts.*"]'),
}


def rates(name: str, compiled: bool, steps: int, threads: int) -> list[float]:
    """Tokens a second of each step of one run."""
    kind, tokens, own = KINDS[name]
    text = RECIPE.format(kind=kind, tokens=tokens, own=own, steps=steps, compile=str(compiled).lower(), data=DATA)
    count = str(threads)
    environment = os.environ | {"OMP_NUM_THREADS": count, "NUMBA_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    with tempfile.TemporaryDirectory() as folder:
        recipe, out = Path(folder) / "recipe.toml", Path(folder) / "out"
        recipe.write_text(text)
        command = [sys.executable, "-m", "ossia", "train", str(recipe), "--out", str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"training of {name} failed:\n{done.stderr[-3000:]}")
        rows = [json.loads(line) for line in (out / kind / "log.jsonl").read_text().splitlines()]
    return [row["tokens_per_second"] for row in rows if "tokens_per_second" in row][WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    parser.add_argument("--steps", type=int, default=16, help="steps of a run, with the first that warm up")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if given.steps <= WARM_UP:
        parser.error(f"--steps: more than {WARM_UP}, which warm up")
    print(f"ossia-mini, bfloat16 products, 4,500 tokens a step, {given.threads} threads")
    for compiled in (True, False):
        found: dict[str, list[float]] = {name: [] for name in KINDS}
        for _ in range(given.rounds):
            for name in KINDS:
                found[name] += rates(name, compiled, given.steps, given.threads)
        middle = {name: statistics.median(values) for name, values in found.items()}
        for name, values in found.items():
            print(f"  {name:12} {middle[name]:6.0f} tokens/s ({min(values):.0f}–{max(values):.0f})")
        print(
            f"  {'compiled' if compiled else 'not compiled'}: LoRA / all {middle['LoRA'] / middle['all weights']:.2f}"
        )


if __name__ == "__main__":
    main()
