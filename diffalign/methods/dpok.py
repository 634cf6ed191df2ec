"""DPOK: a policy gradient regularised by a KL to the reference, with a learnt value as its baseline.

Shapes: s rows of a micro-batch, S pictures of a rollout, T moves, F features.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from diffalign.data.batches.pair_batches import conditions
from diffalign.data.shards.reader import prompt_key
from diffalign.diffusion.policy_gradient import EPSILON, clamped_loss
from diffalign.methods.method import Context, Method
from diffalign.methods.policy_gradients import MovesMethod, Rows
from diffalign.methods.rolled import Piece, Played, combined, opened
from diffalign.rollouts.slots import Slot

if TYPE_CHECKING:
    from diffalign.config.methods.dpok import Settings

FREQUENCIES = 8
"""Sines and cosines of a move's place in the rollout."""


@dataclass
class DPOK(MovesMethod):
    """Holds rewards against the value that a small network expects at a state, for a prompt (arXiv 2305.16381).

    Rewards are standardised by the rollout's, which a network that begins near 0 would else take long to meet. It sees
    the state's mean and deviation by channel, the prompt's mean encoding and the move's place. Every
    process trains it alike, on all ranks' states.
    """

    settings: "Settings"
    network: nn.Sequential = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    begun: dict[str, Tensor] = field(default_factory=dict, init=False)
    """The network and its moments as they were when the rollout at hand began."""

    def __post_init__(self) -> None:
        """Builds the value network from the policy's seed."""
        super().__post_init__()
        value, features = self.settings.value, self.features_of_prompts().shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            self.network = perceptron(2 * self.source.shape[0] + features + 2 * FREQUENCIES, value.width)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), value.lr)

    def state(self) -> dict[str, Tensor]:
        """Returns the value network's weights and its optimizer's moments, as they were when the rollout began."""
        weights = self.begun if self.amid else self.snapshot()
        return {f"value.{name}": tensor for name, tensor in weights.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Puts them back."""
        super().restore({})
        kept = {name.removeprefix("value."): tensor for name, tensor in state.items()}
        self.network.load_state_dict({n.removeprefix("net."): t for n, t in kept.items() if n.startswith("net.")})
        for i, parameter in enumerate(self.network.parameters()):
            moments = {n.split(".", 2)[2]: t.clone() for n, t in kept.items() if n.startswith(f"adam.{i}.")}
            if moments:
                self.optimizer.state[parameter] = moments

    def snapshot(self) -> dict[str, Tensor]:
        """Returns copies of the weights and the moments, by name."""
        found = {f"net.{name}": tensor.clone() for name, tensor in self.network.state_dict().items()}
        for i, parameter in enumerate(self.network.parameters()):
            found |= {f"adam.{i}.{name}": v.clone() for name, v in self.optimizer.state.get(parameter, {}).items()}
        return found

    def began(self, played: Played) -> None:
        """Takes the network's values as the rollout's baseline, then teaches it the rollout's rewards."""
        self.begun = self.snapshot()
        total = combined(played.rewards, self.source.weights)
        known = ~total.isnan()
        features = self.features(played)
        with torch.no_grad():
            expected = self.network(features).squeeze(-1).double()
        rewards = (total - total[known].mean()) / (total[known].std(correction=0) + EPSILON)
        gained = rewards[:, None] - expected
        clip = self.settings.advantage.clip
        self.advantages = torch.where(known[:, None], gained, torch.zeros_like(gained)).clamp(-clip, clip)
        self.teach(features[known], rewards[known].float())

    @torch.enable_grad()
    def teach(self, features: Tensor, rewards: Tensor) -> None:
        """Takes AdamW steps on the mean squared error of the values at states [S, T, F] against final rewards [S]."""
        for _ in range(self.settings.value.steps):
            self.optimizer.zero_grad(set_to_none=True)
            ((self.network(features).squeeze(-1) - rewards[:, None]) ** 2).mean().backward()
            self.optimizer.step()

    def features(self, played: Played) -> Tensor:
        """Returns what the network sees [S, T, F] of all ranks' states, on the CPU."""
        pieces = [piece for made in played.updates for piece in made]
        own = torch.cat([latents_seen(piece) for piece in pieces])
        latents = self.source.gathered(own, [piece.slots for piece in pieces]).cpu()
        count, moves = latents.shape[:2]
        prompts = self.features_of_prompts()[played.prompts][:, None].expand(count, moves, -1)
        places = sinusoids(moves)[None].expand(count, moves, -1)
        return torch.cat([latents, prompts, places], dim=-1).float()

    def features_of_prompts(self) -> Tensor:
        """Returns the mean encodings [P, D] of all prompts."""
        cond = conditions(self.source.prompts, [prompt_key(text) for text in self.source.texts])
        floats = [value.float() for value in cond.values() if value.is_floating_point()]
        return torch.cat([value.flatten(1, -2).mean(1) if value.dim() > 2 else value for value in floats], dim=1)

    def advantages_of(self, slots: list[Slot], moves: Tensor) -> Tensor:
        """Returns the advantages [s] of moves [s]: each state has its own baseline."""
        return self.advantages[[slot.index for slot in slots], moves]

    def trusted(self, log_probs: Tensor, mean: Tensor, std: Tensor, batch: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the authors' code's loss: a hard clamp, whichever way a move has gone."""
        clip = self.settings.clip
        losses, ratios = clamped_loss(log_probs, batch.old(log_probs), batch.advantages, clip)
        return losses, ratios, (ratios.detach() - 1).abs() > clip


def perceptron(features: int, width: int) -> nn.Sequential:
    """Returns a network from features [.., F] to a value [.., 1]."""
    layers = [nn.LayerNorm(features), nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def latents_seen(piece: Piece) -> Tensor:
    """Returns the mean and the deviation by channel [s, T, 2 C] of the states that moves leave."""
    states = piece.trajectory.states[:-1].transpose(0, 1).flatten(3).double()
    return torch.cat([states.mean(-1), states.std(-1, correction=0)], dim=-1)


def sinusoids(moves: int) -> Tensor:
    """Returns sines and cosines [T, 2 FREQUENCIES] of each move's place in the rollout."""
    angles = torch.arange(moves)[:, None] / moves * torch.pi * torch.arange(1, FREQUENCIES + 1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def build(settings: "Settings", context: Context) -> Method:
    """Builds DPOK (Fan et al. 2023) on a run's prompts and rewards."""
    return DPOK(*opened(settings, context), settings)
