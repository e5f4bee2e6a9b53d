"""Hooks: what watches or changes the training of one trial.

The life cycle is that of TensorFlow 1's SessionRunHook, without its graph::

    begin                     before the first step, and again after a resume, once the state is loaded
    ┌ before_step             the gradients are there, the update is not: clip them here
    │ after_step              the update is done and counted in `run.step`
    └ after_validation        `run.metrics` is new, and `run.model` holds the weights they were measured with
    end                       training has reached its end or was asked to stop

Hooks are called in the order of their list. A request to stop does not cut a round short: the other hooks
still get that step's `after_step`. Any exception from a hook leaves the loop at once. After `StopIteration`
the training ends normally, with `end` and without the rest of that step's `after_step`; after any other
neither is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rheostat.errors import CheckpointError, Infeasible, SettingError

Weights = dict[str, Tensor]


class Run:
    """The training of one trial as its hooks see it; the training loop makes it and keeps it up to date.

    `latest_checkpoint()` is the step and the weights (with buffers) of the latest checkpoint, None where
    there is none yet; it is kept only where a hook says `needs_checkpoints`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int,
        latest_checkpoint: Callable[[], tuple[int, Weights] | None] = lambda: None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.steps_per_epoch = steps_per_epoch
        self.latest_checkpoint = latest_checkpoint
        self.step = 0  # updates done
        self.epoch = 0  # epochs completed
        self.metrics: dict[str, float] = {}  # of the latest validation: val_loss, val_error ...
        self.stop_reason: str | None = None
        self._loss: Tensor | float = math.nan

    @property
    def loss(self) -> float:
        """The training loss of the latest batch; NaN before the first.

        The first reading after a step waits for the accelerator, so a hook reads it no oftener than it must.
        """
        if isinstance(self._loss, Tensor):
            self._loss = float(self._loss.item())
        return self._loss

    def set_loss(self, loss: Tensor | float) -> None:
        """For the loop: the loss of a batch, a detached tensor with one element."""
        self._loss = loss

    def request_stop(self, reason: str) -> None:
        """Ask the loop to stop after this step or validation. The first reason is kept."""
        if self.stop_reason is None:
            self.stop_reason = reason


class Hook:
    """Base of all hooks: override what you need, the rest does nothing.

    A hook that keeps anything between steps gives it out in `state_dict`, as tensors and plain values (it
    must survive `torch.load(weights_only=True)`), so that a paused trial continues as if it had never paused.
    As with torch, the tensors in it are those in use: copy what is to be kept.
    """

    needs_checkpoints: ClassVar[bool] = False  # whether it reads `run.latest_checkpoint`

    def begin(self, run: Run) -> None: ...

    def before_step(self, run: Run) -> None: ...

    def after_step(self, run: Run) -> None: ...

    def after_validation(self, run: Run) -> None: ...

    def end(self, run: Run) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Hooks:
    """The hooks of one run. One without `before_step` and `after_step` costs nothing in a step."""

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        self._hooks = tuple(hooks)
        for hook in self._hooks:
            if not isinstance(hook, Hook):
                hint = " Put () after the name of a hook." if isinstance(hook, type) else ""
                raise SettingError(f"{hook!r} in the list of hooks is not a rheostat.Hook.{hint}")
        self._before = [h.before_step for h in self._hooks if type(h).before_step is not Hook.before_step]
        self._after = [h.after_step for h in self._hooks if type(h).after_step is not Hook.after_step]

    def __iter__(self) -> Iterator[Hook]:
        return iter(self._hooks)

    @property
    def need_checkpoints(self) -> bool:
        return any(hook.needs_checkpoints for hook in self._hooks)

    def begin(self, run: Run) -> None:
        for hook in self._hooks:
            hook.begin(run)

    def before_step(self, run: Run) -> None:
        for call in self._before:
            call(run)

    def after_step(self, run: Run) -> None:
        for call in self._after:
            call(run)

    def after_validation(self, run: Run) -> None:
        for hook in self._hooks:
            hook.after_validation(run)

    def end(self, run: Run) -> None:
        for hook in self._hooks:
            hook.end(run)

    def _names(self) -> list[str]:
        return [f"{position}:{type(hook).__name__}" for position, hook in enumerate(self._hooks)]

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The state of each hook, under its position and class: `{"0:StopOnNaN": {...}}`."""
        return {name: hook.state_dict() for name, hook in zip(self._names(), self._hooks, strict=True)}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Give each hook its state back. Raises CheckpointError when other hooks than these were saved."""
        names = self._names()
        if sorted(state) != sorted(names):
            raise CheckpointError(
                f"The checkpoint was saved with the hooks [{', '.join(state)}], not [{', '.join(names)}]. "
                "Continue with the same hooks in the same order, or start a study with another name."
            )
        for name, hook in zip(names, self._hooks, strict=True):
            hook.load_state_dict(state[name])


def check_whole(name: str, value: object, least: int) -> None:
    """Raises SettingError unless `value` is a whole number from `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingError(f"{name}={value!r}: give a whole number from {least}.")


class StopAtStep(Hook):
    """Stops after a number of steps, as TensorFlow 1's StopAtStepHook.

    `last_step` counts from the beginning of training. `num_steps` counts from `begin`: a run that is
    continued from a checkpoint does as many steps again. A study pauses and continues trials as it sees fit,
    so there use `last_step`. A run that begins at or after its last step does one step.

    Raises SettingError unless exactly one of the two is given.
    """

    def __init__(self, num_steps: int | None = None, last_step: int | None = None) -> None:
        if (num_steps is None) == (last_step is None):
            raise SettingError(
                f"StopAtStep(num_steps={num_steps!r}, last_step={last_step!r}): give exactly one of them."
            )
        if num_steps is not None:
            check_whole("num_steps", num_steps, 1)
        if last_step is not None:
            check_whole("last_step", last_step, 1)
        self.num_steps, self.last_step = num_steps, last_step

    def begin(self, run: Run) -> None:
        if self.last_step is None and self.num_steps is not None:  # a second `begin` does not extend the run
            self.last_step = run.step + self.num_steps

    def after_step(self, run: Run) -> None:
        if self.last_step is not None and run.step >= self.last_step:
            run.request_stop(f"reached step {self.last_step}")


class StopOnNaN(Hook):
    """Ends the run when the training loss is NaN, or infinite (unless `infinite=False`, as NanTensorHook).

    The loss is looked at after the update, so the weights may already be spoilt. With `fail` the run ends
    with Infeasible, without `after_step` of later hooks and without `end`; otherwise it stops as if it were
    asked to.
    """

    def __init__(self, fail: bool = True, infinite: bool = True) -> None:
        self.fail, self.infinite = fail, infinite
        self._last_finite = math.nan

    def after_step(self, run: Run) -> None:
        loss = run.loss
        if math.isfinite(loss):
            self._last_finite = loss
        elif self.infinite or math.isnan(loss):
            last = "" if math.isnan(self._last_finite) else f", after {self._last_finite:.4g}"
            reason = f"training loss {loss} at step {run.step}{last}"
            if self.fail:
                raise Infeasible(reason)
            run.request_stop(reason)

    def state_dict(self) -> dict[str, Any]:
        return {"last_finite": self._last_finite}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._last_finite = state["last_finite"]


class ClipGradients(Hook):
    """Makes large gradients smaller before each update.

    `max_norm` scales all gradients together so that their Euclidean norm is at most this (Pascanu, Mikolov
    and Bengio 2013, arXiv 1211.5063); `max_value` cuts each element to [-max_value, max_value]. With a
    gradient scaler (mixed precision), unscale the gradients first.

    Raises SettingError unless exactly one of them is given, and positive.
    """

    def __init__(self, max_norm: float | None = None, max_value: float | None = None) -> None:
        given = max_norm if max_value is None else max_value
        if (max_norm is None) == (max_value is None) or given is None or not 0 < given < math.inf:
            raise SettingError(
                f"ClipGradients(max_norm={max_norm!r}, max_value={max_value!r}): "
                "give exactly one of them, a positive number."
            )
        self.max_norm, self.max_value = max_norm, max_value
        self._last_norm: Tensor | float = math.nan

    @property
    def last_norm(self) -> float:
        """The norm of all gradients in the latest step, before it was clipped; NaN before the first."""
        return float(self._last_norm)

    def before_step(self, run: Run) -> None:
        weights = [weight for weight in run.model.parameters() if weight.grad is not None]
        if self.max_norm is not None:
            self._last_norm = nn.utils.clip_grad_norm_(weights, self.max_norm)
        elif self.max_value is not None:
            self._last_norm = nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
            nn.utils.clip_grad_value_(weights, self.max_value)


class WeightAverage(Hook):
    """An exponential moving average of the weights, which often validates better than the weights themselves.

    After update t = 0, 1, 2, ... of the average, `a <- d_t a + (1 - d_t) w` with `d_0 = 0` (the average
    starts as a copy) and `d_t = decay`, as `torch.optim.swa_utils.AveragedModel`. A fixed decay remembers
    those first weights for about `1 / (1 - decay)` steps, so with `warmup` it is smaller at first:
    `d_t = min(decay, (1 + t) / (10 + t))` (TensorFlow's `num_updates`). Buffers, such as BatchNorm
    statistics, are not averaged: the latest are used.

    Training goes on with the plain weights. `swapped` puts the average in their place to validate or to save
    it. `averaged` maps the name of each parameter to its average; it is empty before the first step.

    Raises SettingError unless 0 < decay < 1.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 < decay < 1:
            raise SettingError(f"decay={decay!r} must be more than 0 and less than 1; 0.999 is usual.")
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self.averaged: Weights = {}
        self._weights: list[Tensor] = []

    def begin(self, run: Run) -> None:
        named = dict(run.model.named_parameters())
        self._weights = list(named.values())  # looking them up takes longer than the update itself
        if not self.averaged:
            return
        if self.averaged.keys() != named.keys():
            raise CheckpointError(
                f"The weight average is of {sorted(self.averaged)}, but the model has {sorted(named)}. "
                "Has the model changed since the checkpoint? Start a study with another name."
            )
        self.averaged = {name: self.averaged[name].to(weight.device) for name, weight in named.items()}

    def after_step(self, run: Run) -> None:
        with torch.no_grad():
            if not self.averaged:
                named = run.model.named_parameters()
                self.averaged = {name: weight.detach().clone() for name, weight in named}
            else:
                decay = self.decay
                if self.warmup:
                    decay = min(decay, (1 + self.updates) / (10 + self.updates))
                torch._foreach_lerp_(list(self.averaged.values()), self._weights, 1 - decay)
        self.updates += 1

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Within it, `model` has the averaged weights; afterwards its own again, whatever happened."""
        if not self.averaged:
            yield
            return
        named = dict(model.named_parameters())
        weights: list[Tensor] = list(named.values())
        own = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_copy_(weights, [self.averaged[name] for name in named])
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, own)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "averaged": self.averaged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.averaged = {name: tensor.clone() for name, tensor in state["averaged"].items()}


class Curves(Hook):
    """Keeps the curves of a run in memory: loss and learning rate every n steps, and every validation.

    `steps`, `losses` and `rates` have equal lengths; `validations` are pairs of a step and its metrics.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        check_whole("every_n_steps", every_n_steps, 1)
        self.every_n_steps = every_n_steps
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.validations: list[tuple[int, dict[str, float]]] = []

    def after_step(self, run: Run) -> None:
        if run.step % self.every_n_steps == 0:
            self.steps.append(run.step)
            self.losses.append(run.loss)
            self.rates.append(float(run.optimizer.param_groups[0]["lr"]))

    def after_validation(self, run: Run) -> None:
        self.validations.append((run.step, dict(run.metrics)))

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": list(self.steps),
            "losses": list(self.losses),
            "rates": list(self.rates),
            "validations": list(self.validations),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.losses = list(state["steps"]), list(state["losses"])
        self.rates, self.validations = list(state["rates"]), list(state["validations"])
