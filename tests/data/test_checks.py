"""What is said of data that can be read: planted faults are found and counted, and sound data are left alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheostat.data.base import BEGIN, END, Dataset, Form, Kind, Labels, Padded, TokenStream
from rheostat.data.checks import examine, examine_tensors
from rheostat.data.read import read

DATASETS = Path(__file__).parents[3] / "shared" / "datasets"


def made(train, validation, test=None, form=Form.ROWS, classes="ab"):
    labels = Labels(Kind.CLASSIFICATION, tuple(classes)) if classes else Labels(Kind.REGRESSION, (), (0.0,), (1.0,))

    class Encoder:
        def __init__(self):
            self.labels = labels

    return Dataset("made", train, validation, test, Encoder(), (), "", form)


def rows(n, seed=0, classes=2, width=6):
    """Sound data: two inputs tell something of the class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = rng.normal(size=(n, width))
    x[:, 0] += y
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def regression(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    return torch.from_numpy(x).float(), torch.from_numpy(x[:, :1] + rng.normal(size=(n, 1))).float()


def about(notes, word):
    return [note for note in notes if note.startswith(word)]


# -- nothing to say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_sound_data_are_left_alone(seed):
    assert examine(made(rows(3000, seed), rows(1000, seed + 100), rows(1000, seed + 200))) == ()
    assert examine(made(regression(3000, seed), regression(1000, seed + 100), classes="")) == ()
    assert examine_tensors(rows(3000, seed), rows(1000, seed + 100)) == ()


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "diabetes", "iris", "wine"])
def test_no_leaks_or_duplicates_in_the_built_in_sets(name):
    notes = examine(read(name))
    assert not about(notes, "Leak") and not about(notes, "Contra") and not about(notes, "Imbalance")
    assert bool(about(notes, "Order")) is (name in ("iris", "wine"))  # whose files are sorted by class


def test_a_stream_and_targets_without_a_meaning_that_is_known():
    stream = TokenStream(torch.arange(100))
    assert examine(made(stream, stream, form=Form.STREAM, classes="")) == ()
    x = torch.randn(2000, 5)
    tags = torch.randint(0, 9, (2000, 7))  # a class for each of 7 words, some to be ignored
    assert examine_tensors((x, tags), (x + 1, tags)) == ()
    assert examine_tensors((x, tags[:, 0] - 100), (x + 1, tags[:, 0])) == ()
    several = (x, torch.randn(2000, 3), tags[:, 0])  # two inputs
    assert examine_tensors(several, (x + 1, *several[1:])) == ()


# -- the same example twice ----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), min_size=10, max_size=60), st.lists(st.integers(0, 80), min_size=10, max_size=60))
def test_duplicates_and_contradictions_against_a_count_by_hand(train, validation):
    y = [(value * 7 + place) % 3 for place, value in enumerate(train)]  # depends on more than the inputs

    def images(values):
        pixels = torch.zeros(len(values), 1, 3, 5, dtype=torch.uint8)
        pixels[:, 0, 2, 4] = torch.tensor(values)  # the last byte only
        return pixels

    labels = torch.zeros(len(validation), dtype=torch.int64)
    notes = examine(
        made((images(train), torch.tensor(y)), (images(validation), labels), form=Form.IMAGES, classes="abc")
    )
    seen = sum(value in train for value in validation)
    assert [f"Duplicates: {seen} of the {len(validation)} " in note for note in about(notes, "Dup")] == [True] * (
        seen > 0
    )
    groups = defaultdict(Counter)
    for value, label in zip(train, y, strict=True):
        groups[value][label] += 1
    contradict = sum(sum(group.values()) for group in groups.values() if len(group) > 1)
    least = sum(sum(group.values()) - max(group.values()) for group in groups.values()) / len(train)
    found = about(notes, "Contradictions")
    assert len(found) == (contradict > 0)
    if found:
        assert f": {contradict} training" in found[0] and f"error of {100 * least:.2g} %" in found[0]


def test_duplicates_in_rows_are_said_from_one_in_a_hundred():
    train, validation = rows(3000), rows(1000, 1)
    for copies, said in ((9, 0), (10, 1)):
        x = validation[0].clone()
        x[:copies] = train[0][:copies]
        notes = examine(made(train, validation, (x, validation[1])))
        assert [note.split(" (")[0] for note in notes] == [
            f"Duplicates: {copies} of the 1,000 examples held out as a test"
        ] * said


def test_one_hot_rows_are_not_taken_for_each_other():
    x = torch.eye(64).repeat(30, 1)
    other = torch.eye(64)[:, torch.randperm(64, generator=torch.manual_seed(0))] * 2  # never the same
    y = torch.randint(0, 2, (1920,), generator=torch.manual_seed(1))
    notes = examine(made((x, y), (other.repeat(20, 1), y[:1280])))
    assert not about(notes, "Dup")


def test_texts_are_the_same_whatever_their_padding():
    def texts(rows, width):
        tokens = torch.zeros(len(rows), width, dtype=torch.int64)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row)
        return tokens

    train = [[5, 256], [256], [7, 7, 7], [1], [65536, 4]] * 10
    validation = [[5, 256], [256, 256], [7, 7], [1], [4, 65536]] * 200
    y = torch.zeros(50, dtype=torch.int64), torch.zeros(1000, dtype=torch.int64)
    notes = examine(
        made(Padded((texts(train, 3), y[0])), Padded((texts(validation, 9), y[1])), form=Form.TEXTS, classes="a")
    )
    assert len(notes) == 1 and notes[0].startswith("Duplicates: 400 of the 1,000 ")


def test_pairs_are_the_same_only_where_both_sides_are():
    def pairs(rows):
        sources, targets = zip(*rows, strict=True)
        return Padded(
            (
                torch.tensor(sources),
                torch.tensor([[BEGIN, *t] for t in targets]),
                torch.tensor([[*t, END] for t in targets]),
            )
        )

    train = pairs([([5, 6], [7]), ([5, 7], [8]), ([9, 9], [9])])
    validation = pairs([([5, 6], [7]), ([5, 6], [8]), ([6, 5], [7])])
    notes = examine(made(train, validation, form=Form.PAIRS, classes=""))
    assert len(notes) == 1 and notes[0].startswith("Duplicates: 1 of the 3 ")


# -- leaks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("shape", ["order", "scrambled order", "two values"])
def test_an_input_that_gives_the_class_away(classes, shape):
    x, y = rows(3000, classes=classes)
    told = {"order": y * 10.0, "scrambled order": (y * 7 % classes) - 3.0, "two values": (y == 1) * 1.0}[shape]
    x[:, 4] = told + (torch.rand(3000) if shape != "two values" else 0)
    (note,) = examine(made((x, y), rows(1000, 1, classes), classes="abcdefghij"[:classes])) or [""]
    if classes > 2 and shape == "two values":
        assert not note  # it tells one class from the others, not all
    else:
        assert note.startswith("Leak: input 4 alone gives the target away: sorted by it, the class of 3,000 ")


@pytest.mark.parametrize("function", [lambda y: y, lambda y: -(y**3), lambda y: 1 / (1 + (-y).exp())])
def test_an_input_that_gives_a_number_away(function):
    x, y = regression(3000)
    x[:, 2] = function(y[:, 0])
    (note,) = examine(made((x, y), regression(1000, 1), classes=""))
    assert note.startswith("Leak: input 2 ")


def test_the_threshold_is_near_an_area_of_0_999_and_an_r2_of_0_999():
    from scipy.stats import norm

    def leaks(area):
        x, y = rows(20_000)
        x[:, 3] = torch.randn(20_000, generator=torch.manual_seed(0)) + y * float(norm.ppf(area) * 2**0.5)
        return bool(about(examine(made((x, y), rows(1000, 1))), "Leak"))

    assert [leaks(area) for area in (0.99, 0.996, 0.9996, 0.9999)] == [False, False, True, True]

    def leaks_numbers(r2):
        x, y = regression(20_000)
        noise = torch.randn(20_000, generator=torch.manual_seed(0)) * y.std() * ((1 - r2) / r2) ** 0.5
        x[:, 3] = y[:, 0] + noise
        return bool(about(examine(made((x, y), regression(1000, 1), classes="")), "Leak"))

    assert [leaks_numbers(r2) for r2 in (0.99, 0.998, 0.9995, 0.9999)] == [False, False, True, True]


def test_a_rare_class_that_is_given_away_and_one_that_is_not():
    x, y = rows(5000)
    y[:] = 0
    y[torch.randperm(5000, generator=torch.manual_seed(0))[:20]] = 1
    validation = rows(1000, 1)
    assert not about(examine(made((x, y), validation)), "Leak")
    x[:, 2] += 100 * y
    assert len(about(examine(made((x, y), validation)), "Leak")) == 1


def table(folder, columns, rows):
    path = folder / "data.csv"
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]))
    return read(path, label="y")


def test_leaking_columns_of_a_table_are_named(tmp_path):
    rng = np.random.default_rng(0)
    n = 3000
    y = rng.integers(0, 3, n)
    codes = np.array(["p", "q", "r", "s", "t", "u"])[y + 3 * rng.integers(0, 2, n)]  # two of six for each class
    shops = rng.choice(["x", "y", "z"], n)
    paid = np.where(y == 0, "", rng.normal(size=n).round(3).astype(str))  # missing tells the first class
    when = np.datetime64("2024-01-01") + y * 50 + rng.integers(0, 40, n)
    notes = examine(
        table(tmp_path, ("code", "shop", "paid", "when", "y"), zip(codes, shops, paid, when, y, strict=True))
    )
    assert {re.search("column '(.*?)'", note)[1] for note in about(notes, "Leak")} == {"code", "when"}
    notes = examine(
        table(tmp_path, ("code", "shop", "paid", "y"), zip(codes, shops, paid, np.minimum(y, 1), strict=True))
    )
    assert {re.search("column '(.*?)'", note)[1] for note in about(notes, "Leak")} == {"code", "paid"}


def test_many_levels_do_not_look_like_a_leak(tmp_path):
    rng = np.random.default_rng(0)
    for n in (60, 200, 2000):
        levels = rng.integers(0, min(n // 3, 40), n)
        notes = examine(
            table(
                tmp_path,
                ("c", "x", "y"),
                zip((f"l{v}" for v in levels), rng.normal(size=n), rng.permutation(n) % 2, strict=True),
            )
        )
        assert not about(notes, "Leak"), n


def test_a_sorted_file_does_not_make_ties_a_leak():
    x, y = rows(3000)
    x[:, 5] = torch.randint(0, 2, (3000,), generator=torch.manual_seed(0))
    order = y.argsort()
    assert not about(examine(made((x[order], y[order]), rows(1000, 1))), "Leak")


# -- classes and order ---------------------------------------------------------------------------------------------


def test_few_examples_to_validate_on():
    train = rows(3000)
    assert examine(made(train, rows(900, 1))) == ()
    (note,) = examine(made(train, rows(899, 1)))
    assert "899" in note and "1.0 points" in note
    (note,) = examine(made(train, rows(100, 1)))
    assert "standard error is 3.0 points" in note and "differ by 8.5 points" in note  # 2 sqrt(2) 3
    assert examine(made(regression(3000), regression(100, 1), classes="")) == ()


def test_imbalance_and_absent_classes():
    x, y = rows(3300)
    y[:] = 0
    y[torch.randperm(3300, generator=torch.manual_seed(0))[:300]] = 1
    notes = examine(made((x, y), rows(1000, 1)))
    assert notes == ()  # 3,000 to 300 is ten times as many, and not more
    y[y.nonzero()[0]] = 0
    (note,) = examine(made((x, y), rows(1000, 1)))
    assert note.startswith(
        "Imbalance: 'a' has 3,001 training examples, 10 times as many as 'b', the rarest class, with 299"
    )
    x, y = rows(3000, classes=3)
    validation = rows(1000, 1)
    notes = examine(made((x, y), validation, validation, classes=["red", "blue", "green"]))
    assert list(notes) == [
        f"Absent classes: the part {part} has none of 1 of the 3 classes ('green')."
        for part in ("to validate on", "held out as a test")
    ]


def test_the_order_of_a_file():
    x, y = rows(3000, classes=40)
    assert not examine(made((x, y), rows(1000, 1, 40), classes=map(str, range(40))))
    order = y.argsort()
    (note,) = examine(made((x[order], y[order]), rows(1000, 1, 40), classes=map(str, range(40))))
    assert note.startswith("Order: the file is ordered by class")
    x, y = regression(3000)
    order = y[:, 0].argsort()
    (note,) = examine(made((x[order], y[order]), regression(1000, 1), classes=""))
    assert note.startswith("Order: neighbours in the file have like targets (correlation 1.00)")


# -- inputs --------------------------------------------------------------------------------------------------------


def test_constant_inputs():
    x, y = rows(3000)
    x[:, 3] = 7
    x[:, 5] = 0
    (note,) = examine(made((x, y), rows(1000, 1)))
    assert note.startswith("Constant inputs: 2 of 6 do not vary in the training part (3, 5)")


def test_the_scale_of_a_users_own_tensors():
    x, y = rows(3000)
    validation = rows(1000, 1)
    x[:, 1] *= 1e-3
    x[:, 2] += 50
    scale, offset = examine_tensors((x, y), validation)
    assert re.match(r"Scales: .* range from 0.00\d* \(input 1\) to 1.\d* \(input 0\)", scale)
    assert re.match(r"Offsets: 1 of 6 inputs lie far from 0 for their spread \(input 2: mean 50", offset)
    assert examine(made((x, y), validation)) == ()  # the readers standardise; what is left is meant
    x[:, 1:] = 3
    assert not about(examine_tensors((x, y), validation), "Scales")


# -- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DATASETS.exists(), reason="the adult data are not here")
def test_adult():
    data = read(DATASETS / "adult" / "adult-train.csv.gz", label="last", test=DATASETS / "adult" / "adult-test.csv.gz")
    assert examine(data) == ()
