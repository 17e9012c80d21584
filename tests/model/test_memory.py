"""Byte counts of a model: published sizes, layer by layer, and what the backends allocate."""

import pytest

from ossia.bench.counts import decode_bytes
from ossia.kernels.backends import make_ops
from ossia.kernels.sizes import cache_bytes as block_bytes
from ossia.kernels.sizes import formats_of
from ossia.model.config import ModelConfig
from ossia.model.memory import cache_bytes, card_weight_bytes, matrices, weight_bytes

B20, B120 = ModelConfig.preset("gpt-oss-20b"), ModelConfig.preset("gpt-oss-120b")


def test_the_weights_on_a_card_take_what_was_published_and_little_more():
    for config, published in ((B20, 13.76e9), (B120, 65.25e9)):
        assert 1.0 <= card_weight_bytes(config, "bf16") / published < 1.005
        assert card_weight_bytes(config, "int8") < card_weight_bytes(config, "bf16")


def test_an_int8_weight_is_counted_in_its_backends_blocks():
    """A bfloat16 scale to 64 weights on a CPU, to 32 on a card."""
    assert formats_of("cpu").dense_bits == 8 + 16 / 64
    assert formats_of("triton").dense_bits == 8 + 16 / 32


def test_experts_have_a_byte_of_scale_to_32_weights():
    assert formats_of("cpu").expert_bits == 4 + 8 / 32
    assert formats_of("cpu", mxfp4=False).expert_bits == 16
    assert formats_of("reference").expert_bits == 32


def test_weights_in_memory():
    assert weight_bytes(B20, formats_of("cpu")) == pytest.approx(11.7 * 2**30, rel=0.01)
    assert weight_bytes(B20, formats_of("reference")) == pytest.approx(20.91e9 * 4, rel=2e-3)
    assert weight_bytes(B20, formats_of("cpu", "bf16", mxfp4=False)) == pytest.approx(20.91e9 * 2, rel=2e-3)
    m = matrices(B20)
    assert m.attention + m.router + 24 * 32 * m.expert + 2 * m.table == pytest.approx(20.91e9, rel=2e-3)


def test_the_cache_is_counted_layer_by_layer():
    formats = formats_of("cpu")
    assert cache_bytes(B20, "bf16", 128) == 24 * 2048 * 128
    assert cache_bytes(B20, "bf16", 131072) == 12 * 2048 * (131072 + 128)
    assert cache_bytes(B20, "int8", 100) == 24 * 2 * 8 * (64 + 4) * 100
    assert decode_bytes(B20, formats, depth=4096) - decode_bytes(B20, formats) == cache_bytes(B20, "bf16", 4096)


@pytest.mark.parametrize(("backend", "kv"), [("cpu", "bf16"), ("cpu", "int8"), ("cpu", "f32"), ("reference", "f32")])
def test_backends_allocate_what_is_counted(backend, kv):
    ops = make_ops(backend, kv=kv)
    assert ops.cache_bytes(B20.shapes) == block_bytes(B20.shapes, kv)
