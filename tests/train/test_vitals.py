"""What is observed of every trial: against slow and plain computations, and without a trace in the training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rheostat.train import checkpoint
from rheostat.train.base import Send
from rheostat.train.lane_runner import LaneRunner
from rheostat.train.loop import TaskRunner, Training
from rheostat.train.task import Task
from rheostat.train.units import activity
from rheostat.train.vitals import PROBE, observed, of_batches
from rheostat.types import Config, Job, Report


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.squash = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.squash(self.b(F.relu(self.a(x)))))  # type: ignore[no-any-return]


def task(**settings: object) -> Task:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (200,), generator=generator)
    x = torch.randn(200, 6, generator=generator) + y[:, None]

    def network(config: Config) -> nn.Module:
        return Net()

    return Task(network, (x[:150], y[:150]), (x[150:], y[150:]), device="cpu", **settings)  # type: ignore[arg-type]


CONFIG = Config(lr=0.1, batch_size=10, optimizer="sgd")


def trained(epochs: int, **settings: object) -> tuple[Training, list[Report]]:
    training = Training(task(**settings), Job(0, CONFIG, 3, epochs, epochs))
    return training, [report for _ in range(epochs) for report in training.train_epoch()]


def test_the_first_reports_tell_the_task_and_the_first_losses() -> None:
    _, reports = trained(1)
    within = [r for r in reports if not r.epoch_end]
    assert [r.step for r in within] == [0, 1, 2, 4, 8]
    assert all(r.metrics["train_loss"] > 0 for r in within)
    facts = within[0].metrics
    counts = torch.bincount(task().train[-1]) / 150  # type: ignore[index]
    assert facts["prior_loss"] == pytest.approx(float(-(counts * counts.log()).sum()), rel=1e-6)
    assert (facts["classes"], facts["examples"], facts["validation_examples"]) == (3, 150, 50)
    assert facts["steps_per_epoch"] == 15


def test_layers_and_fixed_examples_are_as_a_slow_look_finds_them() -> None:
    training, reports = trained(1)
    metrics = reports[-1].metrics
    x, y = (part[:PROBE] for part in training.task.train)  # type: ignore[union-attr, index]
    training.model.eval()
    with torch.no_grad():
        outputs = training.model(x)
    assert metrics["probe_loss"] == pytest.approx(float(F.cross_entropy(outputs, y)), rel=1e-6)
    assert metrics["probe_error"] == pytest.approx(float((outputs.argmax(1) != y).float().mean()))
    assert metrics["probe_predicted"] == len(outputs.argmax(1).unique())
    slow = activity(training.model, (x,))
    assert metrics["dead/a"] == pytest.approx(slow["a"].dead)
    assert metrics["saturated/b"] == pytest.approx(slow["b"].saturated)
    assert "dead/c" not in metrics and "saturated/a" not in metrics


def test_updates_and_gradients_are_those_of_the_last_step_of_the_epoch() -> None:
    """Plain gradient descent: the change is the rate times the gradient."""
    before = Training(task(), Job(0, CONFIG, 3, 1, 1))
    steps: list[dict[str, Tensor]] = []
    step = before.optimizer.step

    def noted(*arguments: object) -> None:
        steps.append({name: p.detach().clone() for name, p in before.model.named_parameters()})
        step()

    before.optimizer.step = noted  # type: ignore[method-assign, assignment]
    metrics = before.train_epoch()[-1].metrics
    last = steps[-1]
    now = {name: p.detach() for name, p in before.model.named_parameters()}
    for layer in "abc":
        changes = [now[f"{layer}.{part}"] - last[f"{layer}.{part}"] for part in ("weight", "bias")]
        size = math.hypot(*(float(last[f"{layer}.{part}"].norm()) for part in ("weight", "bias")))
        change = math.hypot(*(float(c.norm()) for c in changes))
        assert metrics[f"update_ratio/{layer}"] == pytest.approx(change / size, rel=1e-4)
        assert metrics[f"gradient_norm/{layer}"] == pytest.approx(change / 0.1, rel=1e-3)
    total = math.hypot(*(metrics[f"gradient_norm/{layer}"] for layer in "abc"))
    assert total == pytest.approx(metrics["grad_norm"], rel=1e-5)


def test_training_is_the_same_without_being_observed() -> None:
    """Observed or not: the same weights, the same validation."""
    (with_, seen), (without, unseen) = trained(3), trained(3, observe=False)
    for a, b in zip(with_.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(a, b)
    plain = [{n: v for n, v in r.metrics.items() if n != "examples_per_second"} for r in unseen]
    assert not any("/" in name or name.startswith("probe_") for metrics in plain for name in metrics)
    for metrics, report in zip(plain, seen, strict=True):
        assert metrics == {name: report.metrics[name] for name in metrics}


@pytest.mark.parametrize("engine", ["loop", "lanes"])
def test_lanes_observe_what_the_loop_observes(engine: str, tmp_path: Path) -> None:
    found: list[Report] = []
    jobs = [Job(number, Config({**CONFIG, "lr": lr}), 3, 2, 2) for number, lr in enumerate((0.1, 0.01))]
    send: Send = found.append
    if engine == "loop":
        for job in jobs:
            TaskRunner(task(), tmp_path).run([job], send)
    else:
        runner = LaneRunner(task(), tmp_path, 2)
        while any(checkpoint.latest(checkpoint.trial_folder(tmp_path, n)) is None for n in (0, 1)) or len(found) < 14:
            runner.run(jobs, send)
    reference = trained(2)[1]
    mine = [r for r in found if r.trial == 0]
    for report, right in zip(mine, reference, strict=True):
        assert report.metrics.keys() == right.metrics.keys()
        for name in report.metrics.keys() - {"examples_per_second"}:
            assert report.metrics[name] == pytest.approx(right.metrics[name], rel=1e-3, abs=1e-5)


def test_a_recurrent_layer_and_a_convolution_are_seen() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rnn = nn.Conv1d(1, 4, 3, padding=1), nn.RNN(4, 5, batch_first=True)
            self.out = nn.Linear(5, 3)
            with torch.no_grad():
                assert self.conv.bias is not None
                self.conv.bias[:2] = -100.0  # two of four channels never fire
                self.rnn.weight_ih_l0.mul_(1000)

        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.rnn(torch.relu(self.conv(x[:, None])).transpose(1, 2))
            return self.out(states[:, -1])  # type: ignore[no-any-return]

    whole = task()
    spoilt = Task(lambda config: Both(), whole.train, whole.validation, device="cpu")
    training = Training(spoilt, Job(0, Config(lr=1e-6, batch_size=50, optimizer="sgd"), 0, 1, 1))
    metrics = training.train_epoch()[-1].metrics
    assert metrics["dead/conv"] == 0.5
    assert metrics["saturated/rnn"] > 0.6


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_looks_become_rarer(epoch: int, last: int) -> None:
    assert observed(last, last)
    upper = 2 ** math.ceil(math.log2(epoch))
    assert sum(observed(e, 10**6) for e in range(upper // 2 + 1, upper + 1)) == 1


@given(st.lists(st.floats(-1e3, 1e3) | st.just(math.nan) | st.just(math.inf), max_size=30))
def test_numbersof_batches_are_finite_or_absent(losses: list[float]) -> None:
    found = of_batches(losses)
    assert all(math.isfinite(value) for value in found.values())
    if "batch_loss_autocorrelation" in found:
        assert -1.0001 <= found["batch_loss_autocorrelation"] <= 1.0001


def test_what_the_data_and_the_outputs_are_like() -> None:
    """Features in units of their own, batches of one class, probabilities for scores: all are seen at once."""
    y = torch.arange(3).repeat_interleave(50)
    x = torch.randn(150, 6, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(6) + 10.0

    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).softmax(1)  # type: ignore[no-any-return]

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=25)  # in order
    whole = Task(lambda config: Sure(), (x, y), (x, y), device="cpu")
    training = Training(whole, Job(0, Config(lr=1e-3, batch_size=25, optimizer="sgd"), 0, 1, 1))
    training.batches.epoch = lambda epoch: iter(loader)  # type: ignore[method-assign, assignment, return-value]
    initial, *_, end = training.train_epoch()
    sd = x.std(0).log10()
    assert initial.metrics["input_scale"] == pytest.approx(
        float(sd.median(0).values + sd.sort().values[3]) / 2, abs=0.3
    )
    assert initial.metrics["input_spread"] == pytest.approx(4.0, abs=0.3)
    assert initial.metrics["input_offset"] == pytest.approx(float((x.mean(0).abs() / x.std(0)).max()), rel=1e-4)
    assert end.metrics["batch_classes"] == 0  # one class in each batch
    assert end.metrics["probe_sums_to_one"] == 1
    shuffled = trained(1)[1][-1].metrics
    assert shuffled["batch_classes"] > 0.8 and shuffled["probe_sums_to_one"] == 0
    assert 0 < shuffled["probe_wrong_confidence"] < 1
