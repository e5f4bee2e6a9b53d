"""Pretrained embeddings: both formats, what is kept, what is missing, what is malformed."""

from __future__ import annotations

import gzip

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.data import vectors
from rheostat.data.vectors import read_vectors
from rheostat.data.vocabulary import Words
from rheostat.errors import DataError

WORDS = Words(("cat", "dog", "émeu", "zebra"))
ROWS = "dog 1 2 3\nthe 0 0 0\ncat -1.5 2e-1 .5\nÉmeu 7 8 9\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors")


def read(folder, content, words=WORDS, name="vectors.txt"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_vectors(path, words)


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        "4 3\n" + ROWS,  # word2vec's header
        ROWS.replace("\n", " \r\n"),
        ROWS.replace(" ", "\t"),
        "\n" + ROWS.rstrip(),
        gzip.compress(ROWS.encode()),
    ],
    ids=["glove", "word2vec", "windows", "tabs", "blank", "packed"],
)
def test_formats(folder, content):
    name = "vectors.txt.gz" if isinstance(content, bytes) else "vectors.txt"
    rows, notes = read(folder, content, name=name)
    assert rows.shape == (8, 3) and rows.dtype == torch.float32
    assert rows[4:7].tolist() == [pytest.approx([-1.5, 0.2, 0.5]), [1, 2, 3], [7, 8, 9]]
    assert notes == (
        f"{name} has vectors of 3 numbers for 3 words of the vocabulary, 75.0 %; the others begin with "
        "small random ones.",
    )


def test_what_is_missing_is_small_and_always_the_same(folder):
    rows, _ = read(folder, ROWS)
    again, _ = read(folder, ROWS)
    assert torch.equal(rows, again)
    assert rows[0].tolist() == [0, 0, 0]
    missing = rows[[1, 2, 3, 7]]
    assert (missing != 0).all() and missing.abs().max() < 0.6


def test_a_word_as_it_is_written_wins_over_other_capitals(folder):
    cased = Words(("Paris", "paris"), lower=False)
    rows, _ = read(folder, "PARIS 1\nparis 2\nParis 3\nparis 4\n", cased)
    assert rows[4:].tolist() == [[3], [2]]
    rows, _ = read(folder, "PARIS 1\nParis 3\n", Words(("paris",)))
    assert rows[4:].tolist() == [[1]]


def test_a_few_malformed_lines_are_named_and_left_out(folder):
    good = "".join(f"word{n} 1 2 3\n" for n in range(500))
    bad = "at name@domain.com 1 2 3\ncat 1 2 nan\ncat 1 x 3\ncat 1 2\n"
    rows, notes = read(folder, good + bad + "cat 4 5 6\n")
    assert rows[4].tolist() == [4, 5, 6]
    assert notes[1] == "vectors.txt: left out what is not a word and 3 finite numbers: line 501, 502, 503 and 1 more."


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"cat\n", "line 1 has no numbers"),
        (b"cat 1 2\ndog 1\ndog 1 2 3\n", "lines 2, 3 are not a word and 2 finite"),
        (b"cat 1 inf\ndog 1e999 2\n", "lines 1, 2 are not"),
        (b"maus 1 2\n", "none of the words"),
        (b"cat 1 2\0\n", "not plain text"),
        (b"2 3\n", "none of the words"),
        (b"cat 1 2\n" + b"x" * 2_200_000, "more than a million characters"),
    ],
)
def test_files_that_are_refused(folder, content, words):
    with pytest.raises(DataError, match=words):
        read(folder, content)


def test_files_that_cannot_be_opened(folder):
    with pytest.raises(DataError, match="cannot be read"):
        read_vectors(folder / "nowhere.txt", WORDS)
    with pytest.raises(DataError, match="cannot be unpacked"):
        read(folder, gzip.compress(ROWS.encode())[:-9], name="cut.gz")


def test_lines_across_blocks(folder, monkeypatch):
    expected, _ = read(folder, ROWS)
    monkeypatch.setattr(vectors, "blocks", lambda path: (path.read_bytes()[n : n + 1] for n in range(len(ROWS) + 9)))
    assert torch.equal(read(folder, ROWS)[0], expected)


@settings(max_examples=100)
@given(
    st.binary(max_size=100)
    | st.lists(
        st.sampled_from(["cat 1 2", "dog 3", "dog 3 4", "4 2", "", "1 2 3", "cat x y", "é 1 2", "cat  1 2"])
    ).map(lambda lines: "\n".join(lines).encode())
)
def test_any_bytes_are_read_or_refused_in_words(folder, content):
    try:
        rows, notes = read(folder, content)
    except DataError as error:
        assert len(str(error)) > 10
        return
    assert rows.shape[0] == 8 and torch.isfinite(rows).all() and (rows[0] == 0).all() and notes
