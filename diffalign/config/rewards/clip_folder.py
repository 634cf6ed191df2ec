"""Settings that rewards with a CLIP share."""

from diffalign.config.values import Count, Model


class ClipFolder(Model):
    """`path`: the folder of the weights and the tokenizer; `batch_size`: images and prompts in a forward."""

    path: str
    batch_size: Count
