"""Encoded images: refused by header, decoded upright to RGB, preprocessed."""

import io
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from diffalign.data import images
from tests.helpers import pickapic
from tests.helpers.photos import ORIENTATION, STORED

PIXELS, BYTES = 1 << 20, 1 << 20


def encode(image, format_, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, pixels=b""):
    """A PNG by hand: 8-bit grey."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def reason(call, *arguments):
    with pytest.raises(images.ImageError) as caught:
        call(*arguments)
    assert caught.value.reason in str(caught.value) and caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_probe_reads_size_and_format(format_):
    data = pickapic.image(0, (37, 21), format_)
    assert images.probe(data, PIXELS, BYTES) == (37, 21, format_)
    images.verify(data, PIXELS)


def test_probe_refuses_by_the_header_alone():
    bomb = png(30_000, 30_000)  # its pixels aren't even there
    assert reason(images.probe, bomb, PIXELS, BYTES) == "image_too_large"
    assert reason(images.verify, bomb, PIXELS) == reason(images.decode, bomb, PIXELS) == "image_too_large"
    assert reason(images.probe, b"", PIXELS, BYTES) == "image_missing"
    assert reason(images.probe, b"\xff\xd8\xff" + bytes(100), PIXELS, 99) == "image_too_large"
    assert reason(images.probe, pickapic.image(0, (8, 8), "GIF"), PIXELS, BYTES) == "image_undecodable"
    assert reason(images.probe, b"\x89PNG\r\n\x1a\n what?", PIXELS, BYTES) == "image_undecodable"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    animation = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    animation[24:30] = b"\xff\x3f\0" * 2  # a canvas of 16384 × 16384
    assert reason(images.probe, bytes(animation), PIXELS, BYTES) == "image_too_large"


def test_the_only_limit_on_pixels_is_the_callers():
    width = 20_000  # 400 million pixels: Pillow's own limit is 179 million
    assert images.probe(png(width, width), width * width, BYTES).width == width


@pytest.mark.parametrize(
    ("format_", "expected"), [("JPEG", "truncated"), ("PNG", "truncated"), ("WEBP", "undecodable")]
)
def test_an_image_cut_short_passes_the_probe_but_not_verify(format_, expected):
    data = pickapic.image(0, (64, 64), format_)
    cut = data[: len(data) * 3 // 4]
    if format_ != "WEBP":  # its header states the file's length
        images.probe(cut, PIXELS, BYTES)
    assert reason(images.verify, cut, PIXELS) == reason(images.decode, cut, PIXELS) == f"image_{expected}"


def test_a_header_cut_short_is_truncated_too():
    assert reason(images.probe, pickapic.image(0)[:50], PIXELS, BYTES) == "image_truncated"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow speaks of EXIF blocks that it can't read
def test_verify_and_decode_agree_on_damage():
    """What verify lets through is stored, and then must decode: hence both on the same damaged files."""
    good = {f: pickapic.image(3, (48, 32), f) for f in ("JPEG", "PNG", "WEBP")}
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    good["EXIF"] = encode(Image.open(io.BytesIO(good["JPEG"])), "JPEG", exif=exif)
    rng, outcomes = np.random.default_rng(0), set()
    for data in good.values():
        for _ in range(150):
            damaged = bytearray(data)
            damaged[rng.integers(12, min(len(damaged), 400))] = rng.integers(256)
            results = [outcome(call, bytes(damaged)) for call in (images.verify, images.decode)]
            assert results[0] == results[1]
            outcomes.add(results[0])
    assert outcomes >= {"fine", "image_undecodable", "image_too_large"}


def outcome(call, data):
    try:
        call(data, PIXELS)
    except images.ImageError as error:
        return error.reason
    return "fine"


@pytest.mark.parametrize("orientation", sorted(STORED))
@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_decode_turns_upright_by_exif(orientation, format_):
    picture = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](picture)))
    data = encode(stored, format_, exif=exif, **({"lossless": True} if format_ == "WEBP" else {}))
    np.testing.assert_array_equal(np.asarray(images.decode(data, PIXELS)), picture)


def test_decode_scales_16_bit_grey():
    grey = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    decoded = np.asarray(images.decode(encode(Image.fromarray(grey), "PNG"), PIXELS))
    assert decoded[0, :, 0].tolist() == [0, 0, 1, 128, 255] and decoded.shape == (1, 5, 3)


def test_decode_puts_transparency_on_white():
    """Red at alpha 51/255 = 0.2 on white: 255, 0.8 × 255 = 204, 204."""
    rgba = Image.new("RGBA", (3, 2), (255, 0, 0, 51))
    assert images.decode(encode(rgba, "PNG"), PIXELS).getpixel((1, 1)) == (255, 204, 204)
    grey = Image.new("LA", (3, 2), (0, 0))
    assert images.decode(encode(grey, "PNG"), PIXELS).getpixel((1, 1)) == (255, 255, 255)
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert images.decode(encode(palette, "PNG", transparency=0), PIXELS).getpixel((1, 1)) == (9, 8, 7)
    assert images.decode(encode(palette, "PNG", transparency=1), PIXELS).getpixel((1, 1)) == (255, 255, 255)


QUALITY = {"CMYK": {"quality": 100, "subsampling": 0}}


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_decode_gives_rgb(mode):
    image = Image.open(io.BytesIO(pickapic.image(0, (20, 10)))).convert(mode)
    decoded = images.decode(encode(image, "JPEG" if mode == "CMYK" else "PNG", **QUALITY.get(mode, {})), PIXELS)
    assert decoded.mode == "RGB" and decoded.size == (20, 10)
    difference = np.abs(np.asarray(decoded).astype(int) - np.asarray(image.convert("RGB")))
    assert difference.max() <= (3 if mode == "CMYK" else 0)


def test_decode_takes_the_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format_ in ("PNG", "WEBP"):
        data = encode(frames[0], format_, save_all=True, append_images=frames[1:], lossless=True)
        assert images.decode(data, PIXELS).getpixel((4, 4)) == (255, 0, 0)


def test_preprocess_keeps_pixels_that_need_no_scaling():
    """Pixel 0 is -1, 255 is 1; of 9 × 6 pixels the middle 6 × 6 are columns 1 to 6."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    pixels[0, 1], pixels[5, 6] = 0, 255
    array = images.preprocess(Image.fromarray(pixels), 6)
    assert array.dtype == np.float32 and array.shape == (3, 6, 6) and array.flags["C_CONTIGUOUS"]
    assert (array[:, 0, 0] == -1).all() and (array[:, 5, 5] == 1).all()
    np.testing.assert_array_equal(((array.transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8), pixels[:, 1:7])


@pytest.mark.parametrize("size", [(90, 60), (61, 97), (64, 64), (33, 40)])
def test_preprocess_is_resizing_the_short_side_and_cropping(size):
    image = Image.open(io.BytesIO(pickapic.image(1, size))).resize(size)
    scale = 32 / min(size)
    whole = image.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BILINEAR)
    left, top = (whole.width - 32) / 2, (whole.height - 32) / 2
    twin = np.asarray(whole.crop((round(left), round(top), round(left) + 32, round(top) + 32)), np.float32) / 127.5 - 1
    # Half a pixel of rounding in where the crop starts is what may differ.
    assert np.abs(images.preprocess(image, 32) - twin.transpose(2, 0, 1)).mean() < 0.03


def test_preprocess_of_a_strip_makes_no_giant():
    strip = Image.new("RGB", (1_000_000, 1), (0, 255, 0))
    array = images.preprocess(strip, 512)  # resized first, it would be 512 × 512 million pixels
    assert (array == np.array([-1, 1, -1], np.float32)[:, None, None]).all()


@pytest.mark.parametrize("error", [AssertionError, AttributeError, RuntimeError, MemoryError, KeyError])
@pytest.mark.parametrize("where", ["_open", "load"])
def test_whatever_a_decoder_raises_is_one_images_damage(monkeypatch, where, error):
    """Pillow's own mistakes too, such as a failed assertion at a palette that isn't there."""

    def broken(self, *arguments):
        raise error("a mistake of the decoder")

    data = pickapic.image(0, (8, 8), "PNG")
    monkeypatch.setattr(images.FORMATS["PNG"], where, broken)
    for call in (images.verify, images.decode):
        assert reason(call, data, PIXELS) == "image_undecodable"


@pytest.mark.parametrize("kind", ["profile", "tEXt", "zTXt", "iTXt", "many"])
def test_a_large_profile_or_text_in_a_png_is_no_damage(kind):
    from PIL.PngImagePlugin import PngInfo

    picture = Image.new("RGB", (8, 8), "red")
    info, text = PngInfo(), "x" * 2**21
    if kind == "profile":
        data = encode(picture, "PNG", icc_profile=bytes(2**21))
    else:
        for n in range(70 if kind == "many" else 1):
            if kind == "iTXt":
                info.add_itxt("XML:com.adobe.xmp", text, zip=True)
            else:
                info.add_text(f"note {n}", text, zip=kind != "tEXt")
        data = encode(picture, "PNG", pnginfo=info)
    images.probe(data, PIXELS, 2**24)
    images.verify(data, PIXELS)
    assert images.decode(data, PIXELS).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("packed", [False, True])
def test_orientation_in_a_pngs_text_still_counts(packed):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=packed)
    assert images.decode(encode(Image.new("RGB", (6, 3)), "PNG", pnginfo=info), PIXELS).size == (3, 6)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_mutated_images_are_fine_or_refused():
    """Bytes of chunks changed, removed, repeated, cut, by seed: an ImageError or an image, and nothing else."""
    palette = Image.open(io.BytesIO(pickapic.image(5, (24, 16), "PNG"))).convert("P")
    frames = [Image.new("P", (8, 8), n) for n in range(3)]
    seeds = [encode(palette, "PNG", transparency=bytes(range(200)))]
    seeds += [encode(frames[0], f, save_all=True, append_images=frames[1:]) for f in ("PNG", "WEBP")]
    seeds += [pickapic.image(3, (24, 16), f) for f in ("JPEG", "PNG", "WEBP")]
    rng, outcomes = np.random.default_rng(7), Counter()
    for data in seeds:
        for _ in range(120):
            mutant = bytearray(data)
            start, end = sorted(rng.integers(8, len(mutant), 2))
            match rng.integers(4):
                case 0:
                    mutant[start] = rng.integers(256)
                case 1:
                    del mutant[start:end]
                case 2:
                    mutant[start:start] = mutant[start:end]
                case 3:
                    del mutant[start:]
            results = [outcome(call, bytes(mutant)) for call in (images.verify, images.decode)]
            assert results[0] == results[1]
            outcomes[results[0]] += 1
    assert outcomes["image_undecodable"] > 50 and outcomes["fine"] > 20
