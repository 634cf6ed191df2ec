"""What makes training fast on a GPU: which blocks are compiled; on a GPU, that nothing but the last digits changes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from diffalign.models import family as families
from diffalign.runtime import devices
from diffalign.runtime.parallel import blocks
from tests.helpers.tiny import make_model


class Block(nn.Sequential):
    """A repeated block, by its name."""


def test_inner_blocks_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once where blocks lie within each other, with fixed shapes."""
    compiled = []
    monkeypatch.setattr(Block, "compile", lambda self, **how: compiled.append((self, how)))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    network = nn.Sequential(Block(nn.Linear(1, 1)), Block(Block(nn.Linear(1, 1))), nn.Linear(1, 1))
    network._no_split_modules = ["Block"]
    devices.compile_blocks(network, blocks(network))
    assert [block for block, _ in compiled] == [network[0], network[1][0]]
    assert all(how == {"dynamic": False} for _, how in compiled)
    assert torch._dynamo.config.recompile_limit == devices.GRAPHS


def test_a_unets_blocks_are_its_transformers_and_resnets(tmp_path: Path) -> None:
    denoiser = families.load("sd15", make_model(tmp_path / "model"), ("denoiser",)).denoiser
    inner = [
        block
        for block in blocks(denoiser)
        if not any(b is not block and b in blocks(denoiser) for b in block.modules())
    ]
    assert {type(block).__name__ for block in inner} == {"BasicTransformerBlock", "ResnetBlock2D"}


def test_on_a_cpu_nothing_is_laid_out_anew() -> None:
    network = nn.Conv2d(3, 5, 3)
    devices.to_channels_last(network)
    assert network.weight.is_contiguous()


@pytest.mark.gpu
def test_on_a_gpu_a_prepared_network_computes_the_same(tmp_path: Path) -> None:
    """Channels last and compiled: the output and the gradients of the plain network, to bf16's digits."""
    devices.set_up(torch.device("cuda"), "bf16")
    inputs = torch.randn(4, 4, 8, 8, device="cuda"), torch.tensor([1, 10, 500, 900], device="cuda")
    cond = {"hidden": torch.randn(4, 12, 16, device="cuda")}
    results = []
    for prepared in (False, True):
        model = families.load("sd15", make_model(tmp_path / "model"), ("denoiser",), "cuda")
        model.denoiser.requires_grad_(True)
        if prepared:
            devices.to_channels_last(model.denoiser)
            assert model.denoiser.get_parameter("conv_in.weight").is_contiguous(memory_format=torch.channels_last)
            devices.compile_blocks(model.denoiser, blocks(model.denoiser))
        with torch.autocast("cuda", torch.bfloat16):
            output = model.denoise(*inputs, cond)
        output.float().square().mean().backward()
        results.append((output.float(), model.denoiser.get_parameter("conv_in.weight").grad))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=3e-2, atol=3e-2)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-1, atol=1e-2)
