# pyright: standard
"""Sampling on a GPU: logits to tokens and log-probabilities, by the rules of `ossia.engine.sampler`.

In: float32 logits [R, V] on the device; parameters, mask and a uniform number per row. Out: int32 tokens and float32
log-probabilities on the device. The uniform number comes from the host, so every backend samples the same tokens.

Launches: 2, or 5 if a row uses top-k, top-p or min-p. Bytes: the logits once, and a slice of 4 KB per row again. With
filters: the logits three times, and the candidates' weights up to 70 times from L1 or L2. Nothing waits for the
device. top_logprobs are computed on the host.
"""

# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ossia.kernels.triton.kernels.draw import choose_kernel, collect_kernel, settle_kernel, survey_kernel
from ossia.kernels.triton.kernels.tiles import power_of_two
from ossia.kernels.triton.sampling_table import FIELDS, SURVEYED
from ossia.kernels.triton.tools.specs import KernelSpec, Sizes, spec

SLICE = 1024
CANDIDATES = 2048  # weights that a program loads at once
REFUSED = {
    -1: "the mask and the logit bias leave no token to sample",
    -2: "the model's logits are not finite: its weights are damaged",
}  # meaning of negative tokens


class SamplingRow(NamedTuple):
    """How to sample one row. uniform: in (0, 1], inverts the distribution. mask: one bit per token, little-endian."""

    uniform: float
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    mask: bytes | None = None
    bias: Mapping[int, float] | None = None

    def cuts(self, vocab: int) -> bool:
        return 0 < self.top_k < vocab or self.top_p < 1.0 or self.min_p > 0.0


class SamplingRows(NamedTuple):
    """table: float64 [R, FIELDS]. masks: int32 [M, ceil(V/32)]. biases: float32 [B, V]. M, B: rows with one, at least
    1.
    """

    table: Tensor
    masks: Tensor
    biases: Tensor
    vocab: int
    has_cuts: bool


def choices_on_device(choices: Sequence[SamplingRow], vocab: int, device: torch.device | str) -> SamplingRows:
    """Copy to the device in at most three asynchronous copies. A mask takes V/8 bytes, a bias 12 per named token."""
    table, masked, biased = np.zeros((len(choices), FIELDS)), [], []
    for row, c in zip(table, choices):
        row[:7] = c.temperature, c.top_p, c.min_p, c.uniform, c.top_k, -1, -1
        if c.mask is not None:
            row[5] = len(masked)
            masked.append(c.mask)
        if c.bias:
            row[6] = len(biased)
            biased.append(c.bias)
    words = -(-vocab // 32)
    masks = np.zeros((max(1, len(masked)), words * 4), np.uint8)
    for into, mask in zip(masks, masked):
        taken = np.frombuffer(mask, np.uint8)[: words * 4]
        into[: len(taken)] = taken
    biases = torch.zeros(max(1, len(biased)), vocab if biased else 1, dtype=torch.float32, device=device)
    if biased:
        at = np.array([[row * vocab + token for row, bias in enumerate(biased) for token in bias]])
        values = np.array([value for bias in biased for value in bias.values()], np.float32)
        biases.view(-1).index_copy_(0, _sent(at[0], device), _sent(values, device))
    has_cuts = any(c.cuts(vocab) for c in choices)
    return SamplingRows(_sent(table, device), _sent(masks.view(np.int32), device), biases, vocab, has_cuts)


def sample_rows(logits_RV: Tensor, choices: SamplingRows) -> tuple[Tensor, Tensor]:
    """Each row's token, or one of REFUSED, and its log-probability under the model's unmodified distribution."""
    rows, vocab = logits_RV.shape
    parts, words, device = -(-vocab // SLICE), choices.masks.shape[1], logits_RV.device
    wide = power_of_two(parts)
    given = logits_RV, choices.table, choices.masks, choices.biases
    found = torch.empty(rows, parts, SURVEYED, dtype=torch.float64, device=device)
    sums = torch.empty(rows, 4, dtype=torch.float64, device=device)
    tokens = torch.empty(rows, dtype=torch.int32, device=device)
    logprobs = torch.empty(rows, dtype=torch.float32, device=device)
    survey_kernel[(parts, rows)](*given, found, vocab, words, SLICE, num_warps=4)
    settle_kernel[(rows,)](*given, found, sums, tokens, logprobs, vocab, words, parts, SLICE, wide, num_warps=8)
    if choices.has_cuts:
        counts = torch.empty(rows, parts, dtype=torch.int32, device=device)
        weights = torch.empty(rows, vocab, dtype=torch.float32, device=device)
        numbers = torch.empty(rows, vocab, dtype=torch.int32, device=device)
        to = sums, counts, weights, numbers
        for writes in (False, True):
            collect_kernel[(parts, rows)](*given, *to, vocab, words, SLICE, wide, writes, num_warps=4)
        choose_kernel[(rows,)](
            logits_RV, choices.table, *to, tokens, logprobs, vocab, parts, wide, CANDIDATES, num_warps=8
        )
    return tokens, logprobs


def _sent(host: np.ndarray, device: torch.device | str) -> Tensor:
    tensor = torch.from_numpy(host)
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def kernel_specs(sizes: Sizes, groups: bool, ptx: bool) -> Iterator[KernelSpec]:
    """The kernels of this file over a whole vocabulary. Equal for every GPU."""
    wide = power_of_two(-(-sizes.vocabulary // SLICE))
    given = {
        "logits": "*fp32", "table": "*fp64", "masks": "*i32", "biases": "*fp32", "found": "*fp64", "rows": "*fp64",
        "tokens": "*i32", "logprobs": "*fp32", "counts": "*i32", "weights": "*fp32", "numbers": "*i32", "V": "i32:16",
        "WORDS": "i32", "parts": "i32", "SLICE": SLICE, "PARTS": wide, "BLOCK": CANDIDATES,
    }  # fmt: skip
    yield spec("sampling: survey", survey_kernel, given, 4, 3)
    yield spec("sampling: sums and draw", settle_kernel, given, 8, 3)
    yield spec("sampling: candidates counted", collect_kernel, given | {"WRITES": False}, 4, 3)
    yield spec("sampling: candidates collected", collect_kernel, given | {"WRITES": True}, 4, 3)
    yield spec("sampling: cuts and draw", choose_kernel, given, 8, 3)
