"""Texts with labels: each kind of file, what is inferred and fitted, what is refused; by hand, and by fuzzing."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.data.base import UNKNOWN, Dataset, Form, Kind
from rheostat.data.split import split
from rheostat.data.text_files import looks_like_texts, words_per_cell
from rheostat.data.texts import TextEncoder, read_texts
from rheostat.errors import DataError, SettingError

SUBJECTS = ["film", "play", "book", "song", "plot", "cast"]
GOOD = [f"a lovely {one} , and a joy to see , number {n}" for n, one in enumerate(SUBJECTS)]
BAD = [f"a dull {one} that bored me , number {n}" for n, one in enumerate(SUBJECTS)]
ROWS = [pair for good, bad in zip(GOOD, BAD, strict=True) for pair in ((good, "good"), (bad, "bad"))]


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(rows=ROWS, delimiter="\t"):
    return "".join(f"{text}{delimiter}{label}\n" for text, label in rows)


def read(path, label=None, test=None, fraction=0.25, seed=0, **settings):
    return read_texts(path, label, test, fraction, seed, **settings)


def noted(data, words):
    return any(words in note for note in data.notes)


def back(data, part):
    """The texts and labels of a part, by the vocabulary."""
    tokens, codes = part.tensors
    texts = [data.vocabularies[0].decode(row) for row in tokens.tolist()]
    return list(zip(texts, [data.classes[code] for code in codes.tolist()], strict=True))


def check_sound(data):
    """What holds for every data set that loads."""
    assert isinstance(data, Dataset) and data.form is Form.TEXTS and data.kind is Kind.CLASSIFICATION
    for part in (data.train, data.validation, data.test or data.train):
        tokens, codes = part.tensors
        assert tokens.dtype == codes.dtype == torch.int64 and len(tokens) == len(codes) > 0
        assert tokens.min() >= 0 and tokens.max() < len(data.vocabularies[0]) and (tokens[:, 0] != 0).all()
        assert ((tokens[:, 1:] == 0) | (tokens[:, :-1] != 0)).all()  # padding is at the end
        assert codes.min() >= 0 and codes.max() < data.outputs
    described = json.loads(json.dumps(data.encoder.describe()))
    assert TextEncoder.from_description(described) == data.encoder
    assert len(data.fingerprint) == 12 and all(isinstance(note, str) and "\n" not in note for note in data.notes)


# -- kinds of files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("reviews.tsv", table()),
        ("reviews.tsv", "text\tlabel\n" + table()),
        ("reviews.tsv", "\ufeff" + table().replace("\n", "\r\n")),
        ("reviews.tsv", table() + "\n \n"),
        ("reviews.tsv", "".join(f"{label}\t{text}\n" for text, label in ROWS)),
        ("reviews.csv", "".join(f'"{text}",{label}\n' for text, label in ROWS)),
        ("reviews.csv.gz", gzip.compress("".join(f'{label},"{text}"\n' for text, label in ROWS).encode())),
        ("reviews.txt", "".join(f"__label__{label} {text}\n" for text, label in ROWS)),
        ("reviews.txt", "\n".join(f"__label__{label}\t{text}" for text, label in ROWS)),
    ],
)
def test_files_of_the_same_texts(tmp_path, name, content):
    data = read(written(tmp_path / name, content), tokens="character")
    train, validation = split(12, 0.25, 0, np.arange(12) % 2 == 0)
    check_sound(data)
    assert data.classes == ("bad", "good") and data.test is None and data.name == "reviews"
    assert back(data, data.train) == [ROWS[row] for row in train]
    assert back(data, data.validation) == [ROWS[row] for row in validation]
    assert noted(data, "9 rows to train on and 3 to validate on") and noted(data, "is predicted as one of 2 classes")
    assert looks_like_texts(tmp_path / name) or len(ROWS) < 10


def test_a_folder_of_tables(tmp_path):
    for name, rows in (("train", ROWS), ("dev", ROWS[:4]), ("test", ROWS[2:6])):
        written(tmp_path / "sst" / f"{name}.tsv", table(rows))
    written(tmp_path / "sst" / "README.md", "about")
    data = read(tmp_path / "sst", tokens="character")
    check_sound(data)
    assert [back(data, part) for part in (data.train, data.validation, data.test)] == [ROWS, ROWS[:4], ROWS[2:6]]
    assert data.name == "sst" and noted(data, "12 texts to train on and 4 to validate on, as given")
    other = read(tmp_path / "sst", test=written(tmp_path / "other.tsv", table(ROWS[:2])), tokens="character")
    assert back(other, other.test) == ROWS[:2] and other.fingerprint != data.fingerprint
    written(tmp_path / "sst" / "valid.csv", table(ROWS))
    with pytest.raises(DataError, match="more than one.*validation: dev.tsv, valid.csv"):
        read(tmp_path / "sst")


def imdb(folder, parts=("train", "test")):
    for part in parts:
        for number, (text, label) in enumerate(ROWS):
            written(folder / part / label / f"{number:03}_7.txt", text)
        written(folder / part / "labeledBow.feat", "1:2")
    written(folder / "imdb.vocab", "the")
    written(folder / "train" / "unsup" / "0_0.txt", "nobody knows")
    return folder


def test_a_folder_per_class(tmp_path):
    data = read(imdb(tmp_path / "imdb"), tokens="character")
    check_sound(data)
    assert data.classes == ("bad", "good") and noted(data, "left out unsup")
    assert sorted(back(data, data.train) + back(data, data.validation)) == sorted(ROWS)
    assert sorted(back(data, data.test)) == sorted(ROWS) and looks_like_texts(tmp_path / "imdb")
    same = read(tmp_path / "imdb" / "test", tokens="character")  # without train and test
    assert same.test is None and looks_like_texts(tmp_path / "imdb" / "test")
    assert data.encoder.encode(tmp_path / "imdb" / "test" / "good").shape[0] == 6


def test_breaks_in_files_are_spaces(tmp_path):
    folder = imdb(tmp_path / "imdb")
    written(folder / "train" / "good" / "000_7.txt", "one<br />two<BR/><br>three")
    written(folder / "train" / "bad" / "001_7.txt", "caf\xe9".encode("latin-1"))
    data = read(folder, seed=1)
    assert not any("br" in word for word in data.vocabularies[0].words) and noted(data, "1 files are not UTF-8")


def test_several_labels_count_once(tmp_path):
    lines = [f"__label__{label} __label__other {text}" for text, label in ROWS]
    data = read(written(tmp_path / "a.txt", "\n".join(lines)))
    assert data.classes == ("bad", "good") and noted(data, "12 lines have several labels")


# -- columns ---------------------------------------------------------------------------------------------------------


def test_columns_are_told_apart(tmp_path):
    lines = ["id\tbody\tstars\tlabel", *(f"{n}\t{text}\t{n % 5}\t{label}" for n, (text, label) in enumerate(ROWS))]
    path = written(tmp_path / "a.tsv", "\n".join(lines))
    for label in (None, "label", "last", "4"):
        data = read(path, label)
        assert data.classes == ("bad", "good") and data.encoder.layout.text == "body"
    assert noted(data, "left out the columns id, stars")
    assert read(path, "stars", fraction=0.5).classes == ("0", "1", "2", "3", "4")
    with pytest.raises(DataError, match="Unknown column 'labels'. Did you mean 'label'"):
        read(path, "labels")
    unnamed = written(tmp_path / "b.tsv", "\n".join(lines).replace("label", "mark"))
    with pytest.raises(DataError, match="which column is the class of the texts.*id, stars, mark"):
        read(unnamed)


def test_a_test_table_is_read_as_the_training_table_was(tmp_path):
    train = written(tmp_path / "a.tsv", "text\tlabel\n" + table())
    test = written(
        tmp_path / "b.tsv", "label\textra\ttext\ngood\t1\ta lovely film\nbad\t2\ta dull play\n\t3\tnothing\n"
    )
    data = read(train, test=test)
    assert back(data, data.test) == [("a lovely film", "good"), ("a dull play", "bad")]
    assert noted(data, "b.tsv: left out 1 rows without a label")
    for content, words in (
        ("text\tlabel\nfine\tugly\nfine\tgood\n", "Unknown class 'ugly'"),
        ("body\tlabel\nfine\tbad\nfine\tgood\n", "Unknown column 'text'"),
    ):
        with pytest.raises(DataError, match=words):
            read(train, test=written(tmp_path / "c.tsv", content))


def test_new_files_need_no_labels(tmp_path):
    data = read(written(tmp_path / "a.tsv", table()))
    expected = data.encoder.encode(written(tmp_path / "b.tsv", "a lovely film\tgood\na dull play\tbad\n"))
    assert torch.equal(data.encoder.encode(written(tmp_path / "c.tsv", "a lovely film\na dull play\n")), expected)
    assert torch.equal(data.encoder.encode(written(tmp_path / "d.txt", "a lovely film\na dull play")), expected)
    commas = data.encoder.encode(written(tmp_path / "g.tsv", "a, lovely film\na, dull play\n"))
    assert commas.shape == (2, 4)  # not two columns
    lines = "__label__good a lovely film\n__label__bad a dull play"
    assert torch.equal(data.encoder.encode(written(tmp_path / "e.txt", lines)), expected)
    with pytest.raises(DataError, match="has 3 columns; the training file had 2"):
        data.encoder.encode(written(tmp_path / "f.tsv", "a\tb\tc\nd\te\tf\n"))
    with pytest.raises(DataError, match="cannot be read"):
        data.encoder.encode(tmp_path / "nowhere.txt")


def test_classes_are_in_order(tmp_path):
    rows = [(f"words and number {n}", str(n % 3 * 10 - 10)) for n in range(12)]
    assert read(written(tmp_path / "a.tsv", table(rows))).classes == ("-10", "0", "10")
    rows = [(f"words and number {n}", ["none", "-", "x"][n % 3]) for n in range(12)]
    assert read(written(tmp_path / "b.tsv", table(rows))).classes == ("-", "none", "x")


# -- what is fitted --------------------------------------------------------------------------------------------------


def test_words_of_the_validation_part_are_unknown(tmp_path):
    written(tmp_path / "train.tsv", table())
    written(tmp_path / "dev.tsv", table([("a lovely zebra zebra", "good"), ("zebra", "bad")]))
    data = read(tmp_path)
    words = data.vocabularies[0]
    assert "zebra" not in words.words and "lovely" in words.words
    assert data.validation.tensors[0].tolist() == [[*words.encode("a lovely"), UNKNOWN, UNKNOWN], [UNKNOWN, 0, 0, 0]]
    assert noted(data, "60.00 % of the words of the texts validated on are not in the vocabulary")
    assert "film" in words.words and not {str(n) for n in range(9)} & {
        w for w in words.words if words.words.count(w) > 1
    }


def test_only_training_rows_are_looked_at(tmp_path):
    train, validation = split(12, 0.25, 0, np.arange(12) % 2 == 0)

    def changed(which):
        rows = [(text + " extra words words" * (row in which), label) for row, (text, label) in enumerate(ROWS)]
        return read(written(tmp_path / "a.tsv", table(rows)))

    plain, other = changed([]), changed(validation.tolist())
    assert plain.encoder == other.encoder and plain.fingerprint != other.fingerprint
    assert torch.equal(plain.train.tensors[0], other.train.tensors[0])
    assert changed(train.tolist()).encoder != plain.encoder  # so that this test can fail


def test_long_texts_are_cut_and_empty_ones_unknown(tmp_path):
    rows = [*ROWS, ("word " * 500, "good"), ("...", "bad")]
    data = read(written(tmp_path / "a.tsv", table(rows)), seed=1)
    part = data.train if data.train.tensors[0].shape[1] == 400 else data.validation
    assert part.tensors[0].shape[1] == 400
    assert noted(data, "1 texts to train on are cut to their first 400 tokens") is (part is data.train)
    lines = "".join(f"__label__{label} {text}\n" for text, label in ROWS) + "__label__good\n" * 8
    data = read(written(tmp_path / "b.txt", lines))
    check_sound(data)
    assert noted(data, "texts to train on hold nothing")


@pytest.mark.parametrize("tokens", ["word", "character", "bpe"])
def test_tokens(tmp_path, tokens):
    data = read(written(tmp_path / "a.tsv", table()), tokens=tokens)
    check_sound(data)
    assert data.vocabularies[0].name == tokens and len(data.vocabularies) == 1
    again = read(tmp_path / "a.tsv", tokens=tokens)
    assert again.encoder == data.encoder and torch.equal(again.train.tensors[0], data.train.tensors[0])
    assert again.fingerprint == data.fingerprint


def test_vectors(tmp_path):
    path = written(tmp_path / "a.tsv", table())
    data = read(path, vectors=written(tmp_path / "v.txt", "lovely 1 2\ndull 3 4\n"))
    words = data.vocabularies[0]
    assert data.vectors.shape == (len(words), 2) and noted(data, "v.txt has vectors of 2 numbers for 2 words")
    assert data.vectors[words.encode("lovely dull")].tolist() == [[1, 2], [3, 4]]
    assert {"film", "play"} & set(words.words) and not noted(data, "at least twice")  # words that come once count
    with pytest.raises(SettingError, match="embeddings of words, so tokens='bpe'"):
        read(path, tokens="bpe", vectors=tmp_path / "v.txt")


def test_settings_that_are_not_allowed(tmp_path):
    path = written(tmp_path / "a.txt", "".join(f"__label__{label} {text}\n" for text, label in ROWS))
    with pytest.raises(SettingError, match="label='y' has no meaning for a.txt"):
        read(path, "y")
    with pytest.raises(SettingError, match="Unknown tokens 'letters'"):
        read(path, tokens="letters")
    with pytest.raises(SettingError, match="validation_fraction=2"):
        read(path, fraction=2)
    with pytest.raises(DataError, match="not the description of an encoder of texts"):
        TextEncoder.from_description({"length": 5})


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.tsv", b"", "empty"),
        ("a.tsv", b"\n \n\t\n", "empty"),
        ("a.tsv", table() + "a film\tgood\textra\n", "row 13 has 3 cells"),
        ("a.tsv", b"only texts\nin one column\n", "one column only"),
        ("a.tsv", "1\t2\n3\t4\n" * 6, "no column of texts"),
        ("a.tsv", table(ROWS[:4]), "too few"),
        ("a.tsv", table([(text, "good") for text, _ in ROWS]), "same label"),
        ("a.tsv", table([(text, text[::-1]) for text, _ in ROWS]), "names rather than classes"),
        ("a.tsv", table().encode("utf-16"), "zero bytes"),
        ("a.tsv", table() + "\0", "zero bytes"),
        ("a.tsv.gz", gzip.compress(table().encode())[:-12], "cannot be unpacked"),
        ("a.txt", b"", "empty"),
        ("a.txt", b"__label__a fine\nno label here\n", "line 2 does not begin with a label"),
        ("a.txt", b"__label__ fine\n", "line 1 does not begin"),
        ("a.txt", "__label__a fine\n".encode("utf-16"), "not plain text"),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, words):
    with pytest.raises(DataError, match=words):
        read(written(tmp_path / name, content))


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(DataError, match="none of its folders holds .txt files"):
        read(tmp_path)
    written(tmp_path / "one" / "a" / "b.csv", "1,2")
    with pytest.raises(DataError, match="none of its folders"):
        read(tmp_path / "one")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match="holds no .txt file"):
        read(written(tmp_path / "a.tsv", table())).encoder.encode(tmp_path / "one" / "a")


def test_a_quotation_over_two_rows_is_not_one_text(tmp_path):
    rows = [*ROWS, ('" i love it ,', "good"), ('and so on . "', "good")]
    with pytest.raises(DataError, match="one row of several lines.*the first is in line 13"):
        read(written(tmp_path / "a.tsv", table(rows)))


quoted = st.sampled_from(['"', ' "', '" ', 'a "b" c', '"so"', '""', "it's", "x , y", "plain words", '" he said'])


@given(st.lists(st.tuples(quoted, quoted), min_size=12, max_size=20))
def test_quotation_marks_swallow_no_row(tmp_path_factory, cells):
    rows = [(f"{left} some words {n} {right}", "ab"[n % 2]) for n, (left, right) in enumerate(cells)]
    path = written(tmp_path_factory.getbasetemp() / "quotes.tsv", table(rows))
    try:
        data = read(path, tokens="character")
    except DataError as error:
        assert "quotation mark" in str(error)
        return
    assert len(data.train) + len(data.validation) == len(rows)


# -- which files look like texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", table(), True),
        ("a.csv", "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS), True),
        ("a.tsv", "".join(f"{n}\t{text}\t{label}\n" for n, (text, label) in enumerate(ROWS)), True),
        ("a.tsv", "".join(f"电影很好看我很喜欢{text[-1]}{n}\t{label}\n" for n, (text, label) in enumerate(ROWS)), True),
        ("a.txt", "".join(f"__label__{label} {text}\n" for text, label in ROWS), True),
        ("a.txt", "".join(f"{text}\n" for text, _ in ROWS), False),
        ("a.tsv", table(ROWS[:3]), False),
        ("a.tsv", "".join(f"{text}\tdies ist ein Satz {n}\n" for n, (text, _) in enumerate(ROWS)), False),  # pairs
        ("a.csv", "".join(f"{n},{n / 3},{'ab'[n % 2]}\n" for n in range(50)), False),
        ("a.csv", "".join(f"{n},2024-01-{n:02} 10:00:00,{'ab'[n % 2]}\n" for n in range(10, 30)), False),
        ("a.csv", "".join(f"Ann B C {n},1,2,3,4,{'ab'[n % 2]}\n" for n in range(50)), False),  # names in a wide table
        ("a.tsv", "".join(f"a great film\t{'ab'[n % 2]}\n" for n in range(50)), False),  # always the same
        ("a.tsv", b"", False),
        ("a.tsv", b"\0\1\2", False),
        ("a.tsv", b"\xff\xfe\t\n" * 20, False),
        ("a.tsv.gz", b"not packed", False),
        ("a.csv", b'"' * 40, False),
        ("a.txt", b"", False),
    ],
)
def test_what_looks_like_texts(tmp_path, name, content, expected):
    assert looks_like_texts(written(tmp_path / name, content)) is expected


def test_folders_that_look_like_texts(tmp_path):
    assert not looks_like_texts(tmp_path) and not looks_like_texts(tmp_path / "nowhere.tsv")
    written(tmp_path / "train.txt", "plain words\n" * 30)
    assert not looks_like_texts(tmp_path)
    written(tmp_path / "other" / "train.tsv", table())
    assert looks_like_texts(tmp_path / "other")
    written(tmp_path / "pictures" / "cats" / "a.png", "")
    assert not looks_like_texts(tmp_path / "pictures")


def test_words_per_cell():
    assert words_per_cell(["two words", "1 2 3", "", "我喜欢"]) == 5 / 4
    assert words_per_cell([]) == 0
    assert words_per_cell(["1" * 500_000 + "!" * 500_000]) == 0


# -- fuzzing -----------------------------------------------------------------------------------------------------------

PIECES = ["a", "film", " ", "\t", "\t", ",", "\n", "\n", "\r\n", "\r", '"', "good", "bad", "1", "é", "\ufeff", "\u2028"]
PIECES += ["\x1c", "\x85", "__label__a ", "__label__b ", "<br />", "n't", "x" * 2000, "<unk>", "\udc80"]
pieces = st.lists(st.sampled_from(PIECES), max_size=60).map(
    lambda parts: "".join(parts).encode("utf-8", "surrogatepass")
)


@st.composite
def rows_with_faults(draw):
    rows = [f"{draw(st.sampled_from(GOOD))}\t{'ab'[n % 2]}\n".encode() for n in range(draw(st.integers(10, 20)))]
    rows[draw(st.integers(0, len(rows) - 1))] = draw(pieces | st.binary(max_size=20))
    return b"".join(rows)


@settings(max_examples=100)
@given(
    st.binary(max_size=200) | pieces | rows_with_faults(),
    st.sampled_from(["fuzz.tsv", "fuzz.csv", "fuzz.txt", "fuzz.tsv.gz"]),
    st.sampled_from(["word", "character", "bpe"]),
)
def test_any_bytes_load_or_are_refused_in_words(tmp_path_factory, content, name, tokens):
    path = written(tmp_path_factory.getbasetemp() / name, gzip.compress(content) if name.endswith("gz") else content)
    looks_like_texts(path)
    try:
        data = read(path, tokens=tokens)
    except DataError as error:
        assert len(str(error)) > 10
        return
    check_sound(data)
    data.encoder.encode(path)
