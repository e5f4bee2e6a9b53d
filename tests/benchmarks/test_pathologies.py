"""The scorer of diagnoses against independent counts, and the published rules on runs made for them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_score, recall_score

from benchmarks.pathologies import __main__ as command
from benchmarks.pathologies.diagnosers import ours, published
from benchmarks.pathologies.published import RULES, autotrainer
from benchmarks.pathologies.score import as_scores, score
from rheostat.diagnose.base import Observations
from rheostat.diagnose.diagnosis import CONFIDENT
from rheostat.diagnose.observations import LabelledRun, write_runs
from rheostat.types import Config, Status

CAUSES = ["healthy", "lr_too_low", "lr_too_high", "diverged", "overfitting"]


def seen(epochs: int = 20, status: Status = Status.DONE, **changes: Any) -> Observations:
    """A quiet run: losses fall to about the same, layers are well."""
    t = np.arange(1, epochs + 1)
    curves = {
        "train_loss": 2.2 * np.exp(-0.4 * t) + 0.1,
        "val_loss": 2.2 * np.exp(-0.4 * t) + 0.105,
        "val_error": 0.8 * np.exp(-0.4 * t) + 0.1,
        "probe_error": 0.8 * np.exp(-0.4 * t) + 0.09,
        **changes.pop("curves", {}),
    }
    layers = {
        "update_ratio": {"1": np.full(epochs, 1e-3), "2": np.full(epochs, 1e-3)},
        "gradient_norm": {"1": np.full(epochs, 0.5), "2": np.full(epochs, 1.0)},
        "dead": {"1": np.full(epochs, 0.02)},
        **changes.pop("layers", {}),
    }
    facts = {"classes": 10.0, "steps_per_epoch": 50.0, **changes.pop("facts", {})}
    config = Config(**{"lr": 0.003, "optimizer": "sgd", "batch_size": 32, **changes.pop("config", {})})
    first = changes.pop("first", {0: math.log(10)})
    assert not changes
    return Observations(curves, first, layers, config, status, max_epochs=20, facts=facts)


def labelled(label: str, number: int = 0, cell: int = 0, run: Observations | None = None) -> LabelledRun:
    return LabelledRun(f"{label}-{number}", label, run or seen(), f"data{cell}", "mlp", "sgd")


def drawn(n: int = 400, seed: int = 0) -> tuple[list[LabelledRun], dict[str, dict[str, float]]]:
    """Runs of three cells with probabilities that say the truth about themselves."""
    rng = np.random.default_rng(seed)
    runs, said = [], {}
    for i in range(n):
        probabilities = rng.dirichlet(np.full(len(CAUSES), 0.3))
        run = labelled(str(rng.choice(CAUSES, p=probabilities)), i, int(rng.integers(3)))
        runs.append(run)
        said[run.id] = dict(zip(CAUSES, probabilities.tolist(), strict=True))
    return runs, said


def test_shares_agree_with_scikit_learn() -> None:
    runs, said = drawn()
    (found,) = score(runs, {"it": lambda run: said[run.id]}, moments=0).scores
    truth, verdicts = [r.label for r in runs], [max(said[r.id], key=lambda c: said[r.id][c]) for r in runs]
    assert found.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(truth, verdicts))
    table = confusion_matrix(truth, verdicts, labels=CAUSES)
    for i, cause in enumerate(CAUSES):
        assert [found.confusion[cause].get(other, 0) for other in CAUSES] == table[i].tolist()
        one = {"labels": [cause], "average": "macro"}
        assert found.causes[cause].recall.value == pytest.approx(recall_score(truth, verdicts, **one))
        assert found.causes[cause].precision.value == pytest.approx(precision_score(truth, verdicts, **one))
    top = [sorted(said[r.id], key=lambda c: -said[r.id][c])[:2] for r in runs]
    assert found.top_two.value == pytest.approx(np.mean([t in two for t, two in zip(truth, top, strict=True)]))
    assert found.false_alarms.value == pytest.approx(1 - table[0, 0] / table[0].sum())
    assert found.false_alarms.runs == table[0].sum()


def test_the_rate_is_judged_by_sides() -> None:
    runs, said = drawn()
    (found,) = score(runs, {"it": lambda run: said[run.id]}, moments=0).scores
    side = {"lr_too_low": "low", "lr_too_high": "high", "diverged": "high", "healthy": "ok"}
    asked = [r for r in runs if r.label in side]

    def verdict(p: Mapping[str, float]) -> str:
        sums = {"low": p["lr_too_low"], "high": p["lr_too_high"] + p["diverged"]}
        sums["ok"] = 1 - sum(sums.values())
        return max(sums, key=lambda s: sums[s])

    expected = balanced_accuracy_score([side[r.label] for r in asked], [verdict(said[r.id]) for r in asked])
    assert found.lr_balanced_accuracy.value == pytest.approx(expected)
    assert found.lr_balanced_accuracy.runs == len(asked)


def test_true_probabilities_are_calibrated_and_boastful_ones_are_not() -> None:
    runs, said = drawn(3000)
    boastful = {name: {c: float(c == max(p, key=lambda c: p[c])) for c in p} for name, p in said.items()}
    true, false = score(runs, {"true": lambda r: said[r.id], "false": lambda r: boastful[r.id]}, moments=0).scores
    assert true.calibration_error.value < 0.03
    assert false.calibration_error.value == pytest.approx(1 - false.accuracy.value)
    assert true.calibration_error.low <= true.calibration_error.value
    accuracies = [at.accuracy for at in true.risk_coverage]
    assert accuracies[0] > accuracies[4] > accuracies[-1] == pytest.approx(true.accuracy.value)
    assert true.risk_coverage[-1].balanced_accuracy == pytest.approx(true.balanced_accuracy.value)
    sure = [max(p.values()) >= CONFIDENT for p in said.values()]
    assert true.coverage.value == pytest.approx(np.mean(sure))
    assert true.sure_accuracy.value > true.accuracy.value and true.sure_false_alarms.value < true.false_alarms.value


def test_intervals_cover_between_cells_that_differ() -> None:
    """Cells differ in how well they are recognised; nine in ten or more of nominal 95 % intervals hold the truth."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(60):
        shares = rng.beta(8, 2, 12)  # mean 0.8
        runs = [labelled("healthy", i, cell) for cell in range(12) for i in range(30)]
        right = {(r.dataset, r.id): rng.random() < shares[int(r.dataset[4:])] for r in runs}
        verdict = {k: {"healthy": 1.0} if ok else {"diverged": 1.0} for k, ok in right.items()}
        report = score(runs, {"it": lambda r, v=verdict: v[r.dataset, r.id]}, moments=0, resamples=200)
        figure = report.scores[0].accuracy
        covered += figure.low <= 0.8 <= figure.high
    assert 50 <= covered <= 60


def test_one_cell_has_no_interval_and_ranks_no_calibration() -> None:
    runs = [labelled("healthy"), labelled("overfitting", 1)]
    (found,) = score(runs, {"it": lambda run: as_scores(["overfitting", "healthy"])}, moments=0).scores
    assert found.accuracy.value == 0.5 and math.isnan(found.accuracy.low)
    assert math.isnan(found.calibration_error.value) and found.risk_coverage == ()
    assert found.top_two.value == 1.0 and found.false_alarms.value == 1.0


def test_a_verdict_outside_the_labels_is_wrong_and_runs_may_be_left_out() -> None:
    runs = [labelled("healthy"), labelled("healthy", 1, 1), labelled("overfitting", 2, 1)]
    said = {"healthy-0": {"spikes": 1.0}, "healthy-1": {"healthy": 1.0}, "overfitting-2": {}}
    report = score(runs, {"it": lambda run: said[run.id]}, moments=0)
    (found,) = report.scores
    assert (report.runs, found.runs) == (3, 2)
    assert found.confusion == {"healthy": {"healthy": 1, "spikes": 1}} and found.causes["spikes"].runs == 0
    assert found.groups["cell"]["data1/mlp"].accuracy == 1.0 and found.groups["dataset"]["data0"].false_alarms == 1.0


def test_detection_is_when_the_right_verdict_came_to_stay() -> None:
    def diagnose(run: LabelledRun) -> dict[str, float]:
        epoch, when = run.observations.epochs, {"diverged-0": [2, 8], "diverged-1": [], "diverged-2": [0]}[run.id]
        flips = sum(epoch >= at for at in when)
        right = (flips == len(when) and flips > 0) or (run.id == "diverged-0" and epoch in (4, 5))
        return {"diverged": 1.0} if right else {"healthy": 1.0}

    runs = [labelled("diverged", i, i, seen(10)) for i in range(3)]
    (found,) = score(runs, {"it": diagnose}).scores
    assert found.detected is not None and found.detected.value == pytest.approx(2 / 3)
    assert found.detection is not None and found.detection.value == pytest.approx(8 / 20)  # of 20 planned epochs
    assert found.detection_by_cause == {"diverged": pytest.approx(0.4)}


def test_on_the_way_nothing_is_known_of_later() -> None:
    told: list[tuple[int, int]] = []

    def diagnose(run: LabelledRun) -> dict[str, float]:
        told.append((run.observations.epochs, len(run.probe)))
        return {"diverged": 1.0}

    run = LabelledRun("a", "diverged", seen(10), probe={"x": 1.0})
    score([run], {"it": diagnose}, moments=5)
    assert told == [(10, 1), (8, 0), (6, 0), (4, 0), (2, 0), (0, 0)]


def test_our_diagnosis_is_scored_by_what_it_says() -> None:
    """Rules beside the classifier have their say; counterfactuals count where there are some, and only there."""

    def likely(run: Observations, probe: Mapping[str, float] | None) -> dict[str, float]:
        return (
            {"lr_too_low": 0.95, "healthy": 0.05} if probe else {"lr_too_low": 0.4, "healthy": 0.5, "overfitting": 0.1}
        )

    runs = [
        labelled("lr_too_low", 0),
        LabelledRun("b", "lr_too_low", seen(), "other", "cnn", probe={"probe_lr_up": -0.2}),
    ]
    alone, probed = score(runs, ours(likely)).scores
    assert (alone.runs, alone.accuracy.value, alone.top_two.value) == (2, 0.0, 1.0)
    assert (probed.runs, probed.accuracy.value, probed.coverage.value) == (1, 1.0, 1.0)
    assert alone.calibration_error.value == pytest.approx(0.5) and probed.calibration_error.value == pytest.approx(0.05)


def test_what_is_left_unsaid_is_no_verdict() -> None:
    (found,) = score([labelled("healthy")], {"it": lambda run: {"": 0.7, "healthy": 0.3}}).scores
    assert found.accuracy.value == 1.0 and found.calibration_error.value == pytest.approx(0.7)
    assert published().keys() == RULES.keys()


# -- published rules -----------------------------------------------------------------------------------------

T = np.arange(1, 21)
CONSTANT = np.full(20, 2.3)
DIED = seen(6, Status.INFEASIBLE)


def test_a_quiet_run_alarms_nobody() -> None:
    assert {name: rule(seen()) for name, rule in RULES.items()} == {name: [] for name in RULES}


@pytest.mark.parametrize("name", RULES)
def test_a_run_that_was_lost_is_called_so_by_all(name: str) -> None:
    assert "diverged" in RULES[name](DIED)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("epochs", range(4))
def test_rules_bear_runs_of_which_little_is_known(name: str, epochs: int) -> None:
    bare = Observations({"train_loss": np.ones(3), "val_loss": np.full(3, np.nan)})
    for run in (bare, bare.until(epochs), seen().until(epochs), DIED.until(epochs), Observations({})):
        assert all(isinstance(cause, str) for cause in RULES[name](run))


@pytest.mark.parametrize(
    ("name", "run", "first"),
    [
        (
            "AutoTrainer",
            seen(layers={"dead": {"1": np.full(20, 0.9)}}, curves={"val_error": CONSTANT / 3}),
            "dead_units",
        ),
        (
            "AutoTrainer",
            seen(
                layers={"gradient_norm": {"1": np.full(20, 1e-6), "2": np.full(20, 0.1)}},
                curves={"val_error": np.full(20, 0.9)},
            ),
            "vanishing_gradient",
        ),
        ("AutoTrainer", seen(curves={"val_error": np.full(20, 0.9), "probe_error": np.full(20, 0.9)}), "lr_too_low"),
        ("AutoTrainer", seen(curves={"val_error": 0.1 + 0.02 * (-1.0) ** T}), "lr_too_high"),
        ("AutoTrainer", seen(curves={"val_loss": 10.0**T}), "diverged"),
        ("UMLAUT", seen(config={"lr": 0.02}), "lr_too_high"),
        ("UMLAUT", seen(config={"lr": 1e-8}), "lr_too_low"),
        ("UMLAUT", seen(curves={"val_loss": 1 + 0.01 * T}), "overfitting"),
        ("UMLAUT", seen(curves={"val_error": np.full(20, 0.04)}), "leak"),
        ("SageMaker Debugger", seen(layers={"dead": {"1": np.full(20, 0.6)}}), "dead_units"),
        ("SageMaker Debugger", seen(layers={"saturated": {"1": np.full(20, 0.6)}}), "saturated_units"),
        (
            "SageMaker Debugger",
            seen(layers={"update_ratio": {"1": np.zeros(20), "2": np.full(20, 0.1)}}),
            "frozen_layer",
        ),
        ("SageMaker Debugger", seen(layers={"update_ratio": {"1": np.full(20, 20.0)}}), "lr_too_high"),
        ("SageMaker Debugger", seen(curves={"train_loss": 2.0 / T, "val_loss": 2.5 / T}), "overfitting"),
        ("DeepDiagnosis", seen(layers={"dead": {"1": np.full(20, 0.8)}}), "dead_units"),
        (
            "DeepDiagnosis",
            seen(layers={"dead": {"1": np.full(20, 0.8)}, "update_ratio": {"1": np.full(20, 0.5)}}),
            "lr_too_high",
        ),
        (
            "DeepDiagnosis",
            seen(curves={"train_loss": CONSTANT}, layers={"update_ratio": {"1": np.full(20, 1e-7)}}),
            "lr_too_low",
        ),
        ("DeepDiagnosis", seen(layers={"gradient_norm": {"1": np.full(20, 1e-9)}}), "vanishing_gradient"),
        ("cs231n", seen(first={0: 9.0}), "bad_initialisation"),
        ("cs231n", seen(layers={"dead": {"1": np.full(20, 0.5)}}), "dead_units"),
        ("cs231n", seen(layers={"update_ratio": {"1": np.full(20, 0.02)}}), "lr_too_high"),
        ("cs231n", seen(layers={"update_ratio": {"1": np.full(20, 5e-5)}}), "lr_too_low"),
        ("cs231n", seen(curves={"train_loss": 2.3 - 0.01 * T}), "lr_too_low"),
        ("cs231n", seen(curves={"val_error": np.full(20, 0.3)}), "overfitting"),
    ],
)
def test_published_rules_fire_at_their_thresholds(name: str, run: Observations, first: str) -> None:
    assert RULES[name](run)[0] == first


def test_rules_do_not_judge_before_their_time() -> None:
    slow = seen(curves={"val_error": np.full(20, 0.9), "probe_error": np.full(20, 0.9)})
    assert [autotrainer.find(slow.until(epoch)) for epoch in (5, 6)] == ["", "not_converge"]
    dead = seen(layers={"dead": {"1": np.full(20, 0.8)}})
    assert RULES["DeepDiagnosis"](dead.until(19)) == []


def test_autotrainers_repairs_change_configurations_in_their_order() -> None:
    run = seen(config={"optimizer": "adam"})
    changed = [action.apply(run.config) for action in autotrainer.repairs("lr_too_high", run)]
    assert [c.lr for c in changed[:3]] == [0.0003, 0.00003, 0.000003]  # Adam is in use
    assert [c.batch_size for c in changed[4:7]] == [64, 128, 256] and changed[7].optimizer == "momentum"
    first = autotrainer.repairs("lr_too_high", seen())[0].apply(seen().config)
    assert (first.optimizer, first.lr) == ("adam", 0.001)
    assert autotrainer.repairs("label_noise", run) == []
    for problem in autotrainer.PROBLEMS.values():
        assert autotrainer.repairs(problem, run) and all(a.automatic for a in autotrainer.repairs(problem, run))


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_scores_a_file(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = tmp_path / "runs.jsonl.gz", tmp_path / "out.json"
    write_runs(file, [labelled("healthy", 0, 0), labelled("diverged", 1, 1, DIED)])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(command, "ours", lambda: ours(lambda run, probe: {"healthy": 1.0}))
    monkeypatch.setattr("sys.argv", ["pathologies", "--runs", str(file), "--json", str(out)])
    command.main()
    printed = capsys.readouterr().out
    assert all(name.split()[0] in printed for name in (*RULES, "Rheostat")) and "2 runs, 2 causes, 2 cells" in printed
    found = json.loads(out.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    by_name = {one["name"]: one for one in found["scores"]}
    assert by_name.keys() >= RULES.keys() and by_name["AutoTrainer"]["balanced_accuracy"]["value"] == 1.0
    assert by_name["AutoTrainer"]["calibration_error"]["value"] is None
    assert by_name["AutoTrainer"]["groups"]["cell"]["data0/mlp"]["runs"] == 1


def test_the_command_says_what_is_wrong_with_a_file(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text('{"id": 1}\n')
    monkeypatch.setattr("sys.argv", ["pathologies", "--runs", str(file)])
    with pytest.raises(SystemExit):
        command.main()
    assert "line 1" in capsys.readouterr().err
