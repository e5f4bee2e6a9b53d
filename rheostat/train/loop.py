"""One trial in plain PyTorch: the truth that every faster path is tested against."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from rheostat.errors import CheckpointError, Infeasible, RheostatError, TaskError, unknown
from rheostat.train import checkpoint, optimizers, randomness, rates
from rheostat.train.base import Send
from rheostat.train.batches import make_batches
from rheostat.train.early_stopping import EarlyStopping, Mode
from rheostat.train.hooks import ClipGradients, Hook, Hooks, Run, StopOnNaN, WeightAverage
from rheostat.train.task import Task, chunks, evaluate, few, judge, pick_device, scored
from rheostat.train.vitals import FIRST_STEPS, Vitals, observed
from rheostat.types import Config, Event, Job, Outcome, Report, Status


@dataclass
class _Epoch:
    """What an epoch has added up so far."""

    first_report: int
    updates: int = 0
    total: float = 0.0  # loss, over the examples
    examples: int = 0
    began: float = field(default_factory=time.perf_counter)


class Training:
    """One trial in memory: model, optimiser, rate, hooks, random state, and how far it is.

    Raises TaskError when the model, optimiser or schedule of this configuration cannot be built.
    """

    def __init__(self, task: Task, job: Job) -> None:
        config = job.config
        self.task, self.job, self.config = task, job, config
        self.device = pick_device(task.device)
        self.max_epochs = min(job.max_epochs, int(config.get("epochs", job.max_epochs)))
        self.reports: list[Report] = []
        self.best_value, self.best_epoch = math.inf, 0
        self.best_weights: dict[str, Tensor] = {}  # of this epoch, until they are saved
        self.seconds = 0.0
        self.grad_norm = math.nan
        self.checkpoint: tuple[int, dict[str, Tensor]] | None = None
        self.accumulate = _whole(config, "accumulate", 1)
        self.loss_function = task.loss_function(config)
        with randomness.apart():
            randomness.seed_all(job.seed)
            self.model = _built(task, config).to(self.device)
            self.batches = make_batches(task.train, config, job.seed, self.device)
            groups = task.groups(self.model, config)
            trained = {id(parameter) for group in groups for parameter in group.parameters}
            for parameter in self.model.parameters():
                if id(parameter) not in trained:
                    parameter.requires_grad_(False)
            self.optimizer = optimizers.build(config, groups)
            self.random_state = randomness.get_state()
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        steps = self.batches.steps_per_epoch
        self.rate, self.plateau = rates.from_config(config, steps, max(steps * self.max_epochs, 1))
        self.hooks = Hooks([*_own_hooks(task, config), *task.hooks(config)])
        self.run = Run(self.model, self.optimizer, steps, latest_checkpoint=lambda: self.checkpoint)
        self.average = next((h for h in self.hooks if isinstance(h, WeightAverage)), None)
        self.vitals = Vitals(task, self.model, self.device)
        self.begun = False
        self._epoch = _Epoch(first_report=0)

    @property
    def ended(self) -> bool:
        return self.run.stop_reason is not None or self.run.epoch >= self.max_epochs

    def train_epoch(self) -> list[Report]:
        """Train and validate one epoch; its reports, the last of them at the end of the epoch.

        Raises Infeasible when the loss leaves the finite numbers, and whatever the user's code raises.
        """
        with self.own_randomness():
            self.begin_epoch()
            for batch in self.batches.epoch(self.run.epoch):
                self.set_rate()
                loss = self.backward(batch)
                if not self.update(loss, batch[-1]):
                    break
            return self.end_epoch()

    def begin_epoch(self) -> None:
        self._started = time.perf_counter() - self.seconds
        if not self.begun:
            self.hooks.begin(self.run)
            self.begun = True
        self._epoch = _Epoch(first_report=len(self.reports))
        self.vitals.begin_epoch()
        self.model.train()

    def set_rate(self) -> None:
        """Give the optimiser the learning rate of the coming update."""
        lr = self.rate(self.run.step) * (self.plateau.scale if self.plateau is not None else 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)  # checkpoints of before there were groups

    def update(self, loss: Tensor | float, targets: Tensor) -> bool:
        """One update from the gradients of a batch with these targets and mean loss; whether the epoch goes on."""
        run, epoch = self.run, self._epoch
        examples = self.task.weight(targets)
        last = epoch.updates == self.batches.steps_per_epoch - 1
        if run.step in (0, *FIRST_STEPS):
            self.vitals.see_targets(targets)
        if run.step == 0:  # the untrained network
            facts = {**self.vitals.facts(), "steps_per_epoch": float(self.batches.steps_per_epoch)}
            self._report({"train_loss": float(loss), **facts}, epoch_end=False)
        elif run.step in FIRST_STEPS:
            self._report({"train_loss": float(loss)}, epoch_end=False)
        if last:
            self.grad_norm = _grad_norm(self.model)
            if self._observed(run.epoch + 1):
                self.vitals.before_step()
        try:
            self.hooks.before_step(run)
            self.optimizer.step()
            run.step += 1
            epoch.updates += 1
            run.set_loss(loss)
            self.vitals.after_step(run.loss)
            self.hooks.after_step(run)
        except StopIteration:  # a hook has had enough: training ends normally (SessionRunHook)
            run.request_stop("a hook ended the training")
            return False
        epoch.total += run.loss * examples
        epoch.examples += examples
        every = self.task.validate_every_steps
        if run.stop_reason is None and every and run.step % every == 0 and not last:
            self._report(self._validate(), epoch_end=False)
        return run.stop_reason is None

    def end_epoch(self, outputs: Sequence[tuple[Tensor, Tensor]] | None = None) -> list[Report]:
        """Validate; the reports of the epoch.

        `outputs` are those for the validation data beside their targets, where they are known.
        """
        epoch = self._epoch
        self.run.epoch += 1
        first = self.optimizer.param_groups[0]
        metrics = {
            "train_loss": epoch.total / max(epoch.examples, 1),
            "lr": float(first["lr"]) / first.get("lr_scale", 1.0),
            "grad_norm": self.grad_norm,
            "examples_per_second": epoch.examples / max(time.perf_counter() - epoch.began, 1e-9),
            "parameters": float(self.parameters),
        }
        validation = self._validate(outputs)
        inside = self.vitals.end_epoch(look=self._observed(self.run.epoch))
        self._report({**validation, **metrics, **inside}, epoch_end=True)
        value = self._value(self.reports[-1].metrics)
        if not math.isfinite(value):
            raise Infeasible(f"{self.task.metric} = {value} after epoch {self.run.epoch}")
        if self.plateau is not None:
            self.plateau.update(value)
        if value < self.best_value:
            self.best_value, self.best_epoch = value, self.run.epoch
            self.best_weights = self._judged_weights()
        if self.ended:
            self.hooks.end(self.run)
        self.seconds = time.perf_counter() - self._started
        return self.reports[epoch.first_report :]

    def _observed(self, epoch: int) -> bool:
        return self.task.observe and observed(epoch, self.max_epochs)

    def backward(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Gradients of the mean loss over a batch, in `accumulate` parts; the detached loss."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        if self.device.type != "cpu":
            batch = tuple(part.to(self.device, non_blocking=True) for part in batch)
        if self.accumulate == 1:
            *inputs, target = batch
            loss = self.loss_function(self.model(*inputs), target)
            loss.backward()
            return loss.detach()
        losses = []
        for *inputs, target in zip(*(part.chunk(self.accumulate) for part in batch), strict=True):
            share = self.task.weight(target) / max(self.task.weight(batch[-1]), 1)
            loss = self.loss_function(self.model(*inputs), target) * share
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _validate(self, outputs: Sequence[tuple[Tensor, Tensor]] | None = None) -> dict[str, float]:
        with self.average.swapped(self.model) if self.average is not None else nullcontext():
            if outputs is None:
                results = evaluate(self.task, self.model, self.task.validation, self.device)
            else:
                results = judge(self.task, outputs)
                results |= scored(self.task, self.model, self.task.validation, self.device)
            metrics = {f"val_{name}": value for name, value in results.items()}
            self.run.metrics = metrics
            try:
                self.hooks.after_validation(self.run)  # sees the weights that were judged
            except StopIteration:
                self.run.request_stop("a hook ended the training")
        return metrics

    def _report(self, metrics: dict[str, float], epoch_end: bool) -> None:
        run, seconds = self.run, time.perf_counter() - self._started
        self.reports.append(Report(self.job.trial, run.epoch, run.step, metrics, seconds, epoch_end))

    def _value(self, metrics: dict[str, float]) -> float:
        value = metrics.get(self.task.metric, math.nan)
        return -value if self.task.direction == "maximize" else value

    def _judged_weights(self) -> dict[str, Tensor]:
        """A copy of the weights that validation judged: the average where they are averaged."""
        with self.average.swapped(self.model) if self.average is not None else nullcontext():
            return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def save(self, folder: Path) -> None:
        """Write all that is needed to continue exactly from the end of this epoch."""
        weights = self.model.state_dict()
        if self.best_weights:
            checkpoint.save_best(folder, self.best_epoch, self.best_weights)
            self.best_weights = {}
        checkpoint.save(folder, self.run.epoch, weights, self.state_dict())
        if self.hooks.need_checkpoints:
            self.checkpoint = self.run.step, {name: tensor.clone() for name, tensor in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "identity": identity(self.job),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state_dict() if self.plateau is not None else {},
            "hooks": self.hooks.state_dict(),
            "random": self.random_state,
            "reports": [[r.epoch, r.step, r.metrics, r.seconds, r.epoch_end] for r in self.reports],
            "epoch": self.run.epoch,
            "step": self.run.step,
            "stop_reason": self.run.stop_reason,
            "best": [self.best_value, self.best_epoch],
            "seconds": self.seconds,
        }

    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue from what `save` wrote. Raises CheckpointError when it is of another network or hooks."""
        self._load_network(weights, state)
        self.random_state = state["random"]
        self.reports = [Report(self.job.trial, *values) for values in state["reports"]]
        self.run.epoch, self.run.step = state["epoch"], state["step"]
        self.run.stop_reason = state["stop_reason"]
        self.best_value, self.best_epoch = state["best"]
        self.seconds = state["seconds"]
        if self.hooks.need_checkpoints:
            self.checkpoint = self.run.step, weights

    def begin_as_copy(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Begin with what `save` wrote of the parent: network, optimiser, hooks and epochs.

        The hyperparameters, the random numbers and the order of the data are this trial's own, and so is what it
        measures from here on. Raises TaskError where the checkpoint is of another network, optimiser or hooks.
        """
        try:
            with keep_settings(self.optimizer):
                self._load_network(weights, state)
        except CheckpointError as cause:
            raise TaskError(
                f"Trial {self.job.trial} cannot begin as a copy of trial {self.job.parent}: they differ in more "
                f"than values of the training: {cause}"
            ) from cause
        self.run.epoch, self.run.step = self.job.born, self.job.born * self.batches.steps_per_epoch
        if self.hooks.need_checkpoints:
            self.checkpoint = self.run.step, weights

    def _load_network(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(weights)
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as cause:
            raise CheckpointError(
                f"Trial {self.job.trial} cannot be continued: its checkpoint is of another network ({cause}). "
                "Has the model changed since? Start a study with another name."
            ) from cause
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])
        self.hooks.load_state_dict(state["hooks"])

    @contextmanager
    def own_randomness(self) -> Iterator[None]:
        """Within it, the global generators are this trial's."""
        with randomness.apart():
            randomness.set_state(self.random_state)
            yield
            self.random_state = randomness.get_state()


def measured(task: Task) -> list[str]:
    """The metrics that every trial of a task reports after every epoch."""
    judged = (f"val_{name}" for name in ("loss", *task.metric_functions, *task.scores))
    return [*judged, "train_loss", "lr", "grad_norm", "examples_per_second", "parameters"]


class TaskRunner:
    """Runs the trials of a task one epoch at a time, with a checkpoint after each."""

    lanes = 1

    def __init__(self, task: Task, root: Path) -> None:
        self.task, self.root = task, root
        self._live: Training | None = None

    def run(self, jobs: Sequence[Job], send: Send) -> list[Event]:
        return [self._run(jobs[0], send)]

    def _run(self, job: Job, send: Send) -> Outcome:
        folder = checkpoint.trial_folder(self.root, job.trial)
        training = None
        try:
            live = self._live
            still_there = live is not None and identity(live.job) == identity(job)
            training = live if live is not None and still_there else take_up(self.task, job, folder, send)
            while training.run.epoch < job.until_epoch and not training.ended:
                reports = training.train_epoch()
                training.save(folder)
                for report in reports:
                    send(report)
        except CheckpointError:
            raise
        except Exception as error:
            self._live = None
            return failure(job, training, error, send)
        self._live = None if training.ended else training
        return outcome(job, training)


def take_up(task: Task, job: Job, folder: Path, send: Send) -> Training:
    """The trial where it stands: from its checkpoint, its parent's, or new."""
    training = Training(task, job)
    stored = checkpoint.latest(folder)
    if stored is not None and stored[1].get("identity") == identity(job):
        training.load(*stored)
        for report in training.reports:  # some may have been lost with the process that measured them
            send(report)
    elif job.parent is not None:
        if stored is None or (stored[1]["identity"][0], stored[1]["epoch"]) != (job.parent, job.born):
            raise TaskError(f"The checkpoint of trial {job.parent} after {job.born} epochs is gone or damaged.")
        training.begin_as_copy(*stored)
    return training


@contextmanager
def keep_settings(optimizer: optim.Optimizer) -> Iterator[None]:
    """What is loaded inside changes the state of an optimiser, and not its hyperparameters."""
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    yield
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)


def outcome(job: Job, training: Training) -> Outcome:
    """How a job ended that trained as far as it should, or no longer wants to."""
    run = training.run
    if run.stop_reason is not None:
        return Outcome(job.trial, Status.CONVERGED, run.epoch, run.stop_reason)
    return Outcome(job.trial, Status.DONE if training.ended else Status.PAUSED, run.epoch)


def identity(job: Job) -> list[Any]:
    return [job.trial, job.config.key(), job.seed, job.max_epochs]  # a parent is known by its child's number


def failure(job: Job, training: Training | None, error: Exception, send: Send) -> Outcome:
    """How a job ended that raised."""
    epoch = training.run.epoch if training is not None else job.born
    for report in training.reports if training is not None else ():
        send(report)  # the loss of the untrained network is known even now
    if isinstance(error, Infeasible):
        return Outcome(job.trial, Status.INFEASIBLE, epoch, str(error))
    if is_out_of_memory(error):
        step = training.run.step if training is not None else 0
        return Outcome(job.trial, Status.INFEASIBLE, epoch, f"out of memory at step {step}")
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return Outcome(job.trial, Status.FAILED, epoch, reason, "".join(traceback.format_exception(error)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the accelerator or in the main memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def _built(task: Task, config: Config) -> nn.Module:
    model = task.model(config)
    if not isinstance(model, nn.Module):
        raise TaskError(f"model(config) gave a {type(model).__name__}; it must return a torch.nn.Module.")
    return model


def _own_hooks(task: Task, config: Config) -> list[Hook]:
    """The hooks that a configuration asks for, and the guard against NaN."""
    hooks: list[Hook] = []
    if (norm := config.get("clip_norm")) is not None:
        hooks.append(ClipGradients(max_norm=norm))
    if (decay := config.get("ema")) is not None and decay:
        hooks.append(WeightAverage(decay=decay))
    hooks.append(StopOnNaN())
    if config.get("patience") is not None:
        patience = _whole(config, "patience", 0)
        mode: Mode = "max" if task.direction == "maximize" else "min"
        hooks.append(  # without its own copy of the best weights: the trial keeps them
            EarlyStopping(task.metric, patience=patience, unit="epochs", mode=mode, restore_best=False)
        )
    return hooks


def _whole(config: Config, name: str, default: int) -> int:
    value = config.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TaskError(f"{name}={value!r}: give a whole number from 1.")
    return value


def _grad_norm(model: nn.Module) -> float:
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(grads)) if grads else math.nan


class Recorder(Config):
    """A configuration that notes which of its hyperparameters are read."""

    __slots__ = ("read",)

    def __init__(self, values: Config) -> None:
        super().__init__(dict(values))
        object.__setattr__(self, "read", set())

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            self.read.add(name)
        return super().__getattr__(name)

    def __iter__(self) -> Iterator[str]:
        self.read.update(self._values)  # `**config` or a loop reads everything
        return super().__iter__()


def check(task: Task, config: Config) -> None:
    """Make one trial ready without training it, try it on a few examples, and see who reads each hyperparameter.

    Raises TaskError for a misspelt hyperparameter, a model that cannot be built, or data that do not fit it, and
    SettingError for a setting of a hook.
    """
    recorder = Recorder(config)
    try:
        training = Training(task, Job(0, recorder, seed=0, until_epoch=1, max_epochs=1))
    except RheostatError:
        raise
    except Exception as cause:  # the user's model may raise anything
        if is_out_of_memory(cause):
            return  # this configuration is infeasible; others may not be
        raise TaskError(
            f"The network cannot be built: {type(cause).__name__}: {cause}. Configuration: {dict(config)}.\n\n"
            f"{traceback.format_exc()}"
        ) from cause
    known = recorder.read | optimizers.all_reads() | rates.all_reads()
    for name in config:
        if name not in known:
            raise TaskError(
                unknown("hyperparameter", name, sorted(known)) + " Neither the trainer nor the model reads it."
            )
    _try_on_a_few(task, training)


def _try_on_a_few(task: Task, training: Training) -> None:
    excerpt = few(task.validation)
    if excerpt is None:
        return
    try:
        evaluate(task, training.model, excerpt, training.device)
    except Exception as cause:  # the user's model, loss and metrics may raise anything
        *inputs, target = next(iter(chunks(excerpt, 8)))
        raise TaskError(
            f"The network cannot be applied to the validation data: {type(cause).__name__}: {cause}. Its inputs have "
            f"shapes {[tuple(t.shape[1:]) for t in inputs]} and its targets {tuple(target.shape[1:])} "
            f"({target.dtype}); see that model, loss and metrics fit them."
        ) from cause
