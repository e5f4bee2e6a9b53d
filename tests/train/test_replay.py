from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rheostat.data.base import Padded, TokenStream
from rheostat.models.mlp import MLP
from rheostat.train.loop import TaskRunner
from rheostat.train.replay import PROBE, PROBE_SEQUENCES, probe, replay
from rheostat.train.task import Task
from rheostat.train.validation_monitor import ValidationMonitor
from rheostat.types import Config, Job, Report

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 6, generator=GENERATOR)
Y = (X[:, 0] > 0).long()
CONFIG = Config(lr=0.01, batch_size=16, dropout=0.3, schedule="cosine")


def model(config: Config) -> nn.Module:
    return MLP(6, 2, 2, 8, dropout=config.dropout)


TASK = Task(model, (X, Y), (X[:20], Y[:20]), device="cpu")


def recorded(tmp_path: object, task: Task = TASK, config: Config = CONFIG, epochs: int = 4) -> list[Report]:
    reports: list[Report] = []
    runner = TaskRunner(task, tmp_path)  # type: ignore[arg-type]
    for until in range(1, epochs + 1):  # paused after every epoch, as by a scheduler
        runner.run([Job(3, config, seed=9, until_epoch=until, max_epochs=4)], reports.append)
        runner._live = None
    return reports


def test_a_trial_comes_out_as_it_did(tmp_path: object) -> None:
    found = replay(TASK, CONFIG, 9, epochs=4, max_epochs=4, recorded=recorded(tmp_path))
    assert (found.compared, found.difference, found.reason) == (4, 0.0, "")
    assert [moment.epoch for moment in found.history.moments] == [0, 1, 2, 3, 4]
    assert found.history.layers == ["hidden.0.linear", "hidden.1.linear", "output"]
    assert not found.network.training
    with torch.no_grad():
        loss = nn.functional.cross_entropy(found.network(X[:20]), Y[:20])
    assert float(loss) == pytest.approx(found.reports[-1].metrics["val_loss"])


def test_its_first_epochs_are_those_of_the_whole_trial(tmp_path: object) -> None:
    found = replay(TASK, CONFIG, 9, epochs=2, max_epochs=4, recorded=recorded(tmp_path))
    assert (found.compared, found.difference) == (2, 0.0)


@pytest.mark.parametrize("what", ["seed", "max_epochs", "config"])
def test_another_trial_is_found_out(tmp_path: object, what: str) -> None:
    config = Config(**{**CONFIG, "lr": 0.0100001}) if what == "config" else CONFIG
    seed, most = (8 if what == "seed" else 9), (5 if what == "max_epochs" else 4)
    found = replay(TASK, config, seed, 4, most, recorded(tmp_path))
    assert found.compared == 4 and found.difference > 0


def test_without_reports_nothing_is_claimed() -> None:
    found = replay(TASK, CONFIG, 9, epochs=1, max_epochs=4)
    assert found.compared == 0 and math.isnan(found.difference)


def test_a_metric_that_was_not_finite_is_compared_too() -> None:
    def reports(value: float) -> list[Report]:
        return [Report(0, 1, 5, {"train_loss": value}), Report(0, 0, 0, {"train_loss": 5.0}, epoch_end=False)]

    ours = replay(TASK, CONFIG, 9, 1, 4).reports[-1].metrics["train_loss"]
    assert replay(TASK, CONFIG, 9, 1, 4, reports(ours)).difference == 0.0
    assert replay(TASK, CONFIG, 9, 1, 4, reports(math.nan)).difference == math.inf
    assert replay(TASK, CONFIG, 9, 1, 4, reports(2 * ours)).difference == pytest.approx(0.5)


def test_a_trial_that_diverges_is_watched_until_then() -> None:
    config = Config(**{**CONFIG, "lr": 1e30, "optimizer": "sgd"})
    found = replay(TASK, config, 9, epochs=4, max_epochs=4)
    assert "loss" in found.reason and len(found.history.moments) >= 1


def test_a_trial_that_stops_by_itself_says_why() -> None:
    found = replay(TASK, Config(**{**CONFIG, "lr": 1e-20, "patience": 1}), 9, epochs=4, max_epochs=4)
    assert "not improved" in found.reason and len(found.history.moments) < 5


def test_hooks_of_the_task_work_as_in_a_study(tmp_path: object) -> None:
    """One that stops training, and reads the checkpoints that a study writes after every epoch."""
    made: list[ValidationMonitor] = []

    def hooks(config: Config) -> list[ValidationMonitor]:
        made.append(ValidationMonitor(X[:20], Y[:20], every_n_steps=2, early_stopping_rounds=9))
        return [made[-1]]

    task = replace(TASK, hooks=hooks)
    reports = recorded(tmp_path, task)
    found = replay(task, CONFIG, 9, 4, 4, reports)
    assert found.difference == 0.0 and found.compared == len({r.epoch for r in reports if r.epoch_end})
    assert made[-1].evaluations


# --- the probe ---


def test_rows_of_a_probe_come_from_all_over_the_data() -> None:
    inputs = torch.arange(1000.0)[:, None]
    [found] = probe((inputs, torch.zeros(1000)))
    assert (found[0], found[-1], len(found)) == (0, 999, PROBE)
    assert len(probe((inputs[:5], torch.zeros(5)))[0]) == 5


def test_sequences_of_a_probe_have_about_the_median_length_and_little_padding() -> None:
    tokens = torch.zeros(500, 40, dtype=torch.long)
    for row in range(500):
        tokens[row, : 1 + row % 40] = 5
    [found] = probe(Padded((tokens, torch.zeros(500, dtype=torch.long))))
    lengths = (found != 0).sum(1)
    assert len(found) == PROBE_SEQUENCES and found.shape[1] == int(lengths.max())
    assert int(lengths.min()) >= 15 and int(lengths.max()) <= 25


def test_pairs_and_streams_give_the_inputs_of_their_networks() -> None:
    pairs = torch.randint(1, 9, (20, 7))
    source, target = probe(Padded((pairs, pairs[:, :5], pairs[:, :5])))
    assert source.shape == (20, 7) and target.shape == (20, 5)
    tokens, anew = probe(TokenStream(torch.randint(0, 9, (500,)), length=16))
    assert tokens.shape == (len(anew), 16) and anew.all()


def test_a_loader_gives_its_first_batch_and_the_random_state_stays() -> None:
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True)
    before = torch.get_rng_state()
    [found] = probe(loader)
    assert found.shape == (8, 6) and torch.equal(before, torch.get_rng_state())
