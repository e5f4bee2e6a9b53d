"""Parquet files: the same table as CSV gives the same inputs; every type of Arrow; files that are damaged."""

from __future__ import annotations

import builtins
import csv
import datetime as dt
import decimal
import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.data import parquet
from rheostat.data.base import Kind
from rheostat.data.parquet import read_parquet
from rheostat.data.tabular import TabularEncoder, read_tabular
from rheostat.errors import DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

N = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parquet")


def saved(folder, columns, name="data.parquet", **how):
    path = folder / name
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **how)
    return path


def loaded(path, label="y", **arguments):
    settings = {"test": None, "kind": None, "validation_fraction": 0.2, "seed": 0} | arguments
    return read_tabular(path, label, **settings)


def noted(dataset, words):
    return any(words in note for note in dataset.notes)


# -- the same as CSV -----------------------------------------------------------------------------------------------

optional = {
    "int": st.none() | st.integers(-(10**6), 10**6),
    "float": st.none() | st.floats(-1e6, 1e6).map(lambda value: float(np.float32(value))),
    "text": st.none() | st.sampled_from(["red", "blue", " green ", "?", "N/A", "7", "é"]),
    "bool": st.none() | st.booleans(),
    "date": st.none() | st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1)),
    "moment": st.none() | st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1)),
}
written = {
    "int": str,
    "float": repr,
    "text": str,
    "bool": str,
    "date": str,
    "moment": lambda moment: moment.isoformat(" "),
}
kinds = st.lists(st.sampled_from(sorted(optional)), min_size=1, max_size=4)


@st.composite
def tables(draw):
    """A column of each kind, of N cells, and labels that both kinds of task can have."""
    columns = {}
    for place, kind in enumerate(draw(kinds)):
        columns[f"{kind}_{place}"] = kind, draw(st.lists(optional[kind], min_size=N, max_size=N))
    labels = draw(st.sampled_from([lambda i: i % 3, lambda i: i * 0.37, lambda i: "ab"[i % 2], lambda i: i % 2 == 1]))
    kind = {int: "int", float: "float", str: "text", bool: "bool"}[type(labels(1))]
    return columns | {"y": (kind, [labels(i) for i in range(N)])}


@given(tables(), st.integers(1, N), st.booleans())
def test_the_same_table_gives_the_same_inputs_as_csv(tmp_path_factory, table, group_rows, dictionary):
    folder = tmp_path_factory.getbasetemp()
    rows = zip(
        *([("" if v is None else written[kind](v)) for v in values] for kind, values in table.values()), strict=True
    )
    with (folder / "same.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([table, *rows])
    types = {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "bool": pa.bool_(), "date": pa.date32()}
    types["moment"] = pa.timestamp("us")
    columns = {name: pa.array(values, types[kind]) for name, (kind, values) in table.items()}
    path = saved(folder, columns, "same.parquet", row_group_size=group_rows, use_dictionary=dictionary)
    try:
        expected = loaded(folder / "same.csv")
    except DataError as refused:
        with pytest.raises(DataError) as other:
            loaded(path)
        # the rows of a CSV file are counted with its header
        assert str(other.value).split(", row")[0].replace(".parquet", ".csv") == str(refused).split(", row")[0]
        return
    data = loaded(path)
    assert data.encoder.features == expected.encoder.features and data.classes == expected.classes
    for part in ("train", "validation"):
        for one, other in zip(getattr(data, part), getattr(expected, part), strict=True):
            assert torch.allclose(one, other, atol=1e-5), part
    assert [n.split(": ", 1)[1] for n in data.notes[1:] if ": " in n] == [
        n.split(": ", 1)[1] for n in expected.notes[1:] if ": " in n
    ]
    # a file of either kind can follow one of the other
    new = torch.cat([expected.train[0], expected.validation[0]]).sort(0)[0]
    for encoder, file in ((data.encoder, folder / "same.csv"), (expected.encoder, path)):
        assert torch.allclose(encoder.encode(file).sort(0)[0], new, atol=1e-5)


# -- every type ----------------------------------------------------------------------------------------------------


def column_of(folder, array, **how):
    """Numbers (N,), texts and seconds of a column as it is read."""
    (column,) = read_parquet(saved(folder, {"a": array}, **how)).columns
    return column.numbers.tolist(), [column.cells.texts[code] for code in column.codes], column.cells.seconds


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.uint16(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.decimal128(9, 2)],
)
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_numbers_of_every_type(folder, kind, rows):
    values = [decimal.Decimal(3), None, decimal.Decimal(7), decimal.Decimal(3)]
    if not pa.types.is_decimal(kind):
        values = [None if value is None else int(value) for value in values]
    array = pa.array(values, pa.int64() if pa.types.is_floating(kind) else kind).cast(kind)
    numbers, texts, seconds = column_of(folder, array, row_group_size=rows)
    assert numbers[::2] == [3, 7] and math.isnan(numbers[1]) and numbers[3] == 3 and seconds is None
    assert texts == ["3", "", "7", "3"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_texts_of_every_type(folder, kind):
    array = pa.array([" red", None, "blue", "red"], pa.string()).cast(kind)
    assert column_of(folder, array)[1] == ["red", "", "blue", "red"]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([dt.date(2024, 3, 1), None], pa.date32()), 1_709_251_200),
        (pa.array([dt.date(2024, 3, 1), None], pa.date64()), 1_709_251_200),
        *(
            (
                pa.array([1_709_251_200, None], pa.int64()).cast(pa.timestamp("s")).cast(pa.timestamp(unit)),
                1_709_251_200,
            )
            for unit in ("s", "ms", "us", "ns")
        ),
        (pa.array([1_709_251_200, None], pa.timestamp("s", "Asia/Tokyo")), 1_709_251_200),
        (pa.array([dt.time(1, 2, 3), None], pa.time32("s")), 3723),
        (pa.array([dt.time(1, 2, 3), None], pa.time64("ns")), 3723),
    ],
)
def test_dates_and_times_of_every_type(folder, array, expected):
    _, texts, seconds = column_of(folder, array)
    assert seconds[0] == expected and np.isnan(seconds[1])
    assert texts == [str(np.datetime64(expected, "s").astype("datetime64[us]")), ""]


def test_durations_are_seconds_and_flags_are_words(folder):
    for unit in ("s", "ms", "us", "ns"):
        numbers = column_of(folder, pa.array([dt.timedelta(seconds=90), None], pa.duration(unit)))[0]
        assert numbers[0] == 90 and math.isnan(numbers[1])
    assert column_of(folder, pa.array([True, None, False]))[1] == ["True", "", "False"]


def test_categories_are_categories_even_where_they_look_like_numbers(folder):
    codes = pa.array([str(i % 3) for i in range(N)])
    y = pa.array([i % 2 for i in range(N)])
    x = pa.array(range(N))
    data = loaded(saved(folder, {"plain": codes, "category": codes.dictionary_encode(), "x": x, "y": y}))
    assert [part.name for part in data.encoder.numbers] == ["plain", "x"]
    assert data.encoder.categories[0].levels == ("0", "1", "2")


def test_names_with_dots_and_columns_that_are_left_out(folder):
    rng = np.random.default_rng(0)
    columns = {
        "a.b": rng.normal(size=N),
        "a": [{"b": 1.0}] * N,
        "tags": [[1, 2]] * N,
        "raw": [b"x"] * N,
        "pairs": pa.array([[("k", 1)]] * N, pa.map_(pa.string(), pa.int64())),
        "none": pa.nulls(N),
        "y": np.arange(N) % 2,
    }
    data = loaded(saved(folder, columns))
    assert data.encoder.features == ("a.b",)
    for words in ("a (struct<b: double>)", "tags (list<element: int64>)", "raw (binary)", "pairs (map<"):
        assert noted(data, words), data.notes
    assert noted(data, "left out none: they hold nothing")
    assert TabularEncoder.from_description(data.encoder.describe()) == data.encoder


def test_what_is_infinite_or_not_a_number(folder):
    columns = {"x": [i * 1.0 if i % 3 else math.nan for i in range(N)], "y": [i % 2 for i in range(N)]}
    assert noted(loaded(saved(folder, columns)), "Numbers missing in x")
    columns["x"][7] = math.inf
    with pytest.raises(DataError, match=r"column 'x', row 8: 'inf' is not a finite number"):
        loaded(saved(folder, columns))


def test_labels_parts_and_fingerprint(folder):
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=N), "y": pa.array([None if i == 3 else i % 3 for i in range(N)])}
    path = saved(folder, columns)
    data = loaded(path, label="last", test=path)
    assert (data.kind, data.classes, data.name) == (Kind.CLASSIFICATION, ("0", "1", "2"), "data")
    assert len(data.train[0]) + len(data.validation[0]) == N - 1 == len(data.test[0])
    assert noted(data, "data.parquet: 40 rows of 2 columns, with their names and types")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded(path).fingerprint == digest[:12] != data.fingerprint
    assert loaded(path, kind=Kind.REGRESSION).kind is Kind.REGRESSION


def test_memory_does_not_hold_the_file_twice(folder):
    rng = np.random.default_rng(0)
    table = pa.table({f"x{i}": rng.normal(size=20_000) for i in range(20)})
    path = saved(folder, table, row_group_size=2_000)
    before = pa.total_allocated_bytes()
    pool = pa.default_memory_pool()
    read = read_parquet(path)
    column_bytes = 20_000 * 8
    assert read.length == 20_000 and len(read.columns) == 20
    assert pa.total_allocated_bytes() - before < column_bytes
    assert pool.max_memory() is None or pool.max_memory() - before < table.nbytes  # Arrow's own part, at its largest


# -- what cannot be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"PAR1", "cannot be read"),
        (b"a,b\n1,2\n" * 9, "Is it a whole Parquet file"),
        (b"PAR1" + b"\0" * 99 + b"PAR1", "cannot be read"),
    ],
)
def test_what_is_no_parquet(folder, content, words):
    path = folder / "broken.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.parquet .*" + words):
        loaded(path)


def test_tables_without_rows_or_columns(folder):
    for columns in ({"x": pa.array([], pa.int64())}, {}, {"tags": [[1]] * 3}):
        with pytest.raises(DataError, match="holds no rows of numbers, dates or texts"):
            read_parquet(saved(folder, columns))
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(DataError, match="more than one column is named 'a'"):
        read_parquet(saved(folder, twice))
    with pytest.raises(DataError, match=r"nowhere\.parquet cannot be read"):
        read_parquet(folder / "nowhere.parquet")


def test_columns_of_different_lengths_are_a_damaged_file():
    schema = pa.schema({"a": pa.int64(), "b": pa.int64()})
    with pytest.raises(DataError, match="damaged: its columns have 2, 3 rows"):
        parquet.table_of("data", schema, lambda name: [pa.array(range(2 + (name == "b")))], "")


def test_texts_that_are_not_utf8(folder):
    offsets = pa.py_buffer(np.array([0, 2, 4], np.int32).tobytes())
    array = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"ok\xff\xfe"))
    with pytest.raises(DataError, match="cannot be read"):
        read_parquet(saved(folder, {"a": array}))


@settings(max_examples=100)
@given(st.data())
def test_damaged_files_are_read_or_refused_in_words(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    path = folder / "damaged.parquet"
    if not (whole := folder / "whole.parquet").exists():
        saved(
            folder,
            {
                "x": np.random.default_rng(0).normal(size=60),
                "c": ["red", "blue", None] * 20,
                "d": pa.array([dt.date(2024, 1, 1)] * 60),
                "y": [0, 1] * 30,
            },
            "whole.parquet",
            row_group_size=20,
        )
    content = bytearray(whole.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        loaded(path, label="y")
    except DataError as error:
        assert len(str(error)) > 20


def test_without_pyarrow_it_is_said_what_to_install(folder, monkeypatch):
    path = saved(folder, {"x": [1, 2]})
    plain = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return plain(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install 'rheostat\[parquet\]'"):
        parquet.read_parquet(path)
