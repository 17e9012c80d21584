"""Optimizers: Muon makes every expert's step orthogonal, groups get what they should, bad gradients change nothing."""

import math

import pytest
import torch

from ossia.train.loop.optim import Diverged, Muon, Optimizers, orthogonal
from ossia.train.model.trainable import TrainableModel
from ossia.train.recipe import OptimizerConfig
from tests.support.training import CONFIG


@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (32, 64), (3, 24, 40)])
def test_newton_schulz_brings_singular_values_near_one_and_keeps_the_directions(shape: tuple[int, ...]):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    made = orthogonal(matrices).float()
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.3
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    cosine = (made * (u @ v)).sum((-2, -1)) / (made.norm(dim=(-2, -1)) * (u @ v).norm(dim=(-2, -1)))
    assert (cosine > 0.95).all()


def test_every_slice_of_a_stack_is_as_alone():
    stack = torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(orthogonal(stack), torch.stack([orthogonal(each) for each in stack]))


def test_muons_step_has_adams_size_whatever_the_gradients():
    for scale in (1e-6, 1.0, 1e4):
        p = torch.nn.Parameter(torch.zeros(2, 48, 32))
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(3)) * scale
        Muon([p], lr=0.1, momentum=0.95, weight_decay=0.0).step()
        assert float(p.detach().square().mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.25)


def test_muon_takes_matrices_inside_layers_alone_and_vectors_have_no_decay():
    network = TrainableModel.random(CONFIG, 0)
    before = {name: value.detach().clone() for name, value in network.trained().items()}
    optimizers = Optimizers(network.trained(), OptimizerConfig(kind="muon", lr=0.1, muon_lr=0.1, weight_decay=0.5))
    for value in network.trained().values():
        value.grad = torch.zeros_like(value)
    optimizers.step(1.0)
    for name, value in network.trained().items():
        assert torch.equal(value, before[name]) == (value.ndim < 2 or not before[name].any()), name
    adam, muon = optimizers.state_dict()
    stacked = {"qkv_weight", "out_weight", "up_weight", "down_weight"}
    assert len(muon["state"]) == sum(name.rpartition(".")[2] in stacked for name in before)
    assert len(adam["state"]) + len(muon["state"]) == len(before)


@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_how_sure_the_model_is_may_have_a_rate_of_its_own(direction: float):
    """One factor for all of the final norm's scale: it goes against the sum of what its gradients say of it."""
    named = TrainableModel.random(CONFIG, 0).trained()
    before = {name: value.detach().clone() for name, value in named.items()}
    optimizers = Optimizers(named, OptimizerConfig(lr=0.0, logit_scale_lr=0.3, weight_decay=0.0, max_grad_norm=1e9))
    for value in named.values():
        value.grad = torch.full_like(value, direction)
    optimizers.step(0.5)
    for name, value in named.items():
        factor = math.exp(-0.15 * direction) if name == "norm" else 1.0
        torch.testing.assert_close(value.detach(), before[name] * factor, msg=name)


def test_a_rate_of_what_is_not_trained_is_refused():
    with pytest.raises(ValueError, match="final norm is not trained: remove logit_scale_lr"):
        Optimizers({"p": torch.nn.Parameter(torch.ones(4))}, OptimizerConfig(logit_scale_lr=0.1))


def test_gradients_are_clipped_to_the_norm():
    p = torch.nn.Parameter(torch.zeros(4))
    p.grad = torch.full((4,), 10.0)
    assert float(Optimizers({"p": p}, OptimizerConfig(max_grad_norm=1.0)).step(1.0)) == pytest.approx(20.0)


def test_a_gradient_that_is_no_number_changes_nothing():
    p = torch.nn.Parameter(torch.ones(4))
    p.grad = torch.tensor([1.0, float("nan"), 0.0, 0.0])
    with pytest.raises(Diverged, match="not finite"):
        Optimizers({"p": p}, OptimizerConfig()).step(1.0)
    assert torch.equal(p.detach(), torch.ones(4))


def test_a_state_of_another_kind_is_refused():
    network = TrainableModel.random(CONFIG, 0)
    adam, muon = (Optimizers(network.trained(), OptimizerConfig(kind=kind)) for kind in ("adamw", "muon"))
    with pytest.raises(ValueError, match="another kind"):
        muon.load_state_dict(adam.state_dict())
