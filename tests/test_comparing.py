"""Controlled comparisons: what is trained, with which seeds and budgets, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rheostat
from rheostat import Choice, Config, Float, Prior, Space, Task
from rheostat.analysis.compared import Comparison
from rheostat.analysis.comparison import Verdict
from rheostat.arms import arm_space, nuisance_of, parameters, with_equal_parameters
from rheostat.bench import Bench
from rheostat.comparing import compare, run_compare
from rheostat.errors import RheostatError, SettingError, StudyError, TaskError

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(260, 6, generator=GENERATOR)
Y = (X[:, 0] + 2 * X[:, 5] + 0.3 * torch.randn(260, generator=GENERATOR) > 0).long()
SPACE = Space(lr=Float(1e-3, 1e-1, log=True, prior=Prior(1e-2, 0.5)), batch_size=16)


@dataclass(frozen=True)
class Network:
    """A small network; `blind` hides that many of its inputs, `label` does nothing at all."""

    def __call__(self, config: Config) -> nn.Module:
        config.get("label")
        if config.get("blind", 0) == "broken":
            raise ValueError("no such network")
        units, shown = config.get("units", 8), 6 - config.get("blind", 0)
        layers = [nn.Linear(units, units) for _ in range(config.get("layers", 1) - 1)]
        return nn.Sequential(Shown(shown), nn.Linear(shown, units), nn.ReLU(), *layers, nn.Linear(units, 2))


class Shown(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, : self.count]


TASK = Task(
    Network(), (X[:100], Y[:100]), (X[100:160], Y[100:160]), test=(X[160:], Y[160:]), metric="val_loss", name="toy",
    device="cpu",
)  # fmt: skip


BLIND = {"trials": 4, "epochs": 4, "seeds": 3}


def comparison(folder: Path, vary: Mapping[str, Sequence[Any]], task: Task = TASK, **changes: Any) -> Comparison:
    settings: dict[str, Any] = {
        "trials": 2,
        "epochs": 2,
        "seeds": 2,
        "workers": 1,
        "engine": "loop",
        "storage": folder / "studies.db",
        "tell": lambda line: None,
    }
    return compare(task, changes.pop("space", SPACE), vary=vary, **{**settings, **changes})


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    """Networks that see all six inputs, and those that see the first alone."""
    folder = tmp_path_factory.mktemp("blind")
    return folder, comparison(folder, {"blind": [0, 5]}, **BLIND)


def studies(folder: Path) -> dict[str, rheostat.Study]:
    from rheostat.records.store import Records

    with Records(f"sqlite:///{folder / 'studies.db'}") as records:
        names = [record.name for record in records.studies()]
    return {name: rheostat.load(name, str(folder / "studies.db")) for name in names}


# -- what is trained -----------------------------------------------------------------------------------------


def test_a_worse_arm_is_called_worse_with_its_cost(blind: tuple[Path, Comparison]) -> None:
    _, found = blind
    sees, sees_little = found.arms
    assert (sees.verdict, sees_little.verdict) == (Verdict.REFERENCE, Verdict.WORSE)
    assert sees_little.difference is not None and 0 < sees_little.difference.low < sees_little.difference.value
    assert found[5] is sees_little and found.metric == "loss" and found.judged_on == "100 test examples"
    assert found.nuisance == ("lr",) and found.fixed == {"batch_size": 16}
    assert sees.parameters == 7 * 8 + 9 * 2 and sees_little.parameters == 2 * 8 + 9 * 2
    assert len(sees.repeats) == 3 and sees.seconds > sees.seconds_per_epoch > 0
    assert sees.memory_bytes >= 16 * sees.parameters  # weights, gradients, two moments


def test_arms_share_first_points_and_seeds(blind: tuple[Path, Comparison]) -> None:
    folder, _ = blind
    found = studies(folder)
    tuning = [found["toy-blind-0"], found["toy-blind-5"]]
    first, second = ([trial.config.lr for trial in study.trials][:4] for study in tuning)
    assert first == second
    repeats = [study for name, study in found.items() if "repeats" in name]
    assert len(repeats) == 4 and {len(study.trials) for study in repeats} == {3}
    assert len({study.seed for study in tuning}) == 1 and len({study.seed for study in repeats}) == 1
    assert tuning[0].seed != repeats[0].seed


def test_the_values_are_those_of_the_best_epochs_on_the_test_data(blind: tuple[Path, Comparison]) -> None:
    folder, comparison_ = blind
    arm = comparison_.arms[0]
    study = next(s for s in studies(folder).values() if "repeats" in s.name and s.trials[0].config == arm.config)
    trial = study.best.trial
    network = study.best.load(TASK.model)
    on_test = rheostat.train.task.evaluate(TASK, network, TASK.test, torch.device("cpu"))["loss"]  # type: ignore[arg-type]
    assert arm.repeats[trial.number] == pytest.approx(on_test)
    assert arm.estimate.value == pytest.approx(sum(arm.repeats) / 3)


def test_run_again_it_trains_nothing(blind: tuple[Path, Comparison]) -> None:
    folder, before = blind
    counts = {name: [t.seconds for t in study.trials] for name, study in studies(folder).items()}
    assert comparison(folder, {"blind": [0, 5]}, **BLIND) == before
    assert {name: [t.seconds for t in study.trials] for name, study in studies(folder).items()} == counts


def test_with_more_seeds_it_goes_on(tmp_path: Path) -> None:
    few = comparison(tmp_path, {"label": ["a", "b"]}, trials=1)
    more = comparison(tmp_path, {"label": ["a", "b"]}, trials=1, seeds=4)
    assert [arm.repeats[:2] for arm in more.arms] == [arm.repeats for arm in few.arms]
    assert [len(arm.repeats) for arm in more.arms] == [4, 4]
    with pytest.raises(StudyError, match="cannot be continued"):
        comparison(tmp_path, {"label": ["a", "b"]}, trials=1, epochs=4)


def test_arms_that_do_not_differ_are_tied_to_the_last_bit(tmp_path: Path) -> None:
    found = comparison(tmp_path, {"label": ["a", "b"]})
    assert [arm.verdict for arm in found.arms] == [Verdict.REFERENCE, Verdict.TIED]
    assert found.arms[0].repeats == found.arms[1].repeats and found.arms[0].config is not None


def test_values_are_in_the_direction_of_the_metric(tmp_path: Path) -> None:
    task = replace(TASK, metrics=("accuracy",), metric="val_accuracy", direction="maximize")
    found = comparison(tmp_path, {"blind": [5, 0]}, task, epochs=4, trials=1)
    worse, better = found.arms
    assert better.estimate.low <= better.estimate.value <= better.estimate.high
    assert better.difference is not None and better.difference.value > 0
    assert better.estimate.value > worse.estimate.value and better.verdict is not Verdict.WORSE


# -- faults --------------------------------------------------------------------------------------------------


def test_an_arm_that_diverges_is_a_result(tmp_path: Path) -> None:
    found = comparison(tmp_path, {"lr": [0.01, 1e30]}, space=Space(batch_size=16, optimizer="sgd"))
    steady, diverged = found.arms
    assert (steady.verdict, diverged.verdict) == (Verdict.REFERENCE, Verdict.DIVERGED)
    assert diverged.diverged == 2 and math.isnan(diverged.estimate.value)
    space = Space(lr=Float(1e25, 1e30, log=True), optimizer="sgd")
    tuned = comparison(tmp_path, {"label": ["a", "b"]}, space=space)
    assert {arm.verdict for arm in tuned.arms} == {Verdict.DIVERGED}
    assert tuned.arms[0].notes == ("label=a diverged in all of its 2 trials",)


def test_an_arm_that_cannot_be_built_is_a_result(tmp_path: Path) -> None:
    lines: list[str] = []
    found = comparison(tmp_path, {"blind": [0, "broken"]}, tell=lines.append)
    assert [arm.verdict for arm in found.arms] == [Verdict.REFERENCE, Verdict.DIVERGED]
    assert "no such network" in found.arms[1].notes[0] and "failed" in lines[-1]
    with pytest.raises(TaskError, match="Neither the trainer nor the model"):
        comparison(tmp_path, {"layer": [1, 2]}, name="typo")


# -- designs -------------------------------------------------------------------------------------------------


def test_equal_parameters_change_the_width(tmp_path: Path) -> None:
    space = Space(units=128, batch_size=16, lr=0.01)
    found = comparison(tmp_path, {"layers": [1, 2, 3]}, space=space, equal="parameters", name="p")
    counts = [arm.parameters for arm in found.arms]
    assert all(abs(count / counts[0] - 1) <= 0.05 for count in counts) and "units" not in found.fixed
    assert "units is 128 with 1" in found.notes[0]


def test_where_parameters_cannot_be_equal_it_is_said() -> None:
    arms = [
        rheostat.arms.Arm("blind", value, arm_space(Space(units=1), "blind", value, ()), 3) for value in (5, 0)
    ]  # fmt: skip
    notes = with_equal_parameters(TASK, arms, 0)[1].notes
    assert len(notes) == 1 and "blind=0 has 11 parameters, +83%" in notes[0]
    with pytest.raises(SettingError, match="units, hidden, channels"):
        with_equal_parameters(TASK, [replace(arm, space=Space(blind=0)) for arm in arms], 0)


def test_equal_seconds_scale_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "seconds_per_epoch", lambda self, arm: {8: 0.1, 64: 0.2, 512: 9.0}[arm.value])
    found = comparison(tmp_path, {"units": [8, 64, 512]}, trials=1, epochs=6, equal="seconds")
    assert [arm.epochs for arm in found.arms] == [6, 3, 1]


def test_epochs_are_timed_once(tmp_path: Path) -> None:
    bench = Bench(TASK, "timed", 4, 3, storage=tmp_path / "studies.db", tell=lambda line: None)
    arm = rheostat.arms.Arm("units", 8, arm_space(SPACE, "units", 8, ("lr",)), 3)
    assert bench.seconds_per_epoch(arm) == bench.seconds_per_epoch(arm) > 0


def test_lr_may_follow_the_reference(tmp_path: Path) -> None:
    def lrs(rule: str) -> list[float | None]:
        return [arm.lr for arm in comparison(tmp_path, {"batch_size": [10, 40, "full"]}, lr=rule, seeds=2).arms]

    first = lrs("fixed")[0]
    assert first is not None
    assert lrs("fixed") == [first] * 3
    assert lrs("linear") == pytest.approx([first, 4 * first, 10 * first], rel=1e-3)
    assert lrs("sqrt") == pytest.approx([first, 2 * first, math.sqrt(10) * first], rel=1e-3)
    assert lrs("default") == [None] * 3
    with pytest.raises(SettingError, match="no number above 0"):
        comparison(tmp_path, {"label": ["a", "b"]}, lr="linear")


def test_each_optimiser_is_tuned_in_its_own_range() -> None:
    space = Space(lr=Float(1e-4, 1e-2, log=True), weight_decay=Float(1e-3, 1, log=True), layers=2)
    adam, sgd = (arm_space(space, "optimizer", value, ("lr",)) for value in ("adam", "sgd"))
    assert isinstance(adam["lr"], Float) and isinstance(sgd["lr"], Float) and sgd["lr"].high > adam["lr"].high
    assert adam.fixed["layers"] == 2 and set(adam) == {"lr"}


def test_what_is_tuned_for_each_depends_on_the_budget() -> None:
    space = Space(
        schedule=Choice(["cosine", "constant"]), weight_decay=Float(1e-3, 1, log=True), lr=SPACE["lr"], layers=2
    )
    assert nuisance_of(space, "layers", 8) == ("lr",)
    assert nuisance_of(space, "layers", 12) == ("lr", "weight_decay")
    assert nuisance_of(space, "layers", 25) == ("lr", "weight_decay", "schedule")
    assert nuisance_of(space, "lr", 30) == ("weight_decay", "schedule")
    assert nuisance_of(Space(lr=0.1), "layers", 8) == () and nuisance_of(Space(layers=2), "layers", 8) == ("lr",)
    assert nuisance_of(space, "layers", 8, ["dropout"]) == ("dropout",)
    for wrong, words in ((["layers"], "what is compared"), (["dropuot"], "Did you mean 'dropout'")):
        with pytest.raises(SettingError, match=words):
            nuisance_of(space, "layers", 8, wrong)


def test_conditions_follow_the_value() -> None:
    space = Space(
        optimizer=Choice(["adam", "momentum"]),
        momentum=Float(0.5, 0.99, prior=0.9, when={"optimizer": "momentum"}),
        lr=SPACE["lr"],
    )
    assert "momentum" not in arm_space(space, "optimizer", "adam", ("lr",)).fixed
    assert arm_space(space, "optimizer", "momentum", ("lr",)).fixed["momentum"] == 0.9
    assert list(arm_space(space, "optimizer", "momentum", ("lr", "momentum"))) == ["lr", "momentum"]


def test_parameters_are_those_that_are_trained() -> None:
    def frozen(config: Config) -> nn.Module:
        model = nn.Linear(3, 2)
        model.bias.requires_grad_(False)
        return model

    before = torch.random.get_rng_state()
    assert parameters(replace(TASK, model=frozen), Config()) == 6
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vary": {"a": [1, 2], "b": [1, 2]}}, "one hyperparameter is compared"),
        ({"vary": {"layers": [1]}}, "two or more different"),
        ({"vary": {"layers": [1, 1]}}, "two or more different"),
        ({"reference": 3}, "Unknown reference"),
        ({"equal": "second"}, "Did you mean 'seconds'"),
        ({"lr": "tune"}, "Did you mean 'tuned'"),
        ({"seeds": 1}, "at least 2"),
        ({"trials": 0}, "at least 1"),
        ({"level": 5}, "such as 0.05"),
        ({"task": replace(TASK, metric="train_loss")}, "a val_ metric"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RheostatError, match=words):
        comparison(tmp_path, **{"vary": {"layers": [1, 2]}, **changes})
    assert not (tmp_path / "studies.db").exists()


# -- for the command line ------------------------------------------------------------------------------------


def ask(folder: Path, **what: Any) -> list[Comparison]:
    silent: Callable[[str], None] = lambda line: None  # noqa: E731
    return run_compare(
        TASK, SPACE, trials=1, epochs=1, seeds=2, workers=1, storage=folder / "studies.db", tell=silent, **what
    )


def test_a_question_may_take_several_comparisons(tmp_path: Path) -> None:
    found = ask(tmp_path, question="batch")
    assert [c.lr for c in found] == ["fixed", "linear", "tuned"] and {c.question for c in found} == {"batch"}
    assert [arm.value for arm in found[0].arms] == [16, 64, "full"]
    assert [c.lr for c in ask(tmp_path, question="depth")] == ["tuned"]
    described = found[0].describe()
    assert described["reference"] == 64 and len(described["arms"][0]["repeats"]) == 2


def test_a_question_that_does_not_fit_names_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="does not fit this network .own.. These do: depth, width, batch, optimizer"):
        ask(tmp_path, question="decoder")
    with pytest.raises(SettingError, match="Did you mean 'depth'"):
        ask(tmp_path, question="deth")
    for both in ({}, {"question": "depth", "vary": {"layers": [1, 2]}}):
        with pytest.raises(SettingError, match="either --vary"):
            ask(tmp_path, **both)
