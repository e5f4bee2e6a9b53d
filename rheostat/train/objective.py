"""The user's own training loop as a trial: recorded, paused, continued and stopped by Rheostat."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn, optim

from rheostat.errors import CheckpointError, Infeasible, TaskError
from rheostat.train import checkpoint, randomness
from rheostat.train.base import Send
from rheostat.train.loop import is_out_of_memory, keep_settings
from rheostat.types import UNLIMITED, Event, Job, Outcome, Report, Status

Objective = Callable[["Trial"], float | None]


class Stateful(Protocol):
    """Anything that a trial can put into its checkpoint beside model and optimiser."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class TrialPaused(BaseException):
    """Raised at the end of an epoch to leave the user's loop; not an Exception, so that no loop swallows it."""


class Trial:
    """One trial in the user's own loop. Its hyperparameters are attributes and items.

        def objective(trial):
            model, optimizer = build(trial.units), torch.optim.Adam(...)
            for epoch in trial.epochs(30, model=model, optimizer=optimizer):
                ...
                trial.report(val_loss=loss)

    Global random numbers (Python, numpy, torch) are seeded with `trial.seed` before the objective is called.
    """

    def __init__(
        self, job: Job, metric: str, direction: str, folder: Path, send: Send, also: Sequence[str] = ()
    ) -> None:
        self.number, self.seed, self.config = job.trial, job.seed, job.config
        self._job, self._metric, self._direction, self._also = job, metric, direction, also
        self._folder, self._send = folder, send
        self._epoch = job.born  # completed
        self._pending: dict[str, float] = {}
        self._reports: list[Report] = []
        self._inside_epochs = False
        self._model: nn.Module | None = None
        self._stateful: dict[str, Stateful] = {}
        self._best = math.inf

    def __getitem__(self, name: str) -> Any:
        return self.config[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.config, name)

    def epochs(
        self,
        last: int | None = None,
        *,
        model: nn.Module | None = None,
        optimizer: optim.Optimizer | None = None,
        others: Mapping[str, Stateful] | None = None,
    ) -> Iterator[int]:
        """The epochs still to be trained, from 0, up to `last` in all.

        With a model, every epoch ends with a checkpoint of model, optimizer, `others` (a rate scheduler, say) and
        the global random numbers, and a trial that was paused or killed continues from it. Without one it starts
        again from the first epoch.

        A trial that begins as a copy of another (population based training) gets that one's model, optimizer state and
        `others` here, and the epochs that are left. The optimizer keeps the settings it was made with.
        """
        last = min(last if last is not None else self._job.max_epochs, self._job.max_epochs)
        self._model, self._stateful = model, dict(others or {})
        if optimizer is not None:
            self._stateful["optimizer"] = optimizer
        self._resume()
        self._inside_epochs = True
        while self._epoch < last:
            if self._epoch >= self._job.until_epoch:
                raise TrialPaused
            yield self._epoch
            self._end_epoch()
        self._inside_epochs = False

    def report(self, *, step: int | None = None, **metrics: float) -> None:
        """Metrics of this epoch, by plain names; with `step`, a measurement within the epoch.

        Inside `epochs` several calls add up to the report of the epoch. In a loop without `epochs`, each call
        ends an epoch.

        Raises TaskError for a metric that is not a number.
        """
        values = {name: _number(name, value) for name, value in metrics.items()}
        if step is not None:
            self._deliver(Report(self.number, self._epoch, step, values, epoch_end=False))
            return
        self._pending.update(values)
        if not self._inside_epochs:
            self._end_epoch()
            if self._epoch >= self._job.until_epoch and self._epoch < self._job.max_epochs:
                raise TrialPaused

    def _end_epoch(self) -> None:
        if self._model is None and self._job.parent is not None:
            raise self._cannot_copy()
        self._epoch += 1
        if self._metric not in self._pending:
            raise TaskError(
                f"Epoch {self._epoch} ended without {self._metric!r}, the metric of this study; reported: "
                f"{', '.join(self._pending) or 'nothing'}. Call trial.report({self._metric}=...) in every epoch."
            )
        known = {name for r in self._reports if r.epoch_end for name in r.metrics} | set(self._pending)
        if missing := [name for name in self._also if name not in known]:
            raise TaskError(
                f"Epoch {self._epoch} ended without {missing[0]!r}, which is a goal of this study too; reported: "
                f"{', '.join(self._pending)}. Call trial.report({missing[0]}=...) in the first epoch, and again where "
                f"it changes."
            )
        value = self._pending[self._metric] * (-1 if self._direction == "maximize" else 1)
        report = Report(self.number, self._epoch, self._epoch, self._pending)
        self._pending = {}
        if self._model is not None:
            if value < self._best:
                self._best = value
                checkpoint.save_best(self._folder, self._epoch, self._model.state_dict())
            state = {
                "identity": self._identity,
                "reports": [[r.epoch, r.step, r.metrics, r.seconds, r.epoch_end] for r in [*self._reports, report]],
                "random": randomness.get_state(),
                "best": self._best,
                "stateful": {name: part.state_dict() for name, part in self._stateful.items()},
            }
            checkpoint.save(self._folder, self._epoch, self._model.state_dict(), state)
        self._deliver(report)
        if not math.isfinite(value):
            raise Infeasible(f"{self._metric} = {abs(value)} after epoch {self._epoch}")

    def _deliver(self, report: Report) -> None:
        self._reports.append(report)
        self._send(report)

    def _resume(self) -> None:
        stored = checkpoint.latest(self._folder) if self._model is not None else None
        if stored is not None and stored[1].get("identity") == self._identity:
            self._load(*stored)
            self._best = stored[1]["best"]
            for values in stored[1]["reports"]:
                self._deliver(Report(self.number, *values))
            self._epoch = max((r.epoch for r in self._reports), default=self._job.born)
            randomness.set_state(stored[1]["random"])
        elif self._job.parent is not None:
            if stored is None or stored[1]["identity"][:2] != ["objective", self._job.parent]:
                raise self._cannot_copy()
            with ExitStack() as stack:
                for part in self._stateful.values():
                    if isinstance(part, optim.Optimizer):
                        stack.enter_context(keep_settings(part))
                self._load(*stored)

    def _load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        assert self._model is not None
        if set(state["stateful"]) != set(self._stateful):
            raise CheckpointError(
                f"Trial {self.number} was saved with {sorted(state['stateful'])} and is continued with "
                f"{sorted(self._stateful)}: give trial.epochs the same objects, or start a study with another name."
            )
        self._model.load_state_dict(weights)
        for name, part in self._stateful.items():
            part.load_state_dict(state["stateful"][name])

    def _cannot_copy(self) -> TaskError:
        return TaskError(
            f"Trial {self.number} cannot begin as a copy of trial {self._job.parent}, which has no checkpoint: give "
            "trial.epochs(model=..., optimizer=...) what is to be copied, or use a schedule that copies no trials."
        )

    @property
    def _identity(self) -> list[Any]:
        return ["objective", self._job.trial, self._job.config.key(), self._job.seed]

    def _finish(self, returned: float | None) -> None:
        """What the objective returned counts where it reported nothing."""
        if self._epoch == self._job.born and returned is not None:
            self._pending[self._metric] = _number(self._metric, returned)
        if self._pending or self._epoch == self._job.born:
            self._end_epoch()


class ObjectiveRunner:
    """Runs the user's objective; a trial that is continued is called again and skips what it has trained."""

    lanes = 1

    def __init__(self, objective: Objective, metric: str, direction: str, root: Path, also: Sequence[str] = ()) -> None:
        self.objective, self.metric, self.direction, self.root, self.also = objective, metric, direction, root, also

    def run(self, jobs: Sequence[Job], send: Send) -> list[Event]:
        return [self._run(jobs[0], send)]

    def _run(self, job: Job, send: Send) -> Outcome:
        folder = checkpoint.trial_folder(self.root, job.trial)
        trial = Trial(job, self.metric, self.direction, folder, send, self.also)
        with randomness.apart():
            randomness.seed_all(job.seed)
            try:
                trial._finish(self.objective(trial))
            except TrialPaused:
                return Outcome(job.trial, Status.PAUSED, trial._epoch)
            except Infeasible as error:
                return Outcome(job.trial, Status.INFEASIBLE, trial._epoch, str(error))
            except CheckpointError:
                raise
            except Exception as error:
                if is_out_of_memory(error):
                    return Outcome(job.trial, Status.INFEASIBLE, trial._epoch, f"out of memory: {error}")
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                return Outcome(job.trial, Status.FAILED, trial._epoch, reason, traceback.format_exc())
        converged = trial._epoch < min(job.until_epoch, job.max_epochs) and job.max_epochs < UNLIMITED
        if converged:
            return Outcome(job.trial, Status.CONVERGED, trial._epoch, "the objective ended by itself")
        return Outcome(job.trial, Status.DONE, trial._epoch)


def _number(name: str, value: object) -> float:
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TaskError(f"trial.report({name}={value!r}): give a number.") from None
