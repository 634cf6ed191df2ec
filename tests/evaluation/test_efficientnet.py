"""EfficientNet-Lite0 against torch's own modules, on random weights: strides, padding, normalisation, what is added."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu6

from diffalign.evaluation import efficientnet


def random_state(whole: nn.Module) -> dict[str, Tensor]:
    """Random tensors in a network's shapes; variances and scales are above 0."""
    draws = torch.Generator().manual_seed(0)
    state = {}
    for name, old in whole.state_dict().items():
        value = torch.randn(old.shape, generator=draws)
        positive = name.endswith("running_var") or (old.dim() == 1 and name.endswith("weight"))
        state[name] = value.abs() + 0.5 if positive else value / (old[0].numel() ** 0.5 if old.dim() == 4 else 1)
    return state


class Block(nn.Module):
    """An inverted bottleneck, of modules whose names are the checkpoint's."""

    def __init__(self, into: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = into * expansion
        self.kernel, self.stride, self.added = kernel, stride, stride == 1 and into == out
        if expansion != 1:
            self._expand_conv, self._bn0 = nn.Conv2d(into, wide, 1, bias=False), nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv, self._bn2 = nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        y = relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = self._bn2(self._project_conv(relu6(self._bn1(self._depthwise_conv(around(y, self.kernel, self.stride))))))
        return x + y if self.added else y


def around(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pads even sizes as TensorFlow does: kernel - stride in all, the larger half at the right and the bottom."""
    whole = kernel - stride
    return pad(x, (whole // 2, whole - whole // 2) * 2)


BLOCKS = (
    *((32, 16, 3, 1, 1), (16, 24, 3, 2, 6), (24, 24, 3, 1, 6), (24, 40, 5, 2, 6), (40, 40, 5, 1, 6)),
    *((40, 80, 3, 2, 6), (80, 80, 3, 1, 6), (80, 80, 3, 1, 6), (80, 112, 5, 1, 6), (112, 112, 5, 1, 6)),
    *((112, 112, 5, 1, 6), (112, 192, 5, 2, 6), *(3 * [(192, 192, 5, 1, 6)]), (192, 320, 3, 1, 6)),
)
"""Channels in and out, kernel, stride, expansion of each block, as the published Lite0 has them."""


def test_features_are_those_of_torchs_modules() -> None:
    whole = nn.Module()
    whole._conv_stem, whole._bn0 = nn.Conv2d(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32, eps=1e-3)
    whole._blocks = nn.Sequential(*(Block(*values) for values in BLOCKS))
    whole._conv_head, whole._bn1 = nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280, eps=1e-3)
    state = random_state(whole)
    whole.load_state_dict(state)
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x = relu6(whole.eval()._bn0(whole._conv_stem(around((images * 255 - 127) / 128, 3, 2))))
        expected = relu6(whole._bn1(whole._conv_head(whole._blocks(x)))).mean(dim=(2, 3))
        features = efficientnet.build(state, "cpu")(images)
    assert features.shape == (2, efficientnet.WIDTH)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_an_odd_size_keeps_its_middle() -> None:
    """7 pixels with kernel 3 and stride 2: 4 outputs, so 3·2 + 3 - 7 = 2 zeros, one on either side."""
    convolution = efficientnet.Convolution(torch.ones(1, 1, 3, 3), torch.zeros(1), stride=2, active=False)
    found = convolution(torch.ones(1, 1, 7, 7))
    assert found.shape == (1, 1, 4, 4)
    assert found[0, 0, 0].tolist() == [4, 6, 6, 4]
