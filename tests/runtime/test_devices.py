"""What makes training fast on a GPU: which blocks are compiled; on a GPU, that nothing but the last digits changes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diffalign.models import family as families
from diffalign.runtime import devices
from diffalign.runtime.parallel import units
from tests.helpers.project import REPO
from tests.helpers.tiny import TOKENS, WIDTH, make_model
from tests.helpers.tiny_families import FIRST, JOINT, POOLED, SECOND, make_sd3, make_sdxl


class Block(nn.Sequential):
    """A repeated block, by its name."""


def test_inner_blocks_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once where blocks lie within each other, with fixed shapes."""
    compiled = []
    monkeypatch.setattr(Block, "compile", lambda self, **how: compiled.append((self, how)))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    network = nn.Sequential(Block(nn.Linear(1, 1)), Block(Block(nn.Linear(1, 1))), nn.Linear(1, 1))
    devices.compile_blocks(network, [m for m in network.modules() if isinstance(m, Block)])
    assert [block for block, _ in compiled] == [network[0], network[1][0]]
    assert all(how == {"dynamic": False} for _, how in compiled)
    assert torch._dynamo.config.recompile_limit == devices.GRAPHS


OUTSIDE = {
    "sd15": {"conv_in", "conv_out", "conv_norm_out", "time_embedding"},
    "sdxl": {"conv_in", "conv_out", "conv_norm_out", "time_embedding", "add_embedding"},
    "sd3": {"pos_embed", "time_text_embed", "context_embedder", "norm_out", "proj_out"},
}
"""What has weights and isn't compiled: first and last layers and embeddings."""
KINDS = {
    "sd15": {"Transformer2DModel", "ResnetBlock2D", "Upsample2D", "Downsample2D"},
    "sdxl": {"Transformer2DModel", "ResnetBlock2D", "Upsample2D", "Downsample2D"},
    "sd3": {"JointTransformerBlock"},
}
MAKERS = {"sd15": make_model, "sdxl": make_sdxl, "sd3": make_sd3}


def denoiser(family: str, folder: Path) -> nn.Module:
    return families.load(family, MAKERS[family](folder / family), ("denoiser",)).denoiser


@pytest.mark.parametrize("family", list(MAKERS))
def test_what_is_compiled_holds_all_weights_but_the_ends(tmp_path: Path, family: str) -> None:
    network = denoiser(family, tmp_path)
    compiled = {name: module for name, module in network.named_modules() if module in units(network)}
    assert {type(module).__name__ for module in compiled.values()} == KINDS[family]
    assert not any(one.startswith(f"{other}.") for one in compiled for other in compiled), "none is within another"
    outside = [n for n, _ in network.named_parameters() if not any(n.startswith(f"{unit}.") for unit in compiled)]
    assert {name.split(".")[0] for name in outside} == OUTSIDE[family]


def inputs(family: str) -> dict[str, torch.Tensor]:
    """A batch of two for a denoiser of the tests."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    if family == "sd3":
        texts = {"encoder_hidden_states": draw(2, TOKENS, JOINT), "pooled_projections": draw(2, FIRST + POOLED)}
        return {"hidden_states": draw(2, 16, 8, 8), "timestep": torch.tensor([100.0, 900.0]), **texts}
    width = FIRST + SECOND if family == "sdxl" else WIDTH
    found = {"sample": draw(2, 4, 8, 8), "timestep": torch.tensor([100, 900])}
    return {**found, "encoder_hidden_states": draw(2, TOKENS, width)}


def loss_and_gradients(network: Any, family: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    added = {"text_embeds": torch.ones(2, POOLED), "time_ids": torch.full((2, 6), 64.0)}
    more = {"added_cond_kwargs": added} if family == "sdxl" else {}
    loss = network(**inputs(family), **more, return_dict=False)[0].square().mean()
    network.zero_grad()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's own, of its tracing
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", list(MAKERS))
def test_traced_whole_it_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, checkpointing: bool
) -> None:
    """Every unit is one graph, with checkpointing too; loss and gradients are those of the network as it is.

    Traced and differentiated as for the compiler, without code generation, which takes minutes on a CPU.
    """
    from torch._dynamo import reset
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    network: Any = denoiser(family, tmp_path)
    network.requires_grad_(True)
    if checkpointing:
        network.enable_gradient_checkpointing()
    loss, gradients = loss_and_gradients(network, family)
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compile_module(self, backend="aot_eager", **how))
    reset()
    counters.clear()
    devices.compile_blocks(network, units(network))
    traced, of_traced = loss_and_gradients(network, family)
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]
    torch.testing.assert_close(traced, loss)
    assert of_traced.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(of_traced[name], gradient, rtol=1e-4, atol=1e-6)
    reset()


COMPILES = """
import json, os, sys, torch
from pathlib import Path
from diffalign.runtime import devices
from diffalign.runtime.parallel import units
from tests.runtime.test_devices import denoiser, loss_and_gradients
network = denoiser("sd15", Path.cwd())
network.requires_grad_(True)
loss, gradients = loss_and_gradients(network, "sd15")
devices.compile_blocks(network, units(network))
compiled, of_compiled = loss_and_gradients(network, "sd15")
from torch._dynamo.utils import counters
apart = max(float((of_compiled[n] - g).abs().max() / g.abs().max().clamp(min=1e-6)) for n, g in gradients.items())
cache = {n: counters["inductor"][f"fxgraph_cache_{n}"] for n in ("hit", "miss")}
aot = dict(counters["aot_autograd"])
about = {"loss": loss.item(), "compiled": compiled.item(), "apart": apart, "cache": cache, "aot": aot}
print(json.dumps(about | {"graphs": counters["stats"]["unique_graphs"], "units": len(units(network))}))
"""


@pytest.mark.nightly
def test_compiled_it_computes_the_same_and_a_later_run_compiles_nothing(tmp_path: Path) -> None:
    """By the real compiler: the loss to 1e-5; blocks of a kind and shape share a graph; the second run finds all.

    The cache is runs/inductor of the working folder.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHINDUCTOR")}
    seen = []
    for _ in range(2):
        words = [sys.executable, "-c", COMPILES]
        done = subprocess.run(words, cwd=tmp_path, env=environment | {"PYTHONPATH": str(REPO)}, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        seen.append(json.loads(done.stdout.splitlines()[-1]))
    first, second = seen
    assert first["compiled"] == pytest.approx(first["loss"], rel=1e-5) and first["apart"] < 1e-3
    assert first["graphs"] < first["units"], "equal blocks are compiled once"
    assert first["cache"]["miss"] > 0 and (tmp_path / "runs/inductor").is_dir()
    assert second["cache"]["miss"] == 0 and second["compiled"] == first["compiled"]


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
            devices.compile_blocks(model.denoiser, units(model.denoiser))
        with torch.autocast("cuda", torch.bfloat16):
            output = model.denoise(*inputs, cond)
        output.float().square().mean().backward()
        results.append((output.float(), model.denoiser.get_parameter("conv_in.weight").grad))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=3e-2, atol=3e-2)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-1, atol=1e-2)
