"""Tables: what is inferred, how it is encoded, what is refused; by hand on small files, and by fuzzing."""

from __future__ import annotations

import gzip
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.data.base import Dataset, Kind
from rheostat.data.read import read
from rheostat.data.split import split
from rheostat.data.tabular import TabularEncoder
from rheostat.errors import DataError

ADULT = Path(__file__).parents[3] / "shared" / "datasets" / "adult"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tabular")


def written(folder, lines, name="data.csv"):
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def numbered(rows, template, header="x,c,y"):
    """A header and rows made by `template` from the number of the row."""
    return [header, *(template(i) for i in range(rows))]


def noted(dataset, words):
    return any(words in note for note in dataset.notes)


# -- encoding, by hand --------------------------------------------------------------------------------------

SIZES = ["1", "2", "", "4", "5", "6", "?", "8", "9", "10", "11", "30"]
COLOURS = ["red", "blue", "red", "", "blue", "red", "red", "blue", "NA", "red", "blue", "red"]
LABELS = ["yes", "no"] * 6


@pytest.fixture(scope="module")
def small(folder):
    rows = [f"{s},{c},{y}" for s, c, y in zip(SIZES, COLOURS, LABELS, strict=True)]
    return written(folder, ["size,colour,label", *rows], "small.csv")


def test_numbers_and_categories_by_hand(small):
    data = read(small, label="label", validation_fraction=0.25, seed=3)
    codes = np.array([1, 0] * 6)  # classes in alphabetical order: no, yes
    train, validation = split(12, 0.25, 3, codes)
    numbers = [float(s) if s.isdigit() else None for s in SIZES]
    median = statistics.median([numbers[i] for i in train if numbers[i] is not None])
    filled = [median if n is None else n for n in numbers]
    mean, sd = statistics.fmean(filled[i] for i in train), statistics.pstdev(filled[i] for i in train)
    gaps = any(numbers[i] is None for i in train)
    levels = sorted({COLOURS[i] if COLOURS[i] in ("red", "blue") else "" for i in train})
    for rows, part in ((train, data.train), (validation, data.validation)):
        expected = [
            [(filled[i] - mean) / sd]
            + ([float(numbers[i] is None)] if gaps else [])
            + [float((COLOURS[i] if COLOURS[i] in ("red", "blue") else "") == level) for level in levels]
            for i in rows
        ]
        assert torch.allclose(part[0], torch.tensor(expected), atol=1e-6)
        assert part[1].tolist() == codes[rows].tolist()
    assert (data.kind, data.classes, data.inputs, data.outputs) == (
        Kind.CLASSIFICATION,
        ("no", "yes"),
        1 + gaps + len(levels),
        2,
    )
    assert data.train[0].dtype == torch.float32 and data.train[1].dtype == torch.int64
    assert data.encoder.features[0] == "size" and len(data.encoder.features) == data.inputs
    assert data.name == "small" and data.test is None
    assert noted(data, "Numbers missing in size") is gaps and noted(data, "Categories missing in colour") is (
        "" in levels
    )


def test_regression_is_standardised_and_goes_back(folder):
    path = written(folder, numbered(50, lambda i: f"{i},{'ab'[i % 2]},{100 + 7 * i + 0.5}"))
    data = read(path, label="y")
    train, validation = split(50, 0.2, 0)
    y = 100.5 + 7 * np.arange(50)
    mean, sd = y[train].mean(), y[train].std()
    assert (data.kind, data.classes, data.outputs) == (Kind.REGRESSION, (), 1)
    assert data.target_scale == pytest.approx(sd)
    assert data.train[1].shape == (40, 1)
    assert np.allclose(data.validation[1][:, 0], (y[validation] - mean) / sd, atol=1e-6)
    assert np.allclose(data.encoder.labels.decode(data.validation[1])[:, 0], y[validation], rtol=1e-6)


def test_only_training_rows_are_looked_at(folder):
    rows = [[str(i * 1.5), "abc"[i % 3], str(i % 2)] for i in range(60)]
    train, validation = split(60, 0.2, 0, np.arange(60) % 2)

    def changed(which):
        lines = [[f"{float(x) * 1e3 + 77}", "d", y] if i in which else [x, c, y] for i, (x, c, y) in enumerate(rows)]
        return read(written(folder, ["x,c,y", *map(",".join, lines)], "changed.csv"), label="y")

    plain, other = changed([]), changed(set(validation.tolist()))
    for before, after in zip(plain.train, other.train, strict=True):
        assert torch.equal(before, after)
    assert plain.encoder == other.encoder
    assert not torch.equal(plain.validation[0], other.validation[0])
    assert plain.fingerprint != other.fingerprint
    assert changed([int(train[0])]).encoder != plain.encoder  # so that this test can fail


def test_rare_and_many_levels_are_grouped(folder):
    # 2000 rows: l0 ... l149 about 13 times each, and one that comes once, which is rarer than 1 in 1000
    def template(i):
        return f"{i % 7},{'once' if i == 1999 else f'l{i % 150}'},{i % 2}"

    data = read(written(folder, numbered(2000, template)), label="y")
    (column,) = data.encoder.categories
    assert len(column.levels) == 100 and column.other and "once" not in column.levels
    assert data.inputs == 1 + 100 + 1
    assert (data.train[0][:, 1:].sum(1) == 1).all()
    assert noted(data, "grouped")


def test_a_level_rarer_than_one_in_a_thousand_has_no_input_of_its_own(folder):
    train, _ = split(1500, 0.2, 0, np.arange(1500) % 2)  # 1,200 rows to train on
    once, twice = train[0], train[1:3]

    def template(i):
        return f"{i},{'once' if i == once else 'twice' if i in twice else 'ab'[i % 2]},{i % 2}"

    (column,) = read(written(folder, numbered(1500, template)), label="y").encoder.categories
    assert column.levels == ("a", "b", "twice") and column.other


def test_levels_that_training_never_saw(folder):
    data = read(written(folder, numbered(40, lambda i: f"{i},{'ab'[i % 2]},{i // 2 % 2}")), label="y")
    assert data.encoder.categories[0].levels == ("a", "b") and not data.encoder.categories[0].other
    inputs = data.encoder.encode(written(folder, ["x,c", "3,b", "3,z", ",a"], "new.csv"))
    assert inputs[:, 1:].tolist() == [[0, 1], [0, 0], [1, 0]]
    assert inputs[2, 0] == pytest.approx(
        (data.encoder.numbers[0].median - data.encoder.numbers[0].mean) / data.encoder.numbers[0].scale
    )


# -- which columns and labels --------------------------------------------------------------------------------


def test_columns_that_tell_nothing_are_left_out(folder):
    def template(i):
        return f"{i + 1},same,5,name{i},?,{i * 0.3},{i % 3}"

    data = read(written(folder, numbered(80, template, "id,a,b,who,gap,x,y")), label="y")
    assert data.encoder.features == ("x",)
    for words in ("left out id: they count", "left out a, b: they do not vary", "left out who: they hold names", "gap"):
        assert noted(data, words), words


def test_few_different_names_stay_categories(folder):
    data = read(written(folder, numbered(45, lambda i: f"{i},name{i},{i % 3}")), label="y")
    assert len(data.encoder.categories) == 1  # fewer than 50 different ones


@pytest.mark.parametrize("label", ["y", "last", "3", 3])
def test_the_label_by_name_number_or_last(folder, label):
    data = read(written(folder, numbered(20, lambda i: f"{i},{'ab'[i % 2]},{i % 4}")), label=label)
    assert data.encoder.label == "y" and data.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("label", "kind", "classes"),
    [
        (lambda i: i % 20, "classification", [str(n) for n in range(20)]),
        (lambda i: i % 21, "regression", []),
        (lambda i: i % 3 / 2, "regression", []),
        (lambda i: f"{i % 3}.0", "classification", ["0", "1", "2"]),
        (lambda i: i % 3 * 10 - 10, "classification", ["-10", "0", "10"]),  # in the order of numbers
        (lambda i: "+-"[i % 2], "classification", ["+", "-"]),
        (lambda i: ["none", "mild"][i % 2], "classification", ["mild", "none"]),
        (lambda i: ["True", "False"][i % 2], "classification", ["False", "True"]),
    ],
)
def test_the_kind_of_label(folder, label, kind, classes):
    data = read(written(folder, numbered(126, lambda i: f"{i},{'ab'[i % 2]},{label(i)}")), label="y")
    assert (data.kind, list(data.classes)) == (kind, classes)


def test_the_kind_can_be_given(folder):
    path = written(folder, numbered(60, lambda i: f"{i},a,{i % 4}"))
    assert read(path, label="y", kind="regression").kind is Kind.REGRESSION
    path = written(folder, numbered(60, lambda i: f"{i},a,{i % 25}"))
    assert read(path, label="y", kind=Kind.CLASSIFICATION).outputs == 25


def test_rows_without_a_label_are_left_out(folder):
    path = written(folder, numbered(40, lambda i: f"{i},{'ab'[i % 2]},{'?' if i % 10 == 3 else i % 2}"))
    data = read(path, label="y")
    assert len(data.train[0]) + len(data.validation[0]) == 36
    assert noted(data, "left out 4 rows without a label ('?')")
    path = written(folder, numbered(40, lambda i: f"{i},{'ab'[i % 2]},{'-' if i % 10 == 3 else i % 2}"))
    assert noted(read(path, label="y"), "left out 4 rows without a label ('-')")


def test_a_class_of_one_row_is_trained_on(folder):
    path = written(folder, numbered(30, lambda i: f"{i},b,{'rare' if i == 7 else 'ab'[i % 2]}"))
    data = read(path, label="y")
    assert data.train[1].tolist().count(2) == 1 and 2 not in data.validation[1]
    assert noted(data, "1 classes have one row only")


# -- other files -----------------------------------------------------------------------------------------------


def test_a_test_file_is_encoded_as_the_training_file_was(folder):
    train = numbered(40, lambda i: f"{i},{'ab'[i % 2]},{['<=50K', '>50K'][i % 2]}")
    test = ["y,extra,x,c", "<=50K.,1,3,a", ">50K.,2,4,b", "?,3,5,b"]  # another order, one column more
    data = read(written(folder, train), label="y", test=written(folder, test, "test.csv"))
    x, y = data.test
    assert y.tolist() == [0, 1]
    assert torch.equal(x, data.encoder.encode(written(folder, ["x,c", "3,a", "4,b"], "new.csv")))
    assert noted(data, "'<=50K.' are taken for '<=50K'") or noted(data, "'>50K.' are taken for '>50K'")
    assert noted(data, "test.csv: left out 1 rows without a label")
    assert data.fingerprint != read(folder / "data.csv", label="y").fingerprint


def test_other_files_without_a_header_go_by_position(folder):
    path = written(folder, [f"{i},{'ab'[i % 2]},{i * 0.7},{'ab'[i % 2]}" for i in range(30)])
    data = read(path, label=2)
    whole = data.encoder.encode(written(folder, ["4,a,2.5,b", "5,b,3.5,a"], "whole.csv"))
    unlabelled = data.encoder.encode(written(folder, ["4,2.5,b", "5,3.5,a"], "unlabelled.csv"))
    assert torch.equal(whole, unlabelled)
    with pytest.raises(DataError, match=r"has 2 columns; the training file had 4.*all but column_2"):
        data.encoder.encode(written(folder, ["4,2.5", "5,3.5"], "short.csv"))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["x,c,y", "1,a,maybe"], "row 2: 'maybe'. Unknown class 'maybe'.*Known: no, yes"),
        (["x,colour,y", "1,a,yes"], "must name the columns.*'c'"),
        (["1,a,yes", "2,b,no"], "must name the columns"),
        (["x,c", "1,a"], "no column 'y'"),
        (["x,c,y", "1,a,yes", "tall,b,no"], "column 'x', row 3: 'tall' is not a number"),
        (["x,c,y", "1,a,yes", "inf,b,no"], "column 'x', row 3: 'inf' is not a finite number"),
        (["x,c,y", "1,a,yes", "1e300,b,no"], "column 'x': a value is too far"),
        (["x,c,y", "1,a,?"], "no row has a label"),
    ],
)
def test_test_files_that_do_not_fit(folder, lines, words):
    train = written(folder, numbered(40, lambda i: f"{i},{'ab'[i % 2]},{['no', 'yes'][i % 2]}"))
    with pytest.raises(DataError, match=words):
        read(train, label="y", test=written(folder, lines, "test.csv"))


def test_a_test_label_of_a_regression_must_be_a_number(folder):
    train = written(folder, numbered(40, lambda i: f"{i},a,{i * 0.3}"))
    with pytest.raises(DataError, match="'high' is not a number, as the labels"):
        read(train, label="y", test=written(folder, ["x,c,y", "1,a,high", "2,a,low"], "test.csv"))


def test_the_encoder_survives_json(small, folder):
    regression = written(folder, numbered(50, lambda i: f"{i / 3},{'ab'[i % 2]},{i / 7}"))
    for data in (read(small, label="label"), read(regression, label="y")):
        described = json.loads(json.dumps(data.encoder.describe()))
        assert TabularEncoder.from_description(described) == data.encoder
    with pytest.raises(DataError, match="not the description"):
        TabularEncoder.from_description({"names": ["a"]})


def test_packed_files_are_the_same_data(small, folder):
    packed = folder / "small.csv.gz"
    packed.write_bytes(gzip.compress(small.read_bytes()))
    plain, other = read(small, label="label"), read(packed, label="label")
    assert torch.equal(plain.train[0], other.train[0])
    assert (plain.name, plain.fingerprint) == (other.name, other.fingerprint)


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (numbered(200, lambda i: f"{'abc' if i == 99 else i},a,{i % 2}"), "column 'x', row 101: 'abc' is not a number"),
        (numbered(200, lambda i: f"{'inf' if i == 99 else i},a,{i % 2}"), "column 'x', row 101: 'inf' is not a finite"),
        (numbered(200, lambda i: f"{i},a,{'abc' if i == 99 else i / 3}"), "column 'y', row 101: 'abc'"),
        (numbered(200, lambda i: f"{i},a,{'-inf' if i == 99 else i / 3}"), "column 'y', row 101: '-inf'"),
        (numbered(20, lambda i: f'"{i},5",a,{i % 2}'), "column 'x', row 2: '0,5' is a number with a comma"),
        (numbered(20, lambda i: f'{i},a,"{i},500"'), "column 'y', row 2: '0,500' is a number with a comma"),
        (numbered(20, lambda i: f"{i},{'ab'[i % 2]},1"), "all 20 rows have the same label"),
        (numbered(20, lambda i: f"{i},{'ab'[i % 2]},0.5"), "all 20 rows have the same label"),
        (numbered(9, lambda i: f"{i},{'ab'[i % 2]},{i % 2}"), "9 labelled rows are too few: give at least 10"),
        (numbered(30, lambda i: f"{i},{'ab'[i % 2]},word{i}"), "30 different labels in 30 rows"),
        (numbered(30, lambda i: f"{i},{'ab'[i % 2]},?"), "no row has a label"),
        (numbered(30, lambda i: f"7,a,{i % 2}"), "no column is left.*left out x, c: they do not vary"),
        (numbered(30, lambda i: f"{(-1) ** i}e308,a,{i % 2}"), "column 'x': its numbers are too large"),
        (["y", *(str(i % 2) for i in range(20))], "one column only"),
    ],
)
def test_what_cannot_be_trained_on_is_said_in_words(folder, lines, words):
    with pytest.raises(DataError, match=words):
        read(written(folder, lines), label="last")


def test_more_than_a_few_texts_make_categories(folder):
    data = read(written(folder, numbered(100, lambda i: f"{'low' if i < 2 else i % 5},a,{i % 2}")), label="y")
    assert data.encoder.categories[0].levels == ("0", "1", "2", "3", "4", "low")


def test_words_cannot_be_regressed(folder):
    with pytest.raises(DataError, match="row 2: 'a' is not a number to be predicted"):
        read(written(folder, numbered(20, lambda i: f"{i},b,{'ab'[i % 2]}")), label="y", kind="regression")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (None, "which column is to be predicted.*x, c, y"),
        ("yy", "Unknown column 'yy'. Did you mean 'y'"),
        ("4", "Unknown column '4'.*from 1 to 3"),
        ("0", "Unknown column '0'"),
    ],
)
def test_labels_that_are_not_there(folder, label, words):
    with pytest.raises(DataError, match=words):
        read(written(folder, numbered(20, lambda i: f"{i},{'ab'[i % 2]},{i % 2}")), label=label)


def test_many_column_names_are_not_all_listed(folder):
    names = [f"feature_{n}" for n in range(500)]
    path = written(folder, [",".join(names), *(",".join(str(i * n) for n in range(500)) for i in range(12))])
    for label in ("featur_7", "nothing like it"):
        with pytest.raises(DataError) as caught:
            read(path, label=label)
        assert len(str(caught.value)) < 500


# -- fuzzing -----------------------------------------------------------------------------------------------------


def check_sound(data, path):
    """What holds for every data set that loads."""
    assert isinstance(data, Dataset)
    for x, y in (data.train, data.validation):
        assert len(x) == len(y) > 0 and x.dtype == torch.float32
        assert torch.isfinite(x).all() and x.shape[1:] == (data.inputs,)
        if data.kind is Kind.CLASSIFICATION:
            assert y.dtype == torch.int64 and y.min() >= 0 and y.max() < len(data.classes) == data.outputs
        else:
            assert y.dtype == torch.float32 and torch.isfinite(y).all() and y.shape[1:] == (data.outputs,)
    if data.kind is Kind.CLASSIFICATION:
        assert set(data.train[1].tolist()) == set(range(data.outputs))
    if not noted(data, "without a label"):  # such rows may hold anything
        assert len(data.encoder.encode(path)) == len(data.train[0]) + len(data.validation[0])
    assert TabularEncoder.from_description(json.loads(json.dumps(data.encoder.describe()))) == data.encoder


NASTY = ["", " ", "?", "NA", "nan", "-", "None", "inf", "-Infinity", "1e999", "1e308", "-1e308", "1e-320", "1_0"]
NASTY += ["٣", "é", "abc", '"', '"a"', '"a', "a;b", "a|b", "1,5", "true", "\ufeff", "\x1c", "\u2028", "9" * 400]
nasty = st.sampled_from(NASTY)
numbers = st.integers(-9, 9).map(str) | st.floats(allow_nan=False, allow_infinity=False, width=16).map(str)
words = st.sampled_from("abcdef") | st.text(max_size=4)


@st.composite
def lines_of_cells(draw):
    width, length = draw(st.integers(1, 4) | st.just(3)), draw(st.integers(10, 40) | st.integers(0, 12))
    kinds = [
        draw(st.sampled_from([numbers, st.sampled_from("ab"), words, st.sampled_from("01") | nasty]))
        for _ in range(width)
    ]
    rows = [[draw(kind) for kind in kinds] for _ in range(length)]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):  # faults
        if rows:
            row = draw(st.sampled_from(rows))
            fault = draw(st.sampled_from(["cell", "shorter", "longer"]))
            if fault == "cell" and row:
                row[draw(st.integers(0, len(row) - 1))] = draw(nasty)
            elif fault == "shorter" and row:
                row.pop()
            else:
                row.append("1")
    return draw(st.sampled_from([",", ", ", ";", "\t", "|"])), rows


@settings(max_examples=100)
@given(lines_of_cells(), st.sampled_from(["last", "last", "1", "2", "nothing"]), st.integers(0, 3))
def test_any_table_loads_or_is_refused_in_words(tmp_path_factory, table, label, seed):
    delimiter, rows = table
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes("\n".join(delimiter.join(row) for row in rows).encode("utf-8", "surrogatepass"))
    try:
        data = read(path, label=label, seed=seed)
    except DataError as error:
        assert len(str(error)) > 10
        return
    check_sound(data, path)


@settings(max_examples=100)
@given(st.binary(max_size=300), st.sampled_from(["fuzz.csv", "fuzz.tsv", "fuzz.csv.gz"]), st.booleans())
def test_any_bytes_load_or_are_refused_in_words(tmp_path_factory, content, name, pack):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(gzip.compress(content) if pack else content)
    try:
        data = read(path, label="last")
    except DataError:
        return
    check_sound(data, path)


# -- real data ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not ADULT.exists(), reason="the adult data are not here")
def test_adult():
    data = read(ADULT / "adult-train.csv.gz", label="column_15", test=ADULT / "adult-test.csv.gz")
    assert (len(data.train[0]), len(data.validation[0]), len(data.test[0])) == (26_048, 6_513, 16_281)
    assert data.classes == ("<=50K", ">50K")
    assert noted(data, "no header, so they are named column_1 to column_15")
    assert noted(data, "the most common, '<=50K', is 75.9 %")
    # 24,720 and 12,435 rows of the first class, counted with grep
    counts = [int((part[1] == 0).sum()) for part in (data.train, data.validation, data.test)]
    assert counts[0] + counts[1] == 24_720 and counts[2] == 12_435
    assert counts[1] / 6_513 == pytest.approx(24_720 / 32_561, abs=1e-4)
    numeric = data.train[0][:, [data.encoder.features.index(f"column_{n}") for n in (1, 3, 5, 11, 12, 13)]]
    assert torch.allclose(numeric.mean(0), torch.zeros(6), atol=1e-4)
    assert torch.allclose(numeric.std(0), torch.ones(6), atol=1e-3)


# -- dates -------------------------------------------------------------------------------------------------------

DAY = np.timedelta64(1, "D")


def dated(folder, template, rows=60, header="d,x,y", name="data.csv"):
    return written(folder, numbered(rows, template, header), name)


def test_dates_are_days_and_points_on_circles(folder):
    moments = [np.datetime64("2023-11-20T06:30") + i * np.timedelta64(1531, "m") for i in range(60)]
    path = dated(folder, lambda i: f"{moments[i] if i % 9 else ''},{i * 0.3},{i % 2}")
    data = read(path, label="y")
    train, validation = split(60, 0.2, 0, np.arange(60) % 2)
    days = np.array([(m - np.datetime64("1970-01-01")) / DAY for m in moments])
    missing = np.arange(60) % 9 == 0
    filled = np.where(missing, np.median(days[[i for i in train if not missing[i]]]), days)
    cycles = [(m.item().month - 1) / 12 for m in moments], [m.item().weekday() / 7 for m in moments]
    cycles += ([(m.item().hour * 60 + m.item().minute) / 1440 for m in moments],)
    waves = [wave(2 * np.pi * np.array(cycle)) for cycle in cycles for wave in (np.sin, np.cos)]
    expected = np.column_stack(
        [(filled - filled[train].mean()) / filled[train].std(), *np.where(missing, 0, waves), missing]
    )
    assert data.encoder.features == (
        "x",
        "d",
        *(f"d {cycle} ({wave})" for cycle in ("month", "weekday", "hour") for wave in ("sine", "cosine")),
        "d is missing",
    )
    for rows, part in ((train, data.train), (validation, data.validation)):
        assert np.allclose(part[0][:, 1:], expected[rows], atol=1e-5)
    assert noted(data, "Dates in d: days since their mean, standardised, and the month, weekday, hour as points")
    assert noted(data, "Dates missing in d")
    assert TabularEncoder.from_description(json.loads(json.dumps(data.encoder.describe()))) == data.encoder


@pytest.mark.parametrize(
    ("form", "cycles"),
    [
        (lambda i: f"2024-01-{1 + i % 2:02}", ("weekday",)),
        (lambda i: f"2024-{1 + i % 12:02}", ("month", "weekday")),
        (lambda i: f"{i % 24}:30", ("hour",)),
        (lambda i: f"2024-0{1 + i % 2}-01 {i % 24:02}:00", ("month", "weekday", "hour")),
        (lambda i: str(np.datetime64("2024-01-01") + 7 * i), ("month",)),
        (lambda i: str(np.datetime64("2000-03-01") + 146_097 * (i % 2)), ()),  # 400 years are whole weeks
    ],
)
def test_only_cycles_that_vary(folder, form, cycles):
    data = read(dated(folder, lambda i: f"{form(i)},{i * 0.3},{i // 2 % 2}"), label="y")
    (column,) = data.encoder.dates
    assert column.cycles == cycles and not column.indicator


def test_the_order_of_day_and_month_is_found_in_the_column(folder):
    day = np.datetime64("2024-01-01")

    def template(form):
        def line(i):
            date = (day + i).item()
            return f"{form.format(d=date.day, m=date.month, y=date.year)},{i * 0.3},{i % 2}"

        return line

    plain = read(dated(folder, template("{y}-{m:02}-{d:02}")), label="y")
    for form, day_first in (("{d}/{m}/{y}", True), ("{m}/{d}/{y}", False), ("{d}.{m}.{y}", False)):
        data = read(dated(folder, template(form)), label="y")
        assert torch.equal(data.train[0], plain.train[0])
        assert data.encoder.dates[0].day_first is day_first
    # the order is kept for a file in which it could not be found
    encoder = read(dated(folder, template("{d}/{m}/{y}")), label="y").encoder
    new = encoder.encode(written(folder, ["d,x", "3/4/2024,1", "4/4/2024,1"], "new.csv"))
    same = plain.encoder.encode(written(folder, ["d,x", "2024-04-03,1", "2024-04-04,1"], "same.csv"))
    assert torch.equal(new, same)


def test_dates_that_may_be_read_in_two_ways_are_left_out(folder):
    data = read(dated(folder, lambda i: f"{1 + i % 12}/{1 + i % 5}/2024,{i * 0.3},{i % 2}"), label="y")
    assert data.encoder.features == ("x",)
    assert noted(data, "left out d: they hold dates that may be day/month or month/day; write them as 2024-03-31")
    data = read(dated(folder, lambda i: f"{1 + i % 12}/{1 + i % 12}/2024,{i * 0.3},{i % 2}"), label="y")
    assert len(data.encoder.dates) == 1  # both readings are the same


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            lambda i: f"{'soon' if i == 120 else f'2024-01-{1 + i % 9}'},1",
            "column 'd', row 122: 'soon' is not a date, but",
        ),
        (lambda i: f"{'2024-02-30' if i == 120 else f'2024-02-{1 + i % 9:02}'},1", "'2024-02-30' is not a date"),
    ],
)
def test_a_cell_that_is_no_date_among_dates(folder, line, words):
    with pytest.raises(DataError, match=words):
        read(dated(folder, lambda i: f"{line(i)},{i % 2}", rows=200), label="y")


def test_a_new_file_with_a_cell_that_is_no_date(folder):
    encoder = read(dated(folder, lambda i: f"2024-01-{1 + i % 9:02},{i},{i % 2}"), label="y").encoder
    with pytest.raises(DataError, match=r"column 'd', row 3: 'never' is not a date, as the training rows have there"):
        encoder.encode(written(folder, ["d,x", "2024-01-01,1", "never,2"], "new.csv"))
    with pytest.raises(DataError, match=r"row 2: '7' is not a date"):
        encoder.encode(written(folder, ["d,x", "7,1", "8,2"], "new.csv"))


def test_one_date_for_all_tells_nothing(folder):
    data = read(dated(folder, lambda i: f"2024-01-01,{i * 0.3},{i % 2}"), label="y")
    assert noted(data, "left out d: they do not vary")


# -- many levels ---------------------------------------------------------------------------------------------------


def of_sizes(sizes, seed=0):
    """Names of levels, of which the first is in `sizes[0]` rows, the second in `sizes[1]`, and so on, shuffled."""
    return np.random.default_rng(seed).permutation(np.repeat([f"l{place}" for place in range(len(sizes))], sizes))


COMMON_AND_RARE = [1500 // (1 + place) + 1 for place in range(900)]  # the common ones get an input each


def test_how_common_a_level_is_becomes_an_input_where_many_are_grouped(folder):
    levels = of_sizes(COMMON_AND_RARE)
    rows = len(levels)
    data = read(written(folder, numbered(rows, lambda i: f"{i * 0.5},{levels[i]},{i % 2}")), label="y")
    train, validation = split(rows, 0.2, 0, np.arange(rows) % 2)
    counts = dict(zip(*np.unique(levels[train], return_counts=True), strict=True))
    logs = np.log([counts[level] for level in levels[train]])
    expected = (np.log([counts.get(level, 1) for level in levels]) - logs.mean()) / logs.std()
    assert data.encoder.features[-2:] == ("c is another", "frequency of c")
    assert np.allclose(data.train[0][:, -1], expected[train], atol=1e-5)
    assert np.allclose(data.validation[0][:, -1], expected[validation], atol=1e-5)
    assert (data.train[0][:, 1:-1].sum(1) == 1).all()
    assert noted(data, "c: one more input says how common the level is in the training rows")
    assert TabularEncoder.from_description(json.loads(json.dumps(data.encoder.describe()))) == data.encoder


@pytest.mark.parametrize(
    ("sizes", "features", "note"),
    [
        ([6] * 1400 + [1] * 1600, ("x", "frequency of c"), "c: one more input says how common"),
        ([4] * 2500, ("x",), "left out c: each of their levels is in less than 0.1% of the training rows"),
        ([1] * 6000 + [4] * 1000, ("x",), "left out c: they hold names"),
    ],
)
def test_columns_without_a_common_level(folder, sizes, features, note):
    levels = of_sizes(sizes)
    data = read(written(folder, numbered(10_000, lambda i: f"{i * 0.5},{levels[i]},{i % 2}")), label="y")
    assert data.encoder.features == features
    assert noted(data, note)


def test_frequencies_know_no_target(folder):
    levels = of_sizes(COMMON_AND_RARE)

    def encoded(label):
        lines = numbered(len(levels), lambda i: f"{i * 0.5},{levels[i]},{label(i)}")
        return read(written(folder, lines), label="y", kind="regression")  # split without regard to the target

    one, other = encoded(lambda i: i % 7), encoded(lambda i: levels[i][-1])
    assert one.encoder.categories[0].frequencies
    assert torch.equal(one.train[0], other.train[0])
