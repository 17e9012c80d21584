"""The experts of each row as one autograd function, over trained or frozen weights.

Input: rows, their routing, and the experts' weights: trained, or frozen with low-rank updates. Output: the weighted sum of
each row's experts.

Inside this file, gates come before ups. Stored weights and PEFT's adapters have them interleaved.

Shape legend: T rows, D hidden, E experts, K experts a row, F expert width, U = 2F, R outputs, C inputs of a weight,
N rows sorted by expert, n rows of one expert, r rank.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ossia.kernels.reference import Experts
from ossia.train.model.autograd import ComputeConfig
from ossia.train.model.elementwise import Steps
from ossia.train.model.weights.frozen import Frozen, Update, input_gradient, is_small

SWIGLU_ELEMENTS = 1 << 20  # gates and ups processed at a time


class FrozenExperts(NamedTuple):
    """A frozen [E, R, C] weight and its bias [E, R]. update: None if the experts have no adapters."""

    weight: Frozen
    bias_ER: Tensor
    update: Update | None


class SortedRows(NamedTuple):
    """Rows sorted by expert. rows_N: index of the row; at_TK: position of row t's k-th expert; counts: rows by expert.

    Each expert's rows are padded with the first row to a multiple of `fill`; outputs of the padding are not used.
    """

    rows_N: Tensor
    at_TK: Tensor
    counts: list[int]


def sort_rows(experts_TK: Tensor, experts: int, fill: int) -> SortedRows:
    """Sort the rows by their experts."""
    flat = experts_TK.reshape(-1)
    order_N = torch.argsort(flat, stable=True)
    counts_E = torch.bincount(flat, minlength=experts)
    fill_E = -counts_E % fill
    moved_E = fill_E.cumsum(0) - fill_E  # by the padding of the experts before
    counts = (counts_E + fill_E).tolist()
    place_N = torch.arange(len(flat), device=flat.device) + moved_E[flat[order_N]]
    at_TK = torch.empty_like(order_N).scatter_(0, order_N, place_N)
    rows_N = order_N.new_zeros(sum(counts)).scatter_(0, place_N, order_N // experts_TK.shape[1])
    return SortedRows(rows_N, at_TK.view(experts_TK.shape), counts)


def experts(
    x_TD: Tensor, weights_TK: Tensor, up: Experts | FrozenExperts, down: Experts | FrozenExperts, rows: SortedRows,
    limit: float, compute: ComputeConfig,
) -> Tensor:  # fmt: skip
    """[T, D]: up projection, SwiGLU and down projection of each row's experts, and their weighted sum."""
    kinds = (_kind(up, gated=True), _kind(down, gated=False))
    given = (*kinds[0].given, *kinds[1].given)
    return _Experts.apply(x_TD, weights_TK, kinds, rows, limit, compute, *given)  # type: ignore[no-any-return]


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, weights_TK: Tensor, kinds: "tuple[_Kind, _Kind]", rows: SortedRows, limit: float,
        compute: ComputeConfig, *given: Tensor,
    ) -> Tensor:  # fmt: skip
        split = len(kinds[0].given)
        up, down = kinds[0].prepared(given[:split], compute.dtype), kinds[1].prepared(given[split:], compute.dtype)
        x_ND = compute.steps.picked(x_TD, rows.rows_N, compute.dtype)
        up_low, down_low = kinds[0].low(x_ND), kinds[1].low(x_ND)
        h_NU = x_ND.new_empty(len(x_ND), kinds[0].outputs)
        y_ND = torch.empty_like(x_ND)
        for e, own in _owned(rows.counts):
            kinds[0].multiply(up, e, x_ND[own], h_NU[own], up_low[own])
            kinds[1].multiply(down, e, _swiglu(h_NU[own], limit, compute.steps), y_ND[own], down_low[own])
        ctx.save_for_backward(weights_TK, x_ND, h_NU, y_ND, up_low, down_low, *up, *down)
        ctx.kinds, ctx.split, ctx.rows, ctx.limit, ctx.compute = kinds, len(up), rows, limit, compute
        return compute.steps.combined(y_ND, rows.at_TK, weights_TK)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        weights_TK, x_ND, h_NU, y_ND, up_low, down_low, *held = ctx.saved_tensors
        (up_kind, down_kind), rows, steps, (grad_TD,) = ctx.kinds, ctx.rows, ctx.compute.steps, grads
        up, down, wide = held[: ctx.split], held[ctx.split :], grad_TD.dtype
        weight_N = weights_TK.new_zeros(len(rows.rows_N)).scatter_(0, rows.at_TK.flatten(), weights_TK.flatten())
        grad_ND = steps.weighed(grad_TD, rows.rows_N, weight_N, x_ND.dtype)
        of_x_ND = torch.empty_like(x_ND)
        of_up, of_down = up_kind.zeros(up, wide), down_kind.zeros(down, wide)
        for e, own in _owned(rows.counts):
            of_act_nF, of_down_low = down_kind.input_gradient(down, e, grad_ND[own])
            of_h_nU, act_nF = _swiglu_back(h_NU[own], of_act_nF, ctx.limit, steps)
            down_kind.add_gradients(of_down, e, grad_ND[own], act_nF, down_low[own], of_down_low)
            of_x_ND[own], of_up_low = up_kind.input_gradient(up, e, of_h_nU)
            up_kind.add_gradients(of_up, e, of_h_nU, x_ND[own], up_low[own], of_up_low)
        of_x_TD = steps.combined(of_x_ND, rows.at_TK, torch.ones_like(weights_TK))
        of_weights = steps.against(y_ND, rows.at_TK, grad_TD)
        parameters = (*up_kind.gradients(of_up, wide), *down_kind.gradients(of_down, wide))
        return of_x_TD, of_weights, None, None, None, None, *parameters


class _Kind(Protocol):
    """Products and gradients of one kind of weight. Outputs of `gated` weights have gates first.

    given: the tensors that autograd tracks. prepared: the tensors that are saved for the backward pass.
    low: uninitialised rows [N, r] for the outputs of the adapters' a, which `multiply` fills; r = 0 without adapters.
    input_gradient: that of the rows, and that of `low`.
    """

    @property
    def given(self) -> tuple[Tensor, ...]: ...
    @property
    def outputs(self) -> int: ...
    def prepared(self, given: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]: ...
    def low(self, x_ND: Tensor) -> Tensor: ...
    def multiply(self, held: Any, expert: int, x_nC: Tensor, out_nR: Tensor, low_nr: Tensor) -> None: ...
    def input_gradient(self, held: Any, expert: int, grad_nR: Tensor) -> tuple[Tensor, Tensor | None]: ...
    def zeros(self, held: Any, wide: torch.dtype) -> tuple[Tensor, ...]: ...
    def add_gradients(
        self, sums: Any, expert: int, grad_nR: Tensor, x_nC: Tensor, low_nr: Tensor, of_low_nr: Tensor | None
    ) -> None: ...
    def gradients(self, sums: Any, wide: torch.dtype) -> tuple[Tensor, ...]: ...


class _Trained(NamedTuple):
    weight: Experts
    gated: bool

    @property
    def given(self) -> tuple[Tensor, ...]:
        return tuple(self.weight)

    @property
    def outputs(self) -> int:
        return self.weight.weight_ERD.shape[1]

    def prepared(self, given: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tuple((_gates_first(each) if self.gated else each).to(dtype) for each in given)

    def low(self, x_ND: Tensor) -> Tensor:
        return x_ND.new_empty(len(x_ND), 0)

    def multiply(self, held: Any, expert: int, x_nC: Tensor, out_nR: Tensor, low_nr: Tensor) -> None:
        weight, bias = held
        torch.addmm(bias[expert], x_nC, weight[expert].T, out=out_nR)

    def input_gradient(self, held: Any, expert: int, grad_nR: Tensor) -> tuple[Tensor, Tensor | None]:
        return grad_nR @ held[0][expert], None

    def zeros(self, held: Any, wide: torch.dtype) -> tuple[Tensor, ...]:
        weight, bias = held
        return torch.zeros_like(weight), torch.zeros_like(bias, dtype=wide)

    def add_gradients(
        self, sums: Any, expert: int, grad_nR: Tensor, x_nC: Tensor, low_nr: Tensor, of_low_nr: Tensor | None
    ) -> None:
        torch.matmul(grad_nR.T, x_nC, out=sums[0][expert])
        torch.sum(grad_nR, 0, dtype=sums[1].dtype, out=sums[1][expert])

    def gradients(self, sums: Any, wide: torch.dtype) -> tuple[Tensor, ...]:
        return tuple((_interleaved(each) if self.gated else each).to(wide) for each in sums)


class _Adapted(NamedTuple):
    """Frozen weights. A small weight is unpacked once a pass; of a large one, a block of rows at each product.

    held: the bias [E, R], then a small weight [E, R, C], then the adapters a [E, r, C] and scale * b [E, R, r], if any.
    """

    weight: FrozenExperts
    gated: bool

    @property
    def given(self) -> tuple[Tensor, ...]:
        update = self.weight.update
        return () if update is None else (update.a, update.b)

    @property
    def outputs(self) -> int:
        return self.weight.weight.outputs

    def prepared(self, given: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Everything in `dtype`, with outputs in the order of the products' rows."""
        frozen, ordered = self.weight.weight, _gates_first if self.gated else _unchanged
        bias = ordered(self.weight.bias_ER).to(dtype) if self._is_small else self.weight.bias_ER.to(dtype)
        whole = (ordered(frozen.whole(dtype)),) if self._is_small else ()
        if not given:
            return bias, *whole
        a_ErC, b_ERr = given
        return bias, *whole, a_ErC.to(dtype), (ordered(b_ERr) * self._scale).to(dtype)

    def low(self, x_ND: Tensor) -> Tensor:
        return x_ND.new_empty(len(x_ND), self.given[0].shape[1] if self.given else 0)

    def multiply(self, held: Any, expert: int, x_nC: Tensor, out_nR: Tensor, low_nr: Tensor) -> None:
        bias_R = held[0][expert]
        if self._is_small:
            torch.addmm(bias_R, x_nC, held[1][expert].T, out=out_nR)
        else:
            rows_nR = torch.empty_like(out_nR) if self.gated else out_nR
            for rows, values in self.weight.weight.row_blocks(expert, x_nC.dtype):
                rows_nR[:, rows] = torch.nn.functional.linear(x_nC, values, bias_R[rows])
            if self.gated:
                out_nR.copy_(_gates_first(rows_nR))
        if self.given:
            a_rC, b_Rr = held[-2][expert], held[-1][expert]
            torch.matmul(x_nC, a_rC.T, out=low_nr)
            out_nR.addmm_(low_nr, b_Rr.T)

    def input_gradient(self, held: Any, expert: int, grad_nR: Tensor) -> tuple[Tensor, Tensor | None]:
        if self._is_small:
            of_x_nC = grad_nR @ held[1][expert]
        else:
            stored_nR = _interleaved(grad_nR) if self.gated else grad_nR
            of_x_nC = input_gradient(stored_nR, self.weight.weight, expert)
        if not self.given:
            return of_x_nC, None
        a_rC, b_Rr = held[-2][expert], held[-1][expert]
        of_low_nr = grad_nR @ b_Rr
        return of_x_nC.addmm_(of_low_nr, a_rC), of_low_nr

    def zeros(self, held: Any, wide: torch.dtype) -> tuple[Tensor, ...]:
        """Of a [E, r, C], and of b transposed [E, r, R]: its product is quicker so."""
        return tuple(torch.zeros_like(each, dtype=wide) for each in (held[-2], held[-1].mT)) if self.given else ()

    def add_gradients(
        self, sums: Any, expert: int, grad_nR: Tensor, x_nC: Tensor, low_nr: Tensor, of_low_nr: Tensor | None
    ) -> None:
        if of_low_nr is not None:
            sums[0][expert] = of_low_nr.T @ x_nC
            sums[1][expert] = low_nr.T @ grad_nR

    def gradients(self, sums: Any, wide: torch.dtype) -> tuple[Tensor, ...]:
        if not sums:
            return ()
        of_b_ERr = (sums[1] * self._scale).mT
        return sums[0], _interleaved(of_b_ERr) if self.gated else of_b_ERr

    @property
    def _is_small(self) -> bool:
        return is_small(self.weight.weight)

    @property
    def _scale(self) -> float:
        return 0.0 if self.weight.update is None else self.weight.update.scale


def _kind(weight: Experts | FrozenExperts, gated: bool) -> _Kind:
    return _Trained(weight, gated) if isinstance(weight, Experts) else _Adapted(weight, gated)


def _owned(counts: list[int]) -> list[tuple[int, slice]]:
    """Each expert with rows, and the slice of its rows."""
    ends = [0]
    for count in counts:
        ends.append(ends[-1] + count)
    return [(e, slice(first, last)) for e, (first, last) in enumerate(pairwise(ends)) if last > first]


def _swiglu(h_nU: Tensor, limit: float, steps: Steps) -> Tensor:
    parts = [steps.swiglu(h_nU[rows], limit) for rows in _pieces(h_nU)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _swiglu_back(h_nU: Tensor, grad_nF: Tensor, limit: float, steps: Steps) -> tuple[Tensor, Tensor]:
    parts = [steps.swiglu_back(h_nU[rows], grad_nF[rows], limit) for rows in _pieces(h_nU)]
    if len(parts) == 1:
        return parts[0]
    of_h, act = zip(*parts)
    return torch.cat(of_h), torch.cat(act)


def _pieces(h_nU: Tensor) -> Iterator[slice]:
    """Slices of rows, so that their float32 copies stay small."""
    step = max(1, SWIGLU_ELEMENTS // h_nU.shape[1])
    return (slice(first, first + step) for first in range(0, len(h_nU), step))


def _gates_first(rows: Tensor) -> Tensor:
    """[.., 2F, ...]: from interleaved gates and ups to all gates before all ups, along dimension 1."""
    return rows.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)


def _unchanged(rows: Tensor) -> Tensor:
    return rows


def _interleaved(rows: Tensor) -> Tensor:
    return rows.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
