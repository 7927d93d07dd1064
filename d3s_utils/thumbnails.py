"""Small copies of a run's images: in a page as data, or as files beside it where the images themselves are large."""

import base64
import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from PIL import Image

from d3s_utils.atomic_files import replacing
from d3s_utils.photos import FORMATS, PhotoError, read_photo

SIDE = 96  # pixels of a thumbnail on its longer side
LARGE = 128  # images up to this side are shown as they are
_AT_ONCE = 256


def webp_uri(file: str | Path, *, root: Path, side: int) -> str:
    """Return an image as a data URI: WebP, at most `side` pixels on a side; small ones without loss.

    Raises:
        PhotoError: If it cannot be read, or lies outside `root`.
    """
    content = _webp(file, root=root, side=side)
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def write_thumbnails(
    files: Iterable[str], *, root: Path, folder: Path, side: int = SIDE, larger_than: int = LARGE
) -> set[str]:
    """Write a thumbnail of each image that is large, where there is none that is as new; remove those of no image.

    The thumbnail of ``a/b.png`` is ``<folder>/a/b.png.webp``. It may be made again at any time, so it is not synced to
    the disk, and a kill leaves no part of one. An image that is not there or cannot be read has none.

    Args:
        files: Paths relative to `root`, with slashes.
        root: Folder that the images lie in.
        folder: Holds thumbnails only.
        side: Pixels of a thumbnail on its longer side.
        larger_than: Images with a longer side of at most so many pixels need none.

    Returns:
        The files that have one now.
    """
    files = dict.fromkeys(file for file in files if file and _stays_inside(file))
    has = {file for file in files if _is_newer(folder / f"{file}.webp", root / file)}
    missing = [file for file in files if file not in has]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and encoding let other threads run
        for start in range(0, len(missing), _AT_ONCE):
            some = missing[start : start + _AT_ONCE]
            wrote = pool.map(lambda file: _write(file, root, folder, side, larger_than), some)
            has |= {file for file, there in zip(some, wrote, strict=True) if there}
    keep = {str(folder / f"{file}.webp") for file in has}
    for path in [path for path in _files_below(folder) if path not in keep]:
        os.unlink(path)
    return has


def _webp(file: str | Path, *, root: Path, side: int) -> bytes:
    image = Image.fromarray(read_photo(file, root=root).pixels)
    small = max(image.size) <= LARGE
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=small, quality=80)
    return buffer.getvalue()


def _write(file: str, root: Path, folder: Path, side: int, larger_than: int) -> bool:
    path = folder / f"{file}.webp"
    try:
        with Image.open(root / file, formats=FORMATS) as image:
            if max(image.size) <= larger_than:
                return False
        content = _webp(file, root=root, side=side)
    except (OSError, SyntaxError, PhotoError, Image.DecompressionBombError):  # the page says that it cannot be read
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with replacing(path, temporary):
        temporary.write_bytes(content)
    return True


def _stays_inside(file: str) -> bool:
    return not file.startswith("/") and ".." not in PurePosixPath(file).parts and "\0" not in file


def _is_newer(thumbnail: Path, image: Path) -> bool:
    try:
        return os.stat(thumbnail).st_mtime_ns >= os.stat(image).st_mtime_ns
    except OSError:
        return False


def _files_below(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        yield from (os.path.join(place, name) for name in names)
