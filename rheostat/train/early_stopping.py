"""Stopping a run that no longer improves.

What the frameworks mean by *patience* differs; the four that are common are class methods of `EarlyStopping`,
tested step by step against their rules:

===============  ==================  ==============================================  ======================
preset           patience counts     an improvement (of a value to be minimised)     a NaN
===============  ==================  ==============================================  ======================
(none)           `unit`              value < best - min_delta                        no improvement
`.keras`         epochs              value < best - min_delta; the first always      no improvement, but as
                                                                                     the first never beaten
`.lightning`     validations         value < best - min_delta                        stops the run
`.ignite`        validations         not value >= best - min_delta; the first        an improvement
                                     always; best also takes smaller gains
`.tf1`           steps               value < best; the first always                  as Keras
===============  ==================  ==============================================  ======================

All stop when the count since the last improvement has *reached* the patience.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from rheostat.errors import SettingError, TaskError, unknown
from rheostat.train.hooks import Hook, Run, Weights, check_whole

Unit = Literal["checks", "epochs", "steps"]
Mode = Literal["min", "max"]


@dataclass(frozen=True)
class _Rule:
    """When a value, to be minimised, is better than the best so far: where the frameworks differ."""

    first_wins: bool = False  # the first value is an improvement, even NaN, which nothing then beats
    nan_wins: bool = False  # the comparison is `not worse`, which holds for NaN
    best_creeps: bool = False  # gains of min_delta and less move the best, though they are no improvement

    def improves(self, value: float, best: float | None, min_delta: float) -> bool:
        if best is None:
            return self.first_wins or value < math.inf
        if self.nan_wins:
            return not value >= best - min_delta
        return value + min_delta < best


class EarlyStopping(Hook):
    """Stops when a validation metric has not improved for a while, and puts the best weights back.

    Each validation is a check. An improvement is a value better than the best by more than `min_delta`; NaN
    never is one. The run stops at the first check that is no improvement and has reached the `patience`,
    counted since the last improvement (since the beginning where there was none), in this `unit`:

    - "checks": validations. With patience=3 the third in a row that does not improve stops the run.
    - "epochs": completed epochs; a validation within an epoch has the number of epochs before it.
    - "steps": updates of the weights.

    Patience 0 and 1 check stop at the first check that does not improve. Checks in the first
    `start_from_epoch` epochs are left out. An improvement that does not also beat `baseline` becomes the best
    but does not restart the count. `check_finite` stops at the first NaN or infinite value. Where
    `stopping_threshold` is beaten the run is good enough, where a value is worse than `divergence_threshold`
    it is lost; both stop it at once.

    `restore_best` keeps a copy of the weights of the best check (in memory, and in each checkpoint) and puts
    it into the model at the end, whoever stopped the run and also when it ran its full length (as Keras 3
    does), but not after an exception. `best_value`, `best_step` and `best_epoch` are of that check, `stopped`
    says whether this hook asked to stop.

    Raises SettingError for arguments that are not allowed; TaskError at a validation that lacks the metric.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        *,
        unit: Unit = "checks",
        min_delta: float = 0.0,
        mode: Mode = "min",
        restore_best: bool = True,
        start_from_epoch: int = 0,
        baseline: float | None = None,
        check_finite: bool = False,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
    ) -> None:
        check_whole("patience", patience, 0)
        check_whole("start_from_epoch", start_from_epoch, 0)
        if unit not in ("checks", "epochs", "steps"):
            raise SettingError(unknown("unit of patience", unit, ("checks", "epochs", "steps")))
        if mode not in ("min", "max"):
            raise SettingError(unknown("mode", mode, ("min", "max")))
        if not 0 <= min_delta < math.inf:
            raise SettingError(f"min_delta={min_delta!r}: give a number from 0; mode says what is better.")
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta
        self.patience, self.unit, self.start_from_epoch = patience, unit, start_from_epoch
        self.restore_best, self.check_finite = restore_best, check_finite
        self.stopped = False
        self.best_step = self.best_epoch = 0
        self._sign = 1.0 if mode == "min" else -1.0  # inside, values are minimised
        self._baseline = self._signed(baseline)
        self._stopping_threshold = self._signed(stopping_threshold)
        self._divergence_threshold = self._signed(divergence_threshold)
        self._rule = _Rule()
        self._min_steps = 0
        self._best: float | None = None
        self._best_weights: Weights = {}
        self._checks = 0
        self._restarted: int | None = None  # where an improvement last restarted the count, in units

    @classmethod
    def keras(
        cls,
        monitor: str = "val_loss",
        *,
        min_delta: float = 0.0,
        patience: int = 0,
        mode: Mode = "min",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> EarlyStopping:
        """`keras.callbacks.EarlyStopping` of Keras 3. It counts the epochs that end with a validation.

        `mode` is not guessed from the name, and a metric that is missing is an error, not a warning.
        """
        hook = cls(
            monitor,
            patience,
            min_delta=abs(min_delta),
            mode=mode,
            restore_best=restore_best_weights,
            start_from_epoch=start_from_epoch,
            baseline=baseline,
        )
        hook._rule = _Rule(first_wins=True)
        return hook

    @classmethod
    def lightning(
        cls,
        monitor: str = "val_loss",
        *,
        min_delta: float = 0.0,
        patience: int = 3,
        mode: Mode = "min",
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
    ) -> EarlyStopping:
        """`lightning.pytorch.callbacks.EarlyStopping` with strict=True. It counts validations."""
        return cls(
            monitor,
            patience,
            min_delta=min_delta,
            mode=mode,
            restore_best=False,
            check_finite=check_finite,
            stopping_threshold=stopping_threshold,
            divergence_threshold=divergence_threshold,
        )

    @classmethod
    def ignite(
        cls,
        monitor: str = "val_loss",
        *,
        patience: int,
        min_delta: float = 0.0,
        cumulative_delta: bool = False,
        mode: Mode = "min",
    ) -> EarlyStopping:
        """`ignite.handlers.EarlyStopping`; Ignite 0.5.5 calls the last two `threshold` and `cumulative`.

        Without `cumulative_delta` each value is compared with the best of all, so a run that gains a little
        each time is stopped; with it, small gains add up until they make an improvement.
        """
        check_whole("patience", patience, 1)
        hook = cls(monitor, patience, min_delta=min_delta, mode=mode, restore_best=False)
        hook._rule = _Rule(first_wins=True, nan_wins=True, best_creeps=not cumulative_delta)
        return hook

    @classmethod
    def tf1(
        cls,
        monitor: str = "val_loss",
        *,
        max_steps_without_decrease: int,
        min_steps: int = 0,
        mode: Mode = "min",
    ) -> EarlyStopping:
        """TensorFlow 1's `stop_if_no_decrease_hook`; with mode="max", `stop_if_no_increase_hook`.

        It counts steps, and leaves out validations before `min_steps`.
        """
        check_whole("max_steps_without_decrease", max_steps_without_decrease, 1)
        check_whole("min_steps", min_steps, 0)
        hook = cls(monitor, max_steps_without_decrease, unit="steps", mode=mode, restore_best=False)
        hook._rule = _Rule(first_wins=True)
        hook._min_steps = min_steps
        return hook

    @property
    def best_value(self) -> float | None:
        """The best value so far, as it was measured; None before the first check."""
        return self._signed(self._best)

    def _signed(self, value: float | None) -> float | None:
        return None if value is None else self._sign * value

    def after_validation(self, run: Run) -> None:
        if self.monitor not in run.metrics:
            raise TaskError(unknown("metric to stop early on", self.monitor, run.metrics))
        value = self._sign * run.metrics[self.monitor]
        if run.step < self._min_steps:
            return
        if self.start_from_epoch and run.step <= self.start_from_epoch * run.steps_per_epoch:
            return
        self._checks += 1
        reason = self._judge(value, run)
        if reason:
            self.stopped = True
            run.request_stop(reason)

    def _judge(self, value: float, run: Run) -> str:
        """Take note of a value; why to stop, or nothing."""
        name, measured = self.monitor, self._sign * value
        if self.check_finite and not math.isfinite(value):
            return f"{name} is {measured}"
        improved = self._rule.improves(value, self._best, self.min_delta)
        if improved:
            self._note(value, run)
        elif self._rule.best_creeps and self._best is not None:
            self._best = min(self._best, value)
        if self._stopping_threshold is not None and value < self._stopping_threshold:
            return f"{name} {measured:.6g} is good enough: better than the stopping threshold"
        if self._divergence_threshold is not None and value > self._divergence_threshold:
            return f"{name} {measured:.6g} diverged: worse than the divergence threshold"
        waited = self._position(run) - self._counted_from(run)
        if improved or waited < self.patience:
            return ""
        best = "none" if self.best_value is None else f"{self.best_value:.6g} at step {self.best_step}"
        return f"{name} has not improved for {waited} {self.unit} (best: {best})"

    def _note(self, value: float, run: Run) -> None:
        self._best, self.best_step, self.best_epoch = value, run.step, run.epoch
        if self.restore_best:
            self._best_weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        if self._baseline is None or value + self.min_delta < self._baseline:
            self._restarted = self._position(run)

    def _position(self, run: Run) -> int:
        return {"checks": self._checks, "epochs": run.epoch, "steps": run.step}[self.unit]

    def _counted_from(self, run: Run) -> int:
        if self._restarted is not None:
            return self._restarted
        epoch_length = {"checks": 0, "epochs": 1, "steps": run.steps_per_epoch}[self.unit]
        return self.start_from_epoch * epoch_length

    def end(self, run: Run) -> None:
        if self._best_weights:
            run.model.load_state_dict(self._best_weights)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self._best,
            "best_step": self.best_step,
            "best_epoch": self.best_epoch,
            "best_weights": self._best_weights,
            "checks": self._checks,
            "restarted": self._restarted,
            "stopped": self.stopped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self.best_step, self.best_epoch = state["best"], state["best_step"], state["best_epoch"]
        self._best_weights = dict(state["best_weights"])
        self._checks, self._restarted = state["checks"], state["restarted"]
        self.stopped = state["stopped"]
