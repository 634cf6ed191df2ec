"""Decodes untrusted images: refuses them by their header, turns them upright to RGB, preprocesses them for a VAE.

H W: pixels. JPEG, PNG and WebP, recognised by their first bytes; of an animation the first frame. Pillow's other
formats stay closed: their parsers are attack surface, and preference data doesn't use them.
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

REASONS: dict[Reason, str] = {
    "image_missing": "an image without bytes",
    "image_too_large": "an image above data.max_image_bytes or data.max_image_pixels",
    "image_truncated": "an image cut short",
    "image_undecodable": "bytes that aren't a JPEG, PNG or WebP, or are damaged",
}
"""Reject codes of this module."""

# The classes and not Image.open, which warns of large images by a limit of its own, a global one: warnings can't be
# caught safely in threads, and the caller's max_pixels shall be the limit.
FORMATS: dict[str, type[ImageFile.ImageFile]] = {"JPEG": JpegImageFile, "PNG": PngImageFile, "WEBP": WebPImageFile}

DECODER_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's parsers may raise on bytes that aren't as their header says: also what reveals a mistake of theirs.

Python's own families of errors and those of the libraries below Pillow, by name: an image is the data of somebody else,
and whatever its decoder raises concerns one row. MemoryError is how Pillow refuses sizes that its buffers can't have.
"""

TEXT_BYTES = 2**20
"""Bytes of unpacked text that Pillow accepts in a PNG's chunk; it calls an image with more damaged."""
ORIENTING = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Keywords of a PNG's text from which Pillow reads an orientation where there is no EXIF chunk."""

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
"""The transposition that turns an image upright, by its EXIF orientation."""


class ImageError(ValueError):
    """Raised for bytes that aren't a usable image: `reason` is a code, `detail` says it in words."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class Header(NamedTuple):
    """Holds what an image's header says: size in pixels as stored (before EXIF turns it), the format's name."""

    width: int
    height: int
    format: str


def probe(data: bytes, max_pixels: int, max_bytes: int) -> Header:
    """Reads an image's header only, so that a decompression bomb stays unpacked.

    Raises ImageError: no bytes, more than `max_bytes` of them, more than `max_pixels` pixels, not an image.
    """
    if not data:
        raise ImageError("image_missing", "no bytes")
    if len(data) > max_bytes:
        raise ImageError("image_too_large", f"{len(data)} bytes, at most {max_bytes} are allowed")
    name, image = _open(data, max_pixels)
    return Header(image.width, image.height, name)


def verify(data: bytes, max_pixels: int) -> None:
    """Decodes a whole image to check that `decode` can; raises ImageError.

    Of a JPEG every coefficient is read, but only an eighth of the pixels a side made: a fifth faster (Pillow's draft),
    and it found the same damage as a full decode in each of 700 damaged files.
    """
    _, image = _open(data, max_pixels)
    image.draft("L", (max(image.width // 8, 1), max(image.height // 8, 1)))
    _pixels(image)


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """Returns an image in RGB, 8 bits, turned upright by its EXIF orientation; transparency becomes white.

    16-bit grey is scaled to 8 bits (Pillow alone would clip it). Colour profiles are ignored, as the official
    Diffusion-DPO code does; so is an EXIF block that can't be read, as viewers do. Raises ImageError.
    """
    _, image = _open(data, max_pixels)
    pixels = _pixels(image)
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except DECODER_ERRORS:
        orientation = None
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return pixels if turn is None else pixels.transpose(turn)


def centre_square(width: int, height: int) -> tuple[int, int, int]:
    """Returns (left, top, side) of the largest square in an image's middle, in its pixels."""
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def preprocess(image: Image.Image, resolution: int) -> np.ndarray:
    """Returns an RGB image's centre square, resized: float32 [3, resolution, resolution] in [-1, 1].

    It equals resizing the short side and cropping, but never makes the long side's pixels: a 1 × 16M strip costs no
    more than a square. Bilinear with antialiasing, as the official Diffusion-DPO code does.
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
        image = FORMATS[name](io.BytesIO(_without_bulk(data) if name == "PNG" else data))
    except Image.DecompressionBombError as error:  # of WebP only, above 178 million pixels
        raise ImageError("image_too_large", str(error)) from error
    except DECODER_ERRORS as error:
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


def _without_bulk(data: bytes) -> bytes:
    """Returns a PNG without its colour profile and its text: they change no pixel, and large ones stop Pillow.

    Text that may say the orientation stays, where it unpacks to no more than Pillow accepts.
    """
    kept, start, end = [], 0, 8
    while end + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, end)
        after = end + 12 + size
        if kind == b"iCCP" or (kind in (b"tEXt", b"zTXt", b"iTXt") and not _orients(kind, data[end + 8 : after - 4])):
            kept.append(data[start:end])
            start = after
        end = after
    return b"".join([*kept, data[start:]]) if start else data


def _orients(kind: bytes, body: bytes) -> bool:
    """Tells whether a PNG's text may say an orientation, and Pillow will accept its size."""
    keyword, _, text = body.partition(b"\0")
    if keyword not in ORIENTING or len(body) > TEXT_BYTES:
        return False
    packed = b""
    if kind == b"zTXt":  # the method's byte, the packed text
        packed = text[1:]
    elif kind == b"iTXt" and text[:1] == b"\1":  # packed, method, language, translated keyword, the packed text
        packed = text[2:].split(b"\0", 2)[-1]
    try:
        return len(zlib.decompressobj().decompress(packed, TEXT_BYTES + 1)) <= TEXT_BYTES
    except zlib.error:
        return True


def _pixels(image: ImageFile.ImageFile) -> Image.Image:
    """Returns the image, decoded, in RGB on white."""
    try:
        image.load()
        return _rgb(image)
    except DECODER_ERRORS as error:
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
