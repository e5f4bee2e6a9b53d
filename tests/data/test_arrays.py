"""Arrays and `.npz` files: names, kinds of labels, standardising, and what is refused."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.data.arrays import ArrayEncoder, from_arrays
from rheostat.data.base import Kind
from rheostat.data.read import read
from rheostat.data.split import split
from rheostat.errors import DataError, SettingError

RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (60, 4))
Y = np.arange(60) % 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays")


def saved(folder, name="data.npz", **arrays):
    np.savez(folder / name, **arrays)
    return folder / name


def both(x=X, y=Y, **options):
    return from_arrays("data", {"train": (x, y)}, **options)


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("X", "Y"), ("inputs", "labels"), ("data", "targets")])
def test_the_names_of_arrays(folder, x, y):
    data = read(saved(folder, **{x: X, y: Y, "else": np.zeros(3)}))
    train, validation = split(60, 0.2, 0, Y)
    mean, sd = X[train].mean(0), X[train].std(0)
    assert np.allclose(data.train[0], (X[train] - mean) / sd, atol=1e-5)
    assert np.allclose(data.validation[0], (X[validation] - mean) / sd, atol=1e-5)
    assert data.validation[1].tolist() == Y[validation].tolist()
    assert (data.name, data.classes, data.inputs, data.outputs) == ("data", ("0", "1", "2"), 4, 3)


def test_parts_that_are_given_are_kept(folder):
    path = saved(
        folder, x_train=X[:30], y_train=Y[:30], x_valid=X[30:45], y_valid=Y[30:45], x_test=X[45:], y_test=Y[45:]
    )
    data = read(path)
    mean, sd = X[:30].mean(0), X[:30].std(0)
    assert np.allclose(data.validation[0], (X[30:45] - mean) / sd, atol=1e-5)
    assert data.test[1].tolist() == Y[45:].tolist()
    split_off = read(saved(folder, "two.npz", X_train=X[:50], y_train=Y[:50], X_test=X[50:], y_test=Y[50:]))
    assert [len(part[0]) for part in (split_off.train, split_off.validation, split_off.test)] == [40, 10, 10]


def test_another_file_to_test_on(folder):
    test = saved(folder, "test.npz", x=X[:7], y=Y[:7])
    data = read(saved(folder, x=X, y=Y), test=test)
    assert data.test[1].tolist() == Y[:7].tolist()
    assert torch.equal(data.encoder.encode(test), data.test[0])
    assert data.fingerprint != read(folder / "data.npz").fingerprint
    parts = saved(folder, "parts.npz", x_train=X, y_train=Y, x_test=X[:5], y_test=Y[:5])
    assert len(read(folder / "data.npz", test=parts).test[0]) == 5


@pytest.mark.parametrize(
    ("y", "kind", "classes", "targets"),
    [
        (Y, "classification", ("0", "1", "2"), 0),
        (Y * 7 - 7, "classification", ("-7", "0", "7"), 0),
        (Y[:, None], "classification", ("0", "1", "2"), 0),
        (Y.astype(float), "classification", ("0", "1", "2"), 0),
        (Y == 1, "classification", ("False", "True"), 0),
        (np.array(["c", "a", "b"])[Y], "classification", ("a", "b", "c"), 0),
        (np.eye(3)[Y], "classification", ("0", "1", "2"), 0),
        (np.eye(3, dtype=int)[Y], "classification", ("0", "1", "2"), 0),
        (np.arange(60) % 30, "classification", tuple(map(str, range(30))), 0),  # whole numbers are classes
        ((np.arange(60) % 30).astype(float), "regression", (), 1),
        (X[:, 0], "regression", (), 1),
        (X[:, :1], "regression", (), 1),
        (X[:, :2], "regression", (), 2),
    ],
)
def test_the_kind_of_labels(y, kind, classes, targets):
    data = both(y=y)
    assert (data.kind, data.classes, data.outputs) == (kind, classes, targets or len(classes))
    assert data.train[1].shape[1:] == (() if classes else (targets,))


def test_labels_decode_to_what_was_given():
    several = both(y=X[:, :2] * [1, 50] + 9)
    train, _ = split(60, 0.2, 0)
    assert np.allclose(several.encoder.labels.decode(several.train[1]), (X[:, :2] * [1, 50] + 9)[train], rtol=1e-5)
    assert several.target_scale == 1.0  # two units: errors stay in standard units
    assert several.train[1].std(0, correction=0).tolist() == pytest.approx([1, 1], abs=1e-5)
    words = both(y=np.array(["c", "a", "b"])[Y])
    scores = torch.nn.functional.one_hot(words.train[1], 3)
    train, _ = split(60, 0.2, 0, (Y + 2) % 3)
    assert words.encoder.labels.decode(scores) == [["c", "a", "b"][Y[i]] for i in train]


def test_the_kind_can_be_given():
    assert both(y=np.arange(60), kind=Kind.REGRESSION).outputs == 1
    assert both(y=np.eye(3)[Y], kind=Kind.REGRESSION).outputs == 3
    assert both(y=(np.arange(60) % 25).astype(float), kind=Kind.CLASSIFICATION).outputs == 25


def test_images_keep_their_shape_and_share_one_scale():
    images = RNG.integers(0, 256, (60, 5, 6)).astype(np.uint8)
    data = both(x=images)
    train, _ = split(60, 0.2, 0, Y)
    part = images[train].astype(float)
    assert data.train[0].shape == (48, 5, 6) and data.inputs == 30
    assert np.allclose(data.train[0], (part - part.mean()) / part.std(), atol=1e-5)


def test_one_number_per_example_is_one_feature():
    assert both(x=X[:, 0]).train[0].shape == (48, 1)


def test_the_encoder_survives_json():
    for data in (both(), both(x=X.reshape(60, 2, 2)), both(y=X[:, 0])):
        described = json.loads(json.dumps(data.encoder.describe()))
        assert ArrayEncoder.from_description(described) == data.encoder
    with pytest.raises(DataError, match="not the description"):
        ArrayEncoder.from_description({"shape": [1]})


def test_the_fingerprint_is_that_of_the_data():
    assert both().fingerprint == both(seed=5).fingerprint
    changed = X.copy()
    changed[17, 2] += 1e-12
    assert len({both().fingerprint, both(x=changed).fingerprint, both(x=X.T.reshape(60, 4)).fingerprint}) == 3


# -- what is refused -----------------------------------------------------------------------------------------


def hole(array, place, value):
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (hole(hole(X, (17, 2), np.nan), (40, 0), np.inf), Y, r"inputs hold 2 NaN or infinite.*\(17, 2\)"),
        (X, hole(X[:, 0], 5, np.nan), r"labels hold 1 NaN.*\(5,\)"),
        (X, Y[:59], "labels have the shape .59,. for 60 examples"),
        (X, Y.reshape(60, 1, 1), "shape .60, 1, 1."),
        (X[:, :0], Y, "at least one example with one feature"),
        (X[0, 0], Y, "shape"),
        (X.astype(complex), Y, "type complex128"),
        (X.astype(str), Y, "must be numbers"),
        (X, Y.astype("M8[s]"), "type datetime64"),
        (X, np.array([["a", "b"]] * 60), "texts"),
        (X[:9], Y[:9], "9 labelled rows are too few"),
        (X, np.ones(60, int), "all 60 rows have the same label"),
        (X, np.arange(60), "60 different labels in 60 rows.*kind='regression'"),
        (np.sign(X - 3) * 1e308, Y, "too large"),
    ],
)
def test_what_cannot_be_trained_on_is_said_in_words(x, y, words):
    with pytest.raises(DataError, match=words):
        both(x=np.asarray(x), y=y)


@pytest.mark.parametrize(
    ("y", "kind", "words"),
    [
        (np.array(["a", "b"])[Y % 2], Kind.REGRESSION, "texts"),
        (X[:, :2], Kind.CLASSIFICATION, "not classes"),
    ],
)
def test_kinds_that_do_not_fit(y, kind, words):
    with pytest.raises(DataError, match=words):
        both(y=y, kind=kind)


def test_parts_that_do_not_fit():
    parts = {"train": (X[:40], Y[:40]), "test": (X[40:], Y[40:] + 1)}
    with pytest.raises(DataError, match="data, test: Unknown class 3.*0, 1, 2"):
        from_arrays("data", parts)
    with pytest.raises(DataError, match=r"shape \(3,\); those to train on have \(4,\)"):
        from_arrays("data", {"train": (X[:40], Y[:40]), "validation": (X[40:, :3], Y[40:])})
    with pytest.raises(DataError, match="data, test: its labels are"):
        from_arrays("data", {"train": (X, X[:, 0]), "test": (X, X[:, :2])})
    with pytest.raises(DataError, match="data, test: its labels are"):
        from_arrays("data", {"train": (X, Y), "test": (X, np.array(["a", "b"])[Y % 2])})
    with pytest.raises(DataError, match="data, test: its labels are"):
        from_arrays("data", {"train": (X, np.array(["a", "b"])[Y % 2]), "test": (X, Y)})


def test_files_without_the_arrays(folder):
    with pytest.raises(DataError, match=r"no array 'x'.*it holds 'pixels', 'y'"):
        read(saved(folder, pixels=X, y=Y))
    with pytest.raises(DataError, match="no array 'y'"):
        read(saved(folder, x=X))
    with pytest.raises(DataError, match="no array 'y_val'"):
        read(saved(folder, x_train=X, y_train=Y, x_val=X))
    with pytest.raises(DataError, match="more than one.*x, inputs"):
        read(saved(folder, x=X, inputs=X, y=Y))
    with pytest.raises(DataError, match="cannot be read.*Object arrays"):
        read(saved(folder, x=np.array([["a", 1]] * 60, dtype=object), y=Y))
    with pytest.raises(SettingError, match="label='y'"):
        read(saved(folder, x=X, y=Y), label="y")


def test_files_that_are_no_archives(folder):
    path = folder / "plain.npz"
    for content in (b"", b"nothing", X.tobytes()):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not an .npz file"):
            read(path)
    np.save(folder / "one.npy", X)
    (folder / "one.npy").rename(path)
    with pytest.raises(DataError, match="not an .npz file"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"not an array")
        archive.writestr("y", b"text")
    with pytest.raises(DataError, match=r"plain\.npz"):
        read(path)


PACKED = io.BytesIO()
np.savez_compressed(PACKED, x=X[:12].astype(np.float32), y=Y[:12])


@settings(max_examples=100)
@given(st.integers(0, len(PACKED.getvalue()) - 1), st.integers(0, 255), st.booleans())
def test_a_damaged_file_loads_or_is_refused_in_words(tmp_path_factory, place, byte, cut):
    content = bytearray(PACKED.getvalue())
    content[place] = byte
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    path.write_bytes(content[:place] if cut else content)
    try:
        data = read(path)
    except DataError:
        return
    assert torch.isfinite(data.train[0]).all() and len(data.train[0]) + len(data.validation[0]) == 12
