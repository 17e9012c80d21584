"""The trained tensors of a model, as a run's saved state has them: unsharded, on the CPU, by name.

Input: a `TrainableModel`. Output: its trained tensors, saved and loaded.
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
            differing = ", ".join(sorted(own.keys() ^ state.keys())[:5])
            raise ValueError(f"the state is of other weights ({differing}): resume with the same model and targets")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(like(state[name], parameter))


def whole(value: Tensor) -> Tensor:
    """The unsharded tensor, on the CPU. Every process must call it."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """The value on the parameter's device, sharded like it. A scalar is returned as is."""
    if value.ndim == 0:
        return value
    if isinstance(parameter, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter.device)
