"""Settings that rewards with weights share."""

from typing import ClassVar

from diffalign.config.values import Count, Model


class WeightsFolder(Model):
    """`path`: the folder of the weights and the tokenizer; `batch_size`: images and prompts in a forward."""

    differentiable: ClassVar[bool] = True
    """Said here too, so that nothing is loaded to know it; a reward whose settings don't say so has no gradients."""
    path: str
    batch_size: Count
