"""The ValidationMonitor of TensorFlow 1: evaluates checkpoints, and stops when they no longer improve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rheostat.errors import SettingError, unknown
from rheostat.train.hooks import Hook, Run, Weights, check_whole

EXAMPLES_AT_ONCE = 4096  # how many go through the network together


class ValidationMonitor(Hook):
    """TensorFlow 1's `tf.contrib.learn.monitors.ValidationMonitor`, with its rules.

    Every `every_n_steps` steps it looks for a new checkpoint, and evaluates that, not the current weights, on
    inputs `x` (N, ...) and targets `y` (N, ...). Without a checkpoint, or a new one, it waits for the next
    time. `metrics` maps names to functions of the outputs and targets; the value of `loss` is called "loss".

    With `early_stopping_rounds` the run stops when an evaluation finds that the best one was made this many
    *steps* ago or more: rounds are steps, and count from the step of the evaluation, not of its checkpoint.
    With few checkpoints the run therefore stops later than `best_step + early_stopping_rounds`. An
    improvement is strict; a first value of NaN is never beaten. The best weights are not put back.

    `evaluations` are pairs of a step and its metrics. `best_step`, `best_value` and `best_metrics` are None
    without `early_stopping_rounds`, as before the first evaluation.

    The tutorial from which this call is known gives it the *test* data. Choosing when to stop by them makes
    the test error too good: give validation data here, and keep the test data for the end.

    Raises SettingError for arguments that are not allowed.
    """

    needs_checkpoints: ClassVar[bool] = True

    def __init__(
        self,
        x: Any,
        y: Any,
        every_n_steps: int = 100,
        metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor | float]] | None = None,
        early_stopping_metric: str = "loss",
        early_stopping_metric_minimize: bool = True,
        early_stopping_rounds: int | None = None,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    ) -> None:
        check_whole("every_n_steps", every_n_steps, 1)
        if early_stopping_rounds is not None:
            check_whole("early_stopping_rounds", early_stopping_rounds, 1)
        self._functions = {"loss": loss, **(metrics or {})}
        if early_stopping_metric not in self._functions:
            raise SettingError(unknown("early_stopping_metric", early_stopping_metric, self._functions))
        self.x, self.y = torch.as_tensor(x), torch.as_tensor(y)
        if self.x.dim() == 0 or len(self.x) == 0 or self.x.shape[:1] != self.y.shape[:1]:
            raise SettingError(
                f"x has shape {tuple(self.x.shape)}, y {tuple(self.y.shape)}: give as many targets as inputs."
            )
        self.every_n_steps = every_n_steps
        self.early_stopping_metric = early_stopping_metric
        self.early_stopping_metric_minimize = early_stopping_metric_minimize
        self.early_stopping_rounds = early_stopping_rounds
        self.early_stopped = False
        self.best_step: int | None = None
        self.best_value: float | None = None
        self.best_metrics: dict[str, float] | None = None
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self._last_active_step = 0
        self._evaluated: int | None = None  # the step of the checkpoint that was evaluated last

    def after_step(self, run: Run) -> None:
        if run.step < self._last_active_step + self.every_n_steps:
            return
        self._last_active_step = run.step
        checkpoint = run.latest_checkpoint()
        if checkpoint is None or checkpoint[0] == self._evaluated:
            return
        self._evaluated, weights = checkpoint
        results = self._evaluate(run.model, weights)
        self.evaluations.append((run.step, results))
        if self.early_stopping_rounds is not None and self._exhausted(run.step, results):
            self.early_stopped = True
            run.request_stop(
                f"{self.early_stopping_metric} has not improved for {self.early_stopping_rounds} steps "
                f"(best {self.best_value:.6g} at step {self.best_step})"
            )

    def _exhausted(self, step: int, results: dict[str, float]) -> bool:
        value, best = results[self.early_stopping_metric], self.best_value
        if best is None or (value < best if self.early_stopping_metric_minimize else value > best):
            self.best_value, self.best_step, self.best_metrics = value, step, results
        assert self.best_step is not None and self.early_stopping_rounds is not None
        return step - self.best_step >= self.early_stopping_rounds

    def _evaluate(self, model: nn.Module, weights: Weights) -> dict[str, float]:
        """The metrics of the network with these weights; its own weights, buffers and modes stay."""
        device = next(model.parameters()).device
        weights = {name: tensor.to(device) for name, tensor in weights.items()}
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad():
                parts = [part.to(device) for part in torch.split(self.x, EXAMPLES_AT_ONCE)]
                outputs = torch.cat([functional_call(model, weights, p, tie_weights=False) for p in parts])
                targets = self.y.to(device)
                return {name: float(function(outputs, targets)) for name, function in self._functions.items()}
        finally:
            for module, training in modes:
                module.training = training

    def state_dict(self) -> dict[str, Any]:
        return {
            "last_active_step": self._last_active_step,
            "evaluated": self._evaluated,
            "evaluations": list(self.evaluations),
            "best": [self.best_step, self.best_value, self.best_metrics],
            "early_stopped": self.early_stopped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._last_active_step, self._evaluated = state["last_active_step"], state["evaluated"]
        self.evaluations = list(state["evaluations"])
        self.best_step, self.best_value, self.best_metrics = state["best"]
        self.early_stopped = state["early_stopped"]
