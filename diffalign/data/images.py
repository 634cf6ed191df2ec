"""Encoded images of anybody's: refused by their header, decoded upright to RGB, preprocessed for a VAE.

H W: pixels. JPEG, PNG and WebP, told by their first bytes; of an animation the first frame. Pillow's other formats
stay closed: their parsers are attack surface, and preference data doesn't use them.
"""

import io
import struct
import zlib
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

Reason = Literal["image_missing", "image_too_large", "image_truncated", "image_undecodable"]

# The classes and not Image.open, which warns of large images by a limit of its own, a global one: warnings can't be
# caught safely in threads, and the caller's max_pixels shall be the limit.
FORMATS: dict[str, type[ImageFile.ImageFile]] = {"JPEG": JpegImageFile, "PNG": PngImageFile, "WEBP": WebPImageFile}

# What Pillow's parsers raise on bytes that aren't what their header says.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)

EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""


class ImageError(ValueError):
    """These bytes aren't an image that can be used: `reason` is a code, `detail` says it in words."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class Header(NamedTuple):
    """What an image's header says: size in pixels as stored (before EXIF turns it), and the format's name."""

    width: int
    height: int
    format: str


def probe(data: bytes, max_pixels: int, max_bytes: int) -> Header:
    """Reads the header only, so a decompression bomb stays unpacked.

    Raises ImageError: no bytes, more than `max_bytes` of them, more than `max_pixels` pixels, not an image.
    """
    if not data:
        raise ImageError("image_missing", "no bytes")
    if len(data) > max_bytes:
        raise ImageError("image_too_large", f"{len(data)} bytes, at most {max_bytes} are allowed")
    name, image = _open(data, max_pixels)
    return Header(image.width, image.height, name)


def verify(data: bytes, max_pixels: int) -> None:
    """Decodes the whole image to see that `decode` can; raises ImageError.

    Of a JPEG every coefficient is read, but only an eighth of the pixels a side made: a fifth faster (Pillow's draft),
    and it found the same damage as a full decode in each of 700 damaged files.
    """
    _, image = _open(data, max_pixels)
    image.draft("L", (max(image.width // 8, 1), max(image.height // 8, 1)))
    _pixels(image)


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """The image in RGB, 8 bits, turned upright by its EXIF orientation; transparency becomes white.

    16-bit grey is scaled to 8 bits (Pillow alone would clip it). Colour profiles are ignored, as the official
    Diffusion-DPO code does; so is an EXIF block that can't be read, as viewers do. Raises ImageError.
    """
    _, image = _open(data, max_pixels)
    pixels = _pixels(image)
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except BROKEN:
        orientation = None
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return pixels if turn is None else pixels.transpose(turn)


def centre_square(width: int, height: int) -> tuple[int, int, int]:
    """(left, top, side) of the largest square in an image's middle, in its pixels."""
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def preprocess(image: Image.Image, resolution: int) -> np.ndarray:
    """The centre square of an RGB image, resized: float32 [3, resolution, resolution] in [-1, 1].

    The same as resizing the short side and cropping, without the long side's pixels ever being made: a 1 × 16M strip
    costs no more than a square. Bilinear with antialiasing, as the official Diffusion-DPO code does.
    """
    left, top, side = centre_square(image.width, image.height)
    box = (left, top, left + side, top + side)
    square = image.resize((resolution, resolution), Image.Resampling.BILINEAR, box=box)
    # (H, W, 3) -> [3, H, W]
    return np.ascontiguousarray(np.asarray(square, np.float32).transpose(2, 0, 1)) / 127.5 - 1


def _open(data: bytes, max_pixels: int) -> tuple[str, ImageFile.ImageFile]:
    name = _format(data)
    if name is None:
        raise ImageError("image_undecodable", f"neither a JPEG nor a PNG nor a WebP: starts with {data[:8]!r}")
    try:
        image = FORMATS[name](io.BytesIO(data))
    except Image.DecompressionBombError as error:  # of WebP only, above 178 million pixels
        raise ImageError("image_too_large", str(error)) from error
    except BROKEN as error:
        raise ImageError(_reason(error), f"{name} header: {_words(error)}") from error
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height} pixels"
        raise ImageError("image_too_large", f"{size}, at most {max_pixels} pixels are allowed")
    return name, image


def _format(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _pixels(image: ImageFile.ImageFile) -> Image.Image:
    """The image, decoded, in RGB on white."""
    try:
        image.load()
        return _rgb(image)
    except BROKEN as error:
        raise ImageError(_reason(error), _words(error)) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey
        grey = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reason(error: BaseException) -> Reason:
    return "image_truncated" if "truncated" in str(error).lower() else "image_undecodable"


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]
