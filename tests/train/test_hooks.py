from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rheostat.errors import CheckpointError, Infeasible, SettingError, TaskError
from rheostat.train.early_stopping import EarlyStopping
from rheostat.train.hooks import (
    ClipGradients,
    Curves,
    Hook,
    Hooks,
    Run,
    StopAtStep,
    StopOnNaN,
    WeightAverage,
)
from rheostat.train.validation_monitor import ValidationMonitor


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))


def make_run(model: nn.Module | None = None, **kept: Any) -> Run:
    model = network() if model is None else model
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.5), steps_per_epoch=4)
    for name, value in kept.items():
        setattr(run, name, value)
    return run


X, Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3


def step(run: Run, hooks: Hooks) -> None:
    run.optimizer.zero_grad()
    loss = nn.functional.cross_entropy(run.model(X), Y)
    loss.backward()
    hooks.before_step(run)
    run.optimizer.step()
    run.step += 1
    run.set_loss(loss.detach())
    hooks.after_step(run)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# --- Run and Hooks ---


class CountingTensor(Tensor):
    reads = 0

    def item(self) -> float:
        CountingTensor.reads += 1
        return super().item()


def test_the_loss_is_read_once_per_step_and_only_when_asked_for() -> None:
    run = make_run()
    assert math.isnan(run.loss)
    CountingTensor.reads = 0
    run.set_loss(torch.tensor(1.5).as_subclass(CountingTensor))
    run.set_loss(torch.tensor(2.5).as_subclass(CountingTensor))
    assert CountingTensor.reads == 0
    assert (run.loss, run.loss, type(run.loss)) == (2.5, 2.5, float)
    assert CountingTensor.reads == 1


def test_the_first_reason_to_stop_is_kept() -> None:
    run = make_run()
    run.request_stop("first")
    run.request_stop("second")
    assert run.stop_reason == "first"


def test_hooks_that_do_nothing_in_a_step_are_not_called_in_it() -> None:
    run = make_run()
    hooks = Hooks([EarlyStopping(), ClipGradients(max_norm=1), StopAtStep(10), Hook()])
    called: list[str] = []
    sys.setprofile(lambda frame, event, arg: called.append(frame.f_code.co_qualname) if event == "call" else None)
    try:
        hooks.after_step(run)
    finally:
        sys.setprofile(None)
    assert called == ["Hooks.after_step", "StopAtStep.after_step"]


def test_a_hook_class_in_place_of_a_hook_is_refused() -> None:
    with pytest.raises(SettingError, match=r"StopOnNaN.*Put \(\) after"):
        Hooks([StopOnNaN])


def test_only_a_monitor_needs_checkpoints() -> None:
    assert Hooks([StopOnNaN(), ValidationMonitor(X, Y)]).need_checkpoints
    assert not Hooks([StopOnNaN(), EarlyStopping()]).need_checkpoints


def test_state_is_kept_by_position_and_class() -> None:
    hooks = Hooks([StopOnNaN(), Curves(), StopOnNaN(fail=False)])
    assert list(hooks.state_dict()) == ["0:StopOnNaN", "1:Curves", "2:StopOnNaN"]


@pytest.mark.parametrize(
    "others", [[], [Curves(), StopOnNaN()], [StopOnNaN(), Curves(), Curves()], [StopOnNaN(), StopOnNaN()]]
)
def test_a_checkpoint_of_other_hooks_is_refused(others: list[Hook]) -> None:
    state = Hooks([StopOnNaN(), Curves()]).state_dict()
    with pytest.raises(CheckpointError, match=r"0:StopOnNaN, 1:Curves.*same order"):
        Hooks(others).load_state_dict(state)


@pytest.mark.parametrize(
    "make",
    [
        StopOnNaN,
        Curves,
        WeightAverage,
        EarlyStopping,
        lambda: EarlyStopping.ignite(patience=3),
        lambda: StopAtStep(last_step=9),
        lambda: ClipGradients(max_norm=1.0),
        lambda: ValidationMonitor(X, Y, every_n_steps=1, early_stopping_rounds=9),
    ],
)
def test_every_state_survives_a_file(make: Callable[[], Hook]) -> None:
    """What is saved, loaded and saved again is the same, and there is something in it to lose."""
    run = make_run(metrics={"val_loss": 0.25})
    run.latest_checkpoint = lambda: (run.step, run.model.state_dict())
    hooks = Hooks([make()])
    hooks.begin(run)
    fresh = repr(hooks.state_dict())
    for _ in range(3):
        step(run, hooks)
        hooks.after_validation(run)
    saved = through_a_file(hooks.state_dict())
    stateless = isinstance(next(iter(hooks)), StopAtStep | ClipGradients)
    assert (repr(saved) == fresh) == stateless
    resumed = Hooks([make()])
    resumed.load_state_dict(saved)
    resumed.begin(run)
    assert repr(resumed.state_dict()) == repr(saved)


# --- EarlyStopping ---


def validate(hook: EarlyStopping, run: Run, value: float, *, at: int) -> str | None:
    run.step, run.epoch = at, at // run.steps_per_epoch
    run.metrics = {"val_loss": value, "val_error": 0.5}
    hook.after_validation(run)
    return run.stop_reason


def test_patience_in_each_unit() -> None:
    """Validations every 2 steps, 4 steps an epoch, best at step 6 (in the second epoch)."""
    values = {2: 5.0, 4: 4.0, 6: 3.0, 8: 3.0, 10: 3.0, 12: 3.0, 14: 3.0, 16: 3.0}
    stops = {}
    for unit in ("checks", "epochs", "steps"):
        hook, run = EarlyStopping(patience=3, unit=unit), make_run()
        stops[unit] = next(at for at, value in values.items() if validate(hook, run, value, at=at))
        assert (hook.stopped, hook.best_value, hook.best_step, hook.best_epoch) == (True, 3.0, 6, 1)
    assert stops == {"checks": 12, "epochs": 16, "steps": 10}


def test_the_first_epochs_are_left_out_and_do_not_count() -> None:
    for unit, stop in (("checks", 16), ("epochs", 16), ("steps", 16)):
        patience = {"checks": 4, "epochs": 2, "steps": 8}[unit]
        hook = EarlyStopping(patience=patience, unit=unit, start_from_epoch=2)
        run = make_run()
        assert validate(hook, run, -9.0, at=8) is None  # the end of the second epoch
        assert hook.best_value is None
        stops = next(at for at in range(10, 99, 2) if validate(hook, run, math.nan, at=at))
        assert stops == stop


def test_a_baseline_must_be_beaten_within_the_patience() -> None:
    run, hook = make_run(), EarlyStopping(patience=2, baseline=1.0, min_delta=0.5)
    assert validate(hook, run, 3.0, at=1) is None
    assert validate(hook, run, 0.5, at=2) is None  # better than the best, but not by enough than the baseline
    assert hook.best_value == 0.5
    assert "has not improved for 3 checks (best: 0.5 at step 2)" in (validate(hook, run, 0.5, at=3) or "")


def test_the_reason_is_in_the_users_sign() -> None:
    run, hook = make_run(), EarlyStopping("val_loss", patience=1, mode="max")
    validate(hook, run, 0.75, at=1)
    assert validate(hook, run, 0.5, at=2) == "val_loss has not improved for 1 checks (best: 0.75 at step 1)"


@pytest.mark.parametrize(
    ("arguments", "values", "reason"),
    [
        ({"check_finite": True}, [-math.inf], "val_loss is -inf"),
        ({"stopping_threshold": 0.1}, [0.1, 0.05], "good enough"),
        ({"divergence_threshold": 9.0, "mode": "max"}, [9.0, 8.0], "diverged"),
    ],
)
def test_other_reasons_to_stop(arguments: dict[str, Any], values: list[float], reason: str) -> None:
    run, hook = make_run(), EarlyStopping(**arguments)
    said = [validate(hook, run, value, at=at) for at, value in enumerate(values, 1)]
    assert reason in (said[-1] or "")
    assert said[:-1] == [None] * (len(values) - 1)


def test_a_missing_metric_names_those_there_are() -> None:
    with pytest.raises(TaskError, match=r"'val_los'.*Did you mean 'val_loss'.*val_loss, val_error"):
        validate(EarlyStopping("val_los"), make_run(), 1.0, at=1)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("stop", [False, True])
def test_the_best_weights_are_put_back_whoever_stopped(stop: bool, resume: bool) -> None:
    hook, run = EarlyStopping(patience=2 if stop else 99), make_run()
    best: dict[str, Tensor] = {}
    for at, value in enumerate([3.0, 1.0, 2.0, 2.0], 1):
        step(run, Hooks())  # moves weights and BatchNorm statistics
        validate(hook, run, value, at=at)
        if value == 1.0:
            best = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    assert (run.stop_reason is not None) == stop
    if resume:
        state = through_a_file(hook.state_dict())
        hook = EarlyStopping(patience=2)
        hook.load_state_dict(state)
    assert not torch.equal(run.model.state_dict()["0.weight"], best["0.weight"])
    hook.end(run)
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, best[name]), name


def test_the_presets_restore_only_where_the_framework_does() -> None:
    presets = {
        EarlyStopping.keras(): False,
        EarlyStopping.keras(restore_best_weights=True): True,
        EarlyStopping.lightning(): False,
        EarlyStopping.ignite(patience=1): False,
        EarlyStopping.tf1(max_steps_without_decrease=1): False,
    }
    for hook, restores in presets.items():
        run = make_run()
        validate(hook, run, 1.0, at=1)
        nn.init.zeros_(run.model[0].weight)
        hook.end(run)
        assert bool(run.model[0].weight.any()) == restores


# --- ValidationMonitor ---


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) == targets).float().mean())


def test_a_monitor_evaluates_the_checkpoint_and_leaves_the_model_alone() -> None:
    run, other = make_run(network(0)), network(1)
    other(X)  # moves its BatchNorm statistics
    run.latest_checkpoint = lambda: (1, other.state_dict())
    run.model[3].eval()  # a part that the user has frozen
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    monitor = ValidationMonitor(X.numpy(), Y.numpy(), every_n_steps=1, metrics={"accuracy": accuracy})
    run.step = 1
    monitor.after_step(run)

    other.eval()
    with torch.no_grad():
        outputs = other(X)
    expected = {"loss": float(nn.functional.cross_entropy(outputs, Y)), "accuracy": accuracy(outputs, Y)}
    assert monitor.evaluations == [(1, pytest.approx(expected))]
    assert [module.training for module in run.model] == [True, True, True, False, True]
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


class Tied(nn.Module):
    """An LSTM (it keeps its own list of its weights) between two layers with the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.lstm, self.last = nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 4)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.lstm(self.first(x).unsqueeze(1))[0][:, 0])


def test_a_monitor_evaluates_tied_and_recurrent_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rheostat.train.validation_monitor.EXAMPLES_AT_ONCE", 5)  # 16 examples in 4 parts
    run, other = make_run(Tied()), Tied()
    run.latest_checkpoint = lambda: (1, {name: t.clone() for name, t in other.state_dict().items()})
    run.step = 1
    monitor = ValidationMonitor(X, Y, every_n_steps=1)
    monitor.after_step(run)
    with torch.no_grad():
        expected = float(nn.functional.cross_entropy(other(X), Y))
    assert monitor.evaluations == [(1, {"loss": pytest.approx(expected, rel=1e-5)})]


def test_the_model_is_put_back_when_a_metric_fails() -> None:
    def fails(outputs: Tensor, targets: Tensor) -> float:
        raise ZeroDivisionError

    run = make_run(step=1)
    run.latest_checkpoint = lambda: (1, network(1).state_dict())
    with pytest.raises(ZeroDivisionError):
        ValidationMonitor(X, Y, every_n_steps=1, metrics={"fails": fails}).after_step(run)
    assert all(module.training for module in run.model.modules())
    assert torch.equal(run.model.state_dict()["0.weight"], network(0).state_dict()["0.weight"])


def test_a_monitor_stops_on_its_own_metric() -> None:
    run = make_run()
    run.latest_checkpoint = lambda: (run.step, run.model.state_dict())
    monitor = ValidationMonitor(
        X,
        Y,
        2,
        {"accuracy": accuracy},
        "accuracy",
        early_stopping_metric_minimize=False,
        early_stopping_rounds=4,
    )
    for run.step in range(1, 7):
        monitor.after_step(run)
    assert [at for at, _ in monitor.evaluations] == [2, 4, 6]
    assert monitor.best_metrics == monitor.evaluations[0][1]
    assert (run.stop_reason or "").startswith("accuracy has not improved for 4 steps")


# --- The others ---


def test_nan_names_the_step_and_the_last_finite_loss() -> None:
    run, hook = make_run(step=6), StopOnNaN()
    run.set_loss(torch.tensor(2.5))
    hook.after_step(run)
    resumed = StopOnNaN()
    resumed.load_state_dict(through_a_file(hook.state_dict()))
    run.step = 7
    run.set_loss(torch.tensor(math.nan))
    with pytest.raises(Infeasible, match=r"training loss nan at step 7, after 2\.5"):
        resumed.after_step(run)


@given(st.floats(0.01, 10), st.integers(0, 99))
def test_clipping_by_norm(max_norm: float, seed: int) -> None:
    run, hook = make_run(network(seed)), ClipGradients(max_norm=max_norm)
    nn.functional.cross_entropy(run.model(X), Y).backward()
    before = [weight.grad.clone() for weight in run.model.parameters() if weight.grad is not None]
    norm = math.sqrt(sum(float((grad.double() ** 2).sum()) for grad in before))
    hook.before_step(run)
    assert hook.last_norm == pytest.approx(norm, rel=1e-5)
    for weight, grad in zip(run.model.parameters(), before, strict=True):
        torch.testing.assert_close(weight.grad, grad * min(1.0, max_norm / norm), rtol=1e-4, atol=1e-6)


def test_clipping_by_value() -> None:
    run, hook = make_run(), ClipGradients(max_value=0.01)
    assert math.isnan(hook.last_norm)
    nn.functional.cross_entropy(run.model(X), Y).backward()
    before = torch.cat([weight.grad.flatten() for weight in run.model.parameters()])
    hook.before_step(run)
    after = torch.cat([weight.grad.flatten() for weight in run.model.parameters()])
    assert before.abs().max() > 0.01
    assert torch.equal(after, before.clamp(-0.01, 0.01))
    assert hook.last_norm == pytest.approx(float(before.norm()), rel=1e-5)


@pytest.mark.parametrize("cut", [None, 0, 1, 7])
def test_the_weight_average_is_that_of_torch(cut: int | None) -> None:
    run, hook = make_run(), WeightAverage(decay=0.9, warmup=False)
    reference = AveragedModel(run.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    hook.begin(run)
    for index in range(12):
        if index == cut:
            state = through_a_file(hook.state_dict())
            hook = WeightAverage(decay=0.9, warmup=False)
            hook.load_state_dict(state)
            hook.begin(run)
        step(run, Hooks([hook]))
        reference.update_parameters(run.model)
    own = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    with hook.swapped(run.model):
        for name, tensor in reference.module.state_dict().items():  # the buffers, too
            assert torch.equal(run.model.state_dict()[name], tensor), name
        assert not torch.equal(run.model.state_dict()["0.weight"], own["0.weight"])
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, own[name]), name


@given(st.floats(0.05, 0.99), st.lists(st.floats(-3, 3), min_size=1, max_size=40))
def test_the_warm_up_follows_its_formula(decay: float, weights: list[float]) -> None:
    """The average is a weighted mean: value i has weight (1 - d_i) d_(i+1) ... d_(n-1)."""
    model = nn.Linear(1, 1, bias=False).double()
    run, hook = make_run(model), WeightAverage(decay)
    hook.begin(run)
    for weight in weights:
        nn.init.constant_(model.weight, weight)
        hook.after_step(run)
    decays = [0.0] + [min(decay, (1 + t) / (10 + t)) for t in range(1, len(weights))]
    shares = [(1 - decays[i]) * math.prod(decays[i + 1 :]) for i in range(len(weights))]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * weight for share, weight in zip(shares, weights, strict=True))
    assert float(hook.averaged["weight"]) == pytest.approx(expected, abs=1e-9)


def test_the_own_weights_come_back_after_an_error() -> None:
    run, hook = make_run(), WeightAverage(0.5)
    hook.begin(run)
    for _ in range(3):
        step(run, Hooks([hook]))
    own = run.model.state_dict()["4.weight"].clone()
    with pytest.raises(ZeroDivisionError), hook.swapped(run.model):
        assert not torch.equal(run.model.state_dict()["4.weight"], own)
        raise ZeroDivisionError
    assert torch.equal(run.model.state_dict()["4.weight"], own)


def test_before_the_first_step_there_is_no_average_to_swap_in() -> None:
    run, hook = make_run(), WeightAverage()
    hook.begin(run)
    own = run.model.state_dict()["4.weight"].clone()
    with hook.swapped(run.model):
        assert torch.equal(run.model.state_dict()["4.weight"], own)


def test_an_average_of_another_model_is_refused() -> None:
    run, hook = make_run(), WeightAverage()
    hook.begin(run)
    step(run, Hooks([hook]))
    with pytest.raises(CheckpointError, match=r"4\.weight"):
        hook.begin(make_run(nn.Linear(1, 1)))


def test_loaded_averages_are_not_shared() -> None:
    run, hook = make_run(), WeightAverage(0.5)
    hook.begin(run)
    step(run, Hooks([hook]))
    state = hook.state_dict()
    copies = [WeightAverage(0.5), WeightAverage(0.5)]
    for copy in copies:
        copy.load_state_dict(state)
        copy.begin(run)
    step(run, Hooks(copies[:1]))
    assert not torch.equal(copies[0].averaged["0.weight"], copies[1].averaged["0.weight"])
    assert torch.equal(copies[1].averaged["0.weight"], hook.averaged["0.weight"])


def test_curves_are_kept_across_a_resume() -> None:
    run, curves = make_run(), Curves(every_n_steps=2)
    for at, loss in enumerate([5.0, 4.0, 3.0, 2.0], 1):
        run.step = at
        run.set_loss(torch.tensor(loss))
        run.optimizer.param_groups[0]["lr"] = 0.1 * at
        curves.after_step(run)
    run.metrics = {"val_loss": 1.5}
    curves.after_validation(run)
    run.metrics["val_loss"] = 9.0  # of a later validation
    resumed = Curves(every_n_steps=2)
    resumed.load_state_dict(through_a_file(curves.state_dict()))
    assert (resumed.steps, resumed.losses, resumed.rates) == ([2, 4], [4.0, 2.0], [0.2, 0.4])
    assert resumed.validations == [(4, {"val_loss": 1.5})]


@pytest.mark.parametrize(
    "make",
    [
        lambda: EarlyStopping(patience=-1),
        lambda: EarlyStopping(patience=2.5),
        lambda: EarlyStopping(patience=True),
        lambda: EarlyStopping(unit="epoch"),
        lambda: EarlyStopping(mode="auto"),
        lambda: EarlyStopping(min_delta=-0.1),
        lambda: EarlyStopping(min_delta=math.nan),
        lambda: EarlyStopping(start_from_epoch=-1),
        lambda: EarlyStopping.ignite(patience=0),
        lambda: EarlyStopping.tf1(max_steps_without_decrease=0),
        lambda: ValidationMonitor(X, Y, every_n_steps=0),
        lambda: ValidationMonitor(X, Y, early_stopping_rounds=0),
        lambda: ValidationMonitor(X, Y, early_stopping_metric="accuracy"),
        lambda: ValidationMonitor(X, Y[:-1]),
        lambda: ValidationMonitor(X[:0], Y[:0]),
        lambda: StopAtStep(),
        lambda: StopAtStep(1, 2),
        lambda: StopAtStep(num_steps=0),
        lambda: StopAtStep(last_step=-3),
        lambda: ClipGradients(),
        lambda: ClipGradients(1.0, 1.0),
        lambda: ClipGradients(max_norm=0.0),
        lambda: ClipGradients(max_value=math.nan),
        lambda: WeightAverage(1.0),
        lambda: WeightAverage(0.0),
        lambda: Curves(0),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], Hook]) -> None:
    with pytest.raises(SettingError):
        make()
