"""The hooks stop exactly where the frameworks they are named after stop.

The references are written from the frameworks' published rules, each in the terms of its framework, and know
nothing of the hooks. Values are multiples of 1/2, so that no comparison depends on rounding.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rheostat.errors import Infeasible
from rheostat.train.early_stopping import EarlyStopping
from rheostat.train.hooks import Hook, Hooks, Run, StopAtStep, StopOnNaN
from rheostat.train.validation_monitor import ValidationMonitor

NAN, INF = math.nan, math.inf
quick = settings(deadline=None, max_examples=100)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """What a hook's state is after a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def new_run(**kept: Any) -> Run:
    model = nn.Linear(1, 1)
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.1), steps_per_epoch=1)
    for name, value in kept.items():
        setattr(run, name, value)
    return run


# --- Early stopping: the number of the validation (from 1) that stops the run, None where none does ---------


@dataclass(frozen=True)
class Place:
    """When validations happen: `every` steps, in epochs of `epoch` steps."""

    every: int = 1
    epoch: int = 1


def stops_at(
    make: Callable[[], EarlyStopping],
    values: Sequence[float],
    place: Place = Place(),
    cut: int | None = None,
) -> int | None:
    """Drive the hook over validations; before that with index `cut` it goes through a checkpoint."""
    hooks, run = Hooks([make()]), new_run(steps_per_epoch=place.epoch)
    hooks.begin(run)
    for index, value in enumerate(values):
        if index == cut:
            state = through_a_file(hooks.state_dict())
            hooks, run = Hooks([make()]), new_run(steps_per_epoch=place.epoch, step=run.step, epoch=run.epoch)
            hooks.load_state_dict(state)
            hooks.begin(run)
        run.step = (index + 1) * place.every
        run.epoch = run.step // place.epoch
        run.metrics = {"val_loss": value}
        hooks.after_validation(run)
        if run.stop_reason is not None:
            hooks.end(run)
            return index + 1
    return None


def keras(
    values: Sequence[float],
    patience: int,
    min_delta: float = 0.0,
    mode: str = "min",
    baseline: float | None = None,
    start_from_epoch: int = 0,
) -> int | None:
    """Keras 3: `wait` is counted up in every epoch, then put back to 0 by an improvement."""

    def better(value: float, than: float) -> bool:
        return value < than - min_delta if mode == "min" else value > than + min_delta

    wait, best = 0, None
    for epoch, value in enumerate(values):
        if epoch < start_from_epoch:
            continue
        wait += 1
        if best is None or better(value, best):
            best = value
            if baseline is None or better(value, baseline):
                wait = 0
        elif wait >= patience and epoch > 0:
            return epoch + 1
    return None


def lightning(
    values: Sequence[float],
    patience: int,
    min_delta: float = 0.0,
    mode: str = "min",
    check_finite: bool = True,
    stopping_threshold: float | None = None,
    divergence_threshold: float | None = None,
) -> int | None:
    """Lightning: the conditions are an if-elif chain, and the best starts at infinity."""
    sign = 1 if mode == "min" else -1
    wait, best = 0, INF
    for number, measured in enumerate(values, 1):
        value = sign * measured
        if check_finite and not math.isfinite(value):
            return number
        if stopping_threshold is not None and value < sign * stopping_threshold:
            return number
        if divergence_threshold is not None and value > sign * divergence_threshold:
            return number
        if value + min_delta < best:
            best, wait = value, 0
        else:
            wait += 1
            if wait >= patience:
                return number
    return None


def ignite(
    values: Sequence[float],
    patience: int,
    min_delta: float = 0.0,
    cumulative: bool = False,
    mode: str = "min",
) -> int | None:
    """Ignite: maximises a score, and asks whether it is *not* an improvement."""
    best, counter = None, 0
    for number, value in enumerate(values, 1):
        score = -value if mode == "min" else value
        if best is None:
            best = score
        elif score <= best + min_delta:
            if not cumulative and score > best:
                best = score
            counter += 1
            if counter >= patience:
                return number
        else:
            best, counter = score, 0
    return None


def tf1_no_decrease(
    evaluations: Sequence[tuple[int, float]], max_steps: int, min_steps: int = 0, mode: str = "min"
) -> int | None:
    """TensorFlow 1's stop_if_no_decrease_hook: goes through all evaluations so far, from the first."""
    for number in range(1, len(evaluations) + 1):
        best = best_step = None
        for step, value in evaluations[:number]:
            if step < min_steps:
                continue
            if best is None or (value < best if mode == "min" else value > best):
                best, best_step = value, step
            if step - best_step >= max_steps:
                return number
    return None


EARLY_STOPPING_ROWS: list[tuple[str, Callable[[], EarlyStopping], list[float], int | None]] = [
    # Keras counts epochs; patience 0 and 1 are the same
    ("keras improves", lambda: EarlyStopping.keras(patience=1), [3, 2, 1], None),
    ("keras 0", lambda: EarlyStopping.keras(patience=0), [3, 2, 2.5, 1], 3),
    ("keras 1", lambda: EarlyStopping.keras(patience=1), [3, 2, 2.5, 1], 3),
    ("keras 2", lambda: EarlyStopping.keras(patience=2), [3, 2, 2.5, 1.5, 2, 2], 6),
    ("keras equal is no improvement", lambda: EarlyStopping.keras(patience=2), [1, 1, 1], 3),
    ("keras min_delta is strict", lambda: EarlyStopping.keras(patience=1, min_delta=0.5), [2, 1.5], 2),
    ("keras NaN first", lambda: EarlyStopping.keras(patience=2), [NAN, 1, 0.5], 3),
    ("keras NaN later", lambda: EarlyStopping.keras(patience=2), [1, NAN, 0.5, NAN, NAN], 5),
    ("keras max", lambda: EarlyStopping.keras(patience=2, mode="max"), [1, 2, 2, 1], 4),
    ("keras start", lambda: EarlyStopping.keras(patience=1, start_from_epoch=3), [1, 2, 3, 4, 5], 5),
    ("keras baseline unbeaten", lambda: EarlyStopping.keras(patience=2, baseline=1), [4, 3, 3], 3),
    ("keras baseline, improving", lambda: EarlyStopping.keras(patience=2, baseline=1), [4, 3, 2, 0, 0, 0], 6),
    # Lightning counts validations
    ("lightning default", lambda: EarlyStopping.lightning(), [1, 2, 2, 2], 4),
    ("lightning equal", lambda: EarlyStopping.lightning(patience=2), [1, 1, 1], 3),
    ("lightning NaN", lambda: EarlyStopping.lightning(), [1, NAN], 2),
    (
        "lightning NaN first",
        lambda: EarlyStopping.lightning(patience=2, check_finite=False),
        [NAN, 1, 0.5],
        None,
    ),
    ("lightning NaN waits", lambda: EarlyStopping.lightning(patience=2, check_finite=False), [NAN, NAN], 2),
    ("lightning infinite", lambda: EarlyStopping.lightning(mode="max"), [1, INF], 2),
    ("lightning good enough", lambda: EarlyStopping.lightning(stopping_threshold=1), [3, 1, 0.5], 3),
    ("lightning diverged", lambda: EarlyStopping.lightning(divergence_threshold=5), [3, 5, 5.5], 3),
    (
        "lightning max",
        lambda: EarlyStopping.lightning(patience=1, mode="max", stopping_threshold=0.5),
        [0, 1],
        2,
    ),
    # Ignite: small gains are lost, unless they are cumulative
    ("ignite creeps", lambda: EarlyStopping.ignite(patience=3, min_delta=1), [4, 3.5, 3, 2.5], 4),
    (
        "ignite cumulative",
        lambda: EarlyStopping.ignite(patience=3, min_delta=1, cumulative_delta=True),
        [4, 3.5, 3, 2.5],
        None,
    ),
    ("ignite equal", lambda: EarlyStopping.ignite(patience=2), [1, 1, 1], 3),
    ("ignite NaN improves", lambda: EarlyStopping.ignite(patience=2), [1, 2, NAN, 2, 2, 2], 6),
    ("ignite max", lambda: EarlyStopping.ignite(patience=1, mode="max"), [1, 2, 2], 3),
    # ours: NaN is never best
    ("NaN first", lambda: EarlyStopping(patience=3), [NAN, NAN, 1, 2, 2, 2], 6),
    ("NaN only", lambda: EarlyStopping(patience=3), [NAN] * 3, 3),
    ("check_finite", lambda: EarlyStopping(check_finite=True), [1, INF], 2),
]


@pytest.mark.parametrize(
    ("make", "values", "expected"),
    [row[1:] for row in EARLY_STOPPING_ROWS],
    ids=[r[0] for r in EARLY_STOPPING_ROWS],
)
def test_early_stopping_by_hand(make: Callable[[], EarlyStopping], values: list[float], expected: int | None) -> None:
    assert stops_at(make, values) == expected
    for cut in range(1, len(values)):
        assert stops_at(make, values, cut=cut) == expected


@pytest.mark.parametrize(
    ("arguments", "values", "expected"),  # a validation every 10 steps
    [
        ({}, [3, 2, 2.5, 2, 2, 2], 5),  # best at step 20, 30 steps without a decrease at step 50
        ({}, [3, 2, 2.5, 2, 1.5, 2, 2], None),
        ({}, [NAN, 1, 0.5, 0], 4),
        ({}, [1, NAN, NAN, NAN], 4),
        ({"min_steps": 20}, [0, 4, 3, 2, 1], None),  # the validation at step 10 is left out
        ({"min_steps": 20}, [0, 4, 5, 5, 5], 5),  # that at step 20 is not
        ({"max_steps_without_decrease": 31}, [1, 1, 1, 1, 1], 5),
        ({"mode": "max"}, [1, 2, 2, 2, 2], 5),
    ],
)
def test_tf1_by_hand(arguments: dict[str, Any], values: list[float], expected: int | None) -> None:
    def make() -> EarlyStopping:
        return EarlyStopping.tf1(**{"max_steps_without_decrease": 30, **arguments})

    assert [stops_at(make, values, Place(10, 25), cut) for cut in range(len(values))] == [expected] * len(values)


numbers = st.integers(-4, 8).map(lambda n: n / 2)
traces = st.lists(st.one_of(numbers, numbers, numbers, st.sampled_from([NAN, INF, -INF])), max_size=25)
deltas, modes, patiences = (
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from(["min", "max"]),
    st.integers(0, 5),
)


@quick
@given(
    traces,
    patiences,
    deltas,
    modes,
    st.none() | numbers,
    st.integers(0, 4),
    st.integers(1, 3),
    st.integers(0, 25),
)
def test_keras(
    values: list[float],
    patience: int,
    delta: float,
    mode: Any,
    baseline: float | None,
    start: int,
    epoch: int,
    cut: int,
) -> None:
    def make() -> EarlyStopping:
        return EarlyStopping.keras(
            min_delta=delta, patience=patience, mode=mode, baseline=baseline, start_from_epoch=start
        )

    expected = keras(values, patience, delta, mode, baseline, start)
    assert stops_at(make, values, Place(epoch, epoch)) == expected
    assert stops_at(make, values, Place(epoch, epoch), cut) == expected


@quick
@given(
    traces,
    patiences,
    deltas,
    modes,
    st.booleans(),
    st.none() | numbers,
    st.none() | numbers,
    st.integers(0, 25),
)
def test_lightning(
    values: list[float],
    patience: int,
    delta: float,
    mode: Any,
    finite: bool,
    stopping: float | None,
    divergence: float | None,
    cut: int,
) -> None:
    def make() -> EarlyStopping:
        return EarlyStopping.lightning(
            min_delta=delta,
            patience=patience,
            mode=mode,
            check_finite=finite,
            stopping_threshold=stopping,
            divergence_threshold=divergence,
        )

    expected = lightning(values, patience, delta, mode, finite, stopping, divergence)
    assert stops_at(make, values, Place(3, 5)) == expected
    assert stops_at(make, values, Place(3, 5), cut) == expected


@quick
@given(traces, st.integers(1, 5), deltas, st.booleans(), modes, st.integers(0, 25))
def test_ignite(values: list[float], patience: int, delta: float, cumulative: bool, mode: Any, cut: int) -> None:
    def make() -> EarlyStopping:
        return EarlyStopping.ignite(patience=patience, min_delta=delta, cumulative_delta=cumulative, mode=mode)

    expected = ignite(values, patience, delta, cumulative, mode)
    assert stops_at(make, values) == expected
    assert stops_at(make, values, cut=cut) == expected


@quick
@given(traces, st.integers(1, 40), st.integers(0, 60), modes, st.integers(1, 12), st.integers(0, 25))
def test_tf1_stop_if_no_decrease(
    values: list[float], max_steps: int, min_steps: int, mode: Any, every: int, cut: int
) -> None:
    def make() -> EarlyStopping:
        return EarlyStopping.tf1(max_steps_without_decrease=max_steps, min_steps=min_steps, mode=mode)

    evaluations = [((index + 1) * every, value) for index, value in enumerate(values)]
    expected = tf1_no_decrease(evaluations, max_steps, min_steps, mode)
    assert stops_at(make, values, Place(every, 7)) == expected
    assert stops_at(make, values, Place(every, 7), cut) == expected


@quick
@given(st.lists(numbers, max_size=25), st.integers(1, 5), deltas, modes)
def test_without_nan_ours_keras_and_lightning_agree(
    values: list[float], patience: int, delta: float, mode: Any
) -> None:
    """Epoch by epoch they differ in what NaN, a baseline and a warm-up do, and in nothing else."""
    arguments: dict[str, Any] = {"min_delta": delta, "patience": patience, "mode": mode}
    ours = stops_at(lambda: EarlyStopping(**arguments), values)
    assert ours == stops_at(lambda: EarlyStopping.keras(**arguments), values)
    assert ours == stops_at(lambda: EarlyStopping.lightning(**arguments), values)


# --- ValidationMonitor: a trace says which checkpoint is the latest at each step ----------------------------


class Level(nn.Module):
    """Its output is its only weight, so that a checkpoint has the loss that we want."""

    def __init__(self, level: float = 123.0) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.level.expand(len(x))


def mean_output(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


Checkpoints = dict[int, float]  # the step at which a checkpoint is saved, and the loss of its weights


def monitor_stops_at(
    checkpoints: Checkpoints,
    last: int,
    begin: int = 0,
    cut: int | None = None,
    **settings: Any,
) -> tuple[int | None, ValidationMonitor]:
    """The step at which the monitor stops; after step `cut` it goes through a checkpoint."""

    def make() -> ValidationMonitor:
        return ValidationMonitor(torch.zeros(2, 1), torch.zeros(2), loss=mean_output, **settings)

    def latest() -> tuple[int, dict[str, Tensor]] | None:
        saved = [step for step in checkpoints if step <= run.step]
        if not saved:
            return None
        return max(saved), {"level": torch.tensor(checkpoints[max(saved)], dtype=torch.float64)}

    monitor, run = make(), new_run(model=Level(), latest_checkpoint=latest, step=begin)
    hooks = Hooks([monitor])
    hooks.begin(run)
    while run.step < last:
        if run.step == cut:
            state = through_a_file(hooks.state_dict())
            monitor = make()
            hooks = Hooks([monitor])
            hooks.load_state_dict(state)
            hooks.begin(run)
        hooks.before_step(run)
        run.step += 1
        hooks.after_step(run)
        if run.stop_reason is not None:
            assert monitor.early_stopped
            return run.step, monitor
    assert not monitor.early_stopped
    return None, monitor


def monitor_reference(
    checkpoints: Checkpoints, last: int, begin: int, every: int, rounds: int | None, minimize: bool
) -> tuple[int | None, int | None, list[int]]:
    """Where it stops, its best step, and the steps at which it evaluates."""
    last_active, evaluated, best, best_step, evaluations = 0, None, None, None, []
    for step in range(begin + 1, last + 1):
        if not step >= every + last_active:
            continue
        last_active = step
        path = max((saved for saved in checkpoints if saved <= step), default=None)
        if path is None or path == evaluated:
            continue
        evaluated, current = path, checkpoints[path]
        evaluations.append(step)
        if rounds is None:
            continue
        if best is None or (current < best if minimize else current > best):
            best, best_step = current, step
        if step - best_step >= rounds:
            return step, best_step, evaluations
    return None, best_step, evaluations


def test_the_example_of_the_tutorial() -> None:
    """every_n_steps=50, early_stopping_rounds=200, best step 800, and yet it stops at 1150.

    Between 950 and 1150 no new checkpoint was there to be evaluated; that of 1150 is of step 1119.
    """
    checkpoints = {step - 29: 0.05 + (800 - step) / 1000 for step in range(50, 800, 50)}
    checkpoints |= {771: 0.048313818872, 821: 0.049, 871: 0.05, 921: 0.0525, 1119: 0.056436}
    stop, monitor = monitor_stops_at(checkpoints, 2000, every_n_steps=50, early_stopping_rounds=200)
    assert stop == 1150
    assert (monitor.best_step, monitor.best_value) == (800, 0.048313818872)
    assert monitor.best_metrics == {"loss": 0.048313818872}
    assert monitor.evaluations[-1] == (1150, {"loss": 0.056436})
    assert [step for step, _ in monitor.evaluations] == [*range(50, 951, 50), 1150]


MONITOR_ROWS: list[tuple[str, Checkpoints, dict[str, Any], int | None]] = [
    ("never a checkpoint", {}, {"early_stopping_rounds": 10}, None),
    ("one checkpoint is evaluated once", {5: 1.0}, {"early_stopping_rounds": 10}, None),
    ("fresh checkpoints: best + rounds", {s: abs(s - 30) for s in range(10, 100, 10)}, {}, 50),
    ("inclusive", dict.fromkeys(range(10, 100, 10), 1.0), {"early_stopping_rounds": 30}, 40),
    ("rounds between checks", dict.fromkeys(range(10, 100, 10), 1.0), {"early_stopping_rounds": 31}, 50),
    ("equal is no improvement", {10: 2.0, 20: 2.0, 30: 2.0}, {}, 30),
    ("NaN first is never beaten", {10: NAN, 20: 1.0, 30: 0.5}, {}, 30),
    ("NaN later counts", {10: 1.0, 20: NAN, 30: NAN}, {}, 30),
    ("NaN once", {10: 1.0, 20: NAN, 25: 0.5, 40: 0.25}, {}, None),
    ("maximise", {10: 1.0, 20: 2.0, 30: 2.0, 40: 2.0}, {"early_stopping_metric_minimize": False}, 40),
    ("no rounds", {s: s for s in range(10, 100, 10)}, {"early_stopping_rounds": None}, None),
    ("fewer checkpoints than checks", {10: 1.0, 45: 2.0}, {}, 50),
]


@pytest.mark.parametrize(
    ("checkpoints", "changed", "expected"),
    [row[1:] for row in MONITOR_ROWS],
    ids=[r[0] for r in MONITOR_ROWS],
)
def test_validation_monitor_by_hand(checkpoints: Checkpoints, changed: dict[str, Any], expected: int | None) -> None:
    arguments = {"every_n_steps": 10, "early_stopping_rounds": 20, **changed}
    assert monitor_stops_at(checkpoints, 100, **arguments)[0] == expected


def test_a_new_monitor_on_an_old_run_looks_at_once() -> None:
    checkpoints = dict.fromkeys(range(500, 700, 10), 1.0)
    _, monitor = monitor_stops_at(checkpoints, 660, begin=500, every_n_steps=50)
    assert [step for step, _ in monitor.evaluations] == [501, 551, 601, 651]


@quick
@given(
    st.dictionaries(st.integers(1, 120), numbers | st.just(NAN), max_size=25),
    st.integers(0, 60),
    st.integers(1, 30),
    st.none() | st.integers(1, 60),
    st.booleans(),
    st.integers(0, 120),
)
def test_validation_monitor(
    checkpoints: Checkpoints, begin: int, every: int, rounds: int | None, minimize: bool, cut: int
) -> None:
    arguments = {
        "begin": begin,
        "every_n_steps": every,
        "early_stopping_rounds": rounds,
        "early_stopping_metric_minimize": minimize,
    }
    stop, best_step, evaluations = monitor_reference(checkpoints, 120, begin, every, rounds, minimize)
    for at in (None, cut):
        found, monitor = monitor_stops_at(checkpoints, 120, cut=at, **arguments)
        assert (found, monitor.best_step) == (stop, best_step)
        assert [step for step, _ in monitor.evaluations] == evaluations


# --- The life cycle, StopAtStep and NanTensorHook -----------------------------------------------------------


class Witness(Hook):
    """Writes down what is called, and may do something at one of the calls."""

    def __init__(self, name: str, log: list[str], at: str = "", act: Callable[[Run], None] = lambda run: None):
        self.name, self.log, self.at, self.act = name, log, at, act

    def note(self, call: str, run: Run) -> None:
        self.log.append(f"{self.name}.{call}{run.step}")
        if self.at == f"{call}{run.step}":
            self.act(run)

    def begin(self, run: Run) -> None:
        self.note("begin", run)

    def before_step(self, run: Run) -> None:
        self.note("before", run)

    def after_step(self, run: Run) -> None:
        self.note("after", run)

    def after_validation(self, run: Run) -> None:
        self.note("validation", run)

    def end(self, run: Run) -> None:
        self.note("end", run)


def train(hooks: Hooks, run: Run, losses: Sequence[float], validate_every: int | None = None) -> None:
    """The loop of MonitoredSession: an ordinary exception passes, a StopIteration ends it normally."""
    hooks.begin(run)
    try:
        for loss in losses:
            hooks.before_step(run)
            run.step += 1
            run.set_loss(loss)
            hooks.after_step(run)
            if run.stop_reason is None and validate_every and run.step % validate_every == 0:
                run.metrics = {"val_loss": loss}
                hooks.after_validation(run)
            if run.stop_reason is not None:
                break
    except StopIteration:
        pass
    hooks.end(run)


def raises(error: type[Exception]) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        raise error

    return act


def stop(run: Run) -> None:
    run.request_stop("enough")


ONE = ["a.begin0", "b.begin0", "a.before0", "b.before0", "a.after1", "b.after1"]
TWO = [*ONE, "a.before1", "b.before1", "a.after2", "b.after2", "a.validation2", "b.validation2"]
LIFE_ROWS: list[tuple[str, str, Callable[[Run], None], type[Exception] | None, list[str]]] = [
    ("nothing", "", stop, None, [*TWO, "a.end2", "b.end2"]),
    ("a stop still reaches the others", "after1", stop, None, [*ONE, "a.end1", "b.end1"]),
    ("a stop before a step lets it be done", "before0", stop, None, [*ONE, "a.end1", "b.end1"]),
    ("a stop at a validation", "validation2", stop, None, [*TWO, "a.end2", "b.end2"]),
    ("an error in before_step", "before0", raises(KeyError), KeyError, ONE[:3]),
    ("an error in after_step", "after1", raises(KeyError), KeyError, ONE[:5]),
    ("StopIteration in before_step", "before0", raises(StopIteration), None, [*ONE[:3], "a.end0", "b.end0"]),
    ("StopIteration in after_step", "after1", raises(StopIteration), None, [*ONE[:5], "a.end1", "b.end1"]),
]


@pytest.mark.parametrize(
    ("at", "act", "error", "expected"), [row[1:] for row in LIFE_ROWS], ids=[row[0] for row in LIFE_ROWS]
)
def test_life_cycle(at: str, act: Callable[[Run], None], error: type[Exception] | None, expected: list[str]) -> None:
    log: list[str] = []
    hooks = Hooks([Witness("a", log, at, act), Witness("b", log)])
    if error is None:
        train(hooks, new_run(), [1.0, 1.0], validate_every=2)
    else:
        with pytest.raises(error):
            train(hooks, new_run(), [1.0, 1.0], validate_every=2)
    assert log == expected


@pytest.mark.parametrize(
    ("arguments", "begins_at", "expected"),
    [
        ({"num_steps": 10}, 0, 10),
        ({"num_steps": 100}, 500, 600),  # counts from the beginning of the session
        ({"last_step": 100}, 0, 100),
        ({"last_step": 100}, 60, 100),
        ({"last_step": 100}, 100, 101),  # one step is done before it looks
        ({"last_step": 100}, 200, 201),
    ],
)
def test_stop_at_step(arguments: dict[str, int], begins_at: int, expected: int) -> None:
    run = new_run(step=begins_at)
    train(Hooks([StopAtStep(**arguments)]), run, [1.0] * 1000)
    assert run.step == expected


def test_a_recovered_session_does_not_extend_num_steps() -> None:
    hooks, run = (
        Hooks([StopAtStep(num_steps=100), crash := Witness("w", [], "after40", raises(OSError))]),
        new_run(),
    )
    with pytest.raises(OSError):
        train(hooks, run, [1.0] * 1000)
    crash.at = ""
    run.step = 30  # of the latest checkpoint
    train(hooks, run, [1.0] * 1000)
    assert run.step == 100


@quick
@given(st.integers(1, 30), st.integers(0, 29))
def test_last_step_is_the_same_after_a_resume(last: int, cut: int) -> None:
    run = new_run()
    train(Hooks([StopAtStep(last_step=last)]), run, [1.0] * cut)
    if run.stop_reason is None:
        train(Hooks([StopAtStep(last_step=last)]), run, [1.0] * 100)
    assert run.step == last


@pytest.mark.parametrize(
    ("arguments", "losses", "steps", "failed"),
    [
        ({}, [1.0, NAN, 1.0], 2, True),
        ({"fail": False}, [1.0, NAN, 1.0], 2, False),
        ({}, [1.0, INF, 1.0], 2, True),  # Keras and Ignite stop here, too
        ({}, [-INF], 1, True),
        ({"infinite": False}, [INF, 1.0, -INF], 3, False),  # NanTensorHook is not triggered by Inf
        ({"infinite": False}, [INF, NAN, 1.0], 2, True),
        ({"fail": False, "infinite": False}, [INF, NAN, 1.0], 2, False),
        ({}, [1.0, 1e30, 0.0], 3, False),
    ],
)
def test_nan_tensor_hook(arguments: dict[str, bool], losses: list[float], steps: int, failed: bool) -> None:
    log: list[str] = []
    hooks, run = Hooks([StopOnNaN(**arguments), Witness("w", log)]), new_run()
    if failed:
        with pytest.raises(Infeasible):
            train(hooks, run, losses)
    else:
        train(hooks, run, losses)
    assert run.step == steps
    assert (f"w.after{steps}" in log, log[-1] == f"w.end{steps}") == (not failed, not failed)
