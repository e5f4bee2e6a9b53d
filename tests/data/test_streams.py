"""One long text: its parts, its tokens in memory and in a file, and what is refused; by hand, and by fuzzing."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.data import plain, streams
from rheostat.data.base import UNKNOWN, Form, Kind, TokenStream
from rheostat.data.plain import examine
from rheostat.data.streams import MappedStream, StreamEncoder, looks_like_stream, read_stream
from rheostat.errors import DataError, SettingError

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps", "in", "warm", "sun"]
GENERATOR = np.random.default_rng(0)
TEXT = "".join(" ".join(GENERATOR.choice(WORDS, GENERATOR.integers(3, 12))).capitalize() + ".\n" for _ in range(450))


def written(path, content=TEXT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def noted(data, words):
    return any(words in note for note in data.notes)


def decoded(data, part):
    return data.vocabularies[0].decode(part.tokens.tolist())


def parts(data):
    return [part for part in (data.train, data.validation, data.test) if part is not None]


def check_sound(data):
    """What holds for every data set that loads."""
    assert data.form is Form.STREAM and data.kind is Kind.TEXT and data.classes == ()
    for part in parts(data):
        assert len(part) >= 100 and part.tokens.dim() == 1 and not part.tokens.is_floating_point()
        tokens = part.tokens[:50].long()
        assert tokens.min() >= 0 and int(part.tokens.max()) < len(data.vocabularies[0])
    described = json.loads(json.dumps(data.encoder.describe()))
    assert StreamEncoder.from_description(described) == data.encoder
    assert len(data.fingerprint) == 12 and all("\n" not in note for note in data.notes)


# -- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", ["character", "bpe", "word"])
def test_a_file_is_cut_in_three(tmp_path, tokens):
    data = read_stream(written(tmp_path / "corpus.txt"), tokens=tokens, length=16)
    check_sound(data)
    sections, _ = streams._sections(tmp_path / "corpus.txt", None)
    texts = ["".join(section.pieces()) for section in sections.values()]
    assert "".join(texts) == TEXT
    for text, share in zip(texts, (0.9, 0.05, 0.05), strict=True):
        assert abs(len(text) - share * len(TEXT)) < 20
    assert all(text[0].isspace() for text in texts[1:])  # no word is cut
    if tokens == "word":
        expected = [data.vocabularies[0].encode(text) for text in texts]
        assert [part.tokens.tolist() for part in parts(data)] == expected
        assert noted(data, "of the words of the part validated on are not in the vocabulary")
    else:
        assert [decoded(data, part) for part in parts(data)] == texts
    assert data.name == "corpus" and data.train.length == 16
    assert noted(data, "the first 90 % are trained on, the next 5 % validated on, and the last 5 % tested")
    assert noted(data, "It begins '")


def test_a_test_file_is_held_out_instead(tmp_path):
    path, test = written(tmp_path / "corpus.txt"), written(tmp_path / "other.txt", TEXT[::-1])
    data = read_stream(path, test)
    check_sound(data)
    assert decoded(data, data.test) == TEXT[::-1]
    assert decoded(data, data.train) + decoded(data, data.validation) == TEXT
    assert noted(data, "the others validated on; other.txt is the test")
    assert data.fingerprint != read_stream(path).fingerprint


@pytest.mark.parametrize("name", ["{}.txt", "ptb.{}.txt", "wiki.{}.tokens", "wiki-{}.raw"])
def test_a_folder_of_parts(tmp_path, name):
    for part, number in (("train", 3), ("valid", 1), ("test", 2)):
        written(tmp_path / "corpus" / name.format(part), TEXT[: 1000 * number])
    written(tmp_path / "corpus" / "README.md", "about")
    data = read_stream(tmp_path / "corpus")
    check_sound(data)
    assert [len(part) for part in parts(data)] == [3000, 1000, 2000]
    assert data.name == "corpus" and looks_like_stream(tmp_path / "corpus")
    (tmp_path / "corpus" / name.format("test")).unlink()
    assert read_stream(tmp_path / "corpus").test is None
    (tmp_path / "corpus" / name.format("valid")).unlink()
    assert [len(part) > 100 for part in parts(read_stream(tmp_path / "corpus"))] == [True] * 3
    written(tmp_path / "corpus" / "train.2.txt")
    with pytest.raises(DataError, match="more than one file may be meant for train"):
        read_stream(tmp_path / "corpus")


def test_encodings_and_ends_of_lines(tmp_path):
    plain_data = read_stream(written(tmp_path / "a.txt"))
    for name, content in (
        ("b.txt", TEXT.replace("\n", "\r\n")),
        ("c.txt", "\ufeff" + TEXT.replace("\n", "\r")),
        ("d.txt.gz", gzip.compress(TEXT.encode())),
    ):
        data = read_stream(written(tmp_path / name, content))
        assert torch.equal(data.train.tokens, plain_data.train.tokens) and data.encoder == plain_data.encoder
    latin = read_stream(written(tmp_path / "e.txt", TEXT.replace("a", "ä").encode("latin-1")))
    assert noted(latin, "Latin-1") and "ä" in decoded(latin, latin.train)


# -- what is fitted --------------------------------------------------------------------------------------------------


def test_characters_that_training_never_saw_are_one_unknown_token(tmp_path):
    closed = read_stream(written(tmp_path / "a.txt"))
    assert len(closed.vocabularies[0]) == len(set(TEXT)) and noted(closed, "and there are no others")
    opened = read_stream(written(tmp_path / "b.txt", TEXT + "é😀é" * 10))
    letters = opened.vocabularies[0]
    assert len(letters) == len(closed.vocabularies[0]) + 1 and noted(opened, "one token for the 2 others")
    assert int((opened.test.tokens == letters.unknown).sum()) == 30
    assert decoded(opened, opened.test).count("\ufffd") == 30
    assert opened.encoder.encode(tmp_path / "b.txt").dtype == torch.int64
    with pytest.raises(DataError, match="'é' is none of the"):
        closed.encoder.encode(tmp_path / "b.txt")


def test_words_that_training_never_saw_are_unknown(tmp_path):
    data = read_stream(written(tmp_path / "a.txt", TEXT + "zebra zebra " * 100), tokens="word", length=8)
    words = data.vocabularies[0]
    assert "zebra" not in words.words and not words.lower
    assert int((data.test.tokens == UNKNOWN).sum()) >= 90
    assert decoded(data, data.train).replace(" .", ".").startswith(TEXT[:30].replace(" .", "."))


def test_texts_whose_words_were_chosen_already(tmp_path):
    content = "\n".join(f" {line.rstrip('.').replace('quick', '<unk>')} @-@ N " for line in TEXT.split("\n"))
    data = read_stream(written(tmp_path / "a.txt", content), tokens="word")
    words = data.vocabularies[0].words
    assert "@-@" in words and "\n" in words and "<unk>" not in words and "sun" in words
    assert int((data.train.tokens == UNKNOWN).sum()) == decoded(data, data.train).count("<unk>") > 0
    assert noted(data, "what stands between spaces")


@pytest.mark.parametrize(
    ("size", "dtype"), [(200, torch.uint8), (256, torch.uint8), (257, torch.int16), (40_000, torch.int32)]
)
def test_the_smallest_integers(tmp_path, size, dtype):
    letters = "".join(chr(0x4E00 + n) if n < 20_000 else chr(0x1F000 + n) for n in range(size - 1))
    data = read_stream(written(tmp_path / "a.txt", (letters + " ") * 2 + letters[:9999] * 9))
    assert len(data.vocabularies[0]) == size and data.train.tokens.dtype == dtype
    check_sound(data)


# -- larger than memory ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch, tmp_path):
    """Everything is large: files are read 64 bytes at a time, and tokens kept in a file."""
    monkeypatch.setattr(plain, "BLOCK_BYTES", 64)
    monkeypatch.setattr(plain.blocks, "__defaults__", (64,))
    monkeypatch.setattr(streams, "IN_MEMORY", 100)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("tokens", ["character", "word", "bpe"])
def test_tokens_in_a_file_are_those_in_memory(tmp_path, monkeypatch, request, tokens):
    path = written(tmp_path / "corpus.txt")
    expected = read_stream(path, tokens=tokens, length=16)
    request.getfixturevalue("small_pieces")
    data = read_stream(path, tokens=tokens, length=16)
    check_sound(data)
    assert data.encoder == expected.encoder and data.fingerprint == expected.fingerprint
    for part, other in zip(parts(data), parts(expected), strict=True):
        assert isinstance(part, MappedStream) and type(other) is TokenStream
        assert part.tokens.dtype == other.tokens.dtype and torch.equal(part.tokens, other.tokens)
        assert part.length == 16
    assert noted(data, "The tokens are kept in .rheostat/cache")
    files = sorted((tmp_path / ".rheostat" / "cache").iterdir())
    assert len(files) == 3
    times = [file.stat().st_mtime_ns for file in files]
    read_stream(path, tokens=tokens, length=16)  # finds them again
    assert [file.stat().st_mtime_ns for file in sorted(files[0].parent.iterdir())] == times
    read_stream(written(path, TEXT[:-50]), tokens=tokens, length=16)
    assert len(list(files[0].parent.iterdir())) == 6


def test_a_mapped_stream_travels_as_the_name_of_its_file(small_pieces):
    data = read_stream(written(small_pieces / "corpus.txt", TEXT * 5))
    sent = cloudpickle.dumps(data.train)
    assert len(sent) < 2000 < len(data.train)
    other = cloudpickle.loads(sent)
    assert isinstance(other, MappedStream) and torch.equal(other.tokens, data.train.tokens)
    few = replace(data.train, tokens=data.train.tokens[:50])  # no longer what the file holds
    assert cloudpickle.loads(cloudpickle.dumps(few)).tokens.tolist() == few.tokens.tolist()
    data.train.path.unlink()
    with pytest.raises(DataError, match="are gone: read the text again"):
        cloudpickle.loads(sent)


def test_a_folder_that_cannot_be_written(small_pieces):
    written(small_pieces / ".rheostat", "a file")
    with pytest.raises(DataError, match="tokens cannot be kept in"):
        read_stream(written(small_pieces / "corpus.txt"))


def test_a_fault_in_writing_leaves_nothing_behind(small_pieces, monkeypatch):
    path = written(small_pieces / "corpus.txt")

    def failing(vocabulary, pieces):
        yield np.zeros(10, np.int32)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(streams, "_numbers", failing)
    with pytest.raises(DataError, match="No space left on device"):
        read_stream(path)
    assert list((small_pieces / ".rheostat" / "cache").iterdir()) == []


@given(st.text("ab \n\té", max_size=300), st.integers(0, 300), st.integers(0, 300), st.integers(1, 40))
def test_pieces_make_up_the_text(tmp_path_factory, text, start, stop, size):
    path = written(tmp_path_factory.getbasetemp() / "pieces.txt", text)
    defaults, plain.blocks.__defaults__ = plain.blocks.__defaults__, (size,)
    try:
        file = examine(path)
        pieces = list(file.pieces())
        assert "".join(pieces) == text and all(pieces) and file.characters == len(text)
        assert "".join(file.pieces(start, stop)) == text[start:stop]
        for before, after in pairwise(pieces):
            assert after[0] in " \n\t" or not set(before[1:]) & set(" \n\t")  # a word that is longer than a piece
        assert file.lines() == (text[:-1] if text.endswith("\n") else text).split("\n") or text == ""
    finally:
        plain.blocks.__defaults__ = defaults


MEASURE = Path(__file__).parents[2] / "benchmarks" / "stream_memory.py"


@pytest.mark.slow
def test_a_text_of_200_megabytes_takes_little_memory(tmp_path):
    command = [sys.executable, str(MEASURE), "--megabytes", "200", "--folder", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["tokens"] > 190_000_000 and measured["increase_megabytes"] < 100
    assert list(tmp_path.iterdir()) == []


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no text"),
        (b" \n\t\r\n" * 100, "holds no text"),
        (b"x", "has 0 characters"),
        (TEXT[:1000], "the part for validation has .. characters"),
        (TEXT.encode("utf-16"), "not plain text"),
        (TEXT + "\0", "not plain text"),
        (b"\xfe\xff" + TEXT.encode(), "not plain text"),
    ],
)
def test_texts_that_are_refused(tmp_path, content, words):
    with pytest.raises(DataError, match=words):
        read_stream(written(tmp_path / "a.txt", content))


def test_files_and_settings_that_are_refused(tmp_path):
    path = written(tmp_path / "a.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_stream(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match="has no file to train on"):
        read_stream(tmp_path)
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_stream(written(tmp_path / "b.txt.gz", gzip.compress(TEXT.encode())[:-8]))
    with pytest.raises(DataError, match="holds no text"):
        read_stream(path, written(tmp_path / "c.txt", ""))
    with pytest.raises(SettingError, match="Unknown tokens 'letters'"):
        read_stream(path, tokens="letters")
    for length in (0, 1.5):
        with pytest.raises(SettingError, match="must be a whole number of tokens"):
            read_stream(path, length=length)
    with pytest.raises(DataError, match="the part for train has .* words; give a longer text"):
        read_stream(path, tokens="word", length=5000)
    with pytest.raises(DataError, match="not the description"):
        StreamEncoder.from_description({})


def test_what_looks_like_a_stream(tmp_path):
    assert looks_like_stream(written(tmp_path / "a.txt")) and looks_like_stream(written(tmp_path / "b.TXT.gz"))
    assert not looks_like_stream(written(tmp_path / "c.csv")) and not looks_like_stream(tmp_path / "no.txt")
    assert not looks_like_stream(tmp_path)


PIECES = [
    "word ",
    "two words ",
    "\n",
    "\r\n",
    "\r",
    "é",
    "😀",
    "\u2028",
    "\ufeff",
    "x" * 500,
    " " * 300,
    "<unk> ",
    "\x1c",
]
PIECES += ["\x85", "1.5 ", "\udcff", "e\u0301", TEXT[:400]]


@settings(max_examples=100)
@given(
    st.binary(max_size=400)
    | st.lists(st.sampled_from(PIECES), max_size=30).map(
        lambda parts: (TEXT + "".join(parts)).encode("utf-8", "surrogatepass")
    )
    | st.lists(st.sampled_from(PIECES), max_size=80).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass")),
    st.sampled_from(["character", "word", "bpe"]),
    st.booleans(),
)
def test_any_bytes_load_or_are_refused_in_words(tmp_path_factory, content, tokens, pack):
    folder = tmp_path_factory.getbasetemp()
    path = written(folder / ("fuzz.txt.gz" if pack else "fuzz.txt"), gzip.compress(content) if pack else content)
    try:
        data = read_stream(path, tokens=tokens, length=4)
    except DataError as error:
        assert len(str(error)) > 10
        return
    check_sound(data)
    if tokens != "word":
        text = "".join(decoded(data, part) for part in parts(data))
        original = examine(path).text()
        assert len(text) == len(original)
        assert all(one == other or one == "\ufffd" for one, other in zip(text, original, strict=True))
