"""Whole random checkpoints: every file there, and transformers loads and decodes with them."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, GenerationConfig

from ossia.model.checkpoint import CheckpointError, open_checkpoint
from ossia.model.layouts import LAYOUTS
from ossia.quant import Mxfp4, to_bf16, unpack_mxfp4
from ossia.synth import HARMONY_VOCAB, synth

SMALL = {"hidden": 64, "intermediate": 64, "heads": 4, "kv_heads": 2, "head_dim": 32, "experts": 6, "layers": 3}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_is_complete(tmp_path, layout):
    config = synth("gpt-oss-20b", tmp_path, layout, **SMALL)
    assert (config.layers, config.sliding, config.vocab) == (3, (True, False, True), HARMONY_VOCAB)
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.config, checkpoint.layout) == (config, layout)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode("Grüße, 世界").ids) == "Grüße, 世界"
    assert tokenizer.token_to_id("<|call|>") == 200012
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {
        "bos_token_id": 199998,
        "do_sample": True,
        "eos_token_id": [200002, 199999, 200012],
        "pad_token_id": 199999,
    }


@pytest.mark.parametrize("layout", ["hf", "bf16"])
def test_transformers_loads_it(tmp_path, layout):
    synth("gpt-oss-20b", tmp_path, layout, **SMALL)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.model_type == "gpt_oss"
    assert model.generation_config.eos_token_id == [200002, 199999, 200012]
    assert GenerationConfig.from_pretrained(tmp_path).do_sample
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())


def test_a_seed_gives_the_same_weights_in_every_layout(tmp_path):
    for layout in LAYOUTS:
        synth("gpt-oss-20b", tmp_path / layout, layout, seed=5, vocab=100, **SMALL)
    hf, bf16, original = (open_checkpoint(tmp_path / layout) for layout in LAYOUTS)
    for index in range(3):
        for name, tensor in hf.layer(index)._asdict().items():
            twin, dense = getattr(original.layer(index), name), getattr(bf16.layer(index), name)
            if isinstance(tensor, Mxfp4):
                np.testing.assert_array_equal(tensor.blocks, twin.blocks)
                np.testing.assert_array_equal(tensor.scales, twin.scales)
                np.testing.assert_array_equal(to_bf16(unpack_mxfp4(tensor)), dense)
            else:
                np.testing.assert_array_equal(tensor, twin)
                np.testing.assert_array_equal(tensor, dense)


def test_another_vocabulary_has_no_tokenizer(tmp_path):
    config = synth("gpt-oss-20b", tmp_path, vocab=100, **SMALL)
    assert (config.vocab, config.eos_token) == (100, None)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}


def test_what_cannot_be_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="hidden 60 must be a multiple of 32"):
        synth("gpt-oss-20b", tmp_path, **{**SMALL, "hidden": 60})
    with pytest.raises(ValueError, match="presets are"):
        synth("gpt-oss-7b", tmp_path)
    assert list(tmp_path.iterdir()) == []
    synth("gpt-oss-20b", tmp_path, vocab=100, **SMALL)
    with pytest.raises(CheckpointError, match="already there"):
        synth("gpt-oss-20b", tmp_path, vocab=100, **SMALL)
