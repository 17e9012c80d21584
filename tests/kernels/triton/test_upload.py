"""Tensors reach the device with their bits, however they lie on the host; random ones can be made there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ossia.kernels.triton.ops import TritonOps
from ossia.kernels.triton.tools.random_weights import CardStream
from ossia.kernels.triton.upload import upload
from ossia.model.synthetic import HostStream, RandomTensors
from ossia.quant import Mxfp4, to_bf16
from tests.support.checkpoints import TINY


@pytest.mark.parametrize("span", [1 << 20, 64, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.uint16])
def test_every_piece_arrives_in_its_place(dtype, span: int):
    host = np.random.default_rng(0).integers(0, 200, (5, 7, 3)).astype(dtype)
    for array in (host, host.swapaxes(1, 2), host[:, ::2], host[:0]):
        tensor = upload(array, "cpu", span)
        bits = tensor.view(torch.int16).numpy().view(np.uint16) if dtype == np.uint16 else tensor.numpy()
        np.testing.assert_array_equal(bits, array)


def test_a_mapped_file_is_read_and_let_go(tmp_path: Path):
    np.arange(1 << 16, dtype=np.float32).tofile(tmp_path / "file")
    mapped = np.asarray(np.memmap(tmp_path / "file", np.float32, "r"))
    assert torch.equal(upload(mapped[8:], "cpu", 4096), torch.arange(8.0, 1 << 16))
    assert mapped[9] == 9  # still valid


def test_what_is_on_the_device_already_is_given_back():
    tensor = torch.ones(3)
    assert upload(tensor, "cpu") is tensor


def test_random_weights_made_on_the_device_are_distributed_like_the_hosts():
    table = to_bf16(np.linspace(-1, 1, 256, dtype=np.float32))
    host = HostStream([1, 2, 3]).pick(table, (1 << 14,))
    ours = CardStream([1, 2, 3], "cpu").pick(table, (1 << 14,))
    assert torch.equal(ours, CardStream([1, 2, 3], "cpu").pick(table, (1 << 14,)))
    assert not torch.equal(ours, CardStream([1, 2, 4], "cpu").pick(table, (1 << 14,)))
    for values in (ours.float().numpy(), (host.astype(np.uint32) << 16).view(np.float32)):
        assert abs(values.mean()) < 0.02
        assert values.std() == pytest.approx(1 / np.sqrt(3), rel=0.03)
        assert len(np.unique(values)) > 200


def test_a_shapes_tensors_need_no_host():
    tensors = RandomTensors(TINY, 0, TritonOps().stream)
    layer = tensors.layer(0)
    assert isinstance(layer.up_weight, Mxfp4)
    assert layer.up_weight.blocks.shape == (TINY.experts, 2 * TINY.intermediate, TINY.hidden // 32, 16)
    assert all(isinstance(each, torch.Tensor) for each in (*layer.up_weight, layer.qkv_weight, tensors.unembedding()))
