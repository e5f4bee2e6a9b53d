"""The IDX format, in which MNIST and its like come: a picture file, and a file of labels beside it.

    0x00 0x00 type dimensions | size of each dimension, 4 bytes | the numbers, row by row; all big-endian

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits" (the file format at its end).
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import DataError

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
NUMPY_DIMENSIONS = 64  # more than which numpy has not
CHUNK_BYTES = 2**24  # read at a time, so that a file that lies about its size does not fill the memory
PARTS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("t10k", "test")}
FORMATS = (
    "IDX files are named as those of MNIST: train-images-idx3-ubyte and train-labels-idx1-ubyte, and maybe "
    "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, packed as .gz or not."
)
_NAME = re.compile(r"(?<![a-z0-9])idx(\d?)(-(u?byte|short|int|float|double))?$")

Array = NDArray[Any]
Pair = tuple[Array, Array]


def is_idx(path: Path) -> bool:
    """Whether a file is named as IDX files are, or a folder holds such files."""
    return bool(_images(path)) if path.is_dir() else path.is_file() and _is_named(path)


def read_idx_parts(path: Path) -> dict[str, Pair]:
    """Pairs of images (N, ...) and labels (N,) for "train", and maybe for "validation" and "test".

    `path` is a folder, where the names say which file is which, or one file of images whose labels lie beside it:
    then these are the training part. Raises DataError.
    """
    if not path.is_dir():
        return {"train": _pair(path)}
    found: dict[str, Path] = {}
    for images in _images(path):
        part = _part(images)
        if part in found:
            raise DataError(
                f"{path.name}: both {found[part].name} and {images.name} may be meant for {part}. Give one of the "
                "files instead of the folder."
            )
        found[part] = images
    if "train" not in found:
        held = ", ".join(sorted(file.name for file in path.iterdir() if _is_named(file))) or "none"
        raise DataError(f"{path.name} has no images to train on among its IDX files ({held}). {FORMATS}")
    return {part: _pair(found[part]) for part in PARTS if part in found}


def read_idx_file(path: Path) -> Array:
    """The array of one file, packed by gzip where its name ends in .gz. Raises DataError for any other file."""
    try:
        if path.suffix.lower() != ".gz":
            with path.open("rb") as file:
                return _parsed(path.name, file)
        with gzip.open(path, "rb") as file:
            return _parsed(path.name, file)
    except (gzip.BadGzipFile, zlib.error) as cause:
        raise DataError(f"{path.name} is not whole, or was not packed by gzip: {cause}. Get the file again.") from None
    except EOFError:
        raise DataError(f"{path.name} ends too early. Get the file again.") from None
    except (OSError, MemoryError) as cause:
        raise DataError(f"{path.name} cannot be read: {cause or 'it does not fit into memory'}.") from None


def _parsed(name: str, file: BinaryIO | gzip.GzipFile) -> Array:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES:
        what = f"begins with {head.hex(' ')}" if head else "is empty"
        raise DataError(
            f"{name} {what}; an IDX file begins with 00 00, a type ({', '.join(f'{kind:02x}' for kind in TYPES)}) and "
            "the number of dimensions."
        )
    dtype, dimensions = np.dtype(TYPES[head[2]]), head[3]
    if not 0 < dimensions <= NUMPY_DIMENSIONS:
        raise DataError(f"{name} says that it has {dimensions} dimensions; give 1 for labels, 3 or 4 for images.")
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DataError(f"{name} ends within its head of {4 + 4 * dimensions} bytes. Get the file again.")
    shape = struct.unpack(f">{dimensions}I", sizes)
    expected = math.prod(shape) * dtype.itemsize
    content = bytearray()
    while chunk := file.read(min(CHUNK_BYTES, expected + 1 - len(content))):
        content += chunk
    if len(content) != expected:
        much = f"{len(content):,} bytes" if len(content) < expected else "more"
        raise DataError(f"{name}: its head says {shape}, which are {expected:,} bytes, and {much} follow.")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _pair(images: Path) -> Pair:
    """Images (N, ...) and their labels (N,), from the file that lies beside them."""
    plain = _plain(images)
    if not images.is_file():
        raise DataError(f"There is no file {images} (in {Path.cwd()}).")
    if "labels" in plain and "images" not in plain:
        raise DataError(f"{images.name} holds labels. Give the file of images, or the folder of both.")
    wanted = _NAME.sub(lambda found: f"idx{found[1] and 1}{found[2] or ''}", plain.replace("images", "labels"))
    beside = sorted((file for file in images.parent.iterdir() if _plain(file) == wanted), key=_is_packed)
    if wanted == plain or not beside:
        raise DataError(f"{images.name}: there is no file of its labels beside it ({wanted}). {FORMATS}")
    x, y = read_idx_file(images), read_idx_file(beside[0])
    if y.ndim != 1 or y.dtype.kind == "f":
        raise DataError(f"{beside[0].name} holds {y.dtype} of shape {y.shape}; labels are one whole number per image.")
    if x.ndim < 3 or x.dtype != np.uint8:
        raise DataError(f"{images.name} holds {x.dtype} of shape {x.shape}; images are bytes (N, height, width).")
    if len(x) != len(y):
        raise DataError(f"{images.name} has {len(x):,} images, and {beside[0].name} has {len(y):,} labels.")
    return x, y


def _images(folder: Path) -> list[Path]:
    """The files of images in a folder; one that lies there packed and unpacked counts once, unpacked."""
    files = [file for file in folder.iterdir() if file.is_file() and _is_named(file) and "images" in _plain(file)]
    return list({_plain(file): file for file in sorted(files, key=lambda file: (not _is_packed(file), file))}.values())


def _part(images: Path) -> str:
    words = set(re.split(r"[-_.]", _plain(images)))
    return next((part for part, names in PARTS.items() if words & set(names)), "train")


def _is_named(path: Path) -> bool:
    return not path.name.startswith(".") and _NAME.search(_plain(path)) is not None


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _plain(path: Path) -> str:
    """The name in small letters, without .gz and with dashes for dots, which differ between copies of a set."""
    return (path.stem if _is_packed(path) else path.name).lower().replace(".", "-")
