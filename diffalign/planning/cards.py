"""GPUs that one might rent or own, by name: their memory and their published speed, for plans of other machines."""

from dataclasses import dataclass

from diffalign.core.errors import UserError

REACHED = 0.79
"""Share of the published peak that a product of 8192 x 8192 matrices reached: 784 of 989 TFLOP/s, one H200, bf16."""


@dataclass(frozen=True)
class Card:
    """A GPU as its maker describes it."""

    title: str
    memory: int
    """Bytes; a maker's GB are 2**30 here, as its memory is built."""
    peak: float
    """FLOP/s of dense matrix products in bf16 with float32 sums; where there is no bf16, of float32."""
    plain: float
    """FLOP/s in float32 without tensor cores."""
    bf16: bool = True

    @property
    def rate(self) -> float:
        """Returns the FLOP/s of matrix products that are to be expected."""
        return REACHED * self.peak

    @property
    def precision(self) -> str:
        """Returns the precision of training on it."""
        return "bf16" if self.bf16 else "fp32"


def of(title: str, gigabytes: int, peak: float, plain: float, bf16: bool = True) -> Card:
    """Returns a card from its data sheet's GB and TFLOP/s."""
    return Card(title, gigabytes * 2**30, peak * 1e12, plain * 1e12, bf16)


CARDS = {
    "a100-40": of("A100 40 GB", 40, 312, 19.5),
    "a100-80": of("A100 80 GB", 80, 312, 19.5),
    "h100": of("H100 SXM", 80, 989, 67),
    "h100-pcie": of("H100 PCIe", 80, 756, 51),
    "h200": of("H200", 141, 989, 67),
    "l4": of("L4", 24, 121, 30.3),
    "l40s": of("L40S", 48, 362, 91.6),
    "a10": of("A10", 24, 125, 31.2),
    "a6000": of("RTX A6000", 48, 155, 38.7),
    "3090": of("RTX 3090", 24, 71, 35.6),
    "4090": of("RTX 4090", 24, 165, 82.6),
    "5090": of("RTX 5090", 32, 210, 104.8),
    "t4": of("T4", 16, 8.1, 8.1, bf16=False),
    "v100": of("V100 32 GB", 32, 15.7, 15.7, bf16=False),
}
"""By the names of `plan --gpu`; figures of the makers' data sheets, without sparsity."""


def find(name: str) -> Card:
    """Returns a card by its name; UserError for one that isn't known."""
    if name.lower() not in CARDS:
        raise UserError(f"--gpu: expected one of {', '.join(CARDS)}, got {name!r}")
    return CARDS[name.lower()]
