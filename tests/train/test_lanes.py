"""Lanes against the plain loop: the same updates, whoever the other lanes are, and whatever happens to them."""

from __future__ import annotations

import gc
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rheostat
from rheostat import Float, Space
from rheostat.errors import Infeasible
from rheostat.train import lane_runner, program
from rheostat.train import lanes as lanes_module
from rheostat.train.dropout import Draw, draw_masks
from rheostat.train.lane_runner import LaneRunner
from rheostat.train.lanes import Lanes, LanesError, lane_key
from rheostat.train.loop import TaskRunner, Training
from rheostat.train.optimizers import OPTIMIZERS
from rheostat.train.rates import SCHEDULES
from rheostat.train.structure import structure
from rheostat.train.task import Task
from rheostat.types import Config, Event, Job, Notice, Outcome, Report, Status

N, EPOCHS = 96, 10


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small kernels in two threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["vmap", "recorded"])
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Steps as vmap runs them each time, and as they are replayed from a recording."""
    monkeypatch.setattr(program, "RECORD_AFTER_SECONDS", {"vmap": math.inf, "recorded": 0.0}[request.param])
    return str(request.param)


def blobs(n: int = N, features: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    y = torch.randint(3, (n,), generator=generator)
    return (torch.randn(n, features, generator=generator) + y[:, None]).to(dtype), y


def tokens(n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(11, (n, 7), generator=generator)
    return x, x.sum(1) % 3


def mlp(config: Config) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Dropout(config.get("dropout", 0.0)), nn.LayerNorm(8), nn.Linear(8, 3)
    ).double()


def a_task(model: Callable[[Config], nn.Module] = mlp, data: Any = blobs, **changes: Any) -> Task:
    return Task(**{"model": model, "train": data(N), "validation": data(40), "device": "cpu", **changes})


def jobs(lanes: int, until: int = EPOCHS, **config: Any) -> list[Job]:
    """Trials that differ in rate, decay and seed; 6 updates per epoch, the last of half a batch."""
    return [
        Job(
            k,
            Config({"lr": 0.003 * (k + 1), "weight_decay": 0.01 * k, "batch_size": 17, **config}),
            seed=100 + k,
            until_epoch=until,
            max_epochs=EPOCHS,
        )
        for k in range(lanes)
    ]


def trained_plain(task: Task, each: Job, epochs: int) -> Training:
    training = Training(task, each)
    for _ in range(epochs):
        training.train_epoch()
    return training


def trained_lanes(task: Task, group: list[Job], epochs: int) -> list[Training]:
    trainings = [Training(task, each) for each in group]
    assert len({lane_key(training) for training in trainings}) == 1
    together = Lanes(trainings)
    together.spot_check()
    for _ in range(epochs):
        for result in together.train_epoch():
            if isinstance(result, Exception):
                raise result
    together.release()
    return trainings


def numbers(training: Training) -> list[Tensor]:
    """Everything that a trial has come to: weights, buffers, optimiser state, reports."""
    state = training.optimizer.state_dict()["state"]
    moments = [v for per in state.values() for v in per.values() if isinstance(v, Tensor)]
    reports = [torch.tensor([v for n, v in r.metrics.items() if "per_second" not in n]) for r in training.reports]
    return [*training.model.state_dict().values(), *moments, *reports]


def assert_close(one: Training, other: Training, relative: float) -> None:
    pairs = list(zip(numbers(one), numbers(other), strict=True))
    assert len(pairs) > 10
    for value, expected in pairs:
        scale = float(expected.double().nan_to_num().abs().max())
        torch.testing.assert_close(
            value.double(), expected.double(), rtol=0, atol=relative * scale + 1e-300, equal_nan=True
        )
    assert torch.equal(one.random_state["torch"], other.random_state["torch"])


def check_equal(task: Task, group: list[Job], epochs: int, relative: float = 1e-9) -> None:
    for each, lane in zip(group, trained_lanes(task, group, epochs), strict=True):
        assert_close(lane, trained_plain(task, each, epochs), relative)


# -- equal to the plain loop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_every_optimizer_200_steps(optimizer: str) -> None:
    scale = 0.1 if optimizer in ("lion", "adagrad_tf1") else 1.0
    group = [
        Job(j.trial, Config({**j.config, "lr": j.config.lr * scale}), j.seed, 34, 34)
        for j in jobs(3, optimizer=optimizer, dropout=0.3)
    ]
    check_equal(a_task(), group, 34)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_every_schedule(schedule: str) -> None:
    more = {"boundaries": "3, 6", "lr_fractions": "1, 0.1, 0.01"} if schedule == "piecewise" else {}
    if schedule == "plateau":
        more = {"plateau_patience": 0, "plateau_threshold": 0.5}
    check_equal(a_task(), jobs(2, schedule=schedule, warmup=0.1, **more), EPOCHS)


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_norm": 0.1},
        {"ema": 0.9},
        {"label_smoothing": 0.1},
        {"accumulate": 3},
        {"batch_size": "full"},
        {"batch_size": 1},
        {"batch_size": 95},  # a single row is left over
        {"patience": 1},
    ],
    ids=str,
)
def test_what_a_configuration_may_ask_for(settings: dict[str, Any], steps: str) -> None:
    epochs = 2 if settings.get("batch_size") == 1 else 1 if "patience" in settings else EPOCHS
    check_equal(a_task(), jobs(3, dropout=0.2, **settings), epochs)


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2)
        )
        self.head = nn.Linear(4 * 3 * 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x.view(-1, 1, 3, 2), (1, 1, 2, 1))  # (B, 1, 6, 4)
        return self.head(self.body(x).flatten(1))


class Recurrent(nn.Module):
    """Embedding -> recurrent layer -> last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.cells = kind(5, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(self.embed(x))[0][:, -1])


class Cells(nn.Module):
    """The same, written as a loop over cells."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Embedding(11, 5), kind(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for step in self.embed(x).unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


class TiedLM(nn.Module):
    """Predicts each next token; input and output embeddings are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(self.embed(x)).tanh())[:, :-1]


def next_tokens(n: int = N) -> tuple[Tensor, Tensor]:
    x, _ = tokens(n)
    return x, x[:, 1:]


def sequence_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]] = {
    "cnn": (CNN, blobs, {}),
    "gru": (lambda: Cells(nn.GRUCell), tokens, {}),
    "transformer": (Transformer, tokens, {}),
    "tied": (TiedLM, next_tokens, {"loss": sequence_loss, "metrics": ()}),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks_200_steps_in_float64(name: str, steps: str) -> None:
    build, data, more = NETWORKS[name]
    # Not Adam: where a gradient is zero but for rounding (the bias of keys), it makes a full step of it.
    group = [Job(j.trial, j.config, j.seed, 34, 34) for j in jobs(3, lr=0.01, optimizer="momentum")]
    check_equal(a_task(lambda config: build().double(), data, **more), group, 34)


@pytest.mark.parametrize("optimizer", ["adamw", "nesterov", "adagrad"])
def test_weights_in_channels_last_are_updated_as_they_lie(optimizer: str, steps: str) -> None:
    """Fused updates read raw memory, where gradients must lie as the weights do."""

    def build(config: Config) -> nn.Module:
        convolution = nn.Conv2d(2, 4, (3, 2), padding=1, bias=False).to(memory_format=torch.channels_last)
        return nn.Sequential(
            nn.Unflatten(1, (2, 3, 1)), convolution, nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
        ).double()

    group = [Job(j.trial, j.config, j.seed, 5, 5) for j in jobs(3, optimizer=optimizer)]
    check_equal(a_task(build), group, 5)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_one_step_from_50_states_in_float32(name: str) -> None:
    build, data, more = NETWORKS[name]
    float_data = (lambda n: blobs(n, dtype=torch.float32)) if data is blobs else data
    task = a_task(lambda config: build(), float_data, **more)
    trainings = [Training(task, each) for each in jobs(50, lr=0.003)]
    together = Lanes(trainings)
    batch = next(together._batches())
    buffers = {n: together.tensors[n].clone() for n in together.program.buffers}
    losses, gradients = together.backward(batch)
    for n, b in buffers.items():
        together.tensors[n].copy_(b)
    for lane, training in enumerate(trainings):
        plain = lanes_module._plain_step(training, tuple(p[lane] for p in batch), together.program.trained, [])
        own = [losses[lane], *(None if g is None else g[lane] for g in gradients)]
        if name != "cnn":  # its dropout draws from generators that were not set here
            assert lanes_module._difference(own, plain) < 5e-6


# -- the others do not matter --------------------------------------------------------------------------------


def a_group(dtype: torch.dtype, norm: Callable[[], nn.Module], units: int) -> tuple[Task, list[Job]]:
    def build(config: Config) -> nn.Module:
        hidden = [nn.Linear(32, units), norm(), nn.ReLU(), nn.Dropout(config.dropout)]
        return nn.Sequential(*hidden, nn.Linear(units, 3)).to(dtype)

    task = a_task(build, lambda n: blobs(n, 32, dtype=dtype))
    return task, [
        Job(j.trial, Config({**j.config, "dropout": 0.1 * j.trial, "batch_size": 32}), j.seed, 3, 3) for j in jobs(9)
    ]


MATES = ([4], [4, 5], [0, 4, 8], [8, 7, 6, 5, 4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.BatchNorm1d(64), lambda: nn.LayerNorm(64)])
def test_any_lane_mates_or_none_the_same_bits(norm: Callable[[], nn.Module], dtype: torch.dtype, steps: str) -> None:
    task, group = a_group(dtype, norm, units=64)
    reference = trained_lanes(task, group, 3)
    for chosen in MATES:
        for index, lane in zip(chosen, trained_lanes(task, [group[i] for i in chosen], 3), strict=True):
            for value, expected in zip(numbers(lane), numbers(reference[index]), strict=True):
                assert torch.equal(value.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("name", ["mlp", *NETWORKS])
def test_a_recorded_step_gives_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, data, more = {"mlp": (lambda: mlp(Config(dropout=0.3)), blobs, {}), **NETWORKS}[name]
    group = [Job(j.trial, j.config, j.seed, 3, 3) for j in jobs(3, lr=0.01, accumulate=2)]
    task = a_task(lambda config: build().double(), data, **more)
    monkeypatch.setattr(program, "RECORD_AFTER_SECONDS", math.inf)
    under_vmap = trained_lanes(task, group, 3)
    monkeypatch.setattr(program, "RECORD_AFTER_SECONDS", 0.0)
    for lane, expected in zip(trained_lanes(task, group, 3), under_vmap, strict=True):
        for one, other in zip(numbers(lane), numbers(expected), strict=True):
            assert torch.equal(one.nan_to_num(), other.nan_to_num())


def test_any_lane_mates_or_none_the_same_numbers_where_slices_are_not_aligned() -> None:
    task, group = a_group(torch.float64, nn.Identity, units=7)
    reference = trained_lanes(task, group, 3)
    for chosen in MATES:
        for index, lane in zip(chosen, trained_lanes(task, [group[i] for i in chosen], 3), strict=True):
            assert_close(lane, reference[index], 1e-11)


@pytest.mark.parametrize("fault", ["nan", "explodes", "metric", "stops"])
def test_a_lane_that_ends_leaves_the_others_as_they_were(fault: str, steps: str) -> None:
    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        if fault == "metric" and float(outputs.abs().max()) > 60:
            raise ZeroDivisionError("of the user")
        return (outputs.argmax(1) != targets).double().mean()

    def build(config: Config) -> nn.Module:
        network = mlp(config)
        if fault == "metric" and config.weight_decay == 0.02:
            nn.init.constant_(network[-1].bias, 100.0)  # type: ignore[arg-type]
        if fault == "nan" and config.weight_decay == 0.02:
            nn.init.constant_(network[-1].bias, math.nan)  # type: ignore[arg-type]
        return network

    task = a_task(build, metrics={"error": metric})
    group = jobs(5)
    if fault == "explodes":
        group[2] = Job(2, Config({**group[2].config, "lr": 1e300, "optimizer": "sgd"}), 102, EPOCHS, EPOCHS)
    if fault == "stops":
        group[2] = Job(2, Config({**group[2].config, "patience": 1, "lr": 1e-9}), 102, EPOCHS, EPOCHS)
    calm = trained_lanes(task, [each for each in group if each.trial != 2], 3)
    trainings = [Training(task, each) for each in group]
    together, results = Lanes(trainings), []
    for _ in range(3):
        results.append(together.train_epoch()[2])
        if isinstance(results[-1], Exception) or trainings[2].ended:
            together.release()
            together = Lanes([t for t in trainings if t is not trainings[2]])
            break
    for _ in range(3 - len(results)):
        together.train_epoch()
    others = [training for training in trainings if training is not trainings[2]]
    for one, other in zip(others, calm, strict=True):
        assert all(
            torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(numbers(one), numbers(other), strict=True)
        )
    if fault == "stops":
        assert trainings[2].run.stop_reason
        assert_close(trainings[2], trained_plain(task, group[2], len(results)), 1e-9)
    else:
        assert isinstance(results[-1], ZeroDivisionError if fault == "metric" else Infeasible)


def test_a_lane_that_stops_within_an_epoch_keeps_its_weights() -> None:
    task = a_task()
    trainings = [Training(task, each) for each in jobs(3)]
    together = Lanes(trainings)
    real = trainings[1].update

    def stop_after_two(loss: float, examples: int) -> bool:
        go_on = real(loss, examples)
        if trainings[1].run.step == 2:
            trainings[1].run.request_stop("enough")
            return False
        return go_on

    trainings[1].update = stop_after_two  # type: ignore[method-assign]
    together.train_epoch()
    assert trainings[1].run.step == 2 and trainings[1].run.stop_reason == "enough"
    expected = Training(task, jobs(3)[1])
    with expected.own_randomness():
        expected.begin_epoch()
        for _, batch in zip(range(2), expected.batches.epoch(0), strict=False):
            expected.set_rate()
            expected.update(expected.backward(batch), batch[-1])
    for value, right in zip(trainings[1].model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(value, right, rtol=1e-12, atol=1e-14)


# -- what is one program -------------------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        for name, value in attributes.items():
            setattr(self, name, value)


def test_networks_that_compute_something_else_are_never_one_program() -> None:
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    frozen = nn.Linear(6, 3)
    frozen.weight.requires_grad_(False)
    different = [
        nn.Linear(6, 3), nn.Linear(6, 3, bias=False), nn.Linear(6, 4), nn.Linear(6, 3).double(), frozen,
        nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), tied,
        nn.Sequential(nn.Linear(6, 3), nn.ReLU()), nn.Sequential(nn.Linear(6, 3), nn.Tanh()),
        nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), nn.Dropout1d(0.1), nn.Dropout1d(0.2),
        Scaled(scale=1.0), Scaled(scale=2.0), Scaled(scale=torch.tensor([1.0])), Scaled(scale=torch.tensor([2.0])),
        Scaled(function=F.relu), Scaled(function=torch.tanh), Scaled(function=lambda x: x),
        Scaled(function=lambda x: -x), Scaled(table={"a": [1, 2]}), Scaled(table={"a": [1, 3]}),
    ]  # fmt: skip
    assert len({structure(model) for model in different}) == len(different)


def test_networks_that_differ_in_numbers_alone_are_one_program() -> None:
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        parts = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(seed / 10), Scaled(f=F.relu, n=3)]
        return nn.Sequential(*parts)

    with torch.random.fork_rng():
        assert len({structure(build(seed)) for seed in range(4)}) == 1
    assert structure(build(1).eval()) == structure(build(1).train())


def test_the_rates_of_lanes_are_their_own() -> None:
    task = a_task()
    group = [Job(k, Config(lr=0.01, batch_size=96, dropout=rate), k, 1, 1) for k, rate in enumerate((0.0, 0.5, 0.9))]
    together = Lanes([Training(task, each) for each in group])
    ((layer, rates),) = together.rates.items()
    assert layer == "2" and rates == [0.0, 0.5, 0.9]
    masks = draw_masks(Draw(layer, (200, 50), (50, 1), torch.float32), rates, together.generators)
    assert [round(float((mask == 0).float().mean()), 1) for mask in masks] == [0.0, 0.5, 0.9]
    assert [float(mask.max()) for mask in masks] == pytest.approx([1, 2, 10])


# -- what lanes refuse ---------------------------------------------------------------------------------------


class Refused(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(6, 3).double(), kind
        self.seen = torch.zeros(1)
        self.register_buffer("steps", torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        if self.kind == "item":
            x = x * (1 + 0 * x.sum().item())
        if self.kind == "branch" and x.sum() > 1e9:
            x = x * 2
        if self.kind == "mask":
            x = x + x[x > 0].sum() * 0
        if self.kind == "noise":
            x = x + 0.01 * torch.randn_like(x)
        if self.kind == "reassigned":
            self.steps = self.steps + 1
        return x


class OwnGRU(nn.GRU): ...


class OwnLSTM(nn.LSTM): ...


@pytest.mark.parametrize("kind", [OwnGRU, OwnLSTM])
def test_subclasses_of_recurrent_layers_are_refused_by_name(kind: type[nn.RNNBase]) -> None:
    task = a_task(lambda config: Recurrent(kind), tokens)
    with pytest.raises(LanesError, match="subclass of nn.RNN"):
        Lanes([Training(task, each) for each in jobs(2)]).spot_check()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("item", "item"),
        ("branch", "branches"),
        ("mask", "boolean mask"),
        ("noise", "random numbers"),
        ("reassigned", "buffers"),
    ],
)
def test_what_cannot_be_a_lane_trains_in_the_plain_loop(kind: str, words: str, tmp_path: Path) -> None:
    task = a_task(lambda config: Refused(kind))
    with pytest.raises(LanesError, match=words):
        Lanes([Training(task, each) for each in jobs(2)]).spot_check()
    events, reports = finish(LaneRunner(task, tmp_path / "lanes", 4), jobs(3, until=2))
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert words in notice.message
    _, plain = finish(TaskRunner(task, tmp_path / "plain"), jobs(3, until=2))
    assert comparable(reports) == comparable(plain)


def finish(runner: Any, waiting: list[Job]) -> tuple[list[Event], list[Report]]:
    """Run jobs to their ends, as an executor does."""
    events: list[Event] = []
    reports: list[Report] = []
    while waiting:
        new = runner.run(waiting[: runner.lanes], reports.append)
        ended = {event.trial for event in new if isinstance(event, Outcome)}
        waiting = [each for each in waiting if each.trial not in ended]
        events += new
    return events, reports


def comparable(reports: list[Report]) -> dict[Any, Any]:
    return {
        (r.trial, r.epoch, r.step): repr({n: v for n, v in r.metrics.items() if "per_second" not in n}) for r in reports
    }


# -- continuous batching -------------------------------------------------------------------------------------


def test_trials_pause_and_continue_among_any_others(tmp_path: Path) -> None:
    task = a_task()
    whole, reports = finish(LaneRunner(task, tmp_path / "whole", 4), jobs(6, dropout=0.2))
    assert {e.status for e in whole if isinstance(e, Outcome)} == {Status.DONE}
    parts: list[Report] = []
    for lanes, until, chosen in (
        (3, 2, (0, 1, 2, 3, 4, 5)),
        (1, 3, (5, 2)),
        (6, 7, (4, 0, 2)),
        (2, 10, (0, 1, 2, 3, 4, 5)),
    ):
        group = jobs(6, until, dropout=0.2)
        events, new = finish(LaneRunner(task, tmp_path / "parts", lanes), [group[i] for i in chosen])
        assert len(events) == len(chosen)
        parts += new
    assert comparable(parts) == comparable(reports)  # the same bits


def test_a_lane_goes_on_in_the_plain_loop_and_back(tmp_path: Path) -> None:
    task = a_task()
    _, reports = finish(TaskRunner(task, tmp_path / "plain"), jobs(3))
    mixed: list[Report] = []
    for until, runner in ((3, LaneRunner), (6, TaskRunner), (EPOCHS, LaneRunner)):
        more = (4,) if runner is LaneRunner else ()
        mixed += finish(runner(task, tmp_path / "mixed", *more), jobs(3, until))[1]
    own, right = ({(r.trial, r.epoch): r.metrics for r in each if r.epoch_end} for each in (mixed, reports))
    assert own.keys() == right.keys()
    for key, metrics in own.items():
        for name in ("train_loss", "val_error", "grad_norm"):
            assert metrics[name] == pytest.approx(right[key][name], rel=1e-9)


def test_out_of_memory_halves_the_lanes_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Lanes.backward

    def small_memory(self: Lanes, batch: tuple[Tensor, ...]) -> Any:
        if len(self.trainings) > 2 and self.trainings[0].run.epoch == 3:
            raise torch.OutOfMemoryError("of the test")
        return real(self, batch)

    task = a_task()
    _, expected = finish(LaneRunner(task, tmp_path / "calm", 8), jobs(8))
    monkeypatch.setattr(Lanes, "backward", small_memory)
    events, reports = finish(LaneRunner(task, tmp_path / "tight", 8), jobs(8))
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert len(notices) == 2 and "from now on 4" in notices[0] and "from now on 2" in notices[1]
    assert comparable(reports) == comparable(expected)


def test_programs_of_long_ago_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_runner, "PROGRAMS", 2)
    task = a_task(lambda config: nn.Linear(6, 3, bias=config.bias).double())
    group = [Job(k, Config(lr=0.1, batch_size=16 * (k % 3 + 1), bias=k % 2 == 0), k, 2, 2) for k in range(12)]
    runner = LaneRunner(task, tmp_path, 4)
    events, _ = finish(runner, group)
    assert len(runner._programs) == 2
    assert [e.status for e in events if isinstance(e, Outcome)] == [Status.DONE] * 12


@pytest.mark.slow
def test_ten_thousand_refills_leak_no_memory(tmp_path: Path) -> None:
    task = a_task(metrics=(), train=blobs(34), validation=blobs(8))
    runner, process = LaneRunner(task, tmp_path, 8), psutil.Process()
    size_at: dict[int, int] = {}
    for first in range(0, 10_000, 250):
        group = [Job(k, Config(lr=0.01, batch_size=17, dropout=0.1), k, 1, 1) for k in range(first, first + 250)]
        events, _ = finish(runner, group)
        assert [event.status for event in events if isinstance(event, Outcome)] == [Status.DONE] * 250
        shutil.rmtree(tmp_path)
        gc.collect()
        size_at[first + 250] = process.memory_info().rss
    assert not runner._live
    assert size_at[10_000] - size_at[2_500] < 4 * 2**20  # 560 bytes a trial, of which a Training has tens of thousands


@pytest.mark.parametrize("schedule", ["fifo", "asha"])
def test_a_study_of_lanes_is_the_same_with_one_worker_or_two(schedule: str, tmp_path: Path) -> None:
    space = Space(lr=Float(1e-4, 1.0, log=True), dropout=Float(0, 0.5), batch_size=16)
    tables = []
    for workers in (1, 2):
        study = rheostat.tune(
            a_task(name=f"w{workers}"), space, trials=12, epochs=4, storage=tmp_path / "s.db",
            schedule=schedule, workers=workers, engine="lanes", progress="none",
        )  # fmt: skip
        tables.append([(t.config, t.status, t.value, t.epochs) for t in study.trials])
    assert tables[0] == tables[1]
    plain = rheostat.tune(
        a_task(name="plain"), space, trials=12, epochs=4, storage=tmp_path / "s.db", schedule=schedule,
        workers=1, engine="loop", progress="none",
    )  # fmt: skip
    assert [t.config for t in plain.trials] == [config for config, *_ in tables[0]]
