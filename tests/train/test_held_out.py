"""Judging on held-out data while training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rheostat.data.base import Padded, TokenStream
from rheostat.train.held_out import BLOCKS, MEMORY, VALUE, HeldOut, WithHeldOut, blocks_of, examples, parts
from rheostat.train.loop import Training
from rheostat.train.task import Task, evaluate
from rheostat.types import Config, Job

X = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def task(**changes: object) -> Task:
    data = {"train": (X[:100], Y[:100]), "validation": (X[100:160], Y[100:160]), "test": (X[160:], Y[160:])}
    plain = Task(lambda config: nn.Linear(4, 2), **data, device="cpu")  # type: ignore[arg-type]
    return replace(plain, **changes)  # type: ignore[arg-type]


def trained(of: Task, epochs: int = 4, lr: float = 0.1) -> Training:
    judged = replace(of, hooks=WithHeldOut(of))
    training = Training(judged, Job(0, Config(lr=lr, optimizer="adam"), 1, epochs, epochs))
    while not training.ended:
        training.train_epoch()
    return training


def test_the_best_epoch_is_judged_on_the_test_data_in_whole_and_in_parts() -> None:
    plain = task()
    training = trained(plain, epochs=1)
    metrics = training.reports[-1].metrics
    assert metrics[VALUE] == evaluate(plain, training.model, plain.test, torch.device("cpu"))["error"]  # type: ignore[arg-type]
    blocks = blocks_of(metrics)
    assert len(blocks) == BLOCKS and sum(blocks) / BLOCKS == pytest.approx(metrics[VALUE])


def test_it_judges_when_validation_improves_and_only_then() -> None:
    training = trained(task(), epochs=8)
    best = 1.0
    for report in training.reports:
        if report.epoch_end:
            better = report.metrics["val_error"] < best
            assert (VALUE in report.metrics) == better
            best = min(best, report.metrics["val_error"])


def test_without_test_data_the_validation_data_are_judged() -> None:
    metrics = trained(task(test=None), epochs=1).reports[-1].metrics
    assert metrics[VALUE] == metrics["val_error"] and len(blocks_of(metrics)) == BLOCKS


def test_it_changes_nothing_in_the_training() -> None:
    plain, config = task(), Config(lr=0.1, optimizer="adam")
    alone = Training(plain, Job(0, config, 1, 3, 3))
    for _ in range(3):
        alone.train_epoch()
    judged = trained(plain, epochs=3)
    for one, other in zip(alone.model.parameters(), judged.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_continued_trial_remembers_what_was_best() -> None:
    hook = HeldOut(task())
    hook.best, hook.epoch = 0.25, 7
    again = HeldOut(task())
    again.load_state_dict(hook.state_dict())
    assert (again.best, again.epoch) == (0.25, 7)


def test_memory_is_parameters_gradients_and_two_moments_of_adam() -> None:
    numbers = 2 * 4 + 2
    steps = 2  # adam counts its steps, in a tensor for each of the two parameters
    assert trained(task(), epochs=1).reports[-1].metrics[MEMORY] == 4 * (4 * numbers + steps)


def test_scores_of_the_whole_network_are_judged_in_whole() -> None:
    scored = task(scores={"size": lambda model, data, device: float(len(data[0]))}, metric="val_size")
    metrics = trained(replace(scored, direction="minimize"), epochs=1).reports[-1].metrics
    assert metrics[VALUE] == 140 and blocks_of(metrics) == []


@given(st.integers(0, 120), st.integers(2, 12))
def test_parts_hold_every_example_once(rows: int, most: int) -> None:
    index = torch.arange(rows)
    found = parts((index, index), most)
    if rows // 5 < 2:
        assert found == []
    else:
        assert len(found) == min(most, rows // 5)
        together = torch.cat([part[0] for part in found])  # type: ignore[index]
        assert together.sort().values.tolist() == index.tolist()


def test_parts_of_sequences_and_texts() -> None:
    tokens = torch.arange(1, 61).view(20, 3)
    padded = parts(Padded((tokens, torch.arange(20)), tuple(map(str, range(20)))), 4)
    assert len(padded) == 4 and padded[1].texts == ("1", "5", "9", "13", "17")  # type: ignore[union-attr]
    assert padded[1].tensors[1].tolist() == [1, 5, 9, 13, 17]  # type: ignore[union-attr]
    stream = TokenStream(torch.arange(1000), length=10)
    pieces = parts(stream, 10)
    assert [p.tokens[0].item() for p in pieces] == list(range(0, 1000, 100))  # type: ignore[union-attr]
    loader: DataLoader[tuple[torch.Tensor, ...]] = DataLoader(TensorDataset(X, Y))
    assert parts(loader, 10) == [] and examples(loader) == 0 and examples(stream) == 1000
