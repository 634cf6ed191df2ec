"""Trains the embedded models in a small resumable loop: Muon and AdamW, warm-up and cosine, EMA, checkpoints.

Muon (Jordan et al. 2024) trains the inner weights, AdamW the rest: on the embedded VAE 140 steps reached the loss of
1000 with AdamW alone.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from diffalign.core.files import write_bytes
from diffalign.core.progress import Progress

State = dict[str, torch.Tensor]
Loss = Callable[[int], tuple[torch.Tensor, dict[str, float]]]


def fit(
    name: str,
    model: torch.nn.Module,
    loss: Loss,
    *,
    steps: int,
    checkpoint: Path,
    muon_lr: float = 0.02,
    adam_lr: float = 1e-3,
    ema_decay: float = 0.999,
    warmup: int = 50,
    save_every: int = 250,
    keep: Mapping[int, Path] | None = None,
) -> State:
    """Trains `model` in place for `steps` steps and returns the exponential moving average of its state.

    `loss(step)` draws its own batch as a function of the step, so that a resumed run equals an uninterrupted one.
    Training resumes from `checkpoint` (a .safetensors file) if that exists. `keep` says after which steps the average
    is written where: earlier, weaker models.
    """
    optimizers = _optimizers(model, muon_lr, adam_lr)
    ema = {key: value.detach().clone() for key, value in model.state_dict().items()}
    first = _load(checkpoint, model, ema, optimizers) if checkpoint.exists() else 0
    progress = Progress(name, steps, first, every=20.0)
    model.train()
    for step in range(first, steps):
        share = min((step + 1) / warmup, 0.01 + 0.495 * (1 + math.cos(math.pi * step / steps)))
        for optimizer, lr in zip(optimizers, (muon_lr, adam_lr), strict=True):
            optimizer.param_groups[0]["lr"] = lr * share
        value, logs = loss(step)
        model.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        _average(ema, model, min(ema_decay, (1 + step) / (10 + step)))
        if path := (keep or {}).get(step + 1):
            write_bytes(path, save({key: value.cpu().contiguous().clone() for key, value in ema.items()}))
        progress.update(1, " ".join(f"{k} {v:.4f}" for k, v in {"loss": value.item(), **logs}.items()))
        if (step + 1) % save_every == 0 or step + 1 == steps:
            _save(checkpoint, step + 1, model, ema, optimizers)
    return ema


class Muon(torch.optim.Optimizer):
    """Momentum with updates made orthogonal by Newton-Schulz steps; a convolution counts as a matrix `[out, rest]`.

    The coefficients and the aspect-ratio scale are those of https://kellerjordan.github.io/posts/muon.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient, in place."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                mean = state.setdefault("mean", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(mean, group["momentum"]).contiguous().flatten(1))
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.add_(update.view(parameter.shape), alpha=-group["lr"] * scale)


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Returns about UVᵀ of a matrix USVᵀ: singular values near 1 (0.7 to 1.2), by a quintic iteration in bfloat16."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = (x / (x.norm() + 1e-7)).bfloat16()
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


def _optimizers(model: torch.nn.Module, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Returns Muon for inner matrices and convolutions, AdamW for vectors, embeddings and the first and last layers."""
    outer = ("embedding", "conv_in", "conv_out")
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    inside = [p for n, p in named if p.ndim >= 2 and not any(o in n.split(".")[-2] for o in outer)]
    rest = [p for n, p in named if all(p is not q for q in inside)]
    return [Muon(inside, muon_lr), torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.99), weight_decay=0.01)]


@torch.no_grad()
def _average(ema: State, model: torch.nn.Module, decay: float) -> None:
    """Moves `ema` towards the model's state in place."""
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            ema[key].lerp_(value, 1 - decay)


def _save(path: Path, step: int, model: torch.nn.Module, ema: State, optimizers: list[torch.optim.Optimizer]) -> None:
    """Writes the model, its average, the optimizers' states and the step to one .safetensors file, atomically."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"ema.{k}": v for k, v in ema.items()}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}/{key}"] = value
    # safetensors rejects strided tensors (channels_last), hence the clone
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_bytes(path, save(plain, metadata={"step": str(step)}))


def _load(path: Path, model: torch.nn.Module, ema: State, optimizers: list[torch.optim.Optimizer]) -> int:
    """Restores a checkpoint of `_save` in place; returns the number of steps done."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        step = int(file.metadata()["step"])
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for key in ema:
        ema[key].copy_(tensors[f"ema.{key}"])
    named = dict(model.named_parameters())
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            name, kind = key.removeprefix("optimizer.").split("/")
            owner = next(o for o in optimizers if any(named[name] is p for p in o.param_groups[0]["params"]))
            like = value if kind == "step" else torch.empty_like(named[name]).copy_(value)
            owner.state[named[name]][kind] = like
    return step
