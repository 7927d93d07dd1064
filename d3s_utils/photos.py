"""Reading one photo that somebody else made, safely: upright, RGB, 8 bits, whole, or a `PhotoError` that says why."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")  # none that runs another program
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2")
MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * 2**20
Image.init()  # registers every format, once, before threads ask for them


class PhotoError(ValueError):
    """A photo, or a source of photos, that cannot be used; the message says what came and what to do."""


@dataclass(frozen=True)
class Photo:
    """One photo in memory.

    Attributes:
        pixels: uint8, shape (h, w, 3), RGB; a transparent photo is shown over white.
        alpha: Opacity, uint8, shape (h, w), or None where the photo has none or is opaque everywhere.
        sha256: Of the encoded file.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    sha256: str = ""


def read_photo(
    source: str | Path | bytes,
    *,
    name: str | None = None,
    root: str | Path | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Photo:
    """Read a photo whole: turned upright by its EXIF tag, in 8-bit RGB, with its alpha beside it.

    CMYK, palette, grey, one-bit and 16-bit photos are converted; of an animation the first frame is taken.

    Args:
        source: A file, or the content of one.
        name: What messages call the photo; the path by default.
        root: Folder that a path must not leave, be it by ``..`` or by a link. A relative `source` is below it.
        max_pixels: Photos that declare more are refused before they are decoded.

    Raises:
        PhotoError: If the file is missing, no photo, truncated, too large, in floating point, or outside `root`.
    """
    if isinstance(source, bytes):
        name, content = name or f"a photo of {len(source)} bytes", source
    else:
        path = path_inside(source, root=root) if root is not None else Path(source)
        name, content = name or str(source), _read_file(path, name or str(source))
    if not content:
        raise PhotoError(f"photo {name} is an empty file")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise PhotoError(
                    f"photo {name} declares {image.width} x {image.height} pixels, at most {max_pixels} are read: "
                    "make it smaller"
                )
            image.load()
            pixels, alpha = _rgb_and_alpha(ImageOps.exif_transpose(image), name)
    except PhotoError:
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(f"photo {name} is far too large to be a photo: {error}") from error
    except Exception as error:  # on a broken file Pillow's decoders raise whatever they stumble over
        kinds = ", ".join(FORMATS)
        raise PhotoError(f"photo {name} cannot be read, is it whole and one of {kinds}? ({error})") from error
    return Photo(pixels, alpha, hashlib.sha256(content).hexdigest())


def path_inside(path: str | Path, *, root: str | Path) -> Path:
    """Return `path`, taken below `root`, resolved.

    Raises:
        PhotoError: If it lies outside `root` once ``..`` and links are followed.
    """
    try:
        top = Path(root).resolve()
        resolved = (top / path).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise PhotoError(f"path {str(path)!r} cannot be followed: {error}") from error
    if not resolved.is_relative_to(top):
        raise PhotoError(f"path {str(path)!r} leaves its root {str(root)!r}: copy the file into it")
    return resolved


def _read_file(path: Path, name: str) -> bytes:
    try:
        if not path.is_file():
            raise PhotoError(f"photo {name} is missing" if not path.exists() else f"photo {name} is not a plain file")
        if path.stat().st_size > MAX_BYTES:
            raise PhotoError(f"photo {name} has {path.stat().st_size} bytes, at most {MAX_BYTES} are read")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, PhotoError):
            raise
        raise PhotoError(f"photo {name} cannot be opened: {error}") from error


def _rgb_and_alpha(image: Image.Image, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    if image.mode == "F":
        raise PhotoError(f"photo {name} has floating-point pixels of unknown range: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image), name))
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")), None
    image = image.convert("RGBA")
    alpha = np.asarray(image.getchannel("A"))
    if alpha.min() == 255:
        return np.asarray(image.convert("RGB")), None
    over_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(over_white.convert("RGB")), alpha


def _eight_bits(values: np.ndarray, name: str) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise PhotoError(f"photo {name} has values from {values.min()} to {values.max()}, 0 to 65535 are read")
    return np.round(values / 257).astype(np.uint8)
