"""Reading one photo: whatever comes, it is upright 8-bit RGB or a PhotoError that says why."""

import hashlib
import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image

from d3s_utils.photos import PhotoError, read_photo

RAMP = np.linspace(0, 255, 24 * 16 * 3).reshape(24, 16, 3).astype(np.uint8)


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def test_plain_photo_comes_as_it_is_with_its_hash():
    content = encoded(Image.fromarray(RAMP))
    photo = read_photo(content)
    np.testing.assert_array_equal(photo.pixels, RAMP)
    assert photo.alpha is None
    assert photo.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_undone(orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = read_photo(encoded(Image.fromarray(RAMP), exif=exif))
    np.testing.assert_array_equal(photo.pixels, np.rot90(RAMP, turns))


def test_transparent_photo_is_shown_over_white_and_keeps_its_alpha():
    alpha = np.zeros((24, 16), np.uint8)
    alpha[6:12, 4:9] = 255
    photo = read_photo(encoded(Image.fromarray(np.dstack([RAMP, alpha]))))
    np.testing.assert_array_equal(photo.alpha, alpha)
    np.testing.assert_array_equal(photo.pixels[alpha == 255], RAMP[alpha == 255])
    assert (photo.pixels[alpha == 0] == 255).all()


def test_opaque_alpha_counts_as_none():
    assert read_photo(encoded(Image.fromarray(RAMP).convert("RGBA"))).alpha is None


def test_palette_with_a_transparent_colour():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    image.putpixel((0, 0), 0)
    photo = read_photo(encoded(image, transparency=0))
    assert photo.alpha[0, 0] == 0
    assert photo.alpha[1:].min() == 255
    assert photo.pixels[2, 2].tolist() == [0, 0, 255]


def test_sixteen_bits_keep_their_range():
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)
    photo = read_photo(encoded(Image.fromarray(grey)))
    assert photo.pixels[0, :, 0].tolist() == [0, 1, 128, 255]
    assert photo.pixels.shape == (1, 4, 3)


def test_cmyk_and_one_bit_become_rgb():
    cmyk = read_photo(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert cmyk.pixels.shape == (8, 8, 3)
    assert np.abs(cmyk.pixels.astype(int) - [255, 0, 0]).max() < 16
    assert read_photo(encoded(Image.new("1", (8, 8), 1))).pixels.min() == 255


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(file_format, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), file_format)
    with pytest.raises(PhotoError, match=r"photo half.* cannot be read"):
        read_photo(content[: int(len(content) * share)], name="half")


@pytest.mark.parametrize("content", [b"no photo at all", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_photo_is_refused(content):
    with pytest.raises(PhotoError, match="cannot be read"):
        read_photo(content)


def test_empty_and_floating_point_files_are_refused():
    with pytest.raises(PhotoError, match="empty file"):
        read_photo(b"")
    with pytest.raises(PhotoError, match="floating-point"):
        read_photo(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


def test_decompression_bombs_are_refused_before_they_are_decoded():
    content = bytearray(encoded(Image.new("RGB", (8, 8))))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(PhotoError, match="far too large"):
        read_photo(bytes(content))
    with pytest.raises(PhotoError, match="16 x 24 pixels"):
        read_photo(encoded(Image.fromarray(RAMP)), max_pixels=100)


def test_missing_files_folders_and_pipes_are_refused(tmp_path):
    with pytest.raises(PhotoError, match="is missing"):
        read_photo(tmp_path / "none.png")
    with pytest.raises(PhotoError, match="not a plain file"):
        read_photo(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(PhotoError, match="not a plain file"):
        read_photo(tmp_path / "pipe.png")
    with pytest.raises(PhotoError):
        read_photo("nul\0byte.png")


def test_paths_that_leave_their_root_are_refused(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    Image.fromarray(RAMP).save(tmp_path / "outside.png")
    Image.fromarray(RAMP).save(root / "inside.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    assert read_photo("inside.png", root=root).pixels.shape == (24, 16, 3)
    for path in ("../outside.png", "link.png", str(tmp_path / "outside.png"), "nul\0byte.png"):
        with pytest.raises(PhotoError, match=r"leaves its root|cannot be followed"):
            read_photo(path, root=root)
