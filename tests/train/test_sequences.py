"""Sequences of different lengths, and one long text: batches, losses, and exact continuation."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rheostat.data.base import Padded, TokenStream
from rheostat.errors import DataError, TaskError
from rheostat.models.language_model import RecurrentLanguageModel
from rheostat.models.seq2seq import Seq2Seq
from rheostat.models.text_classifier import TextClassifier
from rheostat.train.batches import PaddedBatches, StreamBatches
from rheostat.train.lanes import refusal
from rheostat.train.loop import TaskRunner, Training
from rheostat.train.optimizers import Group
from rheostat.train.task import Task, evaluate, sentence_loss, token_loss
from rheostat.types import Config, Job, Report

CPU = torch.device("cpu")


def padded(rows: int, seed: int = 0, longest: int = 9) -> Padded:
    """Rows of 1 to `longest` tokens (from 4), whose class is whether the first is even."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, 20, (rows, longest), generator=generator)
    lengths = torch.randint(1, longest + 1, (rows, 1), generator=generator)
    tokens *= torch.arange(longest) < lengths
    return Padded((tokens, tokens[:, 0] % 2))


def pairs(rows: int, seed: int = 0) -> Padded:
    """Sentences to be copied: 2 begins and 3 ends the target."""
    source = padded(rows, seed).tensors[0]
    target = F.pad(source, (0, 1))
    ends = (source != 0).sum(1)
    after = target.clone()
    after[torch.arange(rows), ends] = 3
    return Padded((source, F.pad(source, (1, 0), value=2), after))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 120), batch_size=st.integers(1, 120), seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_an_epoch_holds_every_sequence_once_whole_and_little_padding(
    rows: int, batch_size: int, seed: int, epoch: int
) -> None:
    data = padded(rows, seed)
    batches = PaddedBatches(data, min(batch_size, rows), seed)
    seen = []
    epochs = list(batches.epoch(epoch))
    assert len(epochs) == batches.steps_per_epoch
    for tokens, classes in epochs:
        assert tokens[:, -1].any() or tokens.shape[1] == 1  # cut to the longest
        seen += [(row[row != 0].tolist(), int(label)) for row, label in zip(tokens, classes, strict=True)]
    expected = [(row[row != 0].tolist(), int(label)) for row, label in zip(*data.tensors, strict=True)]
    assert sorted(seen) == sorted(expected)


def test_batches_follow_from_seed_and_epoch_and_rows_of_like_length_are_together() -> None:
    data = padded(400)

    def lengths(seed: int, epoch: int) -> list[list[int]]:
        return [(tokens != 0).sum(1).tolist() for tokens, _ in PaddedBatches(data, 10, seed).epoch(epoch)]

    assert lengths(1, 2) == lengths(1, 2)
    assert lengths(1, 2) != lengths(1, 3) and lengths(1, 2) != lengths(2, 2)
    assert sum(max(batch) - min(batch) for batch in lengths(0, 0)) < 40  # of 40 batches; at random it is about 7 each


@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(40, 400), batch_size=st.integers(1, 8), length=st.integers(1, 8), epoch=st.integers(0, 50))
def test_a_stream_is_read_side_by_side_without_gaps(tokens: int, batch_size: int, length: int, epoch: int) -> None:
    stream = TokenStream(torch.arange(tokens), length)
    batches = StreamBatches(stream, min(batch_size, (tokens - length) // length), seed=3)
    pieces = list(batches.epoch(epoch))
    assert len(pieces) == batches.steps_per_epoch
    inputs = torch.cat([x for x, _, _ in pieces], 1)
    targets = torch.cat([y for _, _, y in pieces], 1)
    assert torch.equal(targets, inputs + 1)
    assert (inputs.diff(dim=1) == 1).all()  # each row goes on where it was
    assert [bool(anew.all()) for _, anew, _ in pieces] == [True] + [False] * (len(pieces) - 1)
    assert inputs.unique().numel() == inputs.numel()  # no token twice
    assert int(targets.max()) < tokens and inputs.numel() > tokens - length - batches.batch_size - length


def test_epochs_of_a_stream_begin_at_different_places() -> None:
    batches = StreamBatches(TokenStream(torch.arange(1000), 20), 4, seed=0)
    starts = {int(next(batches.epoch(epoch))[0][0, 0]) for epoch in range(30)}
    assert len(starts) > 10


def test_losses_are_per_token_and_leave_padding_out() -> None:
    outputs = torch.randn(2, 3, 7)
    targets = torch.tensor([[1, 4, 3], [3, 0, 0]])
    one_by_one = -outputs.log_softmax(2)
    real = [(0, 0), (0, 1), (0, 2), (1, 0)]
    expected = torch.stack([one_by_one[i, t, targets[i, t]] for i, t in real]).mean()
    torch.testing.assert_close(sentence_loss(outputs, targets), expected)
    every = torch.stack([one_by_one[i, t, targets[i, t]] for i in range(2) for t in range(3)]).mean()
    torch.testing.assert_close(token_loss(outputs, targets), every)


class Unigram(nn.Module):
    """Scores that depend on nothing."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.randn(vocabulary))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.scores.expand(*target.shape, -1)


def test_the_judged_loss_of_sentences_is_the_mean_over_all_their_tokens() -> None:
    data = pairs(300)
    task = Task(lambda config: Unigram(20), data, data, loss="sentences", metrics=())
    model = Unigram(20)
    after = data.tensors[2]
    scores = model.scores.detach().expand(int((after != 0).sum()), -1)
    expected = F.cross_entropy(scores, after[after != 0])
    assert evaluate(task, model, data, CPU)["loss"] == pytest.approx(float(expected), rel=1e-6)


def test_accumulated_gradients_of_sentences_are_those_of_the_whole_batch() -> None:
    data = pairs(64)
    task = Task(lambda config: Unigram(20), data, data, loss="sentences", metrics=())
    gradients = []
    for accumulate in (1, 4):
        config = Config(lr=0.1, batch_size=64, accumulate=accumulate)
        training = Training(task, Job(0, config, 0, 1, 1))
        training.backward(next(training.batches.epoch(0)))
        (parameter,) = training.model.parameters()
        assert parameter.grad is not None
        gradients.append(parameter.grad.clone())
    torch.testing.assert_close(*gradients)


def test_a_stream_is_judged_with_its_state_carried_on() -> None:
    tokens = torch.randint(11, (2000,), generator=torch.Generator().manual_seed(0))
    model = RecurrentLanguageModel(11, hidden=16, embedding=8).eval()
    task = Task(lambda config: model, TokenStream(tokens), TokenStream(tokens), loss="tokens", metrics=())
    pieces = evaluate(task, model, TokenStream(tokens, 10), CPU)["loss"]
    rows = 32
    long = tokens[: rows * 62].view(rows, 62)
    with torch.no_grad():
        scores = model(long, torch.ones(rows, dtype=torch.bool))
    expected = F.cross_entropy(scores.flatten(0, 1), tokens[1 : rows * 62 + 1])
    assert pieces == pytest.approx(float(expected), rel=1e-5)


TASKS = {
    "texts": (
        Task(lambda c: TextClassifier(20, 2, embedding=8, hidden=8, dropout=0.2), padded(200), padded(60, 1)),
        Config(lr=0.01, batch_size=16, clip_norm=1.0),
    ),
    "stream": (
        Task(
            lambda c: RecurrentLanguageModel(20, embedding=8, hidden=8, dropout=0.2),
            TokenStream(padded(300).tensors[0].flatten(), 16),
            TokenStream(padded(90, 1).tensors[0].flatten(), 16),
            loss="tokens",
            metrics=(),
        ),
        Config(lr=0.01, batch_size=8, clip_norm=1.0),
    ),
    "pairs": (
        Task(
            lambda c: Seq2Seq(20, 20, embedding=8, hidden=8, dropout=0.2, teacher_forcing=0.7),
            pairs(200),
            pairs(60, 1),
            loss="sentences",
            metrics=(),
        ),
        Config(lr=0.01, batch_size=16, label_smoothing=0.1),
    ),
}


@pytest.mark.parametrize("form", TASKS)
def test_training_learns_and_continues_bit_for_bit(form: str, tmp_path: Path) -> None:
    task, config = TASKS[form]

    def reports(folder: Path, stops: list[int]) -> list[dict[str, float]]:
        found: list[Report] = []
        for until in stops:
            TaskRunner(task, folder).run([Job(0, config, 5, until, 6)], found.append)
        return [
            {name: value for name, value in report.metrics.items() if name != "examples_per_second"}
            for report in {(r.epoch, r.step): r for r in found}.values()
        ]

    whole = reports(tmp_path / "whole", [6])
    assert whole == reports(tmp_path / "parts", [1, 3, 6])
    losses = [report["val_loss"] for report in whole if "val_loss" in report]
    assert losses[-1] < losses[0]
    assert all(math.isfinite(value) for report in whole for value in report.values())


def test_sequences_and_streams_are_not_trained_as_lanes_and_the_reason_is_said() -> None:
    assert "different lengths" in refusal(TASKS["texts"][0])
    assert "keeps its state" in refusal(TASKS["stream"][0])


def test_scores_are_reported_and_can_be_tuned_for() -> None:
    task = Task(
        lambda c: TextClassifier(20, 2, embedding=4, hidden=4),
        padded(60),
        padded(30, 1),
        metric="val_size",
        scores={"size": lambda model, data, device: float(len(data)) if isinstance(data, Padded) else -1.0},
    )
    training = Training(task, Job(0, Config(lr=0.01, batch_size=16), 0, 1, 1))
    assert training.train_epoch()[-1].metrics["val_size"] == 30


def test_groups_have_their_own_rate_and_what_is_in_none_is_not_trained() -> None:
    def network(config: Config) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))

    def groups(model: nn.Module, config: Config) -> list[Group]:
        assert isinstance(model, nn.Sequential)
        return [Group(tuple(model[2].parameters()), 0.1), Group(tuple(model[4].parameters()))]

    x = torch.randn(64, 4)
    data = (x, (x[:, 0] > 0).long())
    config = Config(lr=0.05, batch_size=64, optimizer="sgd", schedule="linear")
    training = Training(Task(network, data, data, groups=groups), Job(0, config, 0, 2, 2))
    before = [p.detach().clone() for p in training.model.parameters()]
    training.begin_epoch()
    training.set_rate()
    rates = [group["lr"] for group in training.optimizer.param_groups]
    assert rates == [pytest.approx(0.005), pytest.approx(0.05)]
    loss = training.backward(next(training.batches.epoch(0)))
    gradients = [p.grad for p in training.model.parameters()]
    training.update(loss, data[1])
    after = list(training.model.parameters())
    for place, rate in ((2, 0.005), (3, 0.005), (4, 0.05), (5, 0.05)):
        gradient = gradients[place]
        assert gradient is not None
        torch.testing.assert_close(after[place], before[place] - rate * gradient)
    assert all(gradients[place] is None and torch.equal(after[place], before[place]) for place in (0, 1))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Padded((torch.ones(3, 2, dtype=torch.long), torch.zeros(2, dtype=torch.long))), "of one length"),
        (Padded((torch.ones(3, 2, dtype=torch.long),)), "targets"),
        (TokenStream(torch.zeros(1, dtype=torch.long)), "nothing to be predicted"),
    ],
)
def test_bad_data_are_refused_in_words(data: Padded | TokenStream, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Task(lambda c: nn.Linear(2, 2), data, padded(3))


def test_a_batch_that_the_text_cannot_fill_is_refused_in_words() -> None:
    with pytest.raises(TaskError, match="from 1 to 4 of rows"):
        StreamBatches(TokenStream(torch.arange(100), 20), 64, seed=0)
