"""A study that ends when going on is not worth it: at one point whoever is faster; and a smaller number goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rheostat
from rheostat import Float, Space, Study
from rheostat.errors import SettingError
from rheostat.records.store import Records, StudyRecord
from rheostat.types import Config
from tests import test_session
from tests.test_bad_inputs import Run, run  # noqa: F401
from tests.test_session import table

LEAST = 1.5  # of values between 0 and 3: few trials are enough


def carry_out(folder: Path, schedule: str, least: float, **how: int) -> tuple[Records, StudyRecord]:
    return test_session.carry_out(folder, schedule, trials=30, min_gain=least, **how)


every_schedule = pytest.mark.parametrize("schedule", ["freeze-thaw", "asha", "fifo"])


@every_schedule
def test_it_ends_at_the_same_point_whoever_is_faster(tmp_path: Path, schedule: str) -> None:
    alone = carry_out(tmp_path / "alone", schedule, LEAST)
    (said,) = [notice for _, notice in alone[0].events(alone[1]) if notice.kind == "enough"]
    assert f"improve v by more than {LEAST} with a chance of" in said.message
    first = table(*alone)
    assert 4 <= len(first[0]) < 30
    for chance in range(1, 3):
        assert table(*carry_out(tmp_path / f"{chance}", schedule, LEAST, chance=chance, places=2 * chance)) == first


@every_schedule
def test_with_a_smaller_number_it_goes_on_as_if_it_had_never_ended(tmp_path: Path, schedule: str) -> None:
    whole = table(*carry_out(tmp_path / "whole", schedule, 1e-9))
    part = table(*carry_out(tmp_path / "part", schedule, LEAST))
    assert len(part[0]) < len(whole[0]) == 30
    assert table(*carry_out(tmp_path / "part", schedule, LEAST)) == part  # the same again changes nothing
    assert table(*carry_out(tmp_path / "part", schedule, 1e-9, places=2)) == whole


@settings(max_examples=5)
@given(chance=st.integers(0, 10**6), kill_every=st.integers(2, 40))
def test_killed_again_and_again_it_ends_at_the_same_point(
    tmp_path_factory: pytest.TempPathFactory, chance: int, kill_every: int
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    calm = table(*carry_out(folder / "calm", "asha", LEAST))
    assert table(*carry_out(folder / "killed", "asha", LEAST, chance=chance, places=2, kill_every=kill_every)) == calm


def test_what_was_enqueued_is_trained_after_it_has_ended(tmp_path: Path) -> None:
    records, study = carry_out(tmp_path, "asha", LEAST)
    before = len(records.trials(study))
    wanted = Config(lr=0.05, momentum=0.5)
    records.enqueue(study, [wanted])
    records.close()
    records, study = carry_out(tmp_path, "asha", LEAST)
    assert [trial.config for trial in records.trials(study)][before:] == [wanted]
    records.close()


LINE = Space(x=Float(-1, 1))


def falling(sign: int) -> Callable[[rheostat.Trial], None]:
    def objective(trial: rheostat.Trial) -> None:
        for epoch in trial.epochs():
            trial.report(score=sign * (trial.x**2 + 1 / (1 + epoch)))

    return objective


def tuned(folder: Path, sign: int, **arguments: Any) -> Study:
    direction = "minimize" if sign > 0 else "maximize"
    study = Study("s", LINE, metric="score", direction=direction, storage=folder / f"{direction}.db")
    assert study.outlook() is None
    return study.optimize(falling(sign), progress="none", **arguments)


def test_units_are_those_of_the_metric_in_both_directions(tmp_path: Path) -> None:
    down, up = (tuned(tmp_path, sign, epochs=9, schedule="asha", min_gain=0.3) for sign in (1, -1))
    assert 4 < len(down.trials) < 200 and down.state == "finished"
    assert [t.config for t in up.trials] == [t.config for t in down.trials]
    said = down.outlook()
    assert said is not None and said == up.outlook()
    assert said.spent == said.epochs == sum(t.epochs for t in down.trials)
    more = down.outlook(epochs=10 * said.epochs)
    assert more is not None and more.expected > said.expected > 0
    assert down.record.settings["min_gain"] == 0.3
    again = Study.load("s", down.records.url.removeprefix("sqlite:///"))
    count = len(again.trials)
    again.optimize(falling(1), epochs=9, trials=count + 4, progress="none")  # the trials are wanted, whatever they gain
    assert len(again.trials) == count + 4 and "min_gain" not in again.record.settings


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), float("inf")])
def test_numbers_that_are_no_gain(tmp_path: Path, wrong: float) -> None:
    with pytest.raises(SettingError, match="min_gain="):
        tuned(tmp_path, 1, epochs=3, min_gain=wrong)


def test_the_command_line_ends_it_and_says_why(run: Run, tmp_path: Path) -> None:  # noqa: F811
    rows = "".join(f"{i % 7},{(3 * i) % 5},{int(i % 7 > 2)}\n" for i in range(80))
    (tmp_path / "t.csv").write_text("a,b,y\n" + rows)
    common = "tune", "t.csv", "--target", "y", "--epochs", "2", "--trials", "40", "--workers", "1", "--engine", "loop"
    code, out, error = run(*common, "--min-gain", "0.9")
    assert code == 0, error
    assert "more epochs would improve val_error by more than 0.9 with a chance of" in out
    assert 2 <= len(Study.load("t").trials) < 40


def test_it_is_not_offered_where_the_metric_is_not_all(tmp_path: Path) -> None:
    study = Study("s", LINE, metric="score", limits=["size <= 3"], storage=tmp_path / "s.db")
    with pytest.raises(SettingError, match="outlook speaks of score alone"):
        study.outlook()
    with pytest.raises(SettingError, match="min_gain speaks of score alone"):
        study.optimize(falling(1), epochs=3, min_gain=0.1, progress="none")
