"""The bench: what is counted agrees with known figures, cases compute what they say, a report is whole. No time is judged."""

import json
import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ossia.bench.counts import decode_bytes, expected_experts, prompt_macs
from ossia.bench.divergence import divergences
from ossia.bench.machine import peak_rss_bytes, rss_bytes, this_machine
from ossia.bench.measure import measure, spread
from ossia.bench.passes import (
    SHORT_PROMPT,
    BenchCase,
    Passes,
    bench_cache_bytes,
    block_table,
    cases_of,
    check_context,
)
from ossia.bench.probes import Rates
from ossia.bench.report import as_json, as_text
from ossia.bench.subject import ModelChoice, ResolvedChoice, check_memory, load_subject, resolve
from ossia.engine.plan import CPU_BATCHED_TOKENS
from ossia.kernels.machine import available_memory
from ossia.kernels.ops import BLOCK, Batch
from ossia.kernels.sizes import Formats, formats_of
from ossia.loading import load
from ossia.model.config import ModelConfig
from ossia.model.memory import cache_bytes
from tests.support.checkpoints import TINY, tiny_checkpoint
from tests.test_cli import ossia

B20, B120 = ModelConfig.preset("gpt-oss-20b"), ModelConfig.preset("gpt-oss-120b")
needs_probe = pytest.mark.skipif(
    find_spec("ossia.kernels.cpu.tiles.probe") is None, reason="the kernels have no probe yet"
)


@pytest.fixture
def subject(tmp_path: Path):
    return load_subject(resolve(ModelChoice(model=str(tiny_checkpoint(tmp_path / "m")))))


class Steady:
    """A probe of a machine that drifts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Rates:
        self.calls += 1
        return Rates(30e9 + self.calls * 1e9, 450e9)


@pytest.mark.parametrize(
    ("config", "dense", "gigabytes"),
    # published per-token reads, int8 in blocks of 32: reference figures with biases and a bfloat16 router, 0.3 % above
    [(B20, "int8", 2.568), (B20, "bf16", 3.708), (B120, "int8", 3.564), (B120, "bf16", 5.003)],
)
def test_a_decoded_token_reads_what_is_known(config, dense, gigabytes):
    assert decode_bytes(config, formats_of("triton", dense)) == pytest.approx(gigabytes * 1e9, rel=5e-3)


def test_a_prompt_token_takes_three_gmac():
    assert prompt_macs(B20) == pytest.approx(3.03e9, rel=1e-3)


def test_sequences_share_the_weights_they_read():
    formats = formats_of("cpu")
    assert expected_experts(B20, 1) == pytest.approx(4)
    assert expected_experts(B20, 2) == pytest.approx(8 - 0.5)
    assert expected_experts(B20, 1000) == pytest.approx(32)
    alone, eight = decode_bytes(B20, formats), decode_bytes(B20, formats, rows=8)
    assert alone / 8 < eight < alone


def test_cases_go_by_depth():
    names = [case.name for case in cases_of([512], [128, 32], [1, 8], [4096, 0])]
    assert names == ["pp512", "tg128", "tg32", "tg128 x8", "tg32 x8", "pp512 @4096", "tg128 @4096", "tg32 @4096"]
    assert BenchCase("decode", 5).first == SHORT_PROMPT
    assert BenchCase("decode", 4, depth=100).middle == 102


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (([0], [], [], [0]), "0 tokens or sequences"),
        (([1], [], [], [-1]), "-1 tokens or sequences"),
        (([], [], [], [0]), "nothing to measure"),
        (([1], [], [4], [0]), "--batch needs --gen"),
    ],
)
def test_cases_that_cannot_be(asked, said):
    with pytest.raises(ValueError, match=said):
        cases_of(*asked)


def test_a_case_past_the_context_names_the_depth_that_fits():
    check_context(TINY, cases_of([48], [1], [], [2000]))
    with pytest.raises(ValueError, match=r"pp49 @2000 ends at 2049 .* at most 1999 fits"):
        check_context(TINY, cases_of([49], [1], [], [2000]))


def test_too_large_a_model_is_refused_with_the_remedy():
    cache = bench_cache_bytes(B20, "bf16", cases_of([512], [128], [8], [0]))
    assert cache == cache_bytes(B20, "bf16", 512) + 7 * cache_bytes(B20, "bf16", SHORT_PROMPT + 128)
    twenty = ResolvedChoice(ModelChoice(model="openai/gpt-oss-20b"), B20, "cpu", "int8", "bf16")
    check_memory(twenty, cache, available=13 << 30)
    with pytest.raises(ValueError, match=r"needs 11\.\d GiB .* 8\.0 GiB are free: no setting fits"):
        check_memory(twenty, cache, available=8 << 30)


def test_tables_go_round_and_never_meet():
    table, count = block_table([100, 30, 30], ring=3)
    assert count == 3 + 2 + 2
    assert table[0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert table[1].tolist() == [3, 4, 0, 0, 0, 0, 0]
    assert table[2].tolist() == [5, 6, 0, 0, 0, 0, 0]


class Listening:
    """A transformer whose logits and batches can be looked at."""

    def __init__(self, transformer) -> None:
        self.config, self.inner = transformer.config, transformer
        self.ops = SimpleNamespace(wait=self.wait, free_bytes=lambda: None)
        self.batches: list[Batch] = []

    def cache(self, *sizes):
        return self.inner.cache(*sizes)

    def forward(self, batch, cache=None):
        self.batches.append(batch)
        return self.inner.forward(batch, cache)

    def wait(self, logits):
        self.logits = self.inner.ops.host(logits)


def alone(transformer, tokens):
    """Logits after the last of the tokens, without a cache."""
    rows, none = np.arange(len(tokens), dtype=np.int32), np.zeros((1, 0), np.int32)
    tables = dict.fromkeys((name for name in ("blocks_SB", "windows_SB") if name in Batch._fields), none)
    starts = np.array([0, len(tokens)], np.int32)
    batch = Batch(tokens_T=tokens, positions_T=rows, starts_S1=starts, sampled_R=rows[-1:], **tables)
    return transformer.ops.host(transformer.forward(batch))[0]


def test_a_case_computes_what_it_says_however_often(subject):
    """At a depth, after shallower ones, again and again: the logits are those of the whole sequence."""
    cases = cases_of([40], [5], [3], [0, 1000])
    listening = Listening(subject.transformer)
    passes = Passes(listening, cases)  # type: ignore[arg-type]
    for case in cases:
        passes.prepare(case)
        for _ in range(2):
            assert passes.run(case) > 0
            rows = range(case.rows)
            whole = np.stack([alone(subject.transformer, passes.tokens_SN[row, : case.end]) for row in rows])
            np.testing.assert_allclose(listening.logits, whole, rtol=1e-4, atol=1e-4)
    assert max(len(batch.tokens_T) for batch in listening.batches) == CPU_BATCHED_TOKENS
    assert all(batch.blocks_SB.shape[1] * BLOCK >= batch.positions_T.max() for batch in listening.batches)


def test_a_report_is_whole(subject):
    probe, said = Steady(), []
    cases = cases_of([20], [4], [3], [0, 64])
    report = measure(subject, cases, probe, threads=1, repeat=3, say=said.append)
    assert probe.calls == 4 * len(cases)  # before, between and after the repetitions
    assert said[0] == "pp20"
    first = report.cases[0]
    assert first.machine[0].bandwidth == 31.5e9
    assert first.peak_share.median == pytest.approx(spread(first.rates).median * first.macs_per_token / 450e9)
    value = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert [case["name"] for case in value["cases"]] == [case.name for case in cases]
    for case in value["cases"]:
        rates = [each["tokens_per_second"] for each in case["repetitions"]]
        figures = case["tokens_per_second"]
        assert (figures["low"], figures["high"]) == (min(rates), max(rates))
        assert figures["median"] == sorted(rates)[1] > 0
        assert (case["bandwidth_share"] is None) == (case["kind"] == "prompt")
        assert case["rss_bytes"] > 1 << 20
    slack = 1 << 26  # the kernel counts pages in batches
    assert value["peak_rss_bytes"] + slack >= max(case["rss_bytes"] for case in value["cases"])
    engine = value["engine"]
    assert len(engine["rates"]) == 3
    assert 0 < engine["first_token_seconds"]["low"] <= engine["first_token_seconds"]["high"]
    assert engine["overhead_seconds"]["low"] <= engine["overhead_seconds"]["high"]
    assert value["load_seconds"] > 0
    text = as_text(report)
    for words in ("tg4 x3", "pp20 @64", "peak RSS", "first token of 512 after", "medians of 3"):
        assert words in text


def test_a_short_context_has_no_engine_figures(tmp_path: Path):
    folder = tiny_checkpoint(tmp_path, replace(TINY, max_context=40))
    subject = load_subject(resolve(ModelChoice(model=str(folder))))
    report = measure(subject, cases_of([8], [], [], [0]), Steady(), threads=1, repeat=1)
    assert report.engine is None
    assert "not measured in the engine" in as_text(report)
    assert as_json(report)["engine"] is None


def test_random_weights_take_a_shape(tmp_path: Path):
    folder = tiny_checkpoint(tmp_path)
    subject = load_subject(resolve(ModelChoice(shape=str(folder), dense="int4")))
    assert (subject.source, subject.config) == ("random", TINY)
    assert subject.formats == Formats(4.5, 4.25, "f32")


def test_experts_are_counted_as_they_are_once_loaded(tmp_path: Path):
    """bfloat16 experts that MXFP4 holds exactly are loaded as MXFP4; others stay bfloat16."""
    choice = ModelChoice(model=str(tiny_checkpoint(tmp_path, layout="bf16")), backend="cpu", dense="int8", kv="bf16")
    resolved = resolve(choice)
    assert resolved.formats == Formats(8.25, 4.25)
    assert replace(resolved, mxfp4=False).formats == Formats(8.25, 16.0)


def test_the_bench_measures_the_formats_that_a_chat_runs():
    """A small model keeps its bits, a large one gets int8 weights; the report names them."""
    mini = resolve(ModelChoice(model="ossia-mini"))
    model = load("ossia-mini")
    assert (mini.backend, mini.dense, mini.kv) == (model.backend.name, "bf16", "f32")
    assert load_subject(mini).transformer.cache_bytes == model.transformer.cache_bytes
    large = resolve(ModelChoice(shape="gpt-oss-20b", backend="cpu"))
    assert (large.dense, large.kv) == ("int8", "bf16")


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({}, "choose one of -m"),
        ({"model": "m", "shape": "gpt-oss-20b"}, "choose one of -m"),
        (
            {"shape": "gpt-oss-20b", "backend": "cpu", "dense": "q4"},
            "dense 'q4' is not one of backend 'cpu': it has int8, int4, bf16",
        ),
        (
            {"shape": "gpt-oss-20b", "backend": "cpu", "kv": "fp8"},
            "kv 'fp8' is not one of backend 'cpu': it has bf16, int8",
        ),
    ],
)
def test_choices_that_cannot_be(choice, said):
    with pytest.raises(ValueError, match=said):
        ModelChoice(**choice)


def test_a_dense_format_is_compared_with_bfloat16():
    (kept,) = divergences(TINY, tokens=12, kinds=[("bf16", "f32")])
    assert (kept.mean_kl, kept.top1_agreement) == (0.0, 1.0)
    for found in divergences(TINY, tokens=12, kinds=[("int8", "f32"), ("int4", "f32")]):
        assert 0 <= found.mean_kl <= found.worst_kl
        assert math.isfinite(found.worst_kl)
        assert 0 <= found.top1_agreement <= 1


def test_the_machine_and_this_process():
    machine = this_machine()
    assert 1 <= machine.cores <= machine.logical_cores
    assert 0 < available_memory() < machine.memory_bytes
    assert 0 < rss_bytes() <= peak_rss_bytes() + (1 << 26)


@needs_probe
def test_the_command_prints_one_object():
    done = ossia(
        "bench", "-m", "ossia-mini", "--prompt", "32", "--gen", "4,8", "--batch", "2", "--repeat", "1", "--json"
    )
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["dense"], value["kv"]) == ("bf16", "f32") or value["backend"] == "triton"
    assert [case["name"] for case in value["cases"]] == ["pp32", "tg4", "tg8", "tg4 x2", "tg8 x2"]
    assert all(case["read_bandwidth"]["median"] > 1e8 for case in value["cases"])


def test_without_a_card_the_bench_says_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # other tests set it
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = ossia("bench", "--shape", "gpt-oss-120b", "--backend", "triton")
    assert done.returncode == 1
    assert done.stderr.startswith("error: backend 'triton' cannot run here: ")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "choose one of -m"),
        (("-m", "nowhere"), "no model at 'nowhere'"),
        (("--shape", "gpt-oss-7b"), "the presets are gpt-oss-120b, gpt-oss-20b"),
        (("-m", "ossia-mini", "--depth", "4090"), "a --depth of at most 3584 fits"),
        (("-m", "ossia-mini", "--gen", "1,x"), "'x' is not a number"),
        (("-m", "ossia-mini", "--threads", "9999"), "--threads 9999: this machine has"),
        (("-m", "ossia-mini", "--dense", "int4", "--backend", "triton"), "it has bf16, int8"),
        (("-m", "ossia-mini", "--kv", "fp8"), "kv 'fp8' is not one of backend 'cpu'"),
        (("-m", "ossia-mini", "--backend", "gpu"), "backend 'gpu' is none of auto, cpu, triton, reference"),
    ],
)
def test_errors_are_one_line_with_the_remedy(arguments: tuple[str, ...], said: str):
    done = ossia("bench", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
