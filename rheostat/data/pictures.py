"""Files of pictures: found in a folder, decoded once by Pillow, and kept for the next time."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rheostat.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
Shape = tuple[int, int, int]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
LEAST_SIDE, LARGEST_SIDE = 8, 64  # pixels, between which pictures are made unless the user wants them larger
MOST_PIXELS = 100_000_000  # of one file, beyond which it is not decoded: a small file may claim any number
BOMB = f"more than {MOST_PIXELS:,} pixels, which may be meant to fill the memory"
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # the tag of EXIF, and its values that exchange height and width
CACHE = Path(".rheostat") / "cache"
CACHE_VERSION = 1  # of how pictures are decoded and kept
# What Pillow raises for damaged files: the first three in 400,000 tries, the others are raised in its code too.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError),
    *(EOFError, LookupError, OverflowError, RuntimeError, MemoryError, struct.error, zlib.error),
)


@dataclass(frozen=True)
class Decoded:
    """The pictures of N files, as far as they can be read.

    `images` are (n, C, H, W); `kept` (N,) says which files they come from, and `problems` what is wrong with the
    others, a text each. `how` says in words what size they have, and how that came about.
    """

    images: Pixels
    kept: NDArray[np.bool_]
    problems: tuple[str, ...]
    how: str

    @property
    def shape(self) -> Shape:
        """(C, H, W) of a picture."""
        _, colours, height, width = self.images.shape
        return colours, height, width


def is_picture(name: str) -> bool:
    """Whether a file has the name of a picture that is not hidden."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def walk(folder: Path) -> Iterator[Path]:
    """All files under a folder, hidden ones too, but not what is in hidden folders. Raises DataError."""

    def stop(cause: OSError) -> None:
        raise DataError(f"{cause.filename} cannot be read: {cause.strerror}.")

    for place, folders, files in os.walk(folder, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files))


def decode(folder: Path, files: Sequence[Path], side: int | None = None, shape: Shape | None = None) -> Decoded:
    """The pictures of some files, given relative to a folder.

    All get one size, by resizing and cutting off what is too much at both ends: that of `shape` (C, H, W), or a
    square of `side` pixels. Without either, pictures that are all of one size, of 8 to 64 pixels, stay as they are, and
    others become squares of the median shorter side, within these limits. They are grey (C = 1) if all are
    grey, or as `shape` says. A transparent background becomes white, of an animation the first picture is taken,
    pictures with 16 bits lose the lower ones, and cameras' notes on how they were held are followed.

    Raises DataError where Pillow is absent, or the memory would not hold them.
    """
    paths = [folder / file for file in files]
    with _pillow(), ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 8)) as pool:
        if shape is None:
            height, width, how = _common_size(list(pool.map(_measured, paths)), side)
            colours = 3
        else:
            (colours, height, width), how = shape, f"{shape[1]} x {shape[2]} pixels, as those to train on"
        _check_memory(len(paths), colours * height * width)
        images = np.empty((len(paths), colours, height, width), np.uint8)
        problems = list(pool.map(partial(_decode_into, height=height, width=width), images, paths))
    kept = np.array([not problem for problem in problems], bool)
    if not kept.all():
        images = images[kept]
    if shape is None and all((picture == picture[:1]).all() for picture in images):
        images = images[:, :1].copy()
    named = (f"{file.as_posix()} ({problem})" for file, problem in zip(files, problems, strict=True) if problem)
    return Decoded(images, kept, tuple(named), how)


def cached(
    folder: Path, files: Sequence[Path], side: int | None = None, shape: Shape | None = None
) -> tuple[Decoded, tuple[str, ...]]:
    """The same from `.rheostat/cache`, if these files were decoded before and have not changed since; and notes."""
    digest = hashlib.sha256(repr((CACHE_VERSION, side, shape)).encode() + os.fsencode(folder.resolve()))
    for file in files:
        digest.update(b"\0" + os.fsencode(file) + _stamp(folder / file))
    path = CACHE / f"pictures-{digest.hexdigest()[:32]}.safetensors"
    if (known := _loaded(path, len(files))) is not None:
        return known, ()
    decoded = decode(folder, files, side, shape)
    try:
        _save(path, decoded)
    except (OSError, SafetensorError) as cause:
        reason = str(cause).splitlines()[0]
        return decoded, (f"The decoded pictures could not be kept in {CACHE.as_posix()} for the next time: {reason}.",)
    return decoded, ()


def _common_size(measured: Sequence[tuple[int, int] | None], side: int | None) -> tuple[int, int, str]:
    """Height and width for all, and how they come about; None is a file that cannot be read."""
    sizes = {size for size in measured if size is not None} or {(LEAST_SIDE, LEAST_SIDE)}
    height, width = next(iter(sizes))
    same = len(sizes) == 1
    if side is None and same and min(height, width) >= LEAST_SIDE and max(height, width) <= LARGEST_SIDE:
        return height, width, f"{height} x {width} pixels, as they are"
    why = "as asked for"
    if side is None:
        median = statistics.median_low(min(size) for size in measured if size is not None)
        side = min(max(median, LEAST_SIDE), LARGEST_SIDE)
        why = f"the median shorter side is {median}, the limits are {LEAST_SIDE} and {LARGEST_SIDE}"
    given = f"{height} x {width}" if same else "different sizes"
    return side, side, f"{side} x {side} pixels, from {given} by resizing and cutting the ends off ({why})"


def _measured(path: Path) -> tuple[int, int] | None:
    """Height and width of the picture as it is to be seen."""
    try:
        with _opened(path) as image:
            turned = _orientation(image) in TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except UNREADABLE:
        return None


def _decode_into(pixels: Pixels, path: Path, height: int, width: int) -> str:
    """Writes the picture into `pixels` (C, H, W); returns what is wrong with the file, or nothing."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with _opened(path) as file:
            file.draft(None, (2 * max(height, width),) * 2)  # a JPEG need not be unpacked in full
            upright = ImageOps.exif_transpose(file) if _orientation(file) > 1 else file
            image = _opaque(upright).convert("L" if len(pixels) == 1 else "RGB")
        fitted = np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))
        pixels[:] = fitted[None] if fitted.ndim == 2 else fitted.transpose(2, 0, 1)
    except UnidentifiedImageError:
        return "not a picture" if path.stat().st_size else "empty"
    except UNREADABLE as cause:
        reason = cause.strerror if isinstance(cause, OSError) else None
        return reason or (str(cause) or type(cause).__name__).splitlines()[0]
    return ""


def _opened(path: Path) -> Image:
    """Its head alone is read. Raises one of `UNREADABLE`."""
    from PIL import Image

    try:
        image = Image.open(path, formats=("JPEG", "PNG", "BMP", "GIF", "WEBP"))
    except Image.DecompressionBombError:
        raise ValueError(BOMB) from None
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise ValueError(BOMB)
    return image


def _orientation(image: Image) -> int:
    """How the camera was held, as EXIF counts; 1 is upright, and taken where the notes are damaged."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except (*UNREADABLE, TypeError):
        return 1


def _opaque(image: Image) -> Image:
    """With 8 bits, and white where it is transparent."""
    from PIL import Image

    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


@contextmanager
def _pillow() -> Iterator[None]:
    """With Pillow at hand, its warnings about odd files held back: what matters is found when they are decoded."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise DataError("To read pictures, Pillow is needed: pip install 'rheostat[images]'.") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_memory(pictures: int, size: int) -> None:
    needed, free = 2 * pictures * size, psutil.virtual_memory().available  # once whole, and once divided into parts
    if needed > free:
        raise DataError(
            f"{pictures:,} pictures of {size:,} bytes need {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB "
            "are free: give a smaller size, or fewer pictures."
        )


def _stamp(path: Path) -> bytes:
    """Size and time of change; nothing for a link that leads nowhere."""
    try:
        status = path.stat()
    except OSError:
        return b""
    return struct.pack("<qq", status.st_size, status.st_mtime_ns)


def _save(path: Path, decoded: Decoded) -> None:
    """Atomically: whoever reads it sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"images": decoded.images, "kept": decoded.kept}
    about = {"problems": json.dumps(decoded.problems), "how": decoded.how, "digest": _digest(tensors)}
    handle, name = tempfile.mkstemp(suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, name, about)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _loaded(path: Path, files: int) -> Decoded | None:
    """What `_save` wrote, unless it is absent or damaged."""
    try:
        with safe_open(path, "np") as file:
            about: dict[str, Any] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in ("images", "kept")}
        if about["digest"] != _digest(tensors) or len(tensors["kept"]) != files:
            return None
        return Decoded(tensors["images"], tensors["kept"], tuple(json.loads(about["problems"])), about["how"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _digest(tensors: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(f"{tensor.dtype}{tensor.shape}".encode() + np.ascontiguousarray(tensor).view(np.uint8).data)
    return digest.hexdigest()
