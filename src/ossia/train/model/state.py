"""What is trained, as a run's state holds it: whole tensors on the CPU by name, however many processes share them.

In: a `TrainableModel`. Out: its trained tensors, saved and loaded.
"""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ossia.train.model.trainable import TrainableModel


class TrainedState:
    """The model's trained tensors, for the training loop to save and load."""

    device = torch.device("cpu")

    def __init__(self, model: TrainableModel) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Tensor]:
        """Every process must call it."""
        return {name: whole(value) for name, value in self._model.trained().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises ValueError for tensors of another model or other adapters."""
        own = self._model.trained()
        if own.keys() != state.keys():
            raise ValueError(f"the state is of other weights: {', '.join(sorted(own.keys() ^ state.keys())[:5])}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(like(state[name], parameter))


def whole(value: Tensor) -> Tensor:
    """A tensor gathered from all processes, on the CPU. Every process must call it."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """On the parameter's device and sharded in the same way; a scalar stays as it is."""
    if value.ndim == 0:
        return value
    if isinstance(parameter, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter.device)
