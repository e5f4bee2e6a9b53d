"""The block that shows a study."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.cells import cell_len

from rheostat.show.block import headline, study_lines
from rheostat.types import Status
from tests.show.studies import example, snapshot, trial


def texts(*args, **kwargs):
    return [line.text for line in study_lines(*args, **kwargs)]


def test_wide_terminal():
    lines = texts(example(), 120)
    assert lines[0].split("   ") == [
        "digits-mlp  minimise val_error",
        *("19/60 trials", "✓2 ✂13 ▬1 ⏸1 ∞1 ✗1", "epochs 431", "elapsed 4s", "left ~6s", "training 2"),
    ]
    assert lines[1:5] == [
        "best  0.039  trial 2   lr=0.009234  layers=3  units=89",
        "trial  state        epoch  val_error  curve     differs from best",
        "    3  ▸ training    2/20       0.05  ▆▁        lr=0.0091  units=75",
        "   20  ▸ training    0/20                       units=20",
    ]
    assert lines[5].split()[:5] == ["2", "✓", "done", "20/20", "0.039"]
    assert lines[-1] == "Ctrl-C once: finish running trials; twice: stop now. Nothing is lost either way."
    assert len(lines) == 12


@pytest.mark.parametrize("width", range(40, 201, 8))
@pytest.mark.parametrize("state", ["running", "stopping", "paused"])
@pytest.mark.parametrize("name", ["digits-mlp", "数字" * 30, "tab\tand\x1b[31mescape"])
def test_fits_every_width_without_losing_a_phrase(width, state, name):
    lines = texts(replace(example(), study=name, state=state), width)
    assert max(map(cell_len, lines)) <= width
    assert all(line.isprintable() for line in lines)
    assert len(lines) <= 8 + 3 + 4
    together = " ".join(lines)
    assert all(phrase in together for phrase in headline(replace(example(), state=state))[1:])


def test_trials_in_training_come_first_then_the_best():
    numbers = [int(line.split()[0]) for line in texts(example(), 80)[4:-1]]
    assert numbers == [3, 20, 2, 0, 4, 7, 8, 9]


def test_many_in_training_leave_three_rows_to_the_best():
    trials = [trial(n, Status.DONE, 0.1 + n / 100) for n in range(5)]
    trials += [trial(n, Status.TRAINING, 0.05) for n in range(5, 21)]
    numbers = [int(line.split()[0]) for line in texts(snapshot(trials), 120)[3:-1]]
    assert numbers == [5, 6, 7, 8, 9, 0, 1, 2]


def test_an_assigned_trial_that_does_not_train_waits():
    lines = texts(snapshot([trial(0, Status.TRAINING, 0.5)], training=frozenset()), 80)
    assert "· waiting" in lines[-2]


def test_the_end_has_no_hint_and_nothing_in_training():
    stopped = replace(example(), state="stopped")
    lines = texts(stopped, 120, ended=True)
    assert lines[0].endswith("elapsed 4s   stopped")
    assert not any("training" in line or "Ctrl-C" in line for line in lines)
    assert any("⏸ paused" in line for line in lines)


def test_maximised_values_are_shown_as_the_user_knows_them():
    lines = texts(snapshot([trial(0, Status.DONE, -0.5, -0.9)], metric="val_accuracy", sign=-1), 120)
    assert lines[0].startswith("digits-mlp  maximise val_accuracy")
    assert lines[1].startswith("best  0.9  trial 0")


def test_nothing_yet():
    lines = texts(snapshot([], seconds_left=None, trials_wanted=None, max_epochs=None), 120)
    assert lines[0].startswith("digits-mlp  minimise val_error   0 trials   ✓0 ✂0 ✗0   epochs 431")
    assert lines[1] == "best  none yet"
    assert len(lines) == 3


def test_says_how_to_go_on():
    assert texts(replace(example(), state="paused"), 80)[-1] == "Paused. Go on: rheostat resume digits-mlp"
    assert texts(replace(example(), state="stopping"), 80)[-1].startswith("Finishing the trials in training")
