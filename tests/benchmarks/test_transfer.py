"""The bench of what earlier studies are worth: its schedulers, its misleading studies and its report."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search import transfer
from benchmarks.search.tables import Table
from benchmarks.search.transfer import (
    KINDS,
    Led,
    Options,
    earlier,
    lines_of,
    regrets,
    renamed,
    reversed_study,
    studies,
)
from rheostat.schedule.fifo import FIFO
from rheostat.search.random import Random
from rheostat.space import Float, Int, Space
from rheostat.types import Config, History, Start, Status, TrialRecord

OPTIONS = Options(first=3, priors=True, whole=False)


def table(name: str, best: float, benchmark: str = "bowls") -> Table:
    """40 points of two hyperparameters; the loss falls in four epochs to the distance from the best, and 1."""
    space = Space(x=Float(0.0, 1.0), y=Float(0.0, 1.0))
    points = np.random.default_rng(0).random((40, 2))
    distance = np.abs(points - best).sum(axis=1)
    curves = tuple(1 + d + np.array([0.05, 0.02, 0.01, 0.0]) for d in distance)
    return Table(benchmark, name, space, points, curves)


TABLES = [*(table(f"t{i}", 0.2 + 0.01 * i) for i in range(5)), table("far", 0.9, "others")]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "EARLIER_BUDGET", 8.0)


def test_the_first_new_trials_are_given_and_all_else_is_the_schedulers() -> None:
    space = Space(x=Float(0.0, 1.0))
    given = [Config(x=0.25), Config(x=0.75)]
    inner = FIFO(Random(space), 9, 7)
    led = Led(inner, given)
    begun = (TrialRecord(0, given[0], Status.TRAINING),)
    for history in (History(), History(begun)):
        theirs = inner.next(history, 3, np.random.default_rng(3))
        ours = led.next(history, 3, np.random.default_rng(3))
        expected = [*given[len(history.trials) :], *(a.config for a in theirs if isinstance(a, Start))][:3]
        many = 2 - len(history.trials)
        assert ours[:many] == [Start(config, 7) for config in expected[:many]] and ours[many:] == theirs[many:]
    assert Led(inner, given, whole=20).next(History(), 1, np.random.default_rng(3)) == [Start(given[0], 20)]


def test_earlier_studies_are_kept_and_are_never_that_of_the_table(tmp_path: Path) -> None:
    found = studies("3", TABLES[0], TABLES, 0, tmp_path)
    assert len(found) == 3 and {one.name for one in found} < {"t1", "t2", "t3", "t4"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"bowls-{one.name}.json" for one in found)
    assert earlier(TABLES[1], tmp_path) == earlier(TABLES[1], tmp_path)  # the second time from the file
    assert len(studies("8", TABLES[0], TABLES, 0, tmp_path)) == 4 and not studies(
        "none", TABLES[0], TABLES, 0, tmp_path
    )
    assert [one.name for one in studies("foreign", TABLES[0], TABLES, 0, tmp_path)] == ["far"]


def test_misleading_studies(tmp_path: Path) -> None:
    study = earlier(TABLES[0], tmp_path)
    turned = reversed_study(study)
    assert min(turned.trials, key=lambda t: t.best).config == max(study.trials, key=lambda t: max(t.values)).config
    other = Table("o", "o", Space(a=Float(0.0, 10.0), b=Int(0, 9), c=Float(1.0, 2.0)), np.zeros((1, 3)), (np.ones(1),))
    for old, new in zip(study.trials, renamed(study, other).trials, strict=True):
        assert new.values == old.values and other.space.complete(new.config) == new.config
        assert new.config.a == pytest.approx(10 * old.config.x) and new.config.c == pytest.approx(1 + old.config.x)


def test_studies_that_agree_make_a_better_start(tmp_path: Path) -> None:
    without = regrets(TABLES[0], [], 0, 5.0, OPTIONS)
    known = regrets(TABLES[0], studies("3", TABLES[0], TABLES, 0, tmp_path), 0, 5.0, OPTIONS)
    assert len(without) == len(known) == 4 and max(known) <= 1.0
    assert known[0] < without[0] and np.mean(known) < np.mean(without) / 2


def test_the_report_pairs_tables() -> None:
    rows = [
        {"benchmark": "b", "table": name, "kind": kind, "seed": seed, "regrets": [value + 0.1 * seed, 0.5]}
        for name, kind, value in [
            ("t", "none", 0.6),
            ("t", "3", 0.3),
            ("u", "none", 0.4),
            ("u", "3", 0.3),
            ("v", "3", 0),
        ]
        for seed in (0, 1)
    ]
    lines = list(lines_of(rows))
    # differences are -0.3 and -0.1: their mean is -0.2, and its error 0.1414 / sqrt(2)
    assert lines[1] == "b 3           2 tables  0.350  0.500"
    assert lines[2].split() == ["from", "none", "-0.200±0.100", "+0.000±0.000"]
    assert [line.split()[0] for line in lines[3:]] == ["all", "all", "from"]
    assert math.isclose(float(lines[0].split()[-2]), 0.55) and set(KINDS) >= {"none", "3"}
