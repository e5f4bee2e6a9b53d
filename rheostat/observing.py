"""rheostat.observe: what the trainer observes of its trials, in anybody's training loop, and a diagnosis of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn, optim

from rheostat.diagnose.base import Diagnosis, Observations
from rheostat.diagnose.classifier import probabilities
from rheostat.diagnose.diagnosis import diagnose
from rheostat.diagnose.observations import from_reports
from rheostat.errors import SettingError
from rheostat.train.vitals import FIRST_STEPS, Activations, Layers, observed, of_batches
from rheostat.types import Report, Scalar, Status

AT_LEAST_EVERY = 64  # updates; at first more often


class Watch:
    """What is seen of a model and its optimizer; made by `observe`."""

    def __init__(self, model: nn.Module, optimizer: optim.Optimizer, config: Mapping[str, Scalar]) -> None:
        self._model, self._optimizer, self._config = model, optimizer, dict(config)
        self._layers = Layers(model)
        self._reports: list[Report] = []
        self._losses: list[float] = []
        self._inside: dict[str, float] = {}
        self._activations: Activations | None = None
        self._watching = ExitStack()
        self._looking = False
        self._step = self._epoch = 0

    def loss(self, value: Tensor | float) -> None:
        """The loss of a batch, before its update: for how losses behave within an epoch. Waits for an accelerator."""
        number = _number(value)
        self._losses.append(number)
        if self._epoch == 0 and self._step in (0, *FIRST_STEPS):
            self._reports.append(Report(0, 0, self._step, {"train_loss": number}, epoch_end=False))

    def epoch(self, **metrics: float | Tensor) -> dict[str, float]:
        """End an epoch with its metrics by plain names (train_loss, val_loss, val_error ...).

        Returns them with what was seen inside, ready for `trial.report(**...)`. Raises SettingError for a metric that
        is not a number.
        """
        try:
            values = {name: _number(value) for name, value in metrics.items()}
        except (TypeError, ValueError):
            raise SettingError(f"epoch({metrics!r}): give numbers, such as epoch(val_loss=0.3).") from None
        self._epoch += 1
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        known = {"lr": max(rates), **of_batches(self._losses), **self._inside}
        found = {**{name: value for name, value in known.items() if not math.isnan(value)}, **values}
        self._reports.append(Report(0, self._epoch, self._step, found))
        self._losses, self._inside = [], {}
        return found

    @property
    def observations(self) -> Observations:
        """All that was seen."""
        last = self._reports[-1].metrics if self._reports else {}
        lost = not all(math.isfinite(last.get(name, 0.0)) for name in ("train_loss", "val_loss"))
        return from_reports(
            self._reports, self._config, Status.INFEASIBLE if lost else Status.DONE, max_epochs=self._epoch
        )

    def diagnose(self) -> Diagnosis:
        """Why the training went as it did so far."""
        run = self.observations
        return diagnose(run, probabilities(run))

    # -- what torch calls ------------------------------------------------------------------------------------

    def _due(self) -> bool:
        coming = self._step + 1
        return observed(coming, 0) or coming % AT_LEAST_EVERY == 0

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """Before a pass: one in training mode, of an update that is looked at, is watched."""
        if module.training and self._activations is None and self._due():
            self._activations = Activations(self._layers)
            self._watching.enter_context(self._activations)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """After it, also where it raised."""
        if self._activations is not None:
            self._watching.close()
            self._inside |= self._activations.found()
            self._activations = None

    def before_update(self, optimizer: optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._looking = self._due()
        if self._looking:
            self._inside |= self._layers.before_step()

    def after_update(self, optimizer: optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._step += 1
        if self._looking:
            self._inside |= self._layers.after_step()


def _number(value: Tensor | float) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


@contextmanager
def observe(model: nn.Module, optimizer: optim.Optimizer, **config: Scalar) -> Iterator[Watch]:
    """Watch a model in a training loop of your own, with or without a study.

        with rheostat.observe(model, optimizer, batch_size=64) as seen:
            for epoch in range(20):
                ...
                    seen.loss(loss)              # optional, of every batch
                ...
                seen.epoch(train_loss=..., val_loss=..., val_error=...)
        print(seen.diagnose().verdict)

    `config` are hyperparameters that are worth knowing (lr, optimizer, batch_size, dropout, weight_decay). Gradients,
    updates and activations are looked at in a few updates, the 1st, 2nd, 4th, 8th ... and at least every
    64th; training is the same with it and without it.
    """
    watch = Watch(model, optimizer, config)
    with ExitStack() as stack:
        for handle in (
            model.register_forward_pre_hook(watch.enter),
            model.register_forward_hook(watch.leave, always_call=True),
            optimizer.register_step_pre_hook(watch.before_update),
            optimizer.register_step_post_hook(watch.after_update),
        ):
            stack.callback(handle.remove)
        yield watch
