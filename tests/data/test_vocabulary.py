"""Characters, words and subwords: round trips, what is unknown, and byte pair encoding beside a plain one."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rheostat.data import vocabulary
from rheostat.data.base import BEGIN, END, PADDING, UNKNOWN
from rheostat.data.vocabulary import (
    Characters,
    Subwords,
    Words,
    check_tokens,
    from_description,
    lengths_in_words,
    padded,
    seen_characters,
    unknown_in_words,
)
from rheostat.errors import DataError, SettingError

TEXTS = ["The cat sat, and the dog sat.", "The dog didn't sit; the cat did!", "Cats  and dogs: 3.5 of 7,000?"] * 3
texts = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=30), min_size=1, max_size=5)
few_letters = st.lists(st.text("ab c.", max_size=25), min_size=1, max_size=6)


def fitted():
    return [Characters.fit(TEXTS), Characters("ab", 0, None), Words.fit(TEXTS), Subwords.fit(TEXTS, 60)]


# -- what holds for all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", fitted(), ids=lambda one: one.name)
def test_they_survive_json_and_pickle_after_they_were_used(one):
    text = "ab" if one.name == "character" and not one.first else TEXTS[0]
    tokens = one.encode(text)
    for other in (
        from_description(json.loads(json.dumps(one.describe()))),
        pickle.loads(pickle.dumps(one)),
        cloudpickle.loads(cloudpickle.dumps(one)),
    ):
        assert other == one and hash(other) == hash(one) and len(other) == len(one)
        assert other.encode(text) == tokens and other.decode(tokens) == one.decode(tokens)
    assert len(pickle.dumps(one)) < 5000  # its values alone, not what was computed from them
    assert all(0 <= token < len(one) for token in tokens)


@pytest.mark.parametrize(
    "description", [{}, {"tokens": "letter"}, {"tokens": "word"}, {"tokens": "word", "words": 5}, {"tokens": ["word"]}]
)
def test_what_is_no_description(description):
    with pytest.raises(DataError, match="not the description of a vocabulary"):
        from_description(description)


def test_mistyped_tokens():
    check_tokens("word")
    with pytest.raises(SettingError, match="Unknown tokens 'words'. Did you mean 'word'"):
        check_tokens("words")


def test_special_tokens_are_left_out_of_texts():
    for one in (Characters.fit(TEXTS), Words.fit(TEXTS), Subwords.fit(TEXTS, 60)):
        tokens = one.encode("the cat")
        assert one.decode([BEGIN, *tokens, END, PADDING, PADDING]) == "the cat"
        assert not {PADDING, BEGIN, END} & set(tokens)


def digests():
    """Of vocabularies with many ties among their words and pairs."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefgh", k=generator.randint(1, 6))) for _ in range(400)]
    lines = [" ".join(generator.choices(words, k=30)) for _ in range(600)]
    made = (Words.fit(lines, most=100), Subwords.fit(lines, 300))
    return [hashlib.sha256(json.dumps(one.describe()).encode()).hexdigest() for one in made]


def test_other_processes_and_threads_fit_the_same():
    environment = os.environ | {"PYTHONHASHSEED": "1", "RAYON_NUM_THREADS": "4", "TOKENIZERS_PARALLELISM": "true"}
    script = "from tests.data.test_vocabulary import digests; print(*digests())"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.split() == digests()


# -- characters --------------------------------------------------------------------------------------------------


@given(texts, texts)
def test_characters_are_known_or_one_unknown_each(known, others):
    one = Characters.fit(known)
    for text in (*known, *others):
        tokens = one.encode(text)
        assert len(tokens) == len(text)
        assert one.decode(tokens) == "".join(c if c in "".join(known) else "\ufffd" for c in text)
    assert len(one) == 4 + len(set("".join(known)))


def test_characters_of_a_stream_have_no_special_tokens():
    closed, opened = Characters("abc", 0, None), Characters("abc", 0, 3)
    assert (len(closed), len(opened)) == (3, 4)
    assert closed.encode("cab") == opened.encode("cab") == [2, 0, 1]
    assert opened.encode("axb") == [0, 3, 1] and opened.decode([0, 3, 1]) == "a\ufffdb"
    assert closed.encode("") == []
    with pytest.raises(DataError, match="'x' is none of the 3"):
        closed.encode("axb")


@given(texts)
def test_seen_characters_are_those_of_the_texts(given_texts):
    assert seen_characters(given_texts) == "".join(sorted(set("".join(given_texts))))


# -- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop, they've said.", ["do", "n't", "stop", ",", "they", "'ve", "said", "."]),
        ("It wo n't, it’s", ["it", "wo", "n't", ",", "it", "'s"]),
        ("3.5 of 7,000, 1.", ["3.5", "of", "7,000", ",", "1", "."]),
        ("naïve e\u0301te\u0301 हिन्दी", ["naïve", "été", "हिन्दी"]),
        ("a<unk>b snake_case (re-read)", ["a", "<unk>", "b", "snake_case", "(", "re", "-", "read", ")"]),
        ("!?\n\t😀 ", ["!", "?", "😀"]),
        ("", []),
    ],
)
def test_words_are_split_as_the_penn_treebank_does(text, words):
    assert Words(()).split(text) == words


def test_spaces_alone_may_separate_words_and_lines_may_end():
    assert Words((), punctuation=False).split("N <unk> @-@ a.b") == ["n", "<unk>", "@-@", "a.b"]
    one = Words(("a", "b", "\n"), lines=True)
    assert one.encode("a b\n\na") == [4, 5, 6, 6, 4]
    assert one.decode([4, 5, 6, 6, 4]) == "a b\n\na"


def test_rare_words_are_unknown():
    one = Words.fit(["b b a a c", "b <unk> <unk> C d"], least=2, most=3)
    assert one.words == ("b", "a", "c")  # the most common first, then in order
    assert one.encode("c A d <unk> new b") == [6, 5, UNKNOWN, UNKNOWN, UNKNOWN, 4]
    assert one.decode([6, UNKNOWN, 4]) == "c <unk> b"
    assert Words.fit(["b b a a c"], most=1).words == ("a",)
    assert Words.fit(["A a"], lower=False).words == ()


@given(texts)
def test_known_words_come_back(given_texts):
    one = Words.fit(given_texts, least=1)
    for text in given_texts:
        tokens = one.encode(text)
        assert one.split(one.decode(tokens)) == one.split(text) or "<unk>" in text.lower()
        assert UNKNOWN not in tokens or "<unk>" in text.lower()


def test_counting_a_large_text_forgets_rare_words_only(monkeypatch):
    monkeypatch.setattr(vocabulary, "COUNTED_WORDS", 100)
    rare = (f"rare{n} common{n % 10}" for n in range(1000))
    one = Words.fit(rare, least=50)
    assert set(one.words) == {f"common{n}" for n in range(10)}


# -- subwords ------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@example(["\0"], False, 10)
@given(texts, st.booleans(), st.integers(10, 200))
def test_subwords_give_the_text_back(given_texts, spaced, size):
    one = Subwords.fit(given_texts, size, spaced)
    assert len(one) <= size
    for text in given_texts:
        assert one.decode(one.encode(text)) == "".join(c if c in one.alphabet else "\ufffd" for c in text)
    if len(set(" " + "".join(given_texts))) <= size // 2:
        assert all(one.decode(one.encode(text)) == text.replace("\0", "\ufffd") for text in given_texts)


def test_unknown_characters_are_one_token_each_and_never_a_word():
    one = Subwords.fit(["<unk> <unk> unk"] * 5, 40)
    assert UNKNOWN not in one.encode("<unk>") and one.decode(one.encode("<unk>")) == "<unk>"
    assert one.encode("unkéü\0").count(UNKNOWN) == 3


def merged(piece, merges):
    """Byte pair encoding as the paper has it: the first of the merges that can be applied, everywhere, and again."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    symbols = list(piece)
    while pairs := [pair for pair in pairwise(symbols) if pair in ranks]:
        best = min(pairs, key=ranks.__getitem__)
        joined, place = [], 0
        while place < len(symbols):
            if tuple(symbols[place : place + 2]) == best:
                joined.append("".join(best))
                place += 2
            else:
                joined.append(symbols[place])
                place += 1
        symbols = joined
    return symbols


@given(few_letters, st.text("ab c.", max_size=40))
def test_encoding_is_that_of_a_plain_implementation(given_texts, text):
    one = Subwords.fit([*given_texts, "abc ab. ab"], 60, spaced=False)
    expected = [symbol for piece in vocabulary._PIECE.findall(text) for symbol in merged(piece, one.merges)]
    assert [one.decode([token]) for token in one.encode(text)] == expected


@given(few_letters)
def test_each_merge_is_of_the_most_common_pair(given_texts):
    one = Subwords.fit(given_texts, 60, spaced=False)
    pieces = Counter(piece for text in given_texts for piece in vocabulary._PIECE.findall(text))
    for done in range(len(one.merges) + 1):
        pairs = Counter()
        for piece, count in pieces.items():
            symbols = merged(piece, one.merges[:done])
            for pair in pairwise(symbols):
                pairs[pair] += count
        most = max(pairs.values(), default=0)
        if done < len(one.merges):
            assert pairs[one.merges[done]] == most >= 2
        elif len(one) < 60:
            assert most < 2  # nothing was left to be merged


def test_the_first_word_is_the_token_that_it_is_elsewhere():
    one = Subwords.fit(["low and low and low"] * 3, 60)
    assert one.encode("low low")[0] == one.encode("low low")[1]
    assert one.decode(one.encode("  low ")) == "  low "


def test_at_most_half_of_the_subwords_are_characters():
    one = Subwords.fit(["".join(map(chr, range(0x4E00, 0x4F00))) + "一一一 一一一"] * 2, 100)
    assert len(one.alphabet) == 50 and {"一", " "} <= set(one.alphabet)
    with pytest.raises(SettingError, match="size=5 must be at least 10"):
        Subwords.fit(TEXTS, 5)


def test_a_word_without_an_end_is_cut():
    one = Subwords.fit(["ab" * 500_000], 30)
    tokens = one.encode("ab" * 500_000)
    assert one.decode(tokens) == "ab" * 500_000 and len(tokens) < 100_000


# -- together --------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(4, 9), max_size=5), min_size=1, max_size=5))
def test_padding(rows):
    tokens = padded(rows)
    assert tokens.dtype.is_signed and tokens.shape == (len(rows), max(max(map(len, rows)), 1))
    for row, tokens_of_row in zip(rows, tokens.tolist(), strict=True):
        assert tokens_of_row == row + [PADDING] * (tokens.shape[1] - len(row))


def test_notes():
    words = Words.fit(TEXTS)
    assert lengths_in_words("A text", [1, 2, 30], words) == (
        "A text has 2 words in the median and 30 at most; 99 of 100 have no more than 29."
    )
    note = unknown_in_words("the rest", [np.array([1, 4, 5]), np.array([6])], words)
    assert note == "25.00 % of the words of the rest are not in the vocabulary."
    assert unknown_in_words("it", [np.array([], int)], words).startswith("0.00 %")
