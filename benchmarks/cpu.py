"""The whole CPU table: Ossia and llama.cpp on the same machine in the same minutes, beside what the machine can do.

Each side is loaded anew for every run, because both do not fit into memory together; a round runs every group of cases on
both sides, one right after the other, and a ratio compares the two of one round. Without --llama-bench: our columns only.

  ossia synth gpt-oss-20b DIR
  python benchmarks/cpu.py --model DIR --gguf FILE --llama-bench PATH --llama-batched-bench PATH

Every run is kept in --raw at once: a run that was broken off goes on where it stopped, and --table-only prints again.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

from ossia.bench.passes import BenchCase, cases_of
from ossia.bench.probes import ProcessProbe


@dataclass(frozen=True)
class Group:
    """Cases of one load. `peer`: llama-bench, llama-batched-bench or nobody."""

    cases: tuple[BenchCase, ...]
    peer: str = "bench"
    engine: bool = False
    rounds: int | None = None  # fewer than asked for, where memory is the question


GROUPS = {
    "single": Group(cases_of([512], [128], [], [0]), engine=True),
    "prompt": Group(cases_of([2048], [], [], [0])),
    "depth": Group(cases_of([512], [64], [], [4096])),
    "batched": Group(cases_of([], [32], [1, 4, 8, 16], [0]), peer="batched"),
    "8k": Group(cases_of([], [32], [], [8192 - 32]), peer="none", rounds=1),
    "long": Group(cases_of([], [32], [], [4096, 32768, 131072 - 32]), peer="none", rounds=1),
}
WARM_UP = 64
DEFAULT_GROUPS = ("single", "prompt", "depth", "batched", "8k")
TARGETS = {
    "tg128": "≥ 1.2, ≥ 90 % of bandwidth",
    "pp512": "≥ 5, ≥ 65 % of int8 peak",
    "pp2048": "≥ 5",
    "tg64 @4096": "≥ 1.2",
    "pp512 @4096": "≥ 5",
    "tg32 x8": "≥ 2.5",
    "tg32 x16": "≥ 3",
}
Run = dict[str, Any]


def ours(args: argparse.Namespace, group: str) -> Run:
    """A process that loads the model, runs the group and prints a report as JSON."""
    command = [
        sys.executable,
        __file__,
        "--worker",
        group,
        "--model",
        args.model,
        "--dense",
        args.dense,
        "--kv",
        args.kv,
    ]
    out, rss = _output([*command, "--threads", str(args.threads), "--repeat", str(args.repeat)])
    report = json.loads(out)
    rates = {case["name"]: case["tokens_per_second"]["median"] for case in report["cases"]}
    return {"rates": rates, "peak_rss_bytes": rss, "report": report}


def theirs(args: argparse.Namespace, group: str) -> Run:
    command = _peer_command(args, GROUPS[group])
    out, rss = _output(command)
    if GROUPS[group].peer == "batched":
        lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        rates = {_name("tg", line["tg"], line["pl"], 0): line["speed_tg"] for line in lines}
    else:
        rates = {}
        for line in json.loads(out):
            if line["n_prompt"] == WARM_UP:
                continue
            kind, tokens = ("pp", line["n_prompt"]) if line["n_prompt"] else ("tg", line["n_gen"])
            rates[_name(kind, tokens, 1, line["n_depth"])] = statistics.median(line["samples_ts"])
    return {"rates": rates, "peak_rss_bytes": rss, "command": command}


def _peer_command(args: argparse.Namespace, group: Group) -> list[str]:
    threads, repeat = str(args.threads), str(args.repeat)
    if group.peer == "batched":
        rows, tokens = _listed(case.rows for case in group.cases), _listed(case.tokens for case in group.cases)
        context = str(max(case.rows * case.end for case in group.cases))
        command = [args.llama_batched_bench, "-m", args.gguf, "-t", threads, "-tb", threads, "-c", context, "-b", "512"]
        return [*command, *f"-ub 512 -npp 16 -ntg {tokens} -npl {rows} -fa on --output-format jsonl".split()]
    # a short prompt first is the warm-up; llama-bench's own would run every case twice
    prompts = _listed([WARM_UP, *(case.tokens for case in group.cases if case.kind == "prompt")])
    gens = _listed(case.tokens for case in group.cases if case.kind == "decode") or "0"
    command = [args.llama_bench, "-m", args.gguf, "-t", threads, "-p", prompts, "-n", gens, "-r", repeat]
    return [*command, "-fa", "1", "--no-warmup", "-d", _listed(case.depth for case in group.cases), "-o", "json"]


def _listed(numbers: Any) -> str:
    return ",".join(map(str, sorted(set(numbers))))


def _name(kind: str, tokens: int, rows: int, depth: int) -> str:
    return BenchCase("prompt" if kind == "pp" else "decode", tokens, rows, depth).name


def _output(command: Sequence[str]) -> tuple[str, int]:
    """What it printed, and its peak RSS in bytes. Nothing it started outlives it: a probe would hold the pipes."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, errors = _drain(process)
    except BaseException:  # Ctrl-C does not reach another session
        _end(process.pid)
        raise
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}\n{errors[-2000:]}")
    return out, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _drain(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Both pipes to their ends, without reaping the process: wait4 must, for its memory."""
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    reader = Thread(target=lambda stream: errors.append(stream.read()), args=(process.stderr,))
    reader.start()
    Thread(target=_end_with, args=(process.pid,), daemon=True).start()
    out = process.stdout.read()
    reader.join()
    return out, errors[0]


def _end_with(leader: int) -> None:
    """Once a process has ended, so do those of its session."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
    _end(leader)


def _end(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def worker(args: argparse.Namespace) -> None:
    from ossia.bench.report import as_json
    from ossia.bench.run import run
    from ossia.bench.subject import ModelChoice

    group = GROUPS[args.worker]
    choice = ModelChoice(model=args.model, dense=args.dense, kv=args.kv, threads=args.threads)
    report = run(choice, group.cases, repeat=args.repeat, with_engine=group.engine)
    print(json.dumps(as_json(report), allow_nan=False))


def collect(args: argparse.Namespace, raw: list[Run]) -> None:
    done = {(each["round"], each["group"], each["side"]) for each in raw}
    with ProcessProbe(args.threads) as probe:
        for turn in range(args.rounds):
            for name in args.groups:
                group = GROUPS[name]
                if turn >= (group.rounds or args.rounds):
                    continue
                has_peer = bool(args.gguf) and bool(
                    {"bench": args.llama_bench, "batched": args.llama_batched_bench}.get(group.peer)
                )
                sides = [("ossia", ours), ("llama.cpp", theirs)][: 2 if has_peer else 1]
                for side, run in sides[:: 1 if turn % 2 == 0 else -1]:  # neither is always the first
                    if (turn, name, side) in done:
                        continue
                    print(f"round {turn + 1} of {args.rounds}: {name}, {side}", file=sys.stderr, flush=True)
                    before, started = probe(), time.time()
                    found = run(args, name)
                    after = probe()
                    probes = [before._asdict(), after._asdict()]
                    raw.append(
                        {"round": turn, "group": name, "side": side, "started": started, "probes": probes, **found}
                    )
                    args.raw.write_text(json.dumps(raw, indent=1), encoding="utf-8")


def table(raw: Sequence[Run]) -> str:
    """Markdown: medians over the rounds with the lowest and highest, and medians of the rounds' own ratios."""
    rates: defaultdict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    shares: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for run in raw:
        for case, rate in run["rates"].items():
            rates[case, run["side"]][run["round"]] = rate
        for case in run.get("report", {}).get("cases", ()):
            for share in ("bandwidth_share", "peak_share"):
                if case[share]:
                    shares[case["name"], share].append(100 * case[share]["median"])
    lines = [
        "| case | Ossia tok/s | % of read bandwidth | % of int8 peak | llama.cpp tok/s | Ossia / llama.cpp | target | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in dict.fromkeys(name for name, _ in rates):
        mine, peer = rates[case, "ossia"], rates.get((case, "llama.cpp"), {})
        ratios = [mine[turn] / peer[turn] for turn in mine if turn in peer]
        cells = [_span(list(mine.values())), *(_span(shares[case, of]) for of in ("bandwidth_share", "peak_share"))]
        cells += [_span(list(peer.values())), _span(ratios), TARGETS.get(case, ""), str(len(mine))]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_notes(raw)])


def _notes(raw: Sequence[Run]) -> list[str]:
    lines = []
    for side in ("ossia", "llama.cpp"):
        probes = [probe for run in raw if run["side"] == side for probe in run["probes"]]
        if probes:
            reads, peaks = ([each[name] / 1e9 for each in probes] for name in ("bandwidth", "peak"))
            lines.append(f"- beside {side}'s runs: reads {_span(reads)} GB/s, int8 peak {_span(peaks)} GMAC/s")
        by_group: defaultdict[str, list[float]] = defaultdict(list)
        for run in raw:
            if run["side"] == side:
                by_group[run["group"]].append(run["peak_rss_bytes"] / 2**30)
        if by_group:
            held = "; ".join(f"{group} {_span(values)}" for group, values in by_group.items())
            lines.append(f"- {side}: peak RSS in GiB, loading included: {held}")
    reports = [run["report"] for run in raw if "report" in run]
    if reports:
        first = reports[0]
        lines.append(f"- Ossia: {first['dense']} dense weights, {first['kv']} cache, {first['threads']} threads; loads in "
                     f"{_span([report['load_seconds'] for report in reports])} s; {first['machine']['processor']}")  # fmt: skip
    for report in reports:
        for case in report["cases"]:
            if case["depth"] > 4096:
                held, cache = case["rss_bytes"] / 2**30, case["cache_bytes"] / 2**30
                lines.append(f"- at {case['depth']}: RSS {held:.2f} GiB, of which {cache:.2f} are the cache")
    engines = [report["engine"] for report in reports if report["engine"]]
    if engines:
        first_token, rate, added = (
            [engine[name]["median"] * unit for engine in engines]
            for name, unit in (("first_token_seconds", 1), ("tokens_per_second", 1), ("overhead_seconds", 1e3))
        )
        lines.append(f"- one request in the engine: first token of {engines[0]['prompt_tokens']} after {_span(first_token)} s, "
                     f"then {_span(rate)} tok/s; the engine adds {_span(added)} ms a token")  # fmt: skip
    return lines


def divergence_table(args: argparse.Namespace) -> str:
    """The dense formats compared with bfloat16 on the same tokens. With --kl-layers: random weights."""
    from ossia.bench.divergence import divergences
    from ossia.model.checkpoint import open_checkpoint
    from ossia.model.config import alternating

    checkpoint = open_checkpoint(args.model)
    source = checkpoint
    if args.kl_layers:
        source = replace(checkpoint.config, layers=args.kl_layers, sliding=alternating(args.kl_layers))
    found = [
        asdict(each) for each in divergences(source, kinds=[("int8", "f32"), ("int4", "f32")], tokens=args.kl_tokens)
    ]
    rows = [
        f"| {each['dense']} | {each['mean_kl']:.2e} | {each['worst_kl']:.2e} | {100 * each['top1_agreement']:.1f} % |"
        for each in found
    ]
    return "\n".join(
        ["| dense weights | mean KL to bf16, nats | worst token | same top-1 |", "|---|---|---|---|", *rows]
    )


def _span(values: Sequence[float]) -> str:
    if not values:
        return "–"
    shown = [f"{v:.0f}" if abs(v) >= 100 else f"{v:.1f}" if abs(v) >= 10 else f"{v:.2f}" for v in
             (statistics.median(values), min(values), max(values))]  # fmt: skip
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]}–{shown[2]})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a gpt-oss-20b checkpoint's folder")
    parser.add_argument("--gguf", help="the same shape for llama.cpp")
    parser.add_argument("--llama-bench", metavar="PATH")
    parser.add_argument("--llama-batched-bench", metavar="PATH")
    parser.add_argument("--groups", nargs="+", choices=[*GROUPS], default=DEFAULT_GROUPS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=1, help="repetitions in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dense", choices=["int8", "bf16", "int4"], default="int8")
    parser.add_argument("--kv", choices=["bf16", "int8"], default="bf16")
    parser.add_argument("--raw", type=Path, default=Path("runs/cpu.json"))
    parser.add_argument("--table-only", action="store_true")
    parser.add_argument("--kl-tokens", type=int, default=64, help="0: no table of the dense formats")
    parser.add_argument("--kl-layers", type=int, help="compare them in a smaller random model")
    parser.add_argument("--worker", choices=[*GROUPS], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not (args.model or args.table_only):
        parser.error("--model is needed, unless --table-only")
    return args


def main() -> None:
    args = arguments()
    if args.worker:
        return worker(args)
    raw: list[Run] = json.loads(args.raw.read_text("utf-8")) if args.raw.exists() else []
    if not args.table_only:
        args.raw.parent.mkdir(parents=True, exist_ok=True)
        collect(args, raw)
    print(table(raw))
    if args.kl_tokens and not args.table_only:
        print("\n" + divergence_table(args))
    return None


if __name__ == "__main__":
    main()
