"""The alarms of evaluation: `evaluate.alarms` in params.yaml. A threshold of null turns its alarm off."""

from typing import Literal

from diffalign.config.values import Count, Model, Name, Positive, Share, Whole


class Alarms(Model):
    """What is measured, and the thresholds, by the names of the alarms in `diffalign/evaluation/alarms.py`."""

    features: Literal["pixels", "efficientnet_lite0"]
    held_out: list[Name]
    shuffled: Whole
    training_images: Count
    hacking: Share | None
    diversity: Share | None
    vendi: Share | None
    alignment: Share | None
    saturation: Positive | None
    contrast: Positive | None
    sharpness: Positive | None
    tint: Positive | None
    copies: Share | None


NAMES = ("hacking", "diversity", "vendi", "alignment", "saturation", "contrast", "sharpness", "tint", "copies")
"""The alarms that there are: the keys of the thresholds."""
