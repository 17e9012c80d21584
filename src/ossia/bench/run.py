"""One bench from choice to report: check, load, measure beside the machine's own rates.

In: what to measure, cases, threads, repetitions. Out: a `Report`.
It does not know the command line, or how a report is printed.
"""

from collections.abc import Sequence
from contextlib import ExitStack

from ossia.bench.measure import Report, Say, measure
from ossia.bench.passes import BenchCase, bench_cache_bytes, check_context
from ossia.bench.probes import CardProbe, ProcessProbe
from ossia.bench.subject import ModelChoice, check_card, check_memory, kernels_of, load_subject, resolve, threads_of


def run(
    choice: ModelChoice,
    cases: Sequence[BenchCase],
    *,
    repeat: int = 5,
    with_engine: bool = True,
    say: Say = lambda _: None,
    memory: int | None = None,
) -> Report:
    """ValueError, before anything is loaded, for a backend that cannot run here, and for cases that the context or the free
    memory cannot hold. memory: bytes that may be used on the host; what is free unless given.
    """
    resolved = resolve(choice)
    check_context(resolved.config, cases)
    kernels = kernels_of(resolved)
    cache, free = bench_cache_bytes(resolved.config, resolved.kv, cases), kernels.free_bytes()
    if free is None:
        check_memory(resolved, cache, memory)
    else:
        check_card(resolved, cache, free)
    on_gpu = resolved.backend == "triton"
    used = 1 if on_gpu else threads_of(choice)
    with ExitStack() as stack:
        probe = CardProbe() if on_gpu else stack.enter_context(ProcessProbe(used))
        progress = lambda done, total: say(f"loading: layer {done} of {total}")  # noqa: E731
        subject = load_subject(resolved, progress, kernels, memory)
        return measure(subject, cases, probe, threads=used, repeat=repeat, with_engine=with_engine, say=say)
