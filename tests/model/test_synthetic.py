"""Random weights: the same bytes everywhere, and sizes that keep a model's numbers ordinary."""

import hashlib

import numpy as np
import pytest
import torch
from transformers import GptOssForCausalLM

from ossia.model.layouts import LAYER, shape
from ossia.quant import Mxfp4
from tests.support.checkpoints import SHAPES, TINY, tiny_checkpoint, tiny_tensors


def arrays(tensors):
    yield from (tensors.embedding(), tensors.norm(), tensors.unembedding())
    for index in range(TINY.layers):
        for tensor in tensors.layer(index):
            yield from tensor if isinstance(tensor, Mxfp4) else [tensor]


def test_a_seed_gives_the_same_bytes_on_every_machine():
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays(tiny_tensors(seed=7))))
    assert digest.hexdigest()[:16] == "422e437a7260db3c"


def test_seeds_layers_and_fields_differ():
    tensors = tiny_tensors(seed=7)
    assert not np.array_equal(tensors.embedding(), tiny_tensors(seed=8).embedding())
    assert not np.array_equal(tensors.embedding(), tensors.unembedding())
    every = [array.tobytes() for array in arrays(tensors)]
    assert len(set(every)) == len(every)


def test_shapes_are_the_table_s():
    layer = tiny_tensors().layer(0)
    for row in LAYER:
        tensor = getattr(layer, row.field)
        got = (*tensor.scales.shape[:-1], 32 * tensor.scales.shape[-1]) if isinstance(tensor, Mxfp4) else tensor.shape
        assert got == shape(TINY, row)


@pytest.mark.parametrize("name", ["tiny", "small gpt-oss"])
def test_activations_logits_and_routing_stay_ordinary(tmp_path, name):
    config = SHAPES[name]
    model = GptOssForCausalLM.from_pretrained(tiny_checkpoint(tmp_path, config), dtype=torch.float32)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, config.vocab, (1, 300)))
    with torch.no_grad():
        out = model(tokens, output_hidden_states=True, output_router_logits=True)
    assert 1 < out.logits.std() < 3
    assert all(0.5 < state.std() < 4 for state in out.hidden_states)
    for logits in out.router_logits:
        used = logits.topk(config.experts_per_token).indices.flatten().bincount(minlength=config.experts)
        assert (used > 0).sum() > 0.9 * config.experts
        assert used.max() < 0.6 * used.sum()
