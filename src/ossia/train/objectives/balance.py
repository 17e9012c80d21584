"""The router's load-balancing loss, and metrics of expert load.

Input: the routings of a forward pass. Output: a differentiable loss; metrics by name.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ossia.kernels.reference import Routing


def load_balancing_loss(routings: Sequence[Routing]) -> Tensor:
    """E times the sum over experts of (fraction of rows) x (mean probability), averaged over layers. 1 when balanced.

    Source: Fedus et al., Switch Transformer, arXiv:2101.03961, equation 4.
    """
    losses = [
        len(share_E) * (share_E * torch.softmax(routing.logits_TE.float(), -1).mean(0)).sum()
        for routing, share_E in zip(routings, _shares(routings))
    ]
    return torch.stack(losses).mean()


@torch.no_grad()
def router_metrics(routings: Sequence[Routing]) -> dict[str, float]:
    """Metrics for the log.

    router_aux_loss: the load-balancing loss. max_expert_load: rows of the busiest expert, relative to an even load.
    unused_experts: experts without rows, over all layers. router_entropy: mean entropy of a row's probabilities over
    experts, relative to the largest possible.
    """
    shares_LE = torch.stack(list(_shares(routings)))
    experts = shares_LE.shape[1]
    entropies = []
    for routing in routings:
        logs_TE = torch.log_softmax(routing.logits_TE.float(), -1)
        entropies.append(-(logs_TE.exp() * logs_TE).sum(-1).mean())
    most = torch.log(torch.tensor(float(max(experts, 2))))
    return {
        "router_aux_loss": float(load_balancing_loss(routings)),
        "max_expert_load": float(shares_LE.max()) * experts,
        "unused_experts": float((shares_LE == 0).sum()),
        "router_entropy": float(torch.stack(entropies).mean() / most),
    }


def _shares(routings: Sequence[Routing]) -> list[Tensor]:
    """For each layer, the fraction of choices of each expert."""
    return [
        torch.bincount(routing.experts_TK.reshape(-1), minlength=routing.logits_TE.shape[1])
        / routing.experts_TK.numel()
        for routing in routings
    ]
