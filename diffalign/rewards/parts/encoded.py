"""Images as text, for services over HTTP.

Legend: B images, H W pixels.
"""

import base64
import io

from PIL import Image
from torch import Tensor

from diffalign.data.pixels import to_uint8


def base64_png(pixels: Tensor) -> list[str]:
    """Returns the base64 of 8-bit RGB PNG files of images [B, 3, H, W] in [-1, 1]; values beyond are clamped.

    A pixel that isn't finite is grey: `finite` tells those images.
    """
    found = []
    for image in to_uint8(pixels.nan_to_num(0, 0, 0)):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
        found.append(base64.b64encode(buffer.getvalue()).decode())
    return found


def finite(pixels: Tensor) -> Tensor:
    """Tells of each image [B, 3, H, W] whether all its pixels are finite: [B] on the CPU."""
    return pixels.isfinite().flatten(1).all(dim=1).cpu()
