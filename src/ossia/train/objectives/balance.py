"""How evenly the experts are used: a loss that evens them, and figures for the log.

In: the routings of a forward pass. Out: a differentiable loss; numbers by name.
It does not know networks or optimizers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ossia.kernels.reference import Routing


def balance_loss(routings: Sequence[Routing]) -> Tensor:
    """Mean over layers of experts times the sum of (share of rows, mean probability): 1 when balanced.

    Source: Fedus et al., Switch Transformer, arXiv:2101.03961, equation 4.
    """
    losses = [
        len(share_E) * (share_E * torch.softmax(routing.logits_TE.float(), -1).mean(0)).sum()
        for routing, share_E in zip(routings, _shares(routings))
    ]
    return torch.stack(losses).mean()


@torch.no_grad()
def router_figures(routings: Sequence[Routing]) -> dict[str, float]:
    """balance: as the loss. busiest: the most that an expert has of an even share. idle: experts that no row chose.

    spread: the mean entropy of a row's probabilities over experts, as a share of the largest possible.
    """
    shares_LE = torch.stack(list(_shares(routings)))
    experts = shares_LE.shape[1]
    entropies = []
    for routing in routings:
        logs_TE = torch.log_softmax(routing.logits_TE.float(), -1)
        entropies.append(-(logs_TE.exp() * logs_TE).sum(-1).mean())
    most = torch.log(torch.tensor(float(max(experts, 2))))
    return {
        "balance": float(balance_loss(routings)),
        "busiest": float(shares_LE.max()) * experts,
        "idle": float((shares_LE == 0).sum()),
        "spread": float(torch.stack(entropies).mean() / most),
    }


def _shares(routings: Sequence[Routing]) -> list[Tensor]:
    """Each expert's share of the choices, by layer."""
    return [
        torch.bincount(routing.experts_TK.reshape(-1), minlength=routing.logits_TE.shape[1])
        / routing.experts_TK.numel()
        for routing in routings
    ]
