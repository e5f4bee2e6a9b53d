"""Ranges are widened at the same points whoever is faster and however often it dies, and never without evidence."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rheostat
from rheostat import Choice, Float, Int, Space, Study
from rheostat.errors import SettingError
from rheostat.methods import make_scheduler
from rheostat.records.store import Records, StudyRecord
from rheostat.schedule.base import Scheduler
from rheostat.schedule.fifo import FIFO
from rheostat.search.random import Random
from rheostat.session import Plan, Session
from rheostat.types import Config, Environment, History, Status, TrialRecord
from rheostat.widening import Step, Widening, steps_of, widened
from tests import test_session
from tests.test_bad_inputs import Run, run  # noqa: F401
from tests.test_session import Killed, Shuffled, table

NARROW = Space(lr=Float(1e-5, 1e-3, log=True), momentum=Float(0.0, 0.9))  # the best lr is 1e-2
TRIALS, EPOCHS = 40, 9


def measured(config: Config, epoch: int) -> float:
    return abs(math.log10(config.lr) + 2) + 0.1 * config.momentum + 1 / epoch


@pytest.fixture(autouse=True, scope="module")
def another_truth() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_session, "measured", measured)
        yield


def carry_out(
    folder: Path, schedule: str, chance: int = 0, places: int = 1, kill_every: int | None = None
) -> tuple[Records, StudyRecord]:
    """A whole study in any order of arrival; with `kill_every`, begun again after so many polls."""
    folder.mkdir(exist_ok=True)
    records = Records(f"sqlite:///{folder / 'studies.db'}")
    study = records.create_study(
        "s",
        space=NARROW,
        metric="v",
        direction="minimize",
        seed=1,
        settings={},
        target={},
        environment=Environment(),
    )
    order = random.Random(chance)
    checkpoints: dict[int, int] = {}

    def make(space: Space) -> Scheduler:
        return make_scheduler("auto" if schedule == "freeze-thaw" else "random", schedule, space, 1, TRIALS, EPOCHS)

    for _ in range(10_000):
        study = records.study("s")
        widening = Widening(steps_of(study.settings, study.space), make, "v", 1)
        session = Session(records, study, Plan(make(study.space), EPOCHS, 4, TRIALS, widening=widening), folder)
        try:
            session.run(lambda sink: Shuffled(sink, places, order, kill_every, checkpoints))
        except Killed:
            continue
        assert session.state == "finished"
        return records, session.study
    raise AssertionError("the study never ends")


every_schedule = pytest.mark.parametrize("schedule", ["freeze-thaw", "asha", "fifo"])


@every_schedule
def test_it_is_widened_at_the_same_points_whoever_is_faster(tmp_path: Path, schedule: str) -> None:
    records, study = carry_out(tmp_path / "alone", schedule)
    notices = [notice.message for _, notice in records.events(study) if notice.kind == "widened"]
    first = table(records, study)
    assert 1 <= len(notices) == len(study.settings["widened"]) - 1
    assert "all trials are kept: lr: float 1e-05 to 0.001 (log) -> float 1e-05 to 0.01 (log)" in notices[0]
    assert study.space["lr"].high >= 0.01 and study.space["momentum"] == NARROW["momentum"]
    assert len(first[0]) == TRIALS and any(config.lr > 1e-3 for _, config, _, _ in first[0])
    for chance in range(1, 3):
        records, again = carry_out(tmp_path / f"{chance}", schedule, chance=chance, places=2 * chance)
        assert again.settings == study.settings
        assert table(records, again) == first


@pytest.mark.slow
@settings(max_examples=8)
@given(
    schedule=st.sampled_from(["freeze-thaw", "asha", "fifo"]),
    chance=st.integers(0, 10**6),
    kill_every=st.integers(2, 40),
)
def test_killed_again_and_again_it_is_widened_at_the_same_points(
    tmp_path_factory: pytest.TempPathFactory, schedule: str, chance: int, kill_every: int
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    records, calm = carry_out(folder / "calm", schedule)
    expected = table(records, calm)
    records, killed = carry_out(folder / "killed", schedule, chance=chance, places=2, kill_every=kill_every)
    assert killed.settings == calm.settings
    assert table(records, killed) == expected


# -- studies of users ----------------------------------------------------------------------------------------------


def falling(sign: int) -> Callable[[rheostat.Trial], None]:
    def objective(trial: rheostat.Trial) -> None:
        for epoch in trial.epochs():
            trial.report(v=sign * measured(trial.config, epoch + 1))

    return objective


def tuned(folder: Path, sign: int = 1, space: Space = NARROW, **arguments: Any) -> Study:
    direction = "minimize" if sign > 0 else "maximize"
    study = Study("s", space, metric="v", direction=direction, storage=folder / f"{direction}.db")
    return study.optimize(falling(sign), **{"epochs": EPOCHS, "trials": 30, "progress": "none", **arguments})


def test_both_directions_are_widened_alike_and_the_best_lies_beyond(tmp_path: Path) -> None:
    down, up = (tuned(tmp_path, sign, widen=True) for sign in (1, -1))
    assert [t.config for t in up.trials] == [t.config for t in down.trials]
    assert up.space == down.space and down.space["lr"].high > 1e-3
    assert down.best.config.lr > 2e-3
    plain = tuned(tmp_path / "plain")
    assert plain.space == NARROW and plain.best.value > down.best.value


def test_the_same_call_goes_on_in_the_wider_space(tmp_path: Path) -> None:
    first = tuned(tmp_path, widen=True)
    again = tuned(tmp_path, trials=36, widen=True)  # which gives the narrow space again
    whole = tuned(tmp_path / "whole", widen=True, trials=36)
    assert again.space["lr"].high >= first.space["lr"].high > 1e-3
    assert len(again.trials) == 36 and len(whole.trials) == 36
    assert not [n for _, n in again.records.events(again.record) if n.kind == "space"]
    assert Study("s", NARROW, metric="v", storage=tmp_path / "minimize.db").space == again.space


def test_a_range_given_anew_is_taken_as_it_is(tmp_path: Path) -> None:
    tuned(tmp_path, widen=True)
    other = Space(lr=Float(1e-6, 1e-3, log=True), momentum=Float(0.0, 0.9))
    study = tuned(tmp_path, space=other, trials=31)
    assert study.space == other and "widened" not in study.record.settings and "widen" not in study.record.settings
    assert len(study.trials) == 31


def test_a_study_that_was_tuned_without_is_widened_at_once(tmp_path: Path) -> None:
    before = tuned(tmp_path)
    assert before.space == NARROW
    configs = [t.config for t in before.trials]
    after = tuned(tmp_path, trials=40, widen=True)
    first, *later = after.record.settings["widened"]
    assert first["results"] == 0 and later[0]["results"] == 28  # two were settled by no decision yet
    assert [t.config for t in after.trials[:30]] == configs
    assert any(t.config.lr > 1e-3 for t in after.trials[30:])


def test_an_old_study_can_be_loaded_and_resumed_with_its_settings(tmp_path: Path) -> None:
    """`rheostat resume` gives the recorded settings to `train`, which takes no "widened"."""
    study = tuned(tmp_path, widen=True)
    loaded = Study.load("s", study.records.url)
    assert loaded.space == study.space and loaded.record.settings["widen"] is True


def test_it_is_not_offered_where_it_means_nothing(tmp_path: Path) -> None:
    study = Study("s", NARROW, metric="v", also={"size": "minimize"}, storage=tmp_path / "a.db")
    with pytest.raises(SettingError, match="has further objectives: leave it out"):
        study.optimize(falling(1), epochs=3, widen=True, progress="none")
    study = Study("s", NARROW, metric="v", storage=tmp_path / "b.db")
    with pytest.raises(SettingError, match="give its name, not a FIFO"):
        study.optimize(falling(1), epochs=3, widen=True, schedule=FIFO(Random(NARROW), 3, 3), progress="none")


# -- what is widened -----------------------------------------------------------------------------------------------


def trials(space: Space, value: Callable[[Config], float], n: int = 60) -> list[TrialRecord]:
    found = []
    for i, config in enumerate(space.sample(np.random.default_rng(3), n)):
        v = value(config)
        status = Status.INFEASIBLE if math.isnan(v) else Status.DONE
        found.append(TrialRecord(i, config, status, () if math.isnan(v) else (v,)))
    return found


def test_several_ranges_at_once() -> None:
    space = Space(a=Float(1.0, 10.0, log=True, prior=3.0), units=Int(16, 64, log=True), c=Float(0.0, 1.0), d=3)
    levels = [0.0, 0.04, 0.3, 0.5, 0.7, 0.9, 1.0]
    configs = [space.decode([a, 1 - u, c]) for a in levels for u in levels for c in (0.2, 0.5, 0.8)]
    seen = [TrialRecord(i, c, Status.DONE, (math.log(c.a) - math.log(c.units),)) for i, c in enumerate(configs)]
    wide = widened(space, seen, "v", 1)
    assert wide is not None
    expected = Space(a=Float(0.1, 10.0, log=True, prior=3.0), units=Int(16, 128, log=True), c=Float(0.0, 1.0), d=3)
    assert wide.describe() == expected.describe()


def test_a_part_in_which_nearly_all_diverge_is_left_out_and_its_prior_with_it() -> None:
    space = Space(lr=Float(1e-5, 1.0, log=True, prior=0.3), optimizer=Choice(["adam", "sgd"]))
    wide = widened(space, trials(space, lambda c: math.nan if c.lr > 1e-3 else abs(math.log10(c.lr) + 4)), "v", 1)
    assert wide is not None
    assert wide["lr"].low == 1e-5 and 3e-4 < wide["lr"].high <= 1.1e-3 and wide["lr"].prior is None


def test_a_choice_is_never_cut_for_others_may_depend_on_it() -> None:
    space = Space(optimizer=Choice(["adam", "sgd", "lion"]), m=Float(0.0, 0.9, when={"optimizer": "lion"}))
    seen = trials(space, lambda c: math.nan if c.optimizer in ("lion", "adam") else 1.0)
    assert widened(space, seen, "v", 1) is None


def test_trials_that_break_a_limit_are_not_asked() -> None:
    space = Space(x=Float(0.0, 1.0))
    seen = trials(space, lambda c: -c.x)
    assert widened(space, seen, "v", 1) is not None
    broken = [TrialRecord(t.number, t.config, t.status, t.values, excess=((1.0,),)) for t in seen]
    assert widened(space, broken, "v", 1) is None


def test_without_effects_a_study_is_hardly_ever_widened() -> None:
    """At all its looks together, in 60 trials of ten hyperparameters that do nothing."""
    space = Space({f"x{i}": Float(0.0, 1.0) for i in range(9)}, lr=Float(1e-5, 1e-1, log=True))
    rng, wrong, studies = np.random.default_rng(5), 0, 60
    for _ in range(studies):
        seen = [TrialRecord(i, c, Status.DONE, (float(rng.normal()),)) for i, c in enumerate(space.sample(rng, 60))]
        widening = Widening([Step(0, space)], lambda space: FIFO(Random(space), 60, 1), "v", 1)
        widening.take_up(History())
        for n in range(1, 61):
            widening.look(History(tuple(seen[:n])))
        wrong += len(widening.steps) > 1
    assert wrong <= 0.1 * studies


FIXED = "units=32", "layers=1", "dropout=0", "norm=none", "activation=relu", "schedule=constant", "weight_decay=0"


def test_the_command_line_widens_and_says_so(run: Run) -> None:  # noqa: F811
    budget = "--epochs", "2", "--trials", "18", "--workers", "1", "--engine", "loop"
    fixed = *(f"--set={words}" for words in FIXED), "--set=batch_size=16", "--set=optimizer=adam"
    code, out, error = run("tune", "digits", *budget, *fixed, "--vary", "lr=1e-5..1e-3", "--widen")
    assert code == 0, error
    assert "after 14 results the space changes, and all trials are kept" in " ".join(out.split())
    assert "lr: float 1e-05 to 0.001 (log) -> float 1e-05 to 0.01 (log)" in " ".join(out.split())
    code, out, error = run("resume", "digits")
    assert code == 0, error
