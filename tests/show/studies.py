"""Studies to be shown."""

from __future__ import annotations

from typing import Any

from rheostat.types import Config, Snapshot, Status, TrialRecord

BEST = Config(lr=0.009234, layers=3, units=89)


def trial(number: int, status: Status, *values: float, reason: str = "", **changes: Any) -> TrialRecord:
    return TrialRecord(number, Config({**BEST, **changes}), status, values, 20, reason)


def snapshot(trials: list[TrialRecord], **changes: Any) -> Snapshot:
    """A study of 60 trials, minimising val_error."""
    training = frozenset(t.number for t in trials if t.status is Status.TRAINING)
    facts: dict[str, Any] = {
        "study": "digits-mlp",
        "metric": "val_error",
        "sign": 1,
        "trials_wanted": 60,
        "max_epochs": 20,
        "epochs": 431,
        "seconds": 4.2,
        "seconds_left": 6.4,
        "places": 2,
        "training": training,
    }
    return Snapshot(trials=tuple(trials), **{**facts, **changes})


def example() -> Snapshot:
    """Two trials train, nineteen rest; trial 2 is the best."""
    falling = [0.5 - 0.02 * e for e in range(20)]
    trials = [
        trial(0, Status.DONE, *falling, lr=0.1),
        trial(1, Status.CUT, 0.9, 0.8, units=16, reason="worse after 2 epochs than the median of 5 other trials"),
        trial(2, Status.DONE, *[0.4 - 0.019 * e for e in range(20)]),
        trial(3, Status.TRAINING, 0.6, 0.05, lr=0.0091, units=75),
        trial(4, Status.CONVERGED, 0.3, 0.25, layers=1),
        trial(5, Status.INFEASIBLE, 0.01, float("nan"), lr=1.0),
        trial(6, Status.FAILED, 0.001, units=512),
        trial(7, Status.PAUSED, 0.45, layers=2),
        *(trial(n, Status.CUT, 0.7 + n / 100, units=n) for n in range(8, 20)),
        trial(20, Status.TRAINING, units=20),
    ]
    return snapshot(trials)
