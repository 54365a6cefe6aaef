"""Every kind of odd image file becomes RGB as documented, or is refused with its reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from gpstoken_jax.data import images

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_plain_rgb_is_untouched(file_format):
    decoded = images.decode(encoded(Image.fromarray(RGB), file_format))
    np.testing.assert_array_equal(decoded.pixels, RGB)
    assert decoded.conversions == ()
    assert decoded.format == file_format


def as_pillow_does(data: bytes, monkeypatch) -> np.ndarray | str:
    """Pixels by Pillow's decoder alone, or the reason why there are none."""
    with monkeypatch.context() as patch:
        patch.setattr(images, "_plain_jpeg", lambda *_: None)
        return as_decoded(data)


def as_decoded(data: bytes) -> np.ndarray | str:
    try:
        return images.decode(data).pixels
    except images.UnreadableImageError as error:
        return str(error)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "rgb"])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (64, 40), (131, 77)])
def test_plain_jpegs_decode_as_in_pillow_to_the_bit(size, subsampling, options, monkeypatch):
    sampled = {"keep_rgb": True} if subsampling == "rgb" else {"subsampling": subsampling}
    photo = Image.fromarray(RGB).resize(size, Image.Resampling.BICUBIC)
    data = encoded(photo, "JPEG", quality=90, **sampled, **options)
    with Image.open(io.BytesIO(data)) as opened:
        assert images._plain_jpeg(data, opened) is not None
    decoded = images.decode(data)
    np.testing.assert_array_equal(decoded.pixels, as_pillow_does(data, monkeypatch))
    assert decoded.conversions == () and decoded.format == "JPEG" and decoded.size == size[::-1]


def test_damaged_jpegs_are_what_pillow_makes_of_them(monkeypatch):
    rng = np.random.default_rng(2)
    whole = encoded(Image.fromarray(RGB).resize((60, 44)), "JPEG", quality=90)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        data = bytes(data[: len(data) - rng.integers(0, 30)])
        expected = as_pillow_does(data, monkeypatch)
        np.testing.assert_array_equal(as_decoded(data), expected)
        refused += isinstance(expected, str)
    assert 20 < refused < 280


def test_grey_is_repeated():
    decoded = images.decode(encoded(Image.fromarray(RGB[..., 0])))
    np.testing.assert_array_equal(decoded.pixels, np.repeat(RGB[..., :1], 3, axis=-1))
    assert decoded.conversions == ("grey to RGB",)


def test_one_bit():
    bits = RGB[..., 0] > 127
    decoded = images.decode(encoded(Image.fromarray(bits)))
    np.testing.assert_array_equal(decoded.pixels[..., 1], np.where(bits, 255, 0))


def test_palette():
    colours = np.array([[10, 20, 30], [200, 100, 0]], np.uint8)
    indices = (RGB[..., 0] > 127).astype(np.uint8)
    image = Image.new("P", indices.shape[::-1])
    image.putpalette(colours.tobytes())
    image.frombytes(indices.tobytes())
    decoded = images.decode(encoded(image))
    np.testing.assert_array_equal(decoded.pixels, colours[indices])
    assert decoded.conversions == ("palette to RGB",)


def test_cmyk_jpeg():
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    decoded = images.decode(encoded(cyan, "JPEG", quality=100))
    red, green, blue = decoded.pixels.reshape(-1, 3).mean(0)
    assert red < 5 and green > 250 and blue > 250
    assert decoded.conversions == ("CMYK to RGB",)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_rounded(file_format):
    grey = np.array([[0, 128, 129, 257], [32768, 65406, 65407, 65535]], np.uint16)
    decoded = images.decode(encoded(Image.fromarray(grey), file_format))
    expected = [[0, 0, 1, 1], [128, 254, 255, 255]]  # nearest of value / 257
    np.testing.assert_array_equal(decoded.pixels[..., 0], expected)
    assert "16-bit samples to 8-bit" in decoded.conversions


def test_sixteen_bit_rgb_png_keeps_the_upper_bits():
    wide = np.array([[[0, 256, 65535], [511, 512, 65279]]], np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    decoded = images.decode(data)
    np.testing.assert_array_equal(decoded.pixels, [[[0, 1, 255], [1, 2, 254]]])
    assert decoded.conversions == ("16-bit samples to 8-bit",)


def test_float_grey():
    decoded = images.decode(encoded(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF"))
    np.testing.assert_array_equal(decoded.pixels[0, :, 2], [0, 128, 255])


@pytest.mark.parametrize("bad", [-1.0, 1.5, np.nan])
def test_float_grey_of_unknown_range_is_refused(bad):
    data = encoded(Image.fromarray(np.array([[0, bad]], np.float32)), "TIFF")
    with pytest.raises(images.UnreadableImageError, match="known meaning"):
        images.decode(data)


@pytest.mark.parametrize(
    ("mode", "value"), [("RGBA", (200, 0, 100, 128)), ("LA", (60, 51)), ("RGBA", (0, 0, 0, 0))]
)
def test_alpha_is_composited_on_white(mode, value):
    decoded = images.decode(encoded(Image.new(mode, (4, 4), value)))
    colour = np.array(value[:-1] if mode == "RGBA" else value[:1] * 3, float)
    expected = colour * value[-1] / 255 + 255 * (1 - value[-1] / 255)
    np.testing.assert_allclose(decoded.pixels[0, 0], expected, atol=1)
    assert decoded.conversions == ("transparency put on white",)


def test_transparent_palette_entry_becomes_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 50, 60, 70])
    image.putpixel((0, 0), 0)
    decoded = images.decode(encoded(image, transparency=0))
    np.testing.assert_array_equal(decoded.pixels[0, :2], [[255, 255, 255], [50, 60, 70]])


def _text(kind: str) -> dict:
    info = PngImagePlugin.PngInfo()
    if kind == "many":
        for number in range(80):
            info.add_text(f"key {number}", "b" * (900 << 10), zip=True)
    elif kind == "international":
        info.add_itxt("key", "é" * (2 << 20), zip=True)
    elif kind == "profile":
        return {"icc_profile": bytes(3 << 20)}
    else:
        info.add_text("key", "a" * (3 << 20), zip=kind == "compressed")
    return {"pnginfo": info}


@pytest.mark.parametrize("kind", ["plain", "compressed", "international", "many", "profile"])
def test_long_texts_are_no_damage(kind):
    decoded = images.decode(encoded(Image.fromarray(RGB), **_text(kind)))
    np.testing.assert_array_equal(decoded.pixels, RGB)


def test_long_texts_do_not_hide_damage():
    data = encoded(Image.fromarray(RGB), **_text("compressed"))
    with pytest.raises(images.UnreadableImageError):
        images.decode(data[:-30])


WIDE = np.array([[0, 257, 65535], [1000, 257, 300]], np.uint16)
CLEAR = {  # an image whose first pixel is transparent, the others not; and how to save it
    "RGBA PNG": ("RGBA", "PNG", {}), "LA PNG": ("LA", "PNG", {}),
    "RGBA TIFF": ("RGBA", "TIFF", {}), "RGBA WEBP": ("RGBA", "WEBP", {"lossless": True}),
    "RGBA JPEG2000": ("RGBA", "JPEG2000", {}), "RGBA AVIF": ("RGBA", "AVIF", {"quality": 100}),
    "RGBA HEIF": ("RGBA", "HEIF", {"quality": -1}), "RGBA GIF": ("RGBA", "GIF", {}),
    "key RGB PNG": ("RGB", "PNG", {"transparency": (9, 9, 9)}),
    "key grey PNG": ("L", "PNG", {"transparency": 9}),
    "key 1-bit PNG": ("1", "PNG", {"transparency": 0}),
    "palette PNG": ("P", "PNG", {"transparency": b"\0" + b"\xff" * 255}),
}  # fmt: skip


@pytest.mark.parametrize("kind", CLEAR)
def test_transparency_of_every_kind_is_put_on_white(kind):
    mode, file_format, options = CLEAR[kind]
    if file_format not in Image.SAVE:
        pytest.skip(f"this Pillow has no {file_format}")
    pixels = np.full((16, 16, 3), 130, np.uint8)
    pixels[:8, :8] = 9
    image = Image.fromarray(pixels)
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(np.where(pixels[..., 0] == 9, 0, 255).astype(np.uint8)))
    elif mode == "P":
        image = Image.fromarray((pixels[..., 0] != 9).astype(np.uint8))
        image.putpalette([9, 9, 9, 130, 130, 130])
    elif mode == "1":
        image = Image.fromarray(pixels[..., 0] > 100)
    else:
        image = image.convert(mode)
    decoded = images.decode(encoded(image, file_format, **options))
    assert (decoded.pixels[:8, :8] == 255).all()
    assert mode == "1" or abs(decoded.pixels[9:, 9:].astype(int) - 130).max() <= 3
    assert "transparency put on white" in decoded.conversions


def test_a_transparent_grey_of_sixteen_bits_becomes_white():
    decoded = images.decode(encoded(Image.fromarray(WIDE), transparency=257))
    np.testing.assert_array_equal(decoded.pixels[..., 0], [[0, 255, 255], [4, 255, 1]])


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr", "RGBX", "L", "1"])
def test_tiff_of_every_colour_space(mode):
    smooth = Image.linear_gradient("L").resize((24, 24)).convert("RGB")
    decoded = images.decode(encoded(smooth.convert(mode), "TIFF"))
    expected = np.asarray(smooth.convert(mode).convert("RGB"))
    np.testing.assert_allclose(decoded.pixels.astype(int), expected.astype(int), atol=3)


@pytest.mark.parametrize("file_format", ["AVIF", "HEIF"])
def test_photos_of_phones(file_format):
    if file_format not in Image.SAVE:
        pytest.skip(f"this Pillow has no {file_format}")
    smooth = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    decoded = images.decode(encoded(smooth, file_format, quality=95))
    assert decoded.format == file_format
    np.testing.assert_allclose(decoded.pixels, np.asarray(smooth), atol=12)


TURNS = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = images.decode(encoded(Image.fromarray(RGB), exif=exif))
    np.testing.assert_array_equal(decoded.pixels, TURNS[orientation](RGB))
    assert decoded.conversions == ("EXIF orientation applied",)


def test_upright_exif_is_no_conversion():
    exif = Image.Exif()
    exif[0x0112] = 1
    assert images.decode(encoded(Image.fromarray(RGB), exif=exif)).conversions == ()


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_gives_its_first_frame(file_format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("black", "white")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    decoded = images.decode(data)
    assert decoded.pixels.shape == (8, 8, 3) and decoded.pixels.max() == 0
    assert "first frame of several" in decoded.conversions


def test_one_pixel_image_is_allowed():
    assert images.decode(encoded(Image.new("RGB", (1, 1), "red"))).pixels.tolist() == [
        [[255, 0, 0]]
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (encoded(Image.fromarray(RGB))[:60], "damaged"),
        (encoded(Image.fromarray(RGB))[:20], "damaged"),
        (png_header(60000, 60000), "too large"),
        (png_header(12000, 10000), "too large"),
        (encoded(Image.new("RGB", (400, 4))), "too narrow"),
    ],
    ids=["empty", "text", "postscript", "truncated", "header", "bomb", "large", "narrow"],
)
def test_unusable_bytes_are_refused_with_a_reason(data, reason):
    with pytest.raises(images.UnreadableImageError, match=reason):
        images.decode(data)


def test_truncated_jpeg_is_refused():
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG")
    with pytest.raises(images.UnreadableImageError, match="damaged"):
        images.decode(data[: len(data) // 2])


def test_random_bytes_never_crash_and_never_pass():
    rng = np.random.default_rng(1)
    for length in rng.integers(1, 300, 200):
        with pytest.raises(images.UnreadableImageError):
            images.decode(rng.bytes(length))


def test_looks_like_image_judges_by_content(tmp_path):
    (tmp_path / "photo").write_bytes(encoded(Image.fromarray(RGB)))
    (tmp_path / "notes").write_text("text")
    assert images.looks_like_image(tmp_path / "photo")
    assert not images.looks_like_image(tmp_path / "notes")


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("at_least", "drafted"),
    [(400, (400, 600)), (201, (400, 600)), (200, (200, 300)), (40, (50, 75))],
)
def test_large_jpegs_are_drafted_only_when_asked_and_know_their_size(
    at_least, drafted, orientation
):
    picture = Image.fromarray(RGB).resize((600, 400))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = (lambda size: size[::-1]) if orientation == 6 else tuple
    data = encoded(picture, "JPEG", exif=exif)
    for asked, expected in ((None, (400, 600)), (at_least, drafted)):
        decoded = images.decode(data, at_least=asked)
        assert decoded.pixels.shape == (*turn(expected), 3)
        assert decoded.size == turn((400, 600))
    assert images.decode(encoded(picture), at_least=at_least).pixels.shape == (400, 600, 3)
