"""How fast is a LoRA step through a layer of the 20b's shape, against the same step in transformers + PEFT?

In: the layer's experts and the tokens of a batch. Out: tokens a second and peak memory of both, and their ratio.
transformers cannot train MXFP4, so it holds the same weights dequantised to bfloat16. Each run has a process of its own;
the two take turns. Needs the extras `train` and `test`, and peft.

    python benchmarks/train.py                the 20b's 32 experts, 512 tokens, two threads; 2 GB of disk, 6 GiB of memory
    python benchmarks/train.py --experts 8    smaller
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ossia.model.checkpoint import open_checkpoint
from ossia.synth import synth
from ossia.train.model.trainable import TrainableModel, packed
from ossia.train.plan import plan
from ossia.train.recipe import ALL_TARGETS, Lora

RANK, VOCAB = 8, 1024


def tokens_of(count: int) -> list[int]:
    return np.random.default_rng(0).integers(0, VOCAB, count).tolist()


def ours(folder: Path, tokens: int, recompute: bool) -> tuple[Callable[[], float], list[Any]]:
    checkpoint = open_checkpoint(folder / "hf")
    lora = Lora(rank=RANK, alpha=16)
    network = TrainableModel.with_adapters(checkpoint, checkpoint.config, lora, dtype=torch.bfloat16)
    network.recompute = recompute
    given = packed([tokens_of(tokens)], [[True] * tokens])
    expected = plan(checkpoint.config, lora, tokens).total
    print(f"planned {expected / 2**20:.0f} MiB beside Python and its libraries", file=sys.stderr)

    def loss() -> float:
        value = network(given).mean()
        value.backward()
        return value.item()

    return loss, list(network.trained().values())


def peft(folder: Path, tokens: int, recompute: bool) -> tuple[Callable[[], float], list[Any]]:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "bf16", dtype=torch.bfloat16)
    config = LoraConfig(
        r=RANK, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM",
        target_parameters=["mlp.router.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )  # fmt: skip
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = get_peft_model(model, config)
    model.train()
    ids = torch.tensor([tokens_of(tokens)])

    def loss() -> float:
        value = model(ids, labels=ids, use_cache=False).loss
        value.backward()
        return value.item()

    return loss, [each for each in model.parameters() if each.requires_grad]


def subject(name: str, folder: Path, tokens: int, steps: int, recompute: bool) -> None:
    """One process's run, within the memory that it was given: a line of JSON."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss, trained = {"ossia": ours, "peft": peft}[name](folder, tokens, recompute)
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    seconds, busy, first = [], [], 0.0
    for step in range(steps + 1):
        started, started_busy = time.perf_counter(), time.process_time()
        value = loss()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
        busy.append(time.process_time() - started_busy)
        first = value if step == 0 else first
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"rate": tokens / statistics.median(seconds[1:]), "busy_rate": tokens / statistics.median(busy[1:])}
    found["own_mib"], found["peak_mib"] = (peak - before) / 1024, peak / 1024
    print(json.dumps(found | {"loss": first, "trained": sum(each.numel() for each in trained)}))


def run(name: str, folder: Path, given: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--subject", name, "--folder", str(folder)]
    command += ["--tokens", str(given.tokens), "--steps", str(given.steps), "--threads", str(given.threads)]
    command += ["--memory", str(given.memory)]
    command += ["--no-recompute"] if given.no_recompute else []
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    if out.returncode:
        raise SystemExit(f"{name} failed:\n{out.stderr}")
    return json.loads(out.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--experts", type=int, default=32, help="of the layer, as the 20b has")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a run")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each, by turns")
    parser.add_argument(
        "--threads", type=int, default=2, help="1 where others use the machine: threads would wait for each other"
    )
    parser.add_argument("--memory", type=float, default=6.0, help="GiB that a run may have; one that wants more fails")
    parser.add_argument("--no-recompute", action="store_true", help="both keep all activations")
    parser.add_argument("--subject", choices=["ossia", "peft"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.subject:
        limit = int(given.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        torch.set_num_threads(given.threads)
        subject(given.subject, given.folder, given.tokens, given.steps, not given.no_recompute)
        return
    with tempfile.TemporaryDirectory() as made:
        for layout in ("hf", "bf16"):
            synth("gpt-oss-20b", Path(made) / layout, layout, layers=1, experts=given.experts, vocab=VOCAB)
        runs = {name: [] for name in ("ossia", "peft")}
        for _ in range(given.rounds):
            for name, found in runs.items():
                found.append(run(name, Path(made), given))
    what = f"{given.experts} experts, LoRA rank {RANK} on {', '.join(ALL_TARGETS)}"
    print(f"one layer of the 20b's shape, {what}, {given.tokens} tokens")
    best = {name: max(found, key=lambda each: each["rate"]) for name, found in runs.items()}
    for name, found in best.items():
        rates = ", ".join(f"{each['rate']:.0f}" for each in runs[name])
        print(
            f"{name:6} {found['rate']:7.0f} tokens/s (runs: {rates}), {found['busy_rate']:.0f} a processor second, "
            f"peak {found['peak_mib']:.0f} MiB, {found['own_mib']:.0f} of them beside libraries, "
            f"first loss {found['loss']:.3f}, {found['trained']:,} trained"
        )
    ratio = {key: best["ossia"][key] / best["peft"][key] for key in ("rate", "busy_rate", "own_mib")}
    print(
        f"ossia / peft: {ratio['rate']:.2f} x the tokens a second, {ratio['busy_rate']:.2f} x a processor second, "
        f"{ratio['own_mib']:.2f} x the memory"
    )


if __name__ == "__main__":
    main()
