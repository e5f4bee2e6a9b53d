"""The door of the data: built-in sets, and what is said where nothing can be read."""

from __future__ import annotations

import doctest
import subprocess
import sys

import numpy as np
import pytest
import torch

from rheostat.data import builtin, delimited, split
from rheostat.data.base import Form, Kind
from rheostat.data.read import read
from rheostat.errors import DataError, SettingError


def test_digits():
    from sklearn.datasets import load_digits

    data = read("digits")
    assert (len(data.train[0]), len(data.validation[0]), data.test) == (1437, 360, None)
    assert (data.inputs, data.outputs, data.classes) == (64, 10, tuple("0123456789"))
    pixels, classes = load_digits(return_X_y=True)
    train, validation = split.split(1797, 0.2, 0, classes)
    sd = pixels[train].std(0)
    expected = (pixels - pixels[train].mean(0)) / np.where(sd == 0, 1, sd)
    assert (sd == 0).any()  # corners that are never inked
    assert np.allclose(data.train[0], expected[train], atol=1e-4)
    assert np.allclose(data.validation[0], expected[validation], atol=1e-4)
    assert data.validation[1].tolist() == classes[validation].tolist()
    assert not torch.equal(read("digits", seed=1).validation[0], data.validation[0])


@pytest.mark.parametrize(
    ("name", "shape", "outputs"),
    [("breast_cancer", (569, 30), 2), ("wine", (178, 13), 3), ("iris", (150, 4), 3), ("diabetes", (442, 10), 1)],
)
def test_other_built_in_sets(name, shape, outputs):
    data = read(name)
    assert (len(data.train[0]) + len(data.validation[0]), data.inputs) == shape
    assert data.outputs == outputs
    if name == "diabetes":
        assert data.kind is Kind.REGRESSION and data.target_scale == pytest.approx(77.1, abs=4)  # sd of all rows
    if name == "iris":
        assert data.classes == ("setosa", "versicolor", "virginica")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("digit", "Did you mean 'digits'.*Supported: .*csv.*npz"),
        ("data.xlsx", "'.xlsx' cannot be read.*Supported"),
        ("notes.csv.zip", "'.zip' cannot be read"),
        ("archive.tar.gz", "'.tar.gz' cannot be read"),
        ("nowhere.csv", r"no file nowhere\.csv \(in "),
        ("nowhere.npz", "no file"),
    ],
)
def test_targets_that_cannot_be_read(target, words):
    with pytest.raises(DataError, match=words):
        read(target)


def test_a_test_file_that_is_not_there(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    with pytest.raises(DataError, match="no file nowhere"):
        read(path, label="y", test="nowhere.csv")


@pytest.mark.parametrize(
    "arguments",
    [{"label": "y"}, {"test": "a.csv"}, {"kind": "regression"}, {"kind": "guess"}, {"validation_fraction": 1}],
)
def test_arguments_without_meaning(arguments):
    with pytest.raises(SettingError, match=next(iter(arguments))):
        read("digits", **arguments)


def test_scikit_learn_is_not_imported_for_a_file():
    code = "import sys, rheostat.data.read, rheostat.data.tabular; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("module", [builtin, delimited, split])
def test_examples_in_docstrings(module):
    results = doctest.testmod(module, extraglobs={"np": np})
    assert results.attempted and not results.failed


def test_labelled_texts_that_datasets_saved_are_read_as_texts(tmp_path):
    from tests.data.test_huggingface import LABEL, STRING, saved

    texts = [f"word{n} and word{n % 5} are {'good' if n % 2 else 'bad'} things to say about it" for n in range(60)]
    columns = {"text": texts, "label": [n % 2 for n in range(60)]}
    data = read(saved(tmp_path / "reviews", columns, {"text": STRING, "label": LABEL}))
    assert data.form is Form.TEXTS and data.classes == ("bad", "good")
    assert len(data.train) + len(data.validation) == 60
