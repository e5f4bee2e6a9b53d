"""Pairs of sentences: two files or a table, which files belong together, what is fitted, what is refused."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.data.base import BEGIN, END, UNKNOWN, Form, Kind
from rheostat.data.pair_files import looks_like_pairs
from rheostat.data.pairs import PairEncoder, read_pairs
from rheostat.data.split import split
from rheostat.errors import DataError, SettingError

ANIMALS = {"dog": "Hund", "cat": "Kater", "horse": "Esel", "bird": "Vogel", "fish": "Fisch"}
VERBS = {"sleeps": "schläft", "eats": "isst", "runs": "läuft", "waits": "wartet"}
PAIRS = [
    (f'A {animal} {verb}, "here".', f"Ein {tier} {tut} „hier“.")
    for animal, tier in ANIMALS.items()
    for verb, tut in VERBS.items()
]


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def two_files(folder, stem="train", pairs=PAIRS, languages=("en", "de"), pack=False):
    """The file of the source language; that of the target is beside it."""
    for side, language in enumerate(languages):
        content = "".join(f"{pair[side]}\n" for pair in pairs).encode()
        path = folder / f"{stem}.{language}{'.gz' if pack else ''}"
        written(path, gzip.compress(content) if pack else content)
    return folder / f"{stem}.{languages[0]}{'.gz' if pack else ''}"


def table(pairs=PAIRS):
    return "".join("\t".join(pair) + "\n" for pair in pairs)


def noted(data, words):
    return any(words in note for note in data.notes)


def back(data, part):
    """The pairs of a part, by the vocabularies; its tokens are checked."""
    source, behind, before = part.tensors
    found = []
    for one, left, right in zip(source.tolist(), behind.tolist(), before.tolist(), strict=True):
        one, left, right = ([token for token in row if token] for row in (one, left, right))
        assert one[-1] == right[-1] == END and left[0] == BEGIN and left[1:] == right[:-1]
        assert END not in one[:-1] + left and BEGIN not in one + right
        found.append((data.vocabularies[0].decode(one), data.vocabularies[1].decode(right)))
    return found


def check_sound(data):
    """What holds for every data set that loads."""
    assert data.form is Form.PAIRS and data.kind is Kind.TEXT and data.classes == ()
    for part in (data.train, data.validation, data.test or data.train):
        assert all(tensor.dtype == torch.int64 and len(tensor) == len(part) > 0 for tensor in part.tensors)
        assert part.tensors[1].shape == part.tensors[2].shape
        back(data, part)
        for side, tensor in enumerate(part.tensors):
            assert tensor.min() >= 0 and tensor.max() < len(data.vocabularies[min(side, 1)])
            assert ((tensor[:, 1:] == 0) | (tensor[:, :-1] != 0)).all()  # padding is at the end
    assert len(data.validation.texts) == len(data.validation) and data.train.texts == ()
    described = json.loads(json.dumps(data.encoder.describe()))
    assert PairEncoder.from_description(described) == data.encoder
    assert len(data.fingerprint) == 12 and all("\n" not in note for note in data.notes)


# -- which files ------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True])
def test_two_files_and_their_relatives(tmp_path, pack):
    path = two_files(tmp_path, pack=pack)
    two_files(tmp_path, "val", PAIRS[:3], pack=pack)
    two_files(tmp_path, "test_2017", PAIRS[4:9], pack=not pack)
    two_files(tmp_path, "test_2016", PAIRS[4:6], pack=pack)
    written(tmp_path / "test_2015.en", "no partner")
    written(tmp_path / "train.md", "about")
    data = read_pairs(path)
    check_sound(data)
    assert [back(data, part) for part in (data.train, data.validation, data.test)] == [PAIRS, PAIRS[:3], PAIRS[4:6]]
    assert data.test.texts == tuple(target for _, target in PAIRS[4:6])
    assert data.name == "train.en-de" and data.encoder.languages == ("en", "de") and looks_like_pairs(path)
    assert noted(data, "20 pairs to train on and 3 to validate on, as given")
    assert noted(data, "Not used: test_2017, of which test=NAME chooses another")
    suffix = ".gz" if pack else ""
    turned = read_pairs(tmp_path / f"train.de{suffix}")
    assert back(turned, turned.test) == [(target, source) for source, target in PAIRS[4:6]]
    for test in (
        "test_2017",
        f"test_2017.en{'' if pack else '.gz'}",
        tmp_path / f"test_2017.de{'' if pack else '.gz'}",
    ):
        other = read_pairs(path, test=test)
        assert back(other, other.test) == PAIRS[4:9] and not noted(other, "Not used")
    with pytest.raises(DataError, match="Unknown test 'test_2018'. Did you mean .*test_2016, test_2017"):
        read_pairs(path, test="test_2018")
    with pytest.raises(DataError, match="Unknown test 'test_2015'"):
        read_pairs(path, test="test_2015")


def test_a_test_in_another_folder(tmp_path):
    data = read_pairs(two_files(tmp_path / "a"), test=two_files(tmp_path / "b", "news", PAIRS[:2]))
    assert back(data, data.test) == PAIRS[:2]
    data = read_pairs(written(tmp_path / "a.tsv", table()), test=str(written(tmp_path / "b.tsv", table(PAIRS[:2]))))
    assert back(data, data.test) == PAIRS[:2]


def test_stems_around_train(tmp_path):
    path = two_files(tmp_path, "news.train.tok")
    two_files(tmp_path, "news.dev.tok", PAIRS[:2])
    two_files(tmp_path, "news.dev", PAIRS[:3])
    two_files(tmp_path, "other.test.tok", PAIRS[:4])
    data = read_pairs(path)
    assert back(data, data.validation) == PAIRS[:2] and data.test is None


def test_one_of_several_languages(tmp_path):
    path = two_files(tmp_path, pack=True)
    written(tmp_path / "train.fr", "un chien\n" * 20)
    with pytest.raises(DataError, match="more than one file: train.de.gz, train.fr. Say which is the target"):
        read_pairs(path)
    for target in ("de", "DE", "train.de.gz", str(tmp_path / "train.de.gz")):
        assert read_pairs(path, target).encoder.languages == ("en", "de")
    with pytest.raises(DataError, match="Unknown target language 'du'.*Known: de, fr"):
        read_pairs(path, "du")
    written(tmp_path / "alone.en", "a\n")
    with pytest.raises(DataError, match="alone.en has no file of another language beside it"):
        read_pairs(tmp_path / "alone.en")
    with pytest.raises(DataError, match="There is no file"):
        read_pairs(tmp_path / "nowhere.en")
    with pytest.raises(DataError, match="There is no file"):
        read_pairs(tmp_path)


@pytest.mark.parametrize(
    ("content", "target", "languages"),
    [
        (table(), None, ("source", "target")),
        ("en\tde\n" + table(), None, ("en", "de")),
        ("\ufeffEnglish\tGerman\r\n" + table().replace("\n", "\r\n"), "German", ("English", "German")),
        ("target\tsource\n" + table([pair[::-1] for pair in PAIRS]), "target", ("source", "target")),
        (table([pair[::-1] for pair in PAIRS]), "1", ("source", "target")),
        ("".join(f"{source}\t{target}\tCC-BY {n}\n\n" for n, (source, target) in enumerate(PAIRS)), None, None),
    ],
)
def test_tables(tmp_path, content, target, languages):
    path = written(tmp_path / "pairs.tsv", content)
    data = read_pairs(path, target, validation_fraction=0.2)
    check_sound(data)
    rows, held = split(20, 0.2, 0)
    assert back(data, data.train) == [PAIRS[row] for row in rows]
    assert back(data, data.validation) == [PAIRS[row] for row in held]
    assert data.validation.texts == tuple(PAIRS[row][1] for row in held)
    assert languages is None or data.encoder.languages == languages
    assert noted(data, "left out 1 other columns") is (languages is None)
    assert noted(data, "16 pairs to train on and 4 to validate on, drawn at random")
    assert target is not None or looks_like_pairs(path)


def test_tables_have_relatives_too(tmp_path):
    path = written(tmp_path / "train.txt", table())
    written(tmp_path / "valid.txt", table(PAIRS[:2]))
    written(tmp_path / "test.txt.gz", gzip.compress(table(PAIRS[:3]).encode()))
    data = read_pairs(path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [20, 2, 3]
    with pytest.raises(DataError, match="Unknown column '3'. Known: 1, 2|Unknown column '3'.*Known: 1, 2"):
        read_pairs(path, "3")


# -- what is fitted, and what is kept ------------------------------------------------------------------------------


def test_only_training_sentences_are_looked_at(tmp_path):
    path = two_files(tmp_path)
    two_files(tmp_path, "val", PAIRS[:3])
    encoder = read_pairs(path).encoder
    two_files(tmp_path, "val", [("A zebra Ω", "Ein Ω Zebra")])
    data = read_pairs(path)
    assert data.encoder == encoder
    assert not any("zebra" in "".join(pair) for pair in data.encoder.source.merges)
    assert int((data.validation.tensors[0] == UNKNOWN).sum()) == 2  # z and Ω are in no training sentence
    assert back(data, data.validation) == [("A \ufffdebra \ufffd", "Ein \ufffd \ufffde\ufffdra")]
    assert data.validation.texts == ("Ein Ω Zebra",)  # BLEU is against what was written
    assert noted(data, "of the subwords of the en sentences validated on are not in the vocabulary")


def test_long_and_empty_sentences_are_left_out_of_training_alone(tmp_path):
    long = ("word " * 200, "Wort")
    odd = [long, ("", "leer"), ("empty", " "), ("", "")]
    path = two_files(tmp_path, pairs=[*PAIRS, *odd])
    two_files(tmp_path, "val", odd)
    data = read_pairs(path)
    check_sound(data)
    assert len(data.train) == 20 and len(data.validation) == 4
    assert data.validation.texts == ("Wort", "leer", "", "")
    assert noted(data, "Left out of training: 3 pairs with an empty sentence")
    assert noted(data, "Left out of training: 1 pairs with a sentence of more than 100 subwords")


def test_the_size_of_the_vocabularies(tmp_path):
    path = two_files(tmp_path)
    assert all(len(vocabulary) == 60 for vocabulary in read_pairs(path, size=60).vocabularies)
    assert read_pairs(path).encoder == read_pairs(path).encoder
    with pytest.raises(SettingError, match="size=3"):
        read_pairs(path, size=3)
    with pytest.raises(SettingError, match="validation_fraction=0"):
        read_pairs(path, validation_fraction=0)


def test_new_sentences_are_encoded(tmp_path):
    data = read_pairs(two_files(tmp_path))
    expected = data.train.tensors[0][:2]
    new = written(tmp_path / "new.en", "".join(f"{source}\n" for source, _ in PAIRS[:2]))
    width = int((expected != 0).sum(1).max())
    assert torch.equal(data.encoder.encode(new), expected[:, :width])
    new = written(tmp_path / "new.tsv", "en\tde\n" + table(PAIRS[:2]))
    assert torch.equal(data.encoder.encode(new), expected[:, :width])
    assert data.encoder.encode(written(tmp_path / "empty.en", "\n")).tolist()[0][-1] == END
    for description in ({}, {"source": {"tokens": "word", "words": []}, "target": {}, "languages": ["a", "b"]}):
        with pytest.raises(DataError, match="not the description"):
            PairEncoder.from_description(description)
    words = {"tokens": "word", "words": []}
    with pytest.raises(DataError, match="whose tokens are subwords"):
        PairEncoder.from_description({"source": words, "target": words, "languages": ["a", "b"]})


def test_latin_1_is_said(tmp_path):
    path = two_files(tmp_path)
    written(tmp_path / "train.de", "".join(f"{target}\n" for _, target in PAIRS).encode("cp1252"))
    assert noted(read_pairs(path), "train.de: it is not UTF-8, so it was read as Latin-1")


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (table() + "one cell\n", "line 21 has 1 columns where most have 2"),
        (table() + "a\tb\tc\n", "line 21 has 3 columns"),
        ("no tabs\n" * 20, "line 1 has 1 columns where two are needed"),
        (table(PAIRS[:5]), "pairs to train on are too few"),
        ("a\t\n" * 30, "0 pairs to train on are too few"),
        (table([("word " * 200, "x")] * 30), "all sentences are longer than 100 subwords"),
        (table().encode("utf-16"), "not plain text"),
        (table() + "a\0\tb\n", "not plain text"),
    ],
)
def test_tables_that_are_refused(tmp_path, content, words):
    with pytest.raises(DataError, match=words):
        read_pairs(written(tmp_path / "a.tsv", content))


def test_files_that_do_not_go_together(tmp_path):
    path = two_files(tmp_path)
    written(tmp_path / "train.de", "eine Zeile\n" * 19)
    with pytest.raises(DataError, match="train.en has 20 lines and train.de 19"):
        read_pairs(path)
    # U+2028 and the like are no ends of lines
    written(tmp_path / "train.de", "eine\u2028Zeile\x0b\x85\x1c\r\n" * 20)
    assert len(read_pairs(path).train) == 18


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", table(), True),
        ("a.txt", table(), True),
        ("a.txt", table() + "a line without a tab\n" * 20, False),
        ("a.txt", "plain, prose, with, commas\n" * 30, False),
        ("a.tsv", "".join(f"{source}\t{n % 2}\n" for n, (source, _) in enumerate(PAIRS)), False),
        ("a.tsv", "".join(f"{source}\tvery good\n" for source, _ in PAIRS), False),
        ("a.tsv", table(PAIRS[:5]), False),
        ("a.tsv", b"", False),
        ("a.tsv", b"\0", False),
        ("a.en", "alone", False),
        ("a.py", "import os", False),
    ],
)
def test_what_looks_like_pairs(tmp_path, name, content, expected):
    assert looks_like_pairs(written(tmp_path / name, content)) is expected


def test_folders_do_not_look_like_pairs(tmp_path):
    assert not looks_like_pairs(tmp_path) and not looks_like_pairs(tmp_path / "nowhere.en")


# -- fuzzing ------------------------------------------------------------------------------

PIECES = [
    "a",
    "dog",
    " ",
    "\t",
    "\t",
    "\n",
    "\n",
    "\r\n",
    "\r",
    '"',
    "é",
    "\ufeff",
    "\u2028",
    "\x1c",
    "x" * 500,
    "<unk>",
]
pieces = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
lines = st.lists(pieces, min_size=10, max_size=25).map(lambda rows: "\n".join(rows))


@settings(max_examples=80)
@given(
    st.tuples(st.binary(max_size=200), st.binary(max_size=200))
    | st.tuples(lines, lines).map(lambda texts: tuple(text.encode() for text in texts))
    | st.tuples(pieces, pieces).map(
        lambda odd: tuple((odd[side] + "\n" + "".join(f"{pair[side]}\n" for pair in PAIRS)).encode() for side in (0, 1))
    )
)
def test_any_two_files_load_or_are_refused_in_words(tmp_path_factory, contents):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    for language, content in zip(("en", "de"), contents, strict=True):
        written(folder / f"train.{language}", content)
    try:
        data = read_pairs(folder / "train.en", size=50)
    except DataError as error:
        assert len(str(error)) > 10
        return
    check_sound(data)


@settings(max_examples=80)
@given(st.binary(max_size=200) | pieces.map(lambda odd: (table() + odd).encode()), st.sampled_from([".tsv", ".txt.gz"]))
def test_any_table_loads_or_is_refused_in_words(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    written(path, gzip.compress(content) if suffix.endswith("gz") else content)
    looks_like_pairs(path)
    try:
        data = read_pairs(path, size=50)
    except DataError as error:
        assert len(str(error)) > 10
        return
    check_sound(data)
    assert len(data.encoder.encode(path)) >= len(data.train)
