"""Pictures with a class each: in a folder, in IDX files, or as arrays of bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rheostat.data import npz
from rheostat.data.base import Dataset, Form, Kind, Labels
from rheostat.data.idx import is_idx, read_idx_file, read_idx_parts
from rheostat.data.labels import check_targets, divide, fit_labels
from rheostat.data.pictures import LEAST_SIDE, SUFFIXES, Decoded, Shape, cached, decode, is_picture, walk
from rheostat.data.scaling import moments
from rheostat.errors import DataError, SettingError, unknown

Array = NDArray[Any]
Pair = tuple[Array, Array]

PARTS = {
    "train": {"train", "training"},
    "validation": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing"},
}
FEW = 0.01  # of the pictures may be broken; one always
NAMED = 3  # of many files or folders that a note is about
ARRAYS = (
    "Pictures are bytes (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels and at least "
    f"{LEAST_SIDE} x {LEAST_SIDE} pixels."
)
FORMATS = (
    f"Pictures ({', '.join(SUFFIXES)}) belong into a folder with one folder for each class, or into such folders "
    "for the parts: train, and maybe val and test."
)


@dataclass(frozen=True)
class ImageEncoder:
    """What pictures look like to the network: `shape` is (C, H, W), of bytes.

    `means` and `scales` (standard deviations) are those of each channel in the training part, in units of a byte;
    the network standardises by them.
    """

    labels: Labels
    shape: Shape
    means: tuple[float, ...]
    scales: tuple[float, ...]

    def encode(self, path: Path) -> Tensor:
        """New pictures, (N, C, H, W) uint8, whatever those to train on came from.

        `path` is a picture; a folder with pictures, which are taken in the order of their paths, those in folders
        within it too; an IDX file of images; or an `.npz` file. Pictures get the height, width and colours of those
        to train on; arrays must have them. Raises DataError.
        """
        if path.is_dir():
            files = [file.relative_to(path) for file in walk(path) if is_picture(file.name)]
            if not files:
                raise DataError(f"{path} holds no pictures ({', '.join(SUFFIXES)}).")
            return self._decoded(path, files)
        if not path.is_file():
            raise DataError(f"There is no file or folder {path} (in {Path.cwd()}).")
        if is_picture(path.name):
            return self._decoded(path.parent, [Path(path.name)])
        if path.suffix.lower() == ".npz":
            with npz.opened(path) as archive:
                return self._bytes(npz.named(path.name, archive, npz.INPUTS), path.name)
        if is_idx(path):
            return self._bytes(read_idx_file(path), path.name)
        raise DataError(f"{path.name}: give a picture ({', '.join(SUFFIXES)}), a folder of them, an IDX file or .npz.")

    def _decoded(self, folder: Path, files: Sequence[Path]) -> Tensor:
        decoded = decode(folder, files, shape=self.shape)
        if decoded.problems:
            raise DataError(f"{folder}: {_some(decoded.problems)} cannot be read. Repair or remove what is broken.")
        return torch.from_numpy(decoded.images)

    def _bytes(self, x: Array, what: str) -> Tensor:
        if not is_pictures(x) or _channels_first(x).shape[1:] != self.shape:
            raise DataError(f"{what}: it holds {x.dtype} of shape {x.shape}; pictures are bytes {self.shape} each.")
        return _tensor(_channels_first(x))

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values; `from_description` reads it back."""
        description: dict[str, Any] = msgspec.to_builtins(self)
        return description

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ImageEncoder:
        """The encoder that `describe` described. Raises DataError where it is not one."""
        try:
            return msgspec.convert(description, cls)
        except msgspec.ValidationError as cause:
            raise DataError(f"This is not the description of an encoder of pictures: {cause}.") from None


# -- arrays --------------------------------------------------------------------------------------------------


def is_pictures(x: Array) -> bool:
    """Whether an array is bytes (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, of 8 x 8 pixels or more.

    Smaller ones may well be something else: (N, length, 4) the letters of a text, one column each.

    >>> is_pictures(np.zeros((5, 28, 28), np.uint8)), is_pictures(np.zeros((5, 28, 4), np.uint8))
    (True, False)
    """
    if x.dtype != np.uint8 or x.ndim not in (3, 4):
        return False
    if x.ndim == 4 and not {x.shape[1], x.shape[3]} & {1, 3}:
        return False
    return all(side >= LEAST_SIDE for side in _channels_first(x).shape[2:])


def image_arrays(
    name: str,
    parts: Mapping[str, Pair],
    classes: tuple[str, ...],
    validation_fraction: float = 0.2,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Dataset:
    """The data set of pictures in memory.

    `parts` has pairs (pictures as `is_pictures` says, numbers of their classes (N,)) for "train" and maybe
    "validation" and "test". `classes` are the names of the classes. Without a validation part,
    `validation_fraction` of the training part, drawn by `seed`, becomes it.

    Raises DataError for what cannot be trained on, and SettingError for a wrong `validation_fraction`.
    """
    given = parts["train"][0].shape[1:]
    for part, (x, _) in parts.items():
        if not is_pictures(x):
            raise DataError(f"{name}, {part}: it holds {x.dtype} of shape {x.shape}. {ARRAYS}")
        if x.shape[1:] != given:
            raise DataError(
                f"{name}, {part}: its pictures have the shape {x.shape[1:]}; those to train on have {given}."
            )
    images = {part: _channels_first(x) for part, (x, _) in parts.items()}
    codes = {part: y for part, (_, y) in parts.items()}
    digest = hashlib.sha256(repr(classes).encode())
    for part in parts:
        for array in (images[part], codes[part].astype(np.int64)):
            digest.update(f"{part}{array.shape}".encode() + np.ascontiguousarray(array).view(np.uint8).data)
    if "validation" in parts:
        check_targets(name, Kind.CLASSIFICATION, codes["train"])
        sizes = (
            f"{len(codes['train']):,} pictures to train on and {len(codes['validation']):,} to validate on, as given."
        )
        split_notes: tuple[str, ...] = (sizes,)
    else:
        train, validation, split_notes = divide(name, Kind.CLASSIFICATION, codes["train"], validation_fraction, seed)
        for each in (images, codes):
            each |= {"train": each["train"][train], "validation": each["train"][validation]}
    labels, label_notes = fit_labels(f"The class of a picture in {name}", Kind.CLASSIFICATION, classes, codes["train"])
    shape: Shape = images["train"].shape[1:]
    means, scales = moments(np.moveaxis(images["train"], 1, -1).reshape(-1, shape[0]), name)
    encoder = ImageEncoder(labels, shape, tuple(means.tolist()), tuple(scales.tolist()))
    tensors = {part: (_tensor(images[part]), labels.encode(codes[part], name)) for part in images}
    looks = f"Pictures of {shape[1]} x {shape[2]} pixels, {'grey' if shape[0] == 1 else 'in colour'}."
    return Dataset(
        name=name,
        train=tensors["train"],
        validation=tensors["validation"],
        test=tensors.get("test"),
        encoder=encoder,
        notes=(*notes, looks, *label_notes, *split_notes),
        fingerprint=digest.hexdigest()[:12],
        form=Form.IMAGES,
        means=encoder.means,
        scales=encoder.scales,
    )


def read_idx(path: Path, validation_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """The data set of IDX files, as MNIST has them: a folder, or one file of images with its labels beside it.

    Raises DataError for files that cannot be trained on, and SettingError for a wrong `validation_fraction`.
    """
    parts = read_idx_parts(path)
    values = np.unique(parts["train"][1])
    for part, (_, y) in parts.items():
        if len(others := np.setdiff1d(y, values)):
            raise DataError(f"{path.name}, {part}: {unknown('class', others[0].item(), values)}")
    coded = {part: (x, np.searchsorted(values, y)) for part, (x, y) in parts.items()}
    name = path.resolve().name if path.is_dir() else path.name.split(".")[0]
    return image_arrays(name, coded, tuple(map(str, values)), validation_fraction, seed)


def _channels_first(x: Array) -> Array:
    """(N, C, H, W) of pictures in any allowed order; sides are at least 8, so that channels cannot be mistaken."""
    if x.ndim == 3:
        return x[:, None]
    return x if x.shape[1] in (1, 3) and x.shape[3] not in (1, 3) else np.moveaxis(x, 3, 1)


def _tensor(x: Array) -> Tensor:
    return torch.from_numpy(np.require(x, requirements=["C", "W"]))


# -- folders -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """The pictures of one part: `files` relative to `folder`, and the name of the class of each."""

    folder: Path
    files: tuple[Path, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def is_image_folder(path: Path) -> bool:
    """Whether at least half of the files in a folder, and in folders within it, are pictures."""
    if not path.is_dir():
        return False
    files = [is_picture(file.name) for file in walk(path) if not file.name.startswith(".")]
    return any(files) and 2 * sum(files) >= len(files)


def read_images(
    folder: Path,
    test: Path | None = None,
    validation_fraction: float = 0.2,
    seed: int = 0,
    size: int | None = None,
) -> Dataset:
    """The data set of a folder of pictures; `FORMATS` says how it is laid out.

    `test` is another such folder, held out. Pictures get one size, a square of `size` pixels where that is given;
    `pictures.decode` says how. What is decoded is kept in `.rheostat/cache`, which may be removed at any time. Up to
    one in a hundred pictures may be broken, which leaves them out, with a note.

    Raises DataError for a folder that cannot be trained on, and SettingError for an argument that is not allowed.
    """
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < LEAST_SIDE):
        raise SettingError(f"size={size!r}: give a whole number of pixels from {LEAST_SIDE}, such as 64.")
    listings, notes = _listings(folder, test)
    decoded, cache_notes = cached(listings["train"].folder, listings["train"].files, size)
    pictures = {"train": decoded}
    for part in listings.keys() - pictures:
        pictures[part], more = cached(listings[part].folder, listings[part].files, shape=decoded.shape)
        cache_notes = cache_notes or more
    broken = _broken(listings, pictures)
    names = {
        part: [name for name, kept in zip(each.classes, pictures[part].kept.tolist(), strict=True) if kept]
        for part, each in listings.items()
    }
    classes = _classes(folder, names["train"])
    places = {name: place for place, name in enumerate(classes)}
    parts = {}
    for part, each in names.items():
        if others := sorted(set(each) - set(classes)):
            raise DataError(f"{listings[part].folder}: {unknown('class folder', others[0], classes)}")
        parts[part] = pictures[part].images, np.array([places[name] for name in each])
    notes += [note for each in listings.values() for note in each.notes]
    how = f"{listings['train'].folder}: {len(decoded.images):,} pictures of {decoded.how}."
    return image_arrays(
        folder.resolve().name, parts, classes, validation_fraction, seed, (*notes, *broken, how, *cache_notes)
    )


def _listings(folder: Path, test: Path | None) -> tuple[dict[str, Listing], list[str]]:
    """The pictures to train on, and maybe those to validate and to test on; and notes."""
    roots, notes = _roots(folder), []
    if roots["train"] != folder:
        beside = [entry.name for entry in sorted(folder.iterdir()) if entry not in roots.values()]
        if beside:
            notes.append(
                f"{folder}: what lies beside {', '.join(r.name for r in roots.values())} is left out: {_some(beside)}."
            )
    if test is not None:
        others = _roots(test)
        roots["test"] = others.get("test", others["train"])
    return {part: _listing(root) for part, root in roots.items()}, notes


def _roots(folder: Path) -> dict[str, Path]:
    """The folder that holds the class folders of each part: for "train" the folder itself, unless it has parts."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} (in {Path.cwd()}).")
    folders = [each for each in sorted(folder.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    roots: dict[str, Path] = {}
    for each in folders:
        part = next((part for part, names in PARTS.items() if each.name.lower() in names), None)
        if part is not None and roots.setdefault(part, each) != each:
            raise DataError(f"{folder}: both {roots[part].name} and {each.name} may be meant for {part}. Keep one.")
    if "train" in roots and not any(is_picture(file.name) for file in roots["train"].iterdir()):
        return roots
    if roots and len(roots) == len(folders) and "train" not in roots:
        raise DataError(f"{folder} has a folder {next(iter(roots.values())).name}, but none to train on. {FORMATS}")
    return {"train": folder}


def _listing(root: Path) -> Listing:
    """The pictures in the folders of a folder, each of which is a class."""
    files: list[Path] = []
    others: list[str] = []
    stray: list[str] = []
    empty: list[str] = []
    for entry in sorted(root.iterdir()):
        if not entry.is_dir():
            (stray if is_picture(entry.name) else others).append(entry.name)
        elif not entry.name.startswith("."):
            inside = [file.relative_to(root) for file in walk(entry)]
            pictures = [file for file in inside if is_picture(file.name)]
            others += [file.as_posix() for file in inside if not is_picture(file.name)]
            files += pictures
            if not pictures:
                empty.append(entry.name)
    nested = [file.as_posix() for file in files if len(file.parts) > 2]
    notes = (
        (empty, "folders without a picture are left out"),
        (stray, "pictures that lie in no class folder are left out"),
        (others, "hidden files and others that are no pictures are left out"),
        (nested, "pictures in folders within a class folder belong to that class"),
    )
    words = tuple(f"{root}: {len(found):,} {what}: {_some(found)}." for found, what in notes if found)
    if not files:
        raise DataError(f"{root} has no class folders with pictures in them. {' '.join(words)} {FORMATS}")
    return Listing(root, tuple(files), tuple(_readable(file.parts[0]) for file in files), words)


def _broken(listings: Mapping[str, Listing], pictures: Mapping[str, Decoded]) -> tuple[str, ...]:
    """A note on the few pictures that cannot be read. Raises DataError where there are more."""
    problems = [f"{listings[part].folder.name}/{each}" for part in listings for each in pictures[part].problems]
    total = sum(len(each.files) for each in listings.values())
    few = max(int(FEW * total), 1)
    if len(problems) > few:
        raise DataError(
            f"{len(problems):,} of {total:,} pictures cannot be read: {_some(problems)}. Up to {few:,} would be left "
            "out: repair or remove what is broken."
        )
    if not problems:
        return ()
    return (f"{len(problems):,} of {total:,} pictures cannot be read and are left out: {_some(problems)}.",)


def _classes(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes, in their order as whole numbers or else as texts."""
    classes = set(names)
    if len(classes) < 2:
        held = f"one class folder with pictures, {names[0]!r}" if names else "no picture that can be read"
        raise DataError(f"{folder} holds {held}: there must be two classes at least. {FORMATS}")
    if len(names) < 2 * len(classes):
        raise DataError(
            f"{folder} has {len(names):,} pictures in {len(classes):,} class folders: give two for each at least."
        )
    return tuple(sorted(classes, key=int) if all(name.isdecimal() for name in classes) else sorted(classes))


def _readable(name: str) -> str:
    """The name of a folder as text; bytes that are none are replaced."""
    return os.fsencode(name).decode(errors="replace")


def _some(names: Sequence[str]) -> str:
    """The first of many, for a message."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(map(_readable, names[:NAMED])) + more
