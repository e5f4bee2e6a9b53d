"""The replay bench: its tables, its clock, the peers and the report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import comb
from scipy.stats import friedmanchisquare

from benchmarks.search.peers.base import BEFORE_ANY, Asked, Job, Setting, Worst, config_from, values_from
from benchmarks.search.peers.registry import PEERS, make_peer
from benchmarks.search.replay import BUDGETS, replay
from benchmarks.search.report import cells, critical_difference, lines_of, mean_ranks, plot, worse_and_better
from benchmarks.search.runs import TWICE, Run, check_method, done_runs, make_method, read_rows, rows_of, run_all
from benchmarks.search.tables import SAMPLES, Table, read_tables
from rheostat.errors import SettingError
from rheostat.space import Choice, Float, Int, Space
from rheostat.types import Assignment, Config, Continue, Start, Status, TrialRecord

LR = {"name": "lr", "type": "float", "low": 0.001, "high": 1.0, "log": True}


def written(folder: Path, meta: dict[str, Any], name: str = "task", **arrays: Any) -> Table:
    """The table, through a file."""
    folder.mkdir(exist_ok=True)
    (folder / "meta.json").write_text(json.dumps(meta))
    np.savez(folder / f"{name}.npz", **{key: np.array(value) for key, value in arrays.items()})
    (table,) = read_tables(folder)
    return table


def letters(curves: Sequence[Sequence[float]]) -> Table:
    """One hyperparameter whose values are a, b, c, ..., with these curves."""
    space = Space(x=Choice([chr(ord("a") + i) for i in range(len(curves))]))
    points = np.array([space.encode(Config(x=value)) for value in space["x"].values])
    return Table("letters", "abc", space, points, tuple(np.array(curve, dtype=float) for curve in curves))


def curves_of(table: Table) -> list[list[float]]:
    return [np.round(curve, 6).tolist() for curve in table.curves]


# --- tables


def test_losses(tmp_path: Path) -> None:
    table = written(
        tmp_path / "losses",
        {"hyperparameters": [LR]},
        X=[[0.001], [0.1]],
        step=[0, 200, 400],
        valid_loss=[[9, 2, 1], [9, math.inf, 3]],
    )
    assert (table.benchmark, table.name, table.max_epochs, table.full_training) == ("losses", "task", 2, 2)
    assert table.space == Space(lr=Float(0.001, 1.0, log=True))
    assert table.points == pytest.approx(np.array([[0.0], [2 / 3]]))
    np.testing.assert_equal(curves_of(table), [[2, 1], [math.nan]])


def test_accuracies_in_percent(tmp_path: Path) -> None:
    parts = [{"name": "units", "type": "int", "low": 16, "high": 256, "log": True}]
    table = written(
        tmp_path / "surrogate",
        {"hyperparameters": parts},
        X=[[16], [256]],
        epoch=[1, 2],
        val_accuracy=[[50, 75], [20, 10]],
    )
    assert table.space == Space(units=Int(16, 256, log=True))
    assert curves_of(table) == [[0.5, 0.25], [0.8, 0.9]]
    assert [table.row(table.config(row)) for row in range(2)] == [0, 1]


def test_images(tmp_path: Path) -> None:
    table = written(
        tmp_path / "images",
        {"hyperparameters": {"net*": [{"name": "flip", "type": "categorical", "choices": [1, 0]}, LR]}},
        name="net_a",
        X=[[1, 0.001], [0, 1.0], [1, 1.0]],
        n_points=[2, 1, 0],
        top_1=[[0.5, 0.75], [0.25, -1], [-1, -1]],
        nan_train_loss=[False, True, True],
    )
    assert table.space == Space(flip=Choice([0, 1]), lr=Float(0.001, 1.0, log=True))
    np.testing.assert_equal(curves_of(table), [[0.5, 0.25], [0.75, math.nan], [math.nan]])
    assert table.config(0) == Config(flip=1, lr=0.001)


def test_fine_tuning(tmp_path: Path) -> None:
    batch = {"name": "train_batch_size", "type": "int", "low": 64, "high": 128}
    steps = SAMPLES // 64  # of batch 64 in an epoch
    table = written(
        tmp_path / "text",
        {"hyperparameters": [batch]},
        X=[[64], [128]],
        n_points=[3, 2],
        step=[[steps, 2 * steps, 3 * steps], [steps, 2 * steps, 0]],
        acc_matched=[[0.5, 0.6, 0.7], [0.4, 0.8, 0]],
    )
    assert curves_of(table) == [[0.5, 0.4, 0.3], [0.6, 0.6, 0.6, 0.2]]  # two epochs between those of batch 128


def test_algorithms(tmp_path: Path) -> None:
    table = written(
        tmp_path / "algorithms",
        {"tasks": {"task": {"direction": "max"}}},
        submission=["one", "two"],
        submission_idx=[0, 0, 1],
        trial=[1, 1, 2],
        study=[1, 0, 0],
        n_points=[2, 2, 1],
        submission_time=[[30, 60], [30, 60], [30, math.nan]],
        valid_metric=[[0.1, 0.2], [0.5, 0.75], [0.25, math.nan]],
    )
    assert table.space == Space(submission=Choice(["one", "two"]), point=Choice([1, 2]))
    assert [table.config(row) for row in range(2)] == [
        Config(submission="one", point=1),
        Config(submission="two", point=2),
    ]
    one, two = curves_of(table)  # 60 ticks to the longest time; the first repetition of each
    assert (one[:59], one[59:], two) == ([0.5] * 59, [0.25], [0.75] * 30)


def test_optimisers(tmp_path: Path) -> None:
    parts = [{"name": "optimizer", "type": "categorical", "choices": ["sgd", "adam"]}, LR]
    table = written(
        tmp_path / "optimisers",
        {"hyperparameters": parts},
        X=[[0, 0.001], [1, 1.0], [1, 1.0]],
        seed=[42, 42, 43],
        test_losses=[[9, 3, 2], [9, 3, math.nan], [9, 3, 1]],
        test_accuracies=[[0.1, 0.5, 0.75], [0.1, 0.25, 0.1], [0.1, 0.5, 1]],
    )
    np.testing.assert_equal(curves_of(table), [[0.5, 0.25], [0.75, math.nan]])
    assert table.config(1) == Config(optimizer="adam", lr=1.0)


@pytest.mark.parametrize(
    ("value", "direction", "expected"), [("val_loss", "min", [2, 5]), ("val_acc", "max", [-1, -4])]
)
def test_finals(tmp_path: Path, value: str, direction: str, expected: list[float]) -> None:
    parts = [{"name": "units", "type": "ordinal", "choices": [16, 64]}]
    arrays = {"X_index": [[0], [1]], value: [[1, 3], [4, 6]]}
    table = written(tmp_path / "finals", {"hyperparameters": parts, "direction": direction}, **arrays)
    assert table.space == Space(units=Int(0, 1))
    assert (table.max_epochs, curves_of(table)) == (1, [[final] for final in expected])


def test_a_folder_of_folders_and_unknown_arrays(tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(tmp_path / name, {"hyperparameters": [LR]}, X=[[0.1]], step=[0, 200], valid_loss=[[2, 1]])
    assert [table.benchmark for table in read_tables(tmp_path)] == ["one", "two"]
    with pytest.raises(ValueError, match="of no kind known here"):
        written(tmp_path / "three", {}, Z=[1])
    with pytest.raises(ValueError, match=r"no meta\.json"):
        list(read_tables(tmp_path / "nothing"))


# --- the clock


class Script:
    """A method that says what it was told to say."""

    def __init__(self, *work: Sequence[Assignment]) -> None:
        self.work = list(work)
        self.free: list[int] = []
        self.told: list[TrialRecord] = []
        self.configs: list[Config] = []

    def next(self, free: int) -> Sequence[Assignment]:
        self.free.append(free)
        return self.work.pop(0) if self.work else ()

    def placed(self, number: int, config: Config) -> None:
        assert number == len(self.configs)
        self.configs.append(config)

    def tell(self, trial: TrialRecord) -> None:
        self.told.append(trial)


ABC = letters([[5, 4, 3], [2, math.nan], [4, 1, 6]])
A, B, C = (Config(x=letter) for letter in "abc")


def test_trials_in_flight_tick_together_and_every_epoch_is_paid() -> None:
    script = Script([Start(A, 3), Start(B, 3)], [Start(C, 1)])
    found = replay(ABC, script, in_flight=2, budget=2)
    assert ABC.full_training == 3  # b diverges, and does not count
    assert found.lowest.tolist() == [5, 2, 2, 2, 2, 2]  # a and b at 1, a and b at 2, then a and c
    assert (found.trials, found.decisions, script.free) == (3, 2, [2, 1])
    assert script.configs == [A, B, C]
    assert [(trial.number, trial.status) for trial in script.told] == [
        (1, Status.INFEASIBLE),
        (0, Status.DONE),
        (2, Status.PAUSED),
    ]
    np.testing.assert_equal(script.told[0].values, (2.0, math.nan))
    assert [found.at(epochs) for epochs in (0.5, 1, 1.9, 2, 100)] == [math.inf, 5, 5, 2, 2]


def test_one_at_a_time_and_continued() -> None:
    script = Script([Start(A, 1)], [Start(C, 1)], [Continue(1, 2)], [Start(B, 3)])
    found = replay(ABC, script, in_flight=1, budget=10)
    assert found.lowest.tolist() == [5, 4, 1, 1, 1]
    assert [trial.values for trial in script.told[:3]] == [(5.0,), (4.0,), (4.0, 1.0)]


def test_nothing_is_started_once_the_budget_is_paid() -> None:
    script = Script([Start(A, 3)], [Start(C, 3)])
    assert len(replay(ABC, script, in_flight=1, budget=1).lowest) == 3
    assert len(script.told) == 1


def test_what_is_asked_for_twice_trains_the_next_nearest_row() -> None:
    space = Space(x=Float(0.0, 1.0))
    table = Table("line", "x", space, np.array([[0.0], [0.4], [1.0]]), tuple(np.array([float(i)]) for i in (1, 2, 3)))
    script = Script([Start(Config(x=0.5), 1)], [Start(Config(x=0.5), 1)], [Start(Config(x=0.5), 1)])
    replay(table, script, in_flight=1, budget=9)
    assert [config["x"] for config in script.configs] == [0.4, 0.0, 1.0]  # at 0.5, both ends are as near


# --- how peers are asked


class Puppet:
    """A peer that asks for what it was told to ask for."""

    def __init__(self, *jobs: Job | None) -> None:
        self.jobs = list(jobs)
        self.told: list[tuple[int, float, bool]] = []
        self.placed: list[Config] = []

    def ask(self) -> Job | None:
        return self.jobs.pop(0) if self.jobs else None

    def place(self, job: Job, config: Config) -> Job:
        self.placed.append(config)
        return Job(config, job.until_epoch, job.handle)

    def tell(self, job: Job, value: float, ended: bool) -> None:
        self.told.append((job.handle, value, ended))


def test_a_peer_is_told_the_lowest_value_so_far_and_pays_no_epoch_twice() -> None:
    puppet = Puppet(Job(C, 1, 1), Job(C, 3, 2), Job(C, 2, 3), Job(B, 1, 4), Job(B, 3, 5), Job(B, 3, 6))
    found = replay(ABC, Asked(puppet, ABC.space), in_flight=1, budget=10)
    assert found.lowest.tolist() == [4, 1, 1, 1, 1]  # three epochs of c, two of b
    np.testing.assert_equal(
        puppet.told,
        [(1, 4, False), (2, 1, True), (3, 1, False), (4, 2, False), (5, math.nan, True), (6, math.nan, True)],
    )


def test_a_configuration_in_flight_is_waited_for_without_a_place() -> None:
    puppet = Puppet(Job(A, 2, 1), Job(A, 3, 2), Job(A, 1, 3), Job(C, 1, 4))
    asked = Asked(puppet, ABC.space)
    assert asked.next(2) == [Start(A, 2), Start(C, 1)]
    asked.placed(0, A)
    asked.placed(1, C)
    asked.tell(TrialRecord(0, A, Status.PAUSED, (5.0, 4.0), 2))
    assert asked.next(1) == [Continue(0, 3)]
    assert puppet.told == [(1, 4.0, False), (3, 5.0, False)]


def test_a_peer_that_asks_for_nothing_new_ends_the_run() -> None:
    class Stubborn(Puppet):
        def ask(self) -> Job:
            return Job(A, 3, 0)

    assert replay(ABC, Asked(Stubborn(), ABC.space), in_flight=2, budget=10).trials == 1


def test_a_peer_learns_what_was_trained_and_may_go_on_by_either_name() -> None:
    space = Space(x=Float(0.0, 1.0))
    table = Table("line", "x", space, np.array([[0.25], [1.0]]), (np.array([3.0, 2.0, 1.0]), np.array([9.0, 9.0, 9.0])))
    asked, trained, nearly = (Config(x=x) for x in (0.3, 0.25, 0.25 + 1e-12))
    puppet = Puppet(Job(asked, 1), Job(asked, 2), Job(trained, 3), Job(nearly, 3))
    found = replay(table, Asked(puppet, space), in_flight=1, budget=10)
    assert found.trials == 1
    assert puppet.placed == [trained, trained]  # when it was asked for as 0.3, and again
    assert [value for _, value, _ in puppet.told] == [3, 2, 1, 1]


def test_the_worst_stands_for_what_diverged() -> None:
    worst = Worst()
    assert [worst(value) for value in (math.nan, 2.0, math.nan, 5.0, 1.0, math.inf)] == [BEFORE_ANY, 2, 2, 5, 1, 5]


def test_values_for_peers_come_back_as_the_configuration() -> None:
    space = Space(kind=Choice([True, "b", None]), units=Int(16, 64, log=True), lr=Float(0.001, 1.0, log=True))
    for config in space.sample(np.random.default_rng(0), 20):
        assert config_from(space, values_from(space, config)) == config
    beyond = config_from(space, {"kind": 2, "units": 64, "lr": 1.0000000000000002})
    assert beyond == Config(kind=None, units=64, lr=1.0)


# --- methods


def test_random_search_has_the_expected_minimum_of_its_draws() -> None:
    values = np.sort(np.random.default_rng(5).random(12))
    table = letters([[value] for value in values])
    draws, runs = 4, 400
    found = [replay(table, make_method("random", setting(table, seed)), 1, draws).at(draws) for seed in range(runs)]
    # the k-th lowest of N is the minimum of n draws without replacement if the other n - 1 are among the N - k above
    chances = comb(12 - np.arange(1, 13), draws - 1) / comb(12, draws)
    expected = float(chances @ values)
    spread = math.sqrt(float(chances @ (values - expected) ** 2) / runs)
    assert abs(np.mean(found) - expected) < 4 * spread


def setting(table: Table, seed: int = 0, in_flight: int = 1) -> Setting:
    return Setting(table.space, table.max_epochs, seed, in_flight, 5)


def bowl(epochs: int) -> Table:
    """64 points of a space of all kinds, whose curves fall to the distance from the middle; some diverge."""
    rng = np.random.default_rng(1)
    space = Space(
        lr=Float(1e-4, 1.0, log=True), units=Int(8, 128, log=True), drop=Float(0.0, 0.5), kind=Choice(["a", "b"])
    )
    configs = space.sample(rng, 64)
    points = np.array([space.encode(config) for config in configs])
    curves = []
    for point in points:
        curve = ((point - 0.4) ** 2).sum() + 1 / np.arange(1, epochs + 1)
        curves.append(np.append(curve[: epochs // 2], math.nan) if point[0] > 0.9 else curve)
    return Table("bowls", "bowl", space, points, tuple(curves))


QUICK = ("random", "optuna-tpe", "optuna-tpe-hyperband", "optuna-tpe-asha")


@pytest.mark.parametrize(
    ("name", "trainings"),
    [(name, 12) if name in QUICK else pytest.param(name, 3, marks=pytest.mark.slow) for name in PEERS],
)
@pytest.mark.parametrize(("epochs", "in_flight"), [(9, 4), (1, 1)])
@pytest.mark.filterwarnings("ignore")  # packages warn of each other
def test_a_peer_runs_and_keeps_to_its_seed(name: str, trainings: int, epochs: int, in_flight: int) -> None:
    table = bowl(epochs)
    trainings = max(trainings, 8) if epochs == 1 else trainings
    try:
        first, second = (
            replay(table, make_peer(name, setting(table, 3, in_flight)), in_flight, trainings) for _ in range(2)
        )
    except SettingError as error:
        pytest.skip(str(error))
    assert first.lowest.tolist() == second.lowest.tolist()
    assert len(first.lowest) >= trainings * table.full_training  # it did not run dry
    assert first.lowest[-1] < first.lowest[0]


def test_pruned_trials_of_optuna_never_train_again_and_leave_room_for_more() -> None:
    pytest.importorskip("optuna")
    table = bowl(27)
    full, pruned = (
        replay(table, make_peer(name, setting(table)), 1, 6) for name in ("optuna-tpe", "optuna-tpe-hyperband")
    )
    assert pruned.trials > full.trials >= 6


def test_methods_have_names() -> None:
    for name in ("default", "asha", "random+hyperband", TWICE, "optuna-gp"):
        check_method(name)
    for name in ("asho", "sobal+asha", "sobol+asho"):
        with pytest.raises(SettingError, match="Did you mean"):
            check_method(name)
    with pytest.raises(SettingError, match="Did you mean 'random'"):
        make_peer("ramdom", setting(ABC))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "gone", "gone")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"rheostat\[peers\]"):
        make_peer("gone", setting(ABC))


# --- rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    losses = np.sort(rng.random((30, 5)))[:, ::-1]
    losses[0, 1:] = math.nan
    written(tmp_path / "tables", {"hyperparameters": [LR]}, X=0.001 ** rng.random((30, 1)), step=[0], valid_loss=losses)
    return tmp_path / "tables"


def run_of(folder: Path, method: str, in_flight: int = 1) -> Run:
    return Run(str(folder), "tables", "task", method, 0, in_flight)


def test_rows_say_the_regret_at_each_budget(folder: Path) -> None:
    rows = rows_of(run_of(folder, "asha"), BUDGETS[:4])
    assert [row["budget"] for row in rows] == [0.5, 1, 2, 5]
    assert {tuple(row) for row in rows} == {
        ("benchmark", "table", "method", "seed", "in_flight", "budget", "regret", "decision_seconds")
    }
    regrets = [float(row["regret"]) for row in rows]
    assert regrets == sorted(regrets, reverse=True)


def test_random_search_at_twice_the_budget(folder: Path) -> None:
    once, twice = (rows_of(run_of(folder, name), (0.5, 1, 2, 4)) for name in ("random", TWICE))
    assert [row["regret"] for row in twice[:-1]] == [row["regret"] for row in once[1:]]


def test_before_any_value_the_regret_is_that_of_the_worst(folder: Path) -> None:
    (table,) = read_tables(folder)
    worst = max(value for value in table.lowest if value < math.inf)
    (row,) = rows_of(run_of(folder, "random"), (0.1,))
    assert row["regret"] == pytest.approx(table.regret(worst))


def test_a_run_that_was_cut_off_goes_on(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    runs = [run_of(folder, name) for name in ("random", "asha")]
    lines = [json.dumps(row) for row in rows_of(runs[0], (0.5, 1))]
    file.write_text("\n".join([*lines, '{"benchmark": "tab']))
    assert done_runs(file, (0.5, 1)) == {runs[0].key}
    assert done_runs(file, (0.5, 1, 2)) == set()
    run_all(runs[1:], (0.5, 1), file, processes=1)
    assert [(row["method"], row["budget"]) for row in read_rows(file)] == [
        ("random", 0.5),
        ("random", 1),
        ("asha", 0.5),
        ("asha", 1),
    ]
    assert done_runs(file, (0.5, 1)) == {run.key for run in runs}


# --- the report


def rows(regret: Callable[[str, str, int], float], methods: Sequence[str], seeds: int = 10) -> list[dict[str, Any]]:
    return [
        {
            "benchmark": table[0],
            "table": table,
            "method": method,
            "seed": seed,
            "in_flight": 8,
            "budget": 5,
            "regret": regret(method, table, seed),
            "decision_seconds": 0.25,
        }
        for table in ("a1", "a2", "b1")
        for method in methods
        for seed in range(seeds)
    ]


LEVELS = {"default": 0.1, "optuna-gp": 0.2, "dehb": 4.0, TWICE: 0.15}


def regret(method: str, table: str, seed: int) -> float:
    """Each method at its level; the default is worse than the twofold random search on b1."""
    level = 0.6 if (method, table) == ("default", "b1") else LEVELS[method]
    return level + (seed - 4.5) / 1000


def test_critical_difference_and_ranks() -> None:
    # Demsar 2006, section 3.2.2: four classifiers on 14 data sets, q = 2.569, CD = 1.25
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    means = np.random.default_rng(0).integers(0, 9, (14, 4)).astype(float)
    ranks = mean_ranks(means)
    assert ranks.sum() == pytest.approx(4 * 5 / 2)
    assert mean_ranks(np.array([[1.0, 3.0, 2.0], [1.0, 1.0, 5.0]])).tolist() == [1.25, 2.25, 2.5]
    distinct = np.random.default_rng(0).random((14, 4))  # Friedman's statistic follows from the mean ranks
    statistic = 12 * 14 / (4 * 5) * ((mean_ranks(distinct) ** 2).sum() - 4 * 5**2 / 4)
    assert statistic == pytest.approx(friedmanchisquare(*distinct.T).statistic)


def test_wilcoxon_over_seeds() -> None:
    steps = np.arange(1, 11) / 10
    assert worse_and_better(steps + 1, np.ones(10)) == (True, False)
    assert worse_and_better(np.ones(10), steps + 1) == (False, True)
    assert worse_and_better(np.ones(10), np.ones(10)) == (False, False)
    alternating = steps * np.where(np.arange(10) % 2, 1, -1)
    assert worse_and_better(alternating, np.zeros(10)) == (False, False)


def test_a_cell_of_the_report() -> None:
    (cell,) = cells(rows(regret, list(LEVELS)))
    assert cell.methods == ("default", "dehb", "optuna-gp", TWICE)
    assert cell.tables == (("a", "a1"), ("a", "a2"), ("b", "b1"))
    assert cell.means()[2] == pytest.approx(np.array([0.6, 4, 0.2, 0.15]))
    assert cell.means(cap=1)[2, 1] == 1
    text = "\n".join(lines_of(cell))
    assert "## 8 in flight, 5 full trainings (3 tables)" in text
    assert "| method | a | b | all | all, capped | rank | deciding, s |" in text
    assert "| default | 0.1 | 0.6 | 0.267 | 0.267 | 1.33 | 0.25 |" in text
    assert "| dehb | 4 | 4 | 4 | 1 | 3.00 | 0.25 |" in text
    assert f"Ranks differ from {critical_difference(3, 3):.2f} on." in text
    assert "is 1.33 of optuna-gp's, 1.33 of optuna-gp's (capped)." in text  # 0.8 / 3 / 0.2
    assert "(10 seeds): worse on 1 tables (b1), better on 2 of 3." in text


def test_only_what_every_method_has_is_compared() -> None:
    part = [row for row in rows(regret, list(LEVELS)) if (row["method"], row["table"]) != ("dehb", "a2")]
    part = [row for row in part if (row["method"], row["seed"]) != ("optuna-gp", 3)]
    part += [{**row, "regret": 7.0} for row in part if (row["method"], row["seed"]) == ("dehb", 0)]  # said again
    (cell,) = cells(part)
    assert [table for _, table in cell.tables] == ["a1", "b1"]
    assert cell.left_out == 1
    assert [regrets.shape for regrets in cell.regrets] == [(4, 9), (4, 9)]
    assert cell.regrets[0][cell.methods.index("dehb")].max() == 7
    (fewer,) = cells(part, only=["default", TWICE])
    assert (fewer.methods, fewer.left_out) == (("default", TWICE), 0)


@pytest.mark.slow
def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(cells(rows(regret, list(LEVELS), seeds=2)), tmp_path / "plots")
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"anytime-8.svg", "anytime-8.png"}
