"""From reports to observations, and labelled runs in files."""

from __future__ import annotations

import gzip
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.diagnose.base import Action, Observations
from rheostat.diagnose.observations import LabelledRun, from_reports, read_runs, write_runs
from rheostat.errors import DataError
from rheostat.types import Config, Report, Status


def test_reports_become_curves_layers_first_losses_and_facts() -> None:
    reports = [
        Report(0, 0, 0, {"train_loss": 2.3, "classes": 10.0, "prior_loss": 2.302}, epoch_end=False),
        Report(0, 0, 4, {"train_loss": 2.0}, epoch_end=False),
        Report(0, 2, 20, {"val_loss": 1.0, "dead/fc": 0.25}),
        Report(0, 1, 10, {"val_loss": 1.5}),
        Report(0, 1, 15, {"val_loss": 9.0}, epoch_end=False),  # within an epoch: no part of the curve
    ]
    run = from_reports(reports, {"lr": 0.1}, Status.DONE, "", 2)
    assert run.curves["val_loss"].tolist() == [1.5, 1.0] and list(run.curves) == ["val_loss"]
    assert math.isnan(run.layers["dead"]["fc"][0]) and run.layers["dead"]["fc"][1] == 0.25
    assert run.first == {0: 2.3, 4: 2.0}
    assert run.facts == {"classes": 10.0, "prior_loss": 2.302}
    assert run.epochs == 2 and np.isnan(run.curve("lr")).all()


def test_a_run_as_it_was_known_earlier() -> None:
    run = from_reports([Report(0, e, e, {"val_loss": 1 / e, "dead/a": 0.0}) for e in (1, 2, 3)], {}, Status.CUT, "why")
    early = run.until(2)
    assert early.epochs == 2 and early.status is Status.TRAINING and early.reason == ""
    assert len(early.layers["dead"]["a"]) == 2
    assert run.until(5).status is Status.CUT and run.until(5).reason == "why"


numbers = st.floats(width=32) | st.just(math.nan)
curves = st.integers(0, 6).flatmap(
    lambda n: st.dictionaries(st.text(max_size=8), st.lists(numbers, min_size=n, max_size=n), max_size=3)
)


@given(curves, st.dictionaries(st.integers(0, 99), numbers, max_size=4), st.booleans())
def test_what_is_written_is_read(curves: dict[str, list[float]], first: dict[int, float], compressed: bool) -> None:
    seen = Observations(
        {name: np.array(values) for name, values in curves.items()},
        first,
        {"dead": {"fc.1": np.array([0.5, math.nan])}},
        Config(lr=0.1, optimizer="adam"),
        Status.INFEASIBLE,
        "a loss of NaN",
        7,
        {"classes": 3.0},
    )
    run = LabelledRun("a-1", "diverged", seen, "digits", "mlp", "adam", "a", {"probe_lr_up": -0.25})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("runs.jsonl.gz" if compressed else "runs.jsonl")
        write_runs(path, [run, run])
        found = list(read_runs(path))
    assert len(found) == 2
    back = found[0]
    assert (back.id, back.label, back.group, back.probe) == (run.id, run.label, run.group, run.probe)
    other = back.observations
    assert (other.config, other.status, other.reason, other.max_epochs) == (seen.config, seen.status, seen.reason, 7)
    for name, curve in seen.curves.items():
        np.testing.assert_allclose(other.curves[name], curve, rtol=1e-4)
    assert list(other.first) == list(first)
    np.testing.assert_allclose(list(other.first.values()), list(first.values()), rtol=1e-4)
    np.testing.assert_allclose(other.layers["dead"]["fc.1"], [0.5, math.nan])


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        '{"id": 1}',
        '{"id": 1, "label": "healthy", "curves": {"a": [1], "b": [1, 2]}}',
        '{"id": 1, "label": "healthy", "curves": {"a": ["x"]}}',
        '{"id": 1, "label": "healthy", "curves": {}, "status": "odd"}',
    ],
)
def test_a_bad_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('{"id": 0, "label": "healthy", "curves": {"val_loss": [1, null, "inf"]}}\n' + line + "\n")
    with pytest.raises(DataError, match=r"line 2: not a labelled run"):
        list(read_runs(path))


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        list(read_runs(tmp_path / "none.jsonl"))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"id": 0, "label": "healthy", "curves": {}}\n' * 99)[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        list(read_runs(cut))


def test_actions_keep_whole_numbers_whole() -> None:
    action = Action(
        "", times={"batch_size": 0.01, "lr": 1 / 3, "absent": 2.0, "nesterov": 2.0}, set={"schedule": "cosine"}
    )
    changed = action.apply(Config(batch_size=32, lr=0.3, nesterov=True))
    assert dict(changed) == {"batch_size": 1, "lr": 0.1, "nesterov": True, "schedule": "cosine"}
