"""The metrics at /metrics.

In: events as they happen, and the engine's counters at each scrape. Out: Prometheus's text format.
"""

from collections.abc import Callable, Iterator
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from ossia.engine.engine import Stats
from ossia.server.state.disk import Condition

FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
LAG = (0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class ServerMetrics:
    """The server's metrics, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ours: dict[str, Any] = {"namespace": "ossia", "registry": self.registry}
        self.requests = Counter("requests", "Requests answered.", ("route", "status"), **ours)
        self.refused = Counter("refused", "Answers refused before they began.", ("reason",), **ours)
        self.cancelled = Counter("cancelled", "Answers that their reader left.", **ours)
        self.first_token = Histogram("first_token_seconds", "To the first token.", buckets=FIRST_TOKEN, **ours)
        self.between = Histogram("inter_token_seconds", "Between two tokens of an answer.", buckets=BETWEEN, **ours)
        self.queued = Histogram("queue_seconds", "Waited to be let in.", buckets=FIRST_TOKEN, **ours)
        self.lag = Histogram("event_loop_lag_seconds", "How late the event loop ran a timer.", buckets=LAG, **ours)

        self.tool_calls = Counter("tool_calls", "Calls of the server's own tools.", ("tool", "outcome"), **ours)
        self.tool_seconds = Histogram("tool_seconds", "Of one such call.", ("tool",), buckets=FIRST_TOKEN, **ours)

    def watch(self, stats: Callable[[], Stats], queue: Callable[[], tuple[int, int]]) -> None:
        """Read the engine and the queue (waiting, running) at each scrape."""
        self.registry.register(_Engine(stats, queue))  # type: ignore[arg-type]

    def watch_state(self, condition: Callable[[], Condition]) -> None:
        """Read the result of the last write of the state, at each scrape."""
        self.registry.register(_State(condition))  # type: ignore[arg-type]

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _State:
    def __init__(self, condition: Callable[[], Condition]) -> None:
        self._condition = condition

    def collect(self) -> Iterator[Metric]:
        now = self._condition()
        family = GaugeMetricFamily("ossia_state", "1 for how the last write of the state went.", labels=["condition"])
        for each in get_args(Condition):
            family.add_metric([each], float(each == now))
        yield family


class _Engine:
    def __init__(self, stats: Callable[[], Stats], queue: Callable[[], tuple[int, int]]) -> None:
        self._stats, self._queue = stats, queue

    def collect(self) -> Iterator[Metric]:
        s, (waiting, running) = self._stats(), self._queue()
        yield GaugeMetricFamily("ossia_waiting", "Answers that wait to be let in.", waiting)
        yield GaugeMetricFamily("ossia_running", "Answers under way.", running)
        counts = {
            "prompt_tokens": ("Tokens of prompts.", s.prompt_tokens),
            "output_tokens": ("Tokens sampled.", s.output_tokens),
            "cached_tokens": ("Tokens of prompts found in the cache.", s.cached_tokens),
            "drafted_tokens": ("Tokens guessed ahead.", s.drafted_tokens),
            "accepted_tokens": ("Guesses that held.", s.accepted_tokens),
            "preemptions": ("Answers that had to give way for a while.", s.preemptions),
            "steps": ("Forward passes.", s.steps),
        }
        for name, (help_text, value) in counts.items():
            yield CounterMetricFamily(f"ossia_{name}", help_text, value)
        hits = s.cached_tokens / s.prompt_tokens if s.prompt_tokens else 0.0
        yield GaugeMetricFamily("ossia_cache_hit_ratio", "Share of prompt tokens found in the cache.", hits)
        used = 1 - s.free_blocks / s.blocks if s.blocks else 0.0
        yield GaugeMetricFamily("ossia_kv_used_ratio", "Share of the cache that answers hold.", used)
        yield GaugeMetricFamily("ossia_kv_idle_bytes", "Cache kept for prompts that begin alike.", s.idle_bytes)
