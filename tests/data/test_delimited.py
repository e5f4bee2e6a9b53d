"""Reading delimited text: delimiters, headers, encodings, rows that do not fit."""

from __future__ import annotations

import csv
import gzip
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rheostat.data import delimited
from rheostat.data.delimited import parse_number, read_table
from rheostat.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("delimited")


def table_of(folder, content, header=None, name="data.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, header)


def texts(table):
    return [[column.cells.texts[code] for code in column.codes] for column in table.columns]


@pytest.mark.parametrize("delimiter", [",", ", ", "\t", ";", "; ", "|", " | "])
def test_delimiters_are_found_and_spaces_around_cells_dropped(folder, delimiter):
    rows = [["size", "colour"], ["1.5", "red"], ["2", "light blue"], ["-3e4", "red"]]
    table = table_of(folder, "\n".join(delimiter.join(row) for row in rows))
    assert table.names == ("size", "colour")
    assert texts(table) == [["1.5", "2", "-3e4"], ["red", "light blue", "red"]]


def test_a_delimiter_that_is_in_every_row_wins_over_one_that_is_in_some(folder):
    table = table_of(folder, "text\tlabel\nwell, yes, good\t1\nno\t0\nbad, very bad\t0\n")
    assert texts(table) == [["well, yes, good", "no", "bad, very bad"], ["1", "0", "0"]]


def test_quoted_cells_may_hold_delimiters_lines_and_quotes(folder):
    table = table_of(folder, 'a,b\n"x, y", 1\n"two\nlines",2\n"say ""hi""",3\n')
    assert texts(table) == [["x, y", "two\nlines", 'say "hi"'], ["1", "2", "3"]]


def test_quotation_marks_that_do_not_pair_up_swallow_no_rows(folder):
    table = table_of(folder, 'text\tlabel\n" quoth he\t1\nno\t0\n"ha" ha\t0\n')
    assert texts(table) == [['" quoth he', "no", '"ha" ha'], ["1", "0", "0"]]
    assert "quotation marks" in table.notes[1]


cell = st.text(st.characters(exclude_characters="\t;|", exclude_categories=("Cs", "Cc")), max_size=8)


@given(st.integers(2, 4).flatmap(lambda width: st.lists(st.lists(cell, min_size=width, max_size=width), min_size=2)))
def test_what_the_csv_module_writes_comes_back(tmp_path_factory, rows):
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows(rows)
    filled = [[c.strip() for c in row] for row in rows if any(c.strip() for c in row)]
    if not filled:
        return
    table = table_of(tmp_path_factory.getbasetemp(), buffer.getvalue(), header=False)
    assert texts(table) == [list(column) for column in zip(*filled, strict=True)]


@pytest.mark.parametrize(
    ("content", "header"),
    [
        ("age,name\n31,ann\n42,bob\n", True),
        ("31,ann\n42,bob\n", False),
        ("x,y\n1,2\n3,4\n", True),
        ("0,1\n1,2\n3,4\n", False),
        ("age,income\n?,3\n12,\n", True),  # missing numbers below
        (",a,b\n0,1.5,x\n1,2.5,y\n", True),  # a table saved with its index
        ("name,2019,2020\nann,1,2\nbob,3,4\n", False),  # years as names cannot be told from numbers
        ("age,2019\n31,1\n42,2\n", True),  # half of the columns of numbers
        ("7,c\nabc,b\n" + "1,b\n" * 40, False),  # a typo below, and first texts that never come again
        ("x,n\nabc,1\n" + "1,2\n" * 40, True),  # a typo below the name of a column of numbers
        ("abc,1,5\n" + "1,2,6\n" * 40, False),  # a typo in the first of the rows, and two columns against it
        ("colour,taste\n" + "red,good\nblue,bad\n" * 3, True),
        ("red,good\n" + "red,good\nblue,bad\n" * 3, False),
        ("red,awful\n" + "red,good\nblue,bad\n" * 3, False),
        (",taste\n" + "red,good\nblue,bad\n" * 3, False),  # a header names each column that recurs
        ("a great film,good\na bad film,bad\nnot my taste,bad\nwhat a film,good\n", False),
    ],
)
def test_headers_are_told_from_rows(folder, content, header):
    table = table_of(folder, content)
    assert table.header is header
    assert table.length == len(content.splitlines()) - header
    assert any(("names the columns" in note) is header for note in table.notes)
    if not header:
        assert table.names == tuple(f"column_{n}" for n in range(1, len(table.columns) + 1))


def test_an_unnamed_column_gets_its_number(folder):
    assert table_of(folder, ",a\n0,1.5\n1,2.5\n").names == ("column_1", "a")


def test_row_numbers_are_those_of_the_file(folder):
    table = table_of(folder, "a,b\n1,2\n\n   \n,\n3,4\n")
    assert texts(table) == [["1", "3"], ["2", "4"]]
    assert table.columns[0].rows.tolist() == [2, 6]


def test_plain_and_packed_are_the_same(folder):
    content = b"a,b\n1,x\n2,y\n"
    plain = table_of(folder, content)
    packed = table_of(folder, gzip.compress(content), name="data.csv.gz")
    assert texts(plain) == texts(packed) and plain.digest == packed.digest


def test_encodings(folder):
    marked = table_of(folder, b"\xef\xbb\xbfname,n\nZo\xc3\xab,1\nBj\xc3\xb6rn,2\n")
    assert marked.names == ("name", "n") and texts(marked)[0] == ["Zoë", "Björn"] and len(marked.notes) == 1
    latin = table_of(folder, b"name,n\nZo\xeb,1\nBj\xf6rn,2\n")
    assert texts(latin)[0] == ["Zoë", "Björn"]
    assert "Latin-1" in latin.notes[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n  \n\n", "empty"),
        (b"a,b\n1,2\n3,4,5\n6,7\n", "row 3 has 3 cells where most rows have 2"),
        (b"a,b\n\n1,2\n3\n6,7\n", "row 4 has 1 cells"),
        (b'a,b\n1,"2, 3"\n1,"2\n3,4\n5,6\n', "line 5: .*quotation mark without"),
        (b'a,b,c\n1,"2\n3",4\n1,2,3\n1,"2\n3"\n1,2,3\n', "row 4 has 2 cells.*several lines"),
        (b"a,a\n1,2\n3,4\n", "'a': rename"),
        (b"PK\x03\x04\x00\x00", "not plain text"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-8"),
        (b'a,b\n"' + b"x" * 200_000 + b'",2\n', "field larger"),
    ],
)
def test_what_cannot_be_read_is_said_in_words(folder, content, words):
    with pytest.raises(DataError, match=words):
        table_of(folder, content)


def test_a_header_alone_and_files_that_are_not_there(folder):
    with pytest.raises(DataError, match="nothing but the names"):
        table_of(folder, "a,b\n", header=True)
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read"):
        read_table(folder / "nowhere.csv")
    with pytest.raises(DataError, match="cannot be unpacked"):
        table_of(folder, gzip.compress(b"a,b\n1,2\n" * 99)[:-20], name="cut.csv.gz")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("1", 1.0), ("-3", -3.0), ("+.5", 0.5), ("1e-4", 1e-4), ("5.", 5.0), ("1e999", np.inf), ("-Inf", -np.inf)),
        *((text, None) for text in ("1,000", "1_000", "٣", "0x10", "abc", "true")),
    ],
)
def test_numbers(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize("text", ["", "?", "NA", "N/A", "nan", "NaN", "null", "NULL", "None", "-"])
def test_missing(text):
    assert np.isnan(parse_number(text))


# -- large files ---------------------------------------------------------------------------------------------------

number_cell = st.integers(-999, 999).map(str) | st.floats(width=32).map(repr)
date_cell = st.datetimes().map(lambda moment: moment.isoformat(" ")) | st.dates().map(str)
other_cell = st.sampled_from(["", "?", "NA", "nan", "inf", "1_0", "abc", "3/4/2024", "\u0663"])
mixed = st.tuples(number_cell | number_cell | other_cell, date_cell | date_cell | other_cell, other_cell | number_cell)


@given(st.lists(mixed, min_size=1, max_size=60))
def test_what_is_kept_by_value_is_what_the_texts_say(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "values.csv"
    path.write_text("\n".join(",".join(row) for row in rows), encoding="utf-8")
    assume(any(cell for row in rows for cell in row))
    plain = read_table(path, header=False)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("CHUNK_CELLS", 9), ("MOST_TEXTS", 4), ("FEW_OTHERS", 0.4)):
            patch.setattr(delimited, name, value)
        by_value = read_table(path, header=False)
    assert plain.notes == by_value.notes and plain.digest == by_value.digest
    for one, other in zip(plain.columns, by_value.columns, strict=True):
        for name in ("numbers", "worded", "missing"):
            expected, found = getattr(one.cells, name)[one.codes], getattr(other.cells, name)[other.codes]
            np.testing.assert_array_equal(expected, found, err_msg=name)
        for expected, found in zip(one.cells.times, other.cells.times, strict=True):
            np.testing.assert_array_equal(expected[one.codes], found[other.codes])
    for written, found in zip(texts(plain), texts(by_value), strict=True):
        for text, again in zip(written, found, strict=True):
            assert text == again or parse_number(text) is not None or "-" in text  # a number or a date


def test_values_are_written_out_where_an_error_names_them(folder, monkeypatch):
    for name, value in (("CHUNK_CELLS", 8), ("MOST_TEXTS", 4), ("FEW_OTHERS", 0.4)):
        monkeypatch.setattr(delimited, name, value)
    days = [f"2024-03-{day:02}" for day in range(1, 30)]
    table = table_of(folder, "a,d\n" + "\n".join(f"{n},{day}" for n, day in enumerate(days)))
    number, date = table.columns
    last = np.arange(len(number.cells.texts)) == number.codes[-1]
    assert number.first(last) == "data.csv, column 'a', row 30: '28'"
    assert date.first(last) == "data.csv, column 'd', row 30: '2024-03-29T00:00:00.000000'"
    assert list(number.cells.texts[-2:]) == ["27", "28"]


@given(st.lists(st.integers(1, 4), min_size=2, max_size=30), st.booleans())
def test_ragged_rows_are_refused_and_the_first_is_named(tmp_path_factory, lengths, quoted):
    path = tmp_path_factory.getbasetemp() / "ragged.csv"
    cell = '"a b"' if quoted else "ab"
    path.write_text("\n".join(",".join([cell] * length) for length in lengths))
    if len(set(lengths)) == 1:
        assert read_table(path, header=False).length == len(lengths)
        return
    usual = max(lengths, key=lambda length: (lengths.count(length), -lengths.index(length)))
    row = next(row for row, length in enumerate(lengths, 1) if length != usual)
    with pytest.raises(DataError, match=f"row {row} has {lengths[row - 1]} cells where most rows have {usual}"):
        read_table(path, header=False)


@given(st.text(st.characters(codec="cp1252", categories=("L", "N")), min_size=1), st.integers(0, 3))
def test_any_encoding_is_read_or_refused_in_words(tmp_path_factory, text, place):
    path = tmp_path_factory.getbasetemp() / "encoded.csv"
    for encoding in ("utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16", "utf-32", "cp037"):
        rows = [["n", "name"], *([str(n), text if n == place else "plain"] for n in range(4))]
        path.write_bytes("\n".join(map(",".join, rows)).encode(encoding, "ignore"))
        try:
            table = read_table(path)
        except DataError as error:
            assert "encoded.csv" in str(error)
            continue
        if encoding.startswith("utf-8"):
            assert texts(table)[1][place] == text.strip()
        assert encoding not in ("utf-16", "utf-32")


def test_a_character_that_spans_two_chunks_is_read(folder, monkeypatch):
    monkeypatch.setattr(delimited, "CHUNK_BYTES", 3)
    table = table_of(folder, "name,n\nZo\u00eb,1\nBj\u00f6rn,2\n")
    assert texts(table)[0] == ["Zo\u00eb", "Bj\u00f6rn"] and len(table.notes) == 1
    assert "Latin-1" in table_of(folder, "name,n\nab,1\nBj\u00f6".encode()[:-1] + b",2").notes[1]


def test_a_large_table_takes_little_more_room_than_its_file(folder, monkeypatch):
    monkeypatch.setattr(delimited, "MOST_TEXTS", 2**7)  # as many as a file of 500 MB has in proportion
    monkeypatch.setattr(delimited, "CHUNK_CELLS", 2**11)
    rng = np.random.default_rng(0)
    x, levels = rng.normal(size=(6_000, 8)), rng.integers(0, 9, (6_000, 2))
    when = rng.integers(1_500_000_000, 1_700_000_000, 6_000).astype("datetime64[s]").astype(str)
    rows = zip(x, levels, when, strict=True)
    content = "\n".join(",".join([*map("{:.7g}".format, x), *map("l{}".format, c), t]) for x, c, t in rows).encode()
    path = folder / "large.csv"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        table = read_table(path)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert table.length == 6_000
    assert held < 2 * len(content) and peak < 3 * len(content)
