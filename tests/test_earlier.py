"""Studies that learn from earlier ones: what is kept, what is said, and what they need afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rheostat
from rheostat import Choice, Float, Int, Space, Study
from rheostat.changes import keeping_priors
from rheostat.errors import StudyError
from rheostat.space import Prior
from tests.test_bad_inputs import TASK, Run, run  # noqa: F401 - a fixture

SPACE = Space(lr=Float(1e-5, 1e-1, log=True), kind=Choice(["a", "b"]), n=Int(1, 9))


def near(trial: rheostat.Trial) -> float:
    return float(abs(math.log10(trial.lr / 1e-3)) + (trial.kind == "b"))


def study(folder: Path, name: str, space: Space = SPACE, **changes: Any) -> Study:
    return Study(name, space, **{"metric": "loss", "storage": folder / "studies.db", "seed": 5, **changes})


def made(folder: Path, name: str, **changes: Any) -> Study:
    return study(folder, name, **changes).optimize(near, trials=12, search="sobol", progress="none")


def test_a_new_study_begins_with_what_earlier_ones_taught(tmp_path: Path) -> None:
    made(tmp_path, "first")
    second = made(tmp_path / "elsewhere", "second", direction="maximize")  # by the worst, which is what was asked for
    best = made(tmp_path, "third").best.config
    new = study(tmp_path, "new", earlier=["first", "third"])
    queued = new.queued
    assert len(queued) == 5 and best in queued  # the two are the same study
    assert new.space["kind"].prior == Prior("a", new.space["kind"].prior.sure)
    assert study(tmp_path, "other", earlier=second).queued[0].kind == "b"

    found = new.optimize(near, trials=8, progress="none")
    assert [trial.config for trial in found.trials[:5]] == queued
    assert [trial.source for trial in found.trials] == ["enqueue"] * 5 + ["search"] * 3
    (words,) = [notice.message for _, notice in new.records.events(new.record) if notice.kind == "earlier"]
    assert words.startswith("from 2 earlier studies: ") and words.endswith("; 5 configurations are tried first")


def test_the_same_study_counts_once(tmp_path: Path) -> None:
    old = made(tmp_path, "old")
    assert study(tmp_path, "twice", earlier=[old, "old", old]).space == study(tmp_path, "once", earlier="old").space


def test_it_goes_on_as_it_began_without_the_earlier_ones(tmp_path: Path) -> None:
    """Also when the same call is made again: priors that it does not name stay, and nothing is queued twice."""
    for folder in (tmp_path / "a", tmp_path / "b"):
        for seed in range(4):
            made(folder, f"old-{seed}", seed=seed)

    def go_on(folder: Path, trials: int, earlier: Sequence[str] = ("old-0", "old-1", "old-2", "old-3")) -> Study:
        new = study(folder, "new", earlier=earlier)
        return new.optimize(near, trials=trials, epochs=1, in_flight=1, progress="none")

    whole = go_on(tmp_path / "a", 14)
    assert len(go_on(tmp_path / "b", 6).trials) == 6
    again = go_on(tmp_path / "b", 14, earlier=["gone"])
    assert [t.config for t in again.trials] == [t.config for t in whole.trials]
    assert again.space == whole.space != SPACE
    assert [n.kind for _, n in again.records.events(again.record)].count("earlier") == 1


def test_what_was_learnt_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, "old")
    new = study(tmp_path, "new", earlier="old")
    new.optimize(near, trials=2, progress="plain").optimize(near, trials=3, progress="plain")
    assert capsys.readouterr().out.count("from 1 earlier study: ") == 1


def test_who_breaks_a_limit_is_no_example(tmp_path: Path) -> None:
    def limited(trial: rheostat.Trial) -> None:
        for _ in trial.epochs():
            trial.report(loss=near(trial), size=trial.n)

    old = study(tmp_path, "old", limits=["size <= 4"]).optimize(
        limited, trials=20, epochs=1, search="sobol", schedule="fifo", progress="none"
    )
    kept = [config for config in study(tmp_path, "new", earlier=old).queued if config.n <= 4]
    assert kept and kept[0] == old.best.config


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    study(tmp_path, "empty")
    with pytest.raises(StudyError, match=r"Unknown study 'emtpy'\. Did you mean 'empty'"):
        study(tmp_path, "new", earlier="emtpy")
    with pytest.raises(StudyError, match="empty: 0 of its 0 trials"):
        study(tmp_path, "new", earlier="empty")
    made(tmp_path, "other", space=SPACE)
    with pytest.raises(StudyError, match="other: it tunes nothing that this space tunes"):
        study(tmp_path, "new", Space(depth=Int(1, 5)), earlier="other")
    kept = Study.load("empty", tmp_path / "studies.db").records.studies()
    assert sorted(one.name for one in kept) == ["empty", "other"]


def test_priors_that_a_continuation_does_not_name_are_kept() -> None:
    old = Space(lr=Float(0.0, 1.0, prior=0.9), n=Int(1, 9, prior=3), kind=Choice(["a", "b"]), fixed=1)
    new = Space(lr=Float(0.0, 0.5), n=Int(1, 9, prior=4), kind=Choice(["a", "b", "c"]), fixed=1)
    assert keeping_priors(old, new) == new  # 0.9 is outside now, and 4 was asked for
    wide = Space(lr=Float(0.0, 2.0), n=Int(1, 9), kind=Choice(["b"]), fixed=1)
    kept = {"lr": replace(wide["lr"], prior=Prior(0.9)), "n": replace(wide["n"], prior=Prior(3))}
    assert keeping_priors(old, wide) == Space({**wide.tuned, **kept, **wide.fixed})


def test_on_the_command_line(run: Run, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "t.py").write_text(TASK)
    tune = ("tune", "t.py", "--epochs", "2", "--workers", "1", "--engine", "loop")
    assert run(*tune, "--name", "old", "--trials", "8", "--schedule", "fifo", "--search", "random")[0] == 0
    code, out, _ = run(*tune, "--name", "new", "--trials", "6", "--earlier", "old")
    assert code == 0 and "from 1 earlier study: " in out
    code, _, err = run(*tune, "--name", "third", "--trials", "3", "--earlier", "odl")
    assert code != 0 and "Unknown study 'odl'. Did you mean 'old'?" in err
