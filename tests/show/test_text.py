"""Numbers, configurations, curves and tables as text."""

from __future__ import annotations

import ast
import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from rheostat.show import text
from rheostat.space import Choice, Float, Int, Prior, Space
from rheostat.types import Report, Status
from tests.show.studies import BEST, example, trial

wide = settings(deadline=None, max_examples=100)
finite = st.floats(-1e300, 1e300)


# -- values --------------------------------------------------------------------------------------------------


@wide
@given(finite)
def test_number_keeps_four_digits_in_few_signs(value):
    shown = text.number(value)
    assert float(shown) == pytest.approx(value, rel=5.1e-4)
    assert len(shown) <= 11


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0222, "0.0222"),
        (0.022222, "0.02222"),
        (1.2345e-5, "1.234e-05"),
        (131072, "131072"),
        (99999.4, "99999"),
        (1e9, "1e+09"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (True, "True"),
        (None, "None"),
        ("adam", "adam"),
    ],
)
def test_number(value, shown):
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *[
            (0.2, "0s"),
            (59.4, "59s"),
            (59.6, "1m 00s"),
            (130, "2m 10s"),
            (3599.7, "1h 00m"),
            (3780, "1h 03m"),
        ],
        *[(86400, "1d 00h"), (-3, "0s")],
    ],
)
def test_duration(seconds, shown):
    assert text.duration(seconds) == shown


def test_differences_names_only_what_differs():
    assert text.differences({**BEST, "lr": 0.0091, "units": 75}, BEST) == "lr=0.0091  units=75"
    assert text.differences(BEST, BEST) == "best"
    assert text.differences({**BEST, "momentum": 0.9}, BEST) == "momentum=0.9"
    assert text.differences({"lr": BEST.lr, "layers": 3}, BEST) == "no units"


def test_sparkline_reaches_over_its_range():
    assert text.sparkline([1.0, 0.0], 0.0, 1.0) == "█▁"
    assert text.sparkline([9.0, -9.0], 0.0, 1.0) == "█▁"
    assert text.sparkline([], 0.0, 1.0) == ""
    assert text.sparkline([0.5] * 3, 0.5, 0.5) == "▁▁▁"
    assert text.sparkline([math.nan, 0.0, math.inf], 0.0, 1.0) == "×▁×"
    assert text.sparkline([math.nan, 0.0] * 8, 0.0, 1.0) == "▁" * 8


@wide
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=100))
def test_sparkline_of_a_falling_curve_falls(values):
    line = text.sparkline(sorted(values, reverse=True), 0.0, 1.0)
    assert len(line) == min(len(values), 8)
    assert list(line) == sorted(line, reverse=True)


def test_curve_range_is_not_spoilt_by_a_diverged_trial():
    trials = [trial(n, Status.DONE, 1.0 + n / 100, 0.2) for n in range(20)]
    trials.append(trial(20, Status.CUT, 1e9, math.nan, 1e12))
    assert text.curve_range(trials, 1) == (0.2, pytest.approx(1.18))
    assert text.curve_range(trials, -1) == (pytest.approx(-1.18), -0.2)
    assert text.curve_range([], 1) == (0.0, 0.0)


def test_part_tells_every_kind():
    space = Space(
        lr=Float(1e-5, 0.1, log=True, prior=Prior(1e-3)),
        units=Int(16, 512, step=16),
        optimizer=Choice(["adam", "sgd"]),
        momentum=Float(0.5, 0.99, when={"optimizer": "sgd"}),
        batch_size=32,
    )
    assert [text.part(part) for part in space.describe().values()] == [
        "1e-05 to 0.1 (log), likely 0.001",
        "whole 16 to 512 by 16",
        "one of adam, sgd",
        "0.5 to 0.99, when optimizer is sgd",
        "always 32",
    ]


# -- trials and tables ---------------------------------------------------------------------------------------


def test_every_status_has_its_own_mark():
    assert set(text.MARKS) == set(Status)
    for encoding in ("utf-8", "ascii", "latin-1"):
        assert len({text.encodable(mark, encoding) for mark in text.MARKS.values()}) == len(Status)


def test_best_trial_is_neither_failed_nor_diverged():
    assert text.best_trial(example().trials).number == 2
    assert text.best_trial([trial(0, Status.FAILED, 0.1), trial(1, Status.TRAINING)]) is None
    equal = [trial(n, Status.DONE, 0.5) for n in (4, 3)]
    assert text.best_trial(equal).number == 3


def test_trials_table():
    lines = text.trials_table(example().trials, "val_error", 1, 20).lines()
    assert lines[0] == "trial  state         epoch  val_error  curve     differs from best"
    assert lines[2].startswith("    1  ✂ cut          2/20        0.8  █▇        units=16  (worse after 2")
    assert lines[3] == "    2  ✓ done        20/20      0.039  ▄▄▃▃▃▂▂▁  best"
    assert len(lines) == 22


def test_trials_table_shows_values_in_the_users_direction():
    trials = [trial(0, Status.DONE, -0.5, -0.9), trial(1, Status.DONE, -0.4, lr=0.5)]
    lines = text.trials_table(trials, "val_accuracy", -1).lines()
    assert lines[1].split() == ["0", "✓", "done", "2", "0.9", "▂█", "best"]


def test_trials_table_tells_twins_of_the_best_from_it():
    lines = text.trials_table([trial(0, Status.DONE, 0.2), trial(1, Status.DONE, 0.1)], "loss", 1).lines()
    assert [line.rpartition("  ")[2] for line in lines[1:]] == ["same as best", "best"]


def test_studies_table():
    row = {
        "study": "digits",
        "metric": "val_error",
        "direction": "minimize",
        "running": True,
        "trials": {"done": 16, "cut": 6, "training": 2},
        "best": 0.0222,
        "last_activity": 1000.0,
    }
    lines = text.studies_table([row, {**row, "study": "new", "running": False, "best": None}], now=1130.0).lines()
    cells = ["digits", "running", "24", "✓16 ✂6 ✗0", "minimize val_error", "0.0222", "2m 10s ago"]
    assert re.split("  +", lines[1]) == cells
    assert "none yet" in lines[2]


def test_reports_table():
    reports = [
        Report(0, 0, 0, {"train_loss": 2.3}),
        Report(0, 1, 45, {"train_loss": 1.5, "val_loss": 1.75}, 61.0),
    ]
    assert text.reports_table(reports).lines() == [
        "epoch  step    time  train_loss  val_loss",
        "    0     0      0s         2.3",
        "    1    45  1m 01s         1.5      1.75",
    ]
    assert text.reports_table([]).lines() == ["epoch  step  time"]


@wide
@given(
    st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12), st.text(max_size=30)), max_size=5),
    st.integers(1, 60),
)
def test_table_fits_any_width_and_aligns_any_text(rows, width):
    table = text.Table(("a", "b", "c"), [(x, "|" + y, z) for x, y, z in rows], frozenset({"a"}))
    assert all(cell_len(line) <= width and line.isprintable() for line in table.lines(width))
    columns = {cell_len(line[: line.index("|")]) for line in table.lines()[1:] if "|" not in line[: line.index("|")]}
    if not any("|" in x for x, _, _ in rows):
        assert len(columns) <= 1


# -- writing -------------------------------------------------------------------------------------------------


@wide
@given(st.text(), st.none() | st.text())
def test_code_to_use_is_python_that_names_the_study(study, storage):
    calls = [node for node in ast.walk(ast.parse(text.code_to_use(study, storage))) if isinstance(node, ast.Call)]
    load = next(call for call in calls if call.args)
    assert ast.literal_eval(load.args[0]) == study
    assert [ast.literal_eval(k.value) for k in load.keywords] == ([] if storage is None else [storage])


@wide
@given(st.text(st.sampled_from("".join(text.MARKS.values()) + text.BLOCKS + "×… abcé漢"), max_size=20))
def test_encodable_keeps_every_sign_in_its_place(line):
    for encoding in ("ascii", "latin-1", "cp1252", "utf-8"):
        swapped = text.encodable(line, encoding)
        swapped.encode(encoding)
        assert len(swapped) == len(line)
        assert all(a == b or not (a.isascii()) for a, b in zip(line, swapped, strict=True))
    assert text.encodable(line, None) == line
    assert len(set(text.encodable(text.BLOCKS, "ascii"))) == 8


def test_show_prints_whole_lines_where_there_is_no_terminal():
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    text.show(text.Table(("name",), [("x" * 300,), ("✓ done",)]), stream)
    text.show("a · b", stream)
    stream.seek(0)
    assert stream.read() == f"name\n{'x' * 300}\n+ done\na . b\n"


def test_show_cuts_to_the_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    text.show(text.Table(("name",), [("x" * 300,)]), terminal)
    assert terminal.getvalue() == f"name\n{'x' * 39}…\n"
