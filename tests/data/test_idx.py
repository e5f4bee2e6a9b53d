"""IDX files: every type, every way they are named, and damaged ones."""

from __future__ import annotations

import gzip
import shutil
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rheostat.data.base import Form, Kind
from rheostat.data.idx import is_idx, read_idx_file, read_idx_parts
from rheostat.data.images import read_idx
from rheostat.data.split import split
from rheostat.errors import DataError, SettingError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 9, 12)).astype(np.uint8)
Y = (np.arange(60) % 3).astype(np.uint8)
CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array):
    """As the format's description has it."""
    head = bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def written(path, content, packed=False):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.fixture
def folder(tmp_path):
    """Both parts, packed, as MNIST comes."""
    place = tmp_path / "digits"
    for part, rows in (("train", slice(0, 45)), ("t10k", slice(45, 60))):
        written(place / f"{part}-images-idx3-ubyte.gz", idx(X[rows]), True)
        written(place / f"{part}-labels-idx1-ubyte.gz", idx(Y[rows]), True)
    return place


def test_a_folder_as_mnist_comes(folder):
    assert is_idx(folder)
    data = read_idx(folder)
    train, validation = split(45, 0.2, 0, Y[:45])
    assert (data.name, data.form, data.kind, data.classes) == (
        "digits",
        Form.IMAGES,
        Kind.CLASSIFICATION,
        ("0", "1", "2"),
    )
    for part, rows in ((data.train, train), (data.validation, validation), (data.test, range(45, 60))):
        images, classes = part
        assert images.dtype == torch.uint8 and classes.dtype == torch.int64
        assert np.array_equal(images.numpy(), X[list(rows)][:, None]) and classes.tolist() == Y[list(rows)].tolist()
    assert data.means == pytest.approx((X[train].mean(),)) and data.scales == pytest.approx((X[train].std(),))
    assert (data.inputs, data.outputs) == (108, 3)
    assert any("9 x 12 pixels, grey" in note for note in data.notes)


def test_the_arguments_of_the_split(folder):
    assert [len(part[0]) for part in (lambda d: (d.train, d.validation))(read_idx(folder, 0.4, 3))] == [27, 18]
    assert not torch.equal(read_idx(folder, seed=1).train[0], read_idx(folder, seed=2).train[0])
    with pytest.raises(SettingError, match="validation_fraction=1.5"):
        read_idx(folder, 1.5)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
        ("train-images.idx3-ubyte", "train-labels-idx1-ubyte.gz"),
        ("TRAIN-IMAGES-IDX3-UBYTE.GZ", "train-labels-idx1-ubyte"),
        ("emnist-letters-train-images-idx3-ubyte.gz", "emnist-letters-train-labels-idx1-ubyte.gz"),
        ("images.idx", "labels.idx"),
        ("images-idx", "labels-idx"),
        ("my_images.idx3", "my_labels.idx1"),
    ],
)
def test_names(tmp_path, images, labels):
    for name, content in ((images, X), (labels, Y)):
        written(tmp_path / name, idx(content), name.lower().endswith(".gz"))
    assert is_idx(tmp_path) and is_idx(tmp_path / images)
    one, folder = read_idx(tmp_path / images), read_idx(tmp_path)
    assert one.test is None and one.fingerprint == folder.fingerprint
    assert one.name == images.split(".")[0]


def test_one_file_is_trained_on_alone(folder):
    data = read_idx(folder / "t10k-images-idx3-ubyte.gz")
    assert data.test is None and len(data.train[0]) + len(data.validation[0]) == 15


def test_a_part_to_validate_on_is_kept(folder):
    for kind, content in (("images-idx3", X[:7]), ("labels-idx1", Y[:7])):
        written(folder / f"val-{kind}-ubyte", idx(content))
    data = read_idx(folder)
    assert np.array_equal(data.validation[0].numpy(), X[:7][:, None]) and len(data.train[0]) == 45


def test_unpacked_files_come_before_packed_ones(folder):
    written(folder / "train-images-idx3-ubyte", idx(255 - X[:45]))
    assert np.array_equal(read_idx_parts(folder)["train"][0], 255 - X[:45])


@pytest.mark.parametrize(
    "name", ["data.csv", "train_idx.csv", "idx3.csv", "prefixidx3-ubyte", ".train-images-idx3-ubyte"]
)
def test_other_files_are_not_taken_for_idx(tmp_path, name):
    path = written(tmp_path / name, b"1,2\n")
    assert not is_idx(path) and not is_idx(tmp_path) and not is_idx(tmp_path / "absent-idx3-ubyte")


def test_colours(tmp_path):
    for name, x in (
        ("first-images-idx4-ubyte", X.reshape(60, 1, 9, 12)),
        ("last-images-idx4-ubyte", np.stack([X] * 3, 3)),
    ):
        written(tmp_path / name, idx(x))
        written(tmp_path / name.replace("images-idx4", "labels-idx1"), idx(Y))
    assert read_idx(tmp_path / "first-images-idx4-ubyte").train[0].shape == (48, 1, 9, 12)
    data = read_idx(tmp_path / "last-images-idx4-ubyte")
    assert data.train[0].shape == (48, 3, 9, 12) and len(data.means) == 3


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4"])
def test_labels_of_every_whole_type_name_the_classes(folder, dtype):
    written(folder / "train-labels-idx1-ubyte.gz", idx(Y[:45].astype(dtype) * 5 - 5), True)
    written(folder / "t10k-labels-idx1-ubyte.gz", idx(Y[45:].astype(dtype) * 5 - 5), True)
    data = read_idx(folder)
    assert data.classes == ("-5", "0", "5") and data.test[1].tolist() == Y[45:].tolist()


@settings(deadline=None)
@given(
    st.sampled_from(list(CODES)).flatmap(
        lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=4))
    ),
    st.booleans(),
)
def test_every_type_and_shape(tmp_path_factory, array, packed):
    path = written(tmp_path_factory.getbasetemp() / f"any-idx{'.gz' if packed else ''}", idx(array), packed)
    back = read_idx_file(path)
    assert (
        back.dtype == array.dtype
        and back.dtype.isnative
        and np.array_equal(back, array, equal_nan=array.dtype.kind == "f")
    )


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; an IDX file begins with 00 00"),
        (b"\0\0\x08", "begins with 00 00 08;"),
        (b"\x89PNG\r\n", "begins with 89 50 4e 47"),
        (b"\0\0\x07\x01" + struct.pack(">I", 1) + b"x", "begins with 00 00 07 01"),
        (b"\0\0\x08\0", "0 dimensions"),
        (b"\0\0\x08\xff" + b"\0" * 1020, "255 dimensions"),
        (b"\0\0\x08\x03" + struct.pack(">2I", 1, 1), "ends within its head of 16 bytes"),
        (idx(X)[:-1], r"its head says \(60, 9, 12\), which are 6,480 bytes, and 6,479 bytes follow"),
        (idx(X) + b"\0", "6,480 bytes, and more follow"),
        (b"\0\0\x08\x03" + struct.pack(">3I", *[2**32 - 1] * 3) + b"abc", "and 3 bytes follow"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files_are_refused_in_words(tmp_path, content, words, packed):
    path = written(tmp_path / f"bad-images-idx3-ubyte{'.gz' if packed else ''}", content, packed)
    with pytest.raises(DataError, match=f"bad-images.*{words}"):
        read_idx_file(path)


def test_what_is_not_packed_well(tmp_path):
    path = tmp_path / "x-images-idx3-ubyte.gz"
    whole = gzip.compress(idx(X))
    for content, words in (
        (idx(X), "was not packed by gzip"),
        (whole[:-5], "ends too early"),
        (whole[:100], "ends too early"),
        (whole[:-8] + bytes(8), "not whole"),
        (b"", "is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=words):
            read_idx_file(path)


WHOLE, PACKED = idx(X[:12]), gzip.compress(idx(X[:12]))


@settings(deadline=None, max_examples=150)
@given(st.booleans(), st.integers(0, 2000), st.integers(0, 255), st.booleans())
def test_any_damage_is_read_or_refused_in_words(tmp_path_factory, packed, place, byte, cut):
    content = bytearray(PACKED if packed else WHOLE)
    place %= len(content)
    content[place] = byte
    path = tmp_path_factory.getbasetemp() / ("fuzz-idx3-ubyte" + ".gz" * packed)
    path.write_bytes(content[:place] if cut else content)
    try:
        read_idx_file(path)
    except DataError as error:
        assert path.name in str(error)
    else:
        assert not cut


def test_files_that_do_not_go_together(folder):
    images, labels = folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz"
    for content, words in (
        (Y[:44], "has 45 images, and train-labels-idx1-ubyte.gz has 44 labels"),
        (Y[:45, None], r"holds uint8 of shape \(45, 1\); labels are one whole number per image"),
        (Y[:45].astype("f4"), "holds float32"),
    ):
        written(labels, idx(content), True)
        with pytest.raises(DataError, match=words):
            read_idx(folder)
    written(labels, idx(Y[:45]), True)
    for content, words in ((X[:45].astype("i4"), "holds int32"), (X[:45, 0], r"shape \(45, 12\); images are bytes")):
        written(images, idx(content), True)
        with pytest.raises(DataError, match=words):
            read_idx(folder)
    for content, words in (
        (X[:45, :7], r"shape \(45, 7, 12\)"),
        (np.stack([X[:45]] * 2, 1), r"shape \(45, 2, 9, 12\)"),
    ):
        written(images, idx(content), True)  # too small, or with two channels
        with pytest.raises(DataError, match=words):
            read_idx(folder)
    written(images, idx(X[:45, :, :9]), True)
    with pytest.raises(DataError, match=r"digits, test: its pictures have the shape \(9, 12\).*train on have \(9, 9\)"):
        read_idx(folder)


def test_classes_that_training_does_not_have(folder):
    written(folder / "t10k-labels-idx1-ubyte.gz", idx(Y[45:] + 1), True)
    with pytest.raises(DataError, match="digits, test: Unknown class 3.*0, 1, 2"):
        read_idx(folder)


def test_labels_of_one_class(folder):
    written(folder / "train-labels-idx1-ubyte.gz", idx(Y[:45] * 0), True)
    shutil.rmtree(folder / "none", ignore_errors=True)
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match="same label"):
        read_idx(folder)


def test_files_that_are_absent(folder, tmp_path):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-images.*no file of its labels beside it \(t10k-labels-idx1-ubyte\)"):
        read_idx(folder)
    with pytest.raises(DataError, match="There is no file .*absent-images-idx3-ubyte"):
        read_idx(folder / "absent-images-idx3-ubyte")
    with pytest.raises(DataError, match="holds labels. Give the file of images"):
        read_idx(folder / "train-labels-idx1-ubyte.gz")
    (folder / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(
        DataError, match=r"no images to train on.*t10k-images-idx3-ubyte.gz, train-labels.*named as those of MNIST"
    ):
        read_idx(folder)
    odd = written(tmp_path / "odd-idx3-ubyte", idx(X))
    with pytest.raises(DataError, match="no file of its labels beside it"):
        read_idx(odd)


def test_two_sets_in_one_folder(folder):
    shutil.copy(folder / "train-images-idx3-ubyte.gz", folder / "other-train-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match="both other-train-images.* and train-images.* may be meant for train"):
        read_idx(folder)


def test_a_file_that_may_not_be_read(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_idx_file(path)
