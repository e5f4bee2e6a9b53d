"""Folders saved by Hugging Face `datasets`: one that the library itself wrote, and others in the same layout.

`saved_table` was written by datasets 5.2.0: 24 rows, and the first 12 and 11 of them as validation and test.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rheostat.data.base import Form, Kind
from rheostat.data.huggingface import form_of, is_saved, read_examples, read_tables
from rheostat.data.tabular import read_tabular
from rheostat.errors import DataError

pa = pytest.importorskip("pyarrow")

SAVED = Path(__file__).parent / "saved_table"
LABEL = {"names": ["bad", "good"], "_type": "ClassLabel"}
STRING = {"dtype": "string", "_type": "Value"}
NUMBER = {"dtype": "float64", "_type": "Value"}


def saved(folder, columns, features, files=1):
    """A folder as `save_to_disk` leaves it, with the rows spread over some files."""
    folder.mkdir(parents=True)
    table = pa.table(columns)
    names = [f"data-{number:05}-of-{files:05}.arrow" for number in range(files)]
    size = -(-len(table) // files)
    for number, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(number * size, size), max_chunksize=3)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "abc", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"description": "", "features": features}))
    return folder


def loaded(path, label=None, **arguments):
    settings = {"test": None, "kind": None, "validation_fraction": 0.2, "seed": 0} | arguments
    return read_tabular(path, label, **settings)


def noted(dataset, words):
    return any(words in note for note in dataset.notes)


# -- tables --------------------------------------------------------------------------------------------------------


def test_what_the_library_itself_wrote():
    assert is_saved(SAVED) and form_of(SAVED) is Form.ROWS
    data = loaded(SAVED)
    assert (data.kind, data.classes, data.encoder.label) == (Kind.CLASSIFICATION, ("no", "yes"), "label")
    assert [len(part[0]) for part in (data.train, data.validation, data.test)] == [23, 11, 10]  # row 5 has no label
    kept = [i for i in range(24) if i != 5]
    x = np.array(kept) * 0.5
    assert np.allclose(data.train[0][:, 0], (x - x.mean()) / x.std(), atol=1e-5)
    assert data.train[1].tolist() == [i % 2 for i in kept]
    assert data.encoder.features[:2] == ("x", "when") and data.encoder.features[-2:] == (
        "colour is missing",
        "colour is red",
    )
    assert torch.equal(data.validation[0], data.train[0][:11]) and torch.equal(data.test[0], data.train[0][:10])
    assert noted(data, "The parts to train and to validate on are as given") and noted(data, "left out tags (list<")
    assert loaded(SAVED).fingerprint == data.fingerprint and len(data.fingerprint) == 12


def test_a_part_alone_and_new_files_of_either_kind(tmp_path):
    data = loaded(SAVED / "train", test=SAVED / "test")
    assert len(data.train[0]) + len(data.validation[0]) == 23 and len(data.test[0]) == 10
    inputs = data.encoder.encode(SAVED / "validation")
    path = tmp_path / "new.csv"
    rows = [f"{i * 0.5},{'red' if i % 2 else ''},2024-01-{1 + i:02}" for i in range(12)]
    path.write_text("\n".join(["x,colour,when", *rows]))
    assert torch.allclose(data.encoder.encode(path), inputs, atol=1e-6)
    with pytest.raises(DataError, match="several parts: give the folder of one, such as .*test"):
        data.encoder.encode(SAVED)


def test_files_batches_and_the_label_that_is_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=50), "z": rng.normal(size=50), "label": [i % 2 for i in range(50)]}
    features = {"x": NUMBER, "z": NUMBER, "label": LABEL}
    one = loaded(saved(tmp_path / "one", columns, features))
    many = loaded(saved(tmp_path / "many", columns, features, files=7))
    assert torch.equal(one.train[0], many.train[0]) and one.classes == ("bad", "good")
    assert loaded(tmp_path / "one", label="z").kind is Kind.REGRESSION
    features["other"], columns["other"] = LABEL, columns["label"]
    with pytest.raises(DataError, match="which column is to be predicted"):  # two columns of classes
        loaded(saved(tmp_path / "two", columns, features))


@pytest.mark.parametrize(
    ("splits", "parts"),
    [
        (["train", "dev", "unsupervised"], ["train", "validation"]),
        (["everything"], ["train"]),
        (["test", "train", "val"], ["train", "validation", "test"]),
    ],
)
def test_names_of_splits(tmp_path, splits, parts):
    for split in splits:
        saved(tmp_path / "d" / split, {"x": [1.0, 2.0], "label": [0, 1]}, {"x": NUMBER, "label": LABEL})
    (tmp_path / "d" / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    assert list(read_tables(tmp_path / "d")) == parts


def test_numbers_without_a_name_and_rows_without_a_label(tmp_path):
    features = {"x": NUMBER, "label": LABEL}
    columns = {"x": [float(i) for i in range(30)], "label": [-1 if i == 3 else i % 2 for i in range(30)]}
    data = loaded(saved(tmp_path / "a", columns, features))
    assert len(data.train[0]) + len(data.validation[0]) == 29
    columns["label"][4] = 2
    with pytest.raises(DataError, match="column 'label': there is no name for the class 2; there are 2 names"):
        loaded(saved(tmp_path / "b", columns, features))


# -- texts, images, sentence pairs ---------------------------------------------------------------------------------

REVIEWS = ["a very good film", "not good at all", "what a bad film", "I liked it very much"]


def test_texts_with_a_label(tmp_path):
    columns = {"idx": [7, 8, 9, 10], "text": [*REVIEWS[:3], None], "label": [1, 0, -1, 1]}
    features = {"idx": {"dtype": "int32", "_type": "Value"}, "text": STRING, "label": LABEL}
    folder = saved(tmp_path / "texts", columns, features, files=2)
    assert form_of(folder) is Form.TEXTS
    (examples,) = read_examples(folder).values()
    assert (list(examples.inputs), list(examples.labels)) == (REVIEWS[:2], ["good", "bad"])
    assert examples.notes[1] == "texts: left out 2 rows with a missing example or label."
    assert len(examples.digest) == 32
    # a label in words, which must be named
    other = saved(tmp_path / "words", {"text": REVIEWS, "mood": ["+", "-", "-", "+"]}, {"text": STRING, "mood": STRING})
    assert form_of(other) is Form.ROWS and form_of(other, "mood") is Form.TEXTS
    assert list(read_examples(other, "mood")["train"].labels) == ["+", "-", "-", "+"]


def test_words_or_further_columns_make_a_table(tmp_path):
    words = {"text": ["red", "blue", "red", "two words"], "label": [0, 1, 0, 1]}
    assert form_of(saved(tmp_path / "a", words, {"text": STRING, "label": LABEL})) is Form.ROWS
    more = {"text": REVIEWS, "stars": [1.0, 2.0, 3.0, 4.0], "label": [0, 1, 0, 1]}
    folder = saved(tmp_path / "b", more, {"text": STRING, "stars": NUMBER, "label": LABEL})
    assert form_of(folder) is Form.ROWS
    with pytest.raises(DataError, match="holds a table rather than images"):
        read_examples(folder)


def test_images_with_a_label(tmp_path):
    images = [{"bytes": bytes([i] * 4), "path": None} for i in range(4)]
    features = {"image": {"_type": "Image"}, "label": LABEL}
    folder = saved(tmp_path / "images", {"image": images, "label": [0, 1, 1, 0]}, features)
    assert form_of(folder) is Form.IMAGES
    examples = read_examples(folder)["train"]
    assert list(examples.inputs) == [bytes([i] * 4) for i in range(4)]
    assert list(examples.labels) == ["bad", "good", "good", "bad"]
    images[2] = {"bytes": None, "path": "far/away.png"}
    with pytest.raises(DataError, match="the images are elsewhere"):
        read_examples(saved(tmp_path / "elsewhere", {"image": images, "label": [0, 1, 1, 0]}, features))


def test_sentence_pairs(tmp_path):
    pairs = [{"de": "Ja.", "en": "Yes."}, None, {"de": "Nein.", "en": None}, {"de": "Gut.", "en": "Good."}]
    features = {"translation": {"languages": ["de", "en"], "_type": "Translation"}}
    folder = saved(tmp_path / "pairs", {"translation": pairs}, features)
    assert form_of(folder) is Form.PAIRS
    examples = read_examples(folder)["train"]
    assert (list(examples.inputs), list(examples.labels)) == (["Ja.", "Gut."], ["Yes.", "Good."])
    assert examples.notes == (
        "pairs: 2 sentence pairs, de to en.",
        "pairs: left out 2 rows with a missing example or label.",
    )


# -- what cannot be read -------------------------------------------------------------------------------------------


def changed(tmp_path, name, change):
    folder = tmp_path / "copy"
    shutil.copytree(SAVED, folder)
    change(folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("dataset_dict.json", lambda p: p.write_text("{"), "not what save_to_disk writes"),
        (
            "dataset_dict.json",
            lambda p: p.write_text('{"splits": ["a", "b"]}'),
            "no split 'train'; its splits are: a, b",
        ),
        ("dataset_dict.json", lambda p: p.write_text('{"splits": []}'), "its splits are: none"),
        ("train/state.json", lambda p: p.write_text('{"_data_files": []}'), "names no files"),
        ("train/state.json", lambda p: p.write_text('{"_data_files": [{"filename": "no.arrow"}]}'), "cannot be read"),
        ("train/state.json", Path.unlink, "state.json cannot be read"),
        ("train/dataset_info.json", lambda p: p.write_text('{"features": null}'), "not what save_to_disk writes"),
        ("train/dataset_info.json", lambda p: p.write_text('{"features": {"x": {"_type": 3}}}'), "column 'x' wrongly"),
        ("train/data-00000-of-00001.arrow", lambda p: p.write_bytes(b""), "Is it a whole"),
        ("train/data-00000-of-00001.arrow", lambda p: p.write_bytes(p.read_bytes()[:700]), "Is it a whole"),
        ("train/data-00000-of-00001.arrow", lambda p: p.write_bytes(b"nonsense" * 99), "Is it a whole"),
    ],
)
def test_damaged_folders(tmp_path, name, change, words):
    folder = changed(tmp_path, name, change)
    with pytest.raises(DataError, match=words):
        loaded(folder)


def test_a_file_with_other_columns(tmp_path):
    saved(tmp_path / "a", {"x": [1.0] * 9, "label": [0] * 9}, {"x": NUMBER, "label": LABEL}, files=2)
    saved(tmp_path / "b", {"z": [1.0] * 9}, {"z": NUMBER})
    shutil.copy(tmp_path / "b" / "data-00000-of-00001.arrow", tmp_path / "a" / "data-00001-of-00002.arrow")
    with pytest.raises(DataError, match="data-00001-of-00002.arrow lacks the column 'x'"):
        loaded(tmp_path / "a")


def test_other_folders(tmp_path):
    assert not is_saved(tmp_path) and not is_saved(tmp_path / "nowhere")
