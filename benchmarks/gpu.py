"""Everything there is to know of the GPU backend on a card, by one command: parity, speed, memory, kernels, a peer.

  python benchmarks/gpu.py                                    # gpt-oss-20b, ten minutes at most
  python benchmarks/gpu.py --shape gpt-oss-120b --only decode prefill
  python benchmarks/gpu.py --only tune                        # other tile sizes for each kernel
  TRITON_INTERPRET=1 python benchmarks/gpu.py --shape tiny    # does the script run? without a card; its figures mean nothing

Weights are random, made on the card; so routing is as uniform as random weights give. Each section prints as it goes, is
written to --out when it ends, and survives the failure of another. A case that does not fit, or for which no time is
left, says so. Shares are of the copy bandwidth and of the bf16 matrix rate measured in the same run.
"""

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gpu_cases
import numpy as np
import torch
from gpu_cases import Clock, Sequences

from ossia.bench.counts import decode_bytes, prompt_macs
from ossia.bench.subject import config_of, random_tensors
from ossia.engine.engine import Engine
from ossia.engine.plan import plan_card
from ossia.engine.request import SamplingParams
from ossia.kernels.backends import make_ops
from ossia.kernels.ops import Draw, Ops
from ossia.kernels.reference import ReferenceOps
from ossia.kernels.sizes import Formats, formats_of
from ossia.kernels.triton.tools.check import emulated, facts_of_this_machine
from ossia.model.config import ModelConfig, alternating
from ossia.model.synthetic import RandomTensors
from ossia.model.transformer import Transformer, load_transformer

TINY = ModelConfig(
    layers=2, hidden=64, intermediate=64, heads=4, kv_heads=2, head_dim=32, experts=4, experts_per_token=2, vocab=128,
    window=8, sliding=alternating(2), max_context=2048, initial_context=64,
)  # fmt: skip
CONTEXTS, BATCHES, PROMPTS, CHUNKS = (
    (1024, 8192, 32768, 131072),
    (1, 4, 16, 64, 256),
    (512, 4096, 32768),
    (512, 2048, 8192),
)
STEPS, WARM_UP = 24, 4  # decoded for one figure, and before it
GIB = 1 << 30
GREEDY = Draw(1.0, 0.0, 0, 1.0, 0.0, None, {})


class OutOfTimeError(RuntimeError):
    """The run has used its minutes; what was measured so far stands."""


@dataclass
class Run:
    """One run: what was asked, what came out so far, and when it must end."""

    args: argparse.Namespace
    kernels: Ops
    clock: Clock
    deadline: float
    results: dict[str, Any] = field(default_factory=dict)
    models: dict[str, Transformer] = field(default_factory=dict)

    def section(self, name: str, work: Callable[["Run", list[dict[str, Any]]], None]) -> None:
        print(f"\n== {name}", flush=True)
        rows: list[dict[str, Any]] = []
        self.results[name] = {"rows": rows}
        started = time.monotonic()
        try:
            self.check_time()
            work(self, rows)
        except Exception as error:  # whatever it is, the next section may still work
            self.results[name]["error"] = f"{type(error).__name__}: {error}"
            print(f"   {name} ended early: {self.results[name]['error']}", flush=True)
            if not isinstance(error, OutOfTimeError):
                traceback.print_exc()
        self.results[name]["seconds"] = time.monotonic() - started
        Path(self.args.out).write_text(json.dumps(self.results, indent=1), "utf-8")
        gc.collect()
        if self.clock.is_card:
            torch.cuda.empty_cache()

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTimeError(f"{self.args.minutes} minutes are over: run it again with --only")

    def note(self, section: list[dict[str, Any]], /, **figures: Any) -> None:
        """A row of a section, printed at once."""
        section.append(figures)
        print("   " + "  ".join(f"{name} {_short(value)}" for name, value in figures.items()), flush=True)

    @property
    def bandwidth(self) -> float:
        return self._rate("copy_bytes_per_second")

    @property
    def matmul(self) -> float:
        return self._rate("bf16_macs_per_second")

    def _rate(self, name: str) -> float:
        rows = self.results.get("machine", {}).get("rows") or [{}]
        return rows[0].get(name, float("nan"))

    @property
    def formats(self) -> Formats:
        return formats_of("triton", self.args.dense, self.args.kv)

    def config(self, shape: str) -> ModelConfig:
        return TINY if shape == "tiny" else config_of(shape)

    def model(self, shape: str) -> Transformer:
        """Random weights of a shape on the card, loaded once; another shape's are let go first."""
        if shape not in self.models:
            self.models.clear()
            gc.collect()
            config, free = self.config(shape), self.kernels.free_bytes()
            if free is not None:
                print("   " + plan_card(config, self.args.dense, self.args.kv, free).line(), flush=True)
            started = time.monotonic()
            tensors: Any = random_tensors(config, self.kernels)
            self.models[shape] = load_transformer(tensors, self.kernels)
            print(f"   {shape}: made and packed in {time.monotonic() - started:.1f} s", flush=True)
        return self.models[shape]


def machine(run: Run, rows: list[dict[str, Any]]) -> None:
    facts = facts_of_this_machine()
    rates = {"copy_bytes_per_second": float("nan"), "bf16_macs_per_second": float("nan")}
    if run.clock.is_card:
        from ossia.kernels.triton.tools.probe import copy_bandwidth, matmul_rate

        rates = {"copy_bytes_per_second": copy_bandwidth(), "bf16_macs_per_second": matmul_rate()}
    card = facts.cards[0] if facts.cards else None
    run.note(
        rows, **rates, card=card.name if card else "none: interpreted", memory=card.bytes if card else 0,
        emulated=list(emulated(card)) if card else [], torch=facts.torch, triton=facts.triton, cuda=facts.cuda,
    )  # fmt: skip


def op_parity(run: Run, rows: list[dict[str, Any]]) -> None:
    """Each op against the reference's in float32 on the same device, one layer at full width."""
    config = replace(run.config(run.args.shape[0]), layers=2, sliding=(True, False))
    reference = ReferenceOps(device=run.clock.device)
    for figures in gpu_cases.compare_ops(config, run.kernels, reference, run.clock.device, run.args.parity_rows):
        run.note(rows, **figures)
        run.check_time()


def model_parity(run: Run, rows: list[dict[str, Any]]) -> None:
    """Logits of two layers at full width and vocabulary: divergence from the reference, and the likeliest token."""
    config = replace(run.config(run.args.shape[0]), layers=2, sliding=(True, False))
    tensors: Any = RandomTensors(config, 0)
    ids = np.random.default_rng(0).integers(0, config.vocab, 64, dtype=np.int32)
    batch = gpu_cases.whole(ids)
    logits = []
    for backend in (run.kernels, ReferenceOps(device=run.clock.device)):
        model = load_transformer(tensors, backend)
        logits.append(backend.host(model.forward(batch)).astype(np.float64))
        del model
        gc.collect()
    run.note(rows, tokens=len(ids), **gpu_cases.divergence(*logits))


def decode(run: Run, rows: list[dict[str, Any]]) -> None:
    """Whole steps: the batch to the card, the graph, a token drawn on the card, the tokens back."""
    for shape in run.args.shape:
        model = run.model(shape)
        for context in run.args.contexts:
            for batch in run.args.batches:
                run.check_time()
                with _case(run, rows, shape=shape, context=context, batch=batch) as figures:
                    count, before = (STEPS, WARM_UP) if run.clock.is_card else (1, 0)
                    sequences = Sequences(model, batch, context + count + before, run.clock)
                    steps = iter(range(context, context + count + before))

                    def step(
                        sequences: Sequences = sequences, steps: Iterator[int] = steps, batch: int = batch
                    ) -> None:
                        logits = sequences.decode(next(steps))
                        drawn = run.kernels.draw(logits, range(batch), [GREEDY] * batch)
                        assert drawn is not None
                        assert len(drawn) == batch

                    seconds = run.clock.wall(step, count, before)
                    moved = decode_bytes(model.config, run.formats, batch, context) * batch
                    figures |= {
                        "tokens_per_second": batch / seconds, "step_ms": seconds * 1e3,
                        "bytes_per_step": moved, "of_copy_bandwidth": moved / seconds / run.bandwidth,
                        "peak_bytes": run.clock.peak_bytes(),
                    }  # fmt: skip


def prefill(run: Run, rows: list[dict[str, Any]]) -> None:
    """A prompt in chunks, one row of logits at its end."""
    for shape in run.args.shape:
        model = run.model(shape)
        macs = prompt_macs(model.config)
        for tokens in run.args.prompts:
            for chunk in (chunk for chunk in run.args.chunks if chunk <= max(tokens, run.args.chunks[0])):
                run.check_time()
                with _case(run, rows, shape=shape, prompt=tokens, chunk=chunk) as figures:
                    sequences = Sequences(model, 1, tokens, run.clock, chunk)
                    repeat = (5 if tokens <= 4096 else 2) if run.clock.is_card else 1
                    seconds = run.clock.wall(lambda s=sequences, n=tokens: s.prompt(n), repeat, int(run.clock.is_card))
                    figures |= {
                        "tokens_per_second": tokens / seconds, "first_token_ms": seconds * 1e3,
                        "of_bf16_rate": macs * tokens / seconds / run.matmul, "peak_bytes": run.clock.peak_bytes(),
                    }  # fmt: skip


def kernels(run: Run, rows: list[dict[str, Any]]) -> None:
    """Each op over all layers' weights, one after the other, in one graph: what it moves, how long, what share."""
    for shape in run.args.shape:
        model = run.model(shape)
        for batch in run.args.batches:
            for name, work, moved, macs in gpu_cases.op_loops(
                model, batch, run.args.contexts[0], run.formats, run.clock
            ):
                run.check_time()
                with _case(run, rows, shape=shape, batch=batch, op=name) as figures:
                    seconds = run.clock.replayed(work)
                    figures |= {
                        "layers_us": seconds * 1e6, "bytes": moved, "of_copy_bandwidth": moved / seconds / run.bandwidth,
                        "of_bf16_rate": macs / seconds / run.matmul,
                    }  # fmt: skip


def engine(run: Run, rows: list[dict[str, Any]]) -> None:
    """Requests through the engine: scheduling, sampling at temperature 1, everything a server does but its HTTP."""
    for shape in run.args.shape:
        model = run.model(shape)
        for requests in run.args.batches:
            run.check_time()
            with _case(run, rows, shape=shape, requests=requests) as figures:
                tokens, prompt = run.args.engine_tokens, min(128, model.config.max_context // 4)
                size = gpu_cases.cache_for(model, requests * (prompt + tokens))
                running = Engine(model, cache_bytes=size, prefix_bytes=0)
                figures |= _generate(running, model.config.vocab, requests, prompt, tokens)


def _generate(running: Engine, vocab: int, requests: int, prompt: int, tokens: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    for count in (min(8, tokens), tokens):  # the first round records the graphs
        prompts = [rng.integers(0, vocab, prompt).tolist() for _ in range(requests)]
        started = time.perf_counter()
        streams = [running.submit(each, SamplingParams(seed=1, max_tokens=count)) for each in prompts]
        next(streams[-1])
        first = time.perf_counter() - started
        said = sum(len(list(stream)) for stream in streams) + 1
        seconds = time.perf_counter() - started
    return {
        "tokens_per_second": said / seconds,
        "first_token_ms": first * 1e3,
        "step_ms": (seconds - first) / tokens * 1e3,
    }


def peer(run: Run, rows: list[dict[str, Any]]) -> None:
    """transformers' own GptOss, its experts as bfloat16: what it does without kernels fetched from elsewhere."""
    run.models.clear()
    gc.collect()
    for figures in gpu_cases.peer(run.config(run.args.shape[0]), run.clock):
        run.note(rows, shape=run.args.shape[0], **figures)
        run.check_time()


def tune(run: Run, rows: list[dict[str, Any]]) -> None:
    """One step at a time away from each tile table, per op and batch; says what would be faster."""
    for shape in run.args.shape:
        model = run.model(shape)
        for batch in run.args.batches:
            for figures in gpu_cases.tuned(model, batch, run.args.contexts[0], run.formats, run.clock, run.check_time):
                run.note(rows, shape=shape, batch=batch, **figures)


SECTIONS: dict[str, Callable[[Run, list[dict[str, Any]]], None]] = {
    "machine": machine, "ops": op_parity, "model": model_parity, "decode": decode, "prefill": prefill, "kernels": kernels,
    "engine": engine, "peer": peer, "tune": tune,
}  # fmt: skip


@contextmanager
def _case(run: Run, rows: list[dict[str, Any]], **names: Any) -> Iterator[dict[str, Any]]:
    """One row; a case that does not fit, or fails, is noted as such and the next one runs."""
    figures: dict[str, Any] = {}
    try:
        yield figures
    except OutOfTimeError:
        raise
    except (torch.OutOfMemoryError, ValueError) as error:
        figures["not_measured"] = str(error).splitlines()[0][:160]
    except Exception as error:
        figures["error"] = f"{type(error).__name__}: {error}"[:400]
        traceback.print_exc()
    run.note(rows, **names, **figures)


def table(results: dict[str, Any]) -> str:
    """docs/gpu.md's tables, one a section."""
    parts = []
    for name, section in results.items():
        rows = section["rows"]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        lines = [f"### {name}", ""]
        if columns:
            lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            lines += ["| " + " | ".join(_short(row.get(column, "")) for column in columns) + " |" for row in rows]
        if "error" in section:
            lines += ["", f"Ended early: {section['error']}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _short(value: Any) -> str:
    if isinstance(value, float):
        for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
            if abs(value) >= size:
                return f"{value / size:.2f}{unit}"
        return f"{value:.4g}"
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=["gpt-oss-20b"], help="gpt-oss-20b, gpt-oss-120b, tiny, a folder")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[name for name in SECTIONS if name != "tune"])
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--dense", default="bf16", choices=["bf16", "int8"])
    parser.add_argument("--kv", default="bf16", choices=["bf16", "fp8"])
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--contexts", nargs="+", type=int, default=list(CONTEXTS))
    parser.add_argument("--prompts", nargs="+", type=int, default=list(PROMPTS))
    parser.add_argument("--chunks", nargs="+", type=int, default=list(CHUNKS))
    parser.add_argument("--parity-rows", nargs="+", type=int, default=[1, 3, 16, 100, 600])
    parser.add_argument("--engine-tokens", type=int, default=128)
    parser.add_argument("--out", default="gpu.json")
    parser.add_argument("--table", default="gpu.md")
    args = parser.parse_args()
    try:
        chosen = make_ops("triton", dense=args.dense, kv=args.kv)
    except ValueError as error:
        sys.exit(f"error: {error}")
    run = Run(args, chosen, Clock(), time.monotonic() + 60 * args.minutes)
    for name in dict.fromkeys(["machine", *args.only]):
        run.section(name, SECTIONS[name])
    Path(args.table).write_text(table(run.results), "utf-8")
    print(f"\n{args.out} has every figure, {args.table} the tables")


if __name__ == "__main__":
    main()
