"""Settings that rewards with weights share."""

from diffalign.config.values import Count, Model


class WeightsFolder(Model):
    """`path`: the folder of the weights and the tokenizer; `batch_size`: images and prompts in a forward."""

    path: str
    batch_size: Count
