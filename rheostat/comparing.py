"""Which value of a hyperparameter is better, when the others are tuned for each? Controlled comparisons.

The method is that of the Deep Learning Tuning Playbook (Godbole et al. 2023: scientific, nuisance and fixed
hyperparameters). Each value is an arm. Its nuisance hyperparameters are tuned in a study of its own, with the same
budget, first points and seeds in every arm; its two best configurations are trained again with fresh seeds, the same in
every arm, and judged on held-out data; and a test that knows all of this compares the arms with one of them
(`rheostat.analysis.comparison` says how).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rheostat import arms as design
from rheostat import hyperparameters
from rheostat.analysis.compared import ArmResult, Comparison
from rheostat.analysis.comparison import Difference, Estimate, Judgement, judge
from rheostat.arms import Arm
from rheostat.bench import ArmRun, Bench, best_report
from rheostat.data.base import TokenStream
from rheostat.errors import SettingError, TaskError, unknown
from rheostat.show.text import number
from rheostat.space import Choice, Hyperparameter, Space
from rheostat.train import held_out
from rheostat.train.task import Data, Task, pick_device
from rheostat.types import Scalar

EQUAL = ("epochs", "seconds", "parameters")
EPOCHS = 20
Interval = TypeVar("Interval", Estimate, Difference)


def compare(
    task: Task | str,
    space: Space | Mapping[str, Hyperparameter | Scalar] | None = None,
    *,
    vary: Mapping[str, Sequence[Scalar]],
    nuisance: Sequence[str] | None = None,
    lr: str = "tuned",
    trials: int = 8,
    epochs: int | None = None,
    seeds: int = 5,
    equal: str = "epochs",
    reference: Scalar = None,
    level: float = 0.05,
    name: str | None = None,
    question: str = "",
    seed: int = 0,
    storage: str | Path | None = None,
    workers: int | None = None,
    threads: int = 1,
    engine: str = "auto",
    target: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = print,
) -> Comparison:
    """Compare values of one hyperparameter, `vary={"layers": [1, 2, 3, 4]}`, with others tuned for each.

    `task` and `space` are those of `rheostat.tune`. `nuisance` names what is tuned for each value, in `trials` trials
    of `epochs` epochs: without it lr, where the space does not fix it, and where the space tunes them weight_decay
    from ten trials on, and the schedule from 25. All else is fixed at its value in the space, given or likeliest. The
    two best configurations of each value are then trained with `seeds` fresh seeds and judged on the test data, where
    there are any, else on the validation data. Each value is compared with `reference` (the first), and called better
    or worse where chance makes any difference as large with a probability of `level` at most.

    `equal` is what arms have equal: "epochs"; "seconds", for which epochs are scaled by the time of a short training,
    so that every arm trains as long as the reference; or "parameters", for which the width of the network is chosen.
    `lr` is "tuned", or what becomes in the other arms of the rate that was tuned for the reference: it is "fixed", or
    follows the varied value, "linear" or by its "sqrt". With "default" all arms have their optimiser's defaults.

    Everything is recorded, in studies named `name-...`: the same call again goes on, and trains nothing twice. `tell`
    gets a line for each arm. An arm that diverges is a result.

    Raises SettingError for arguments that do not fit together, TaskError, DataError or SpaceError where nothing can be
    trained, and StudyError where it was stopped, or earlier studies of this name were made with other settings.
    """
    if isinstance(task, str):
        from rheostat.targets import load_target  # readers are not needed where a Task is given

        target = target or {"target": task}
        loaded = load_target(**target)
        task, epochs = loaded.task, loaded.epochs if epochs is None else epochs
        space = loaded.space if space is None else space
    space = space if isinstance(space, Space) else Space(space)
    epochs = EPOCHS if epochs is None else epochs
    varied, values = _checked_vary(vary)
    base = _place(values, reference)
    _check(task, trials, seeds, epochs, equal, lr, level)
    tuned = () if lr == "default" else design.nuisance_of(space, varied, trials, nuisance)
    arms = [Arm(varied, value, design.arm_space(space, varied, value, tuned, lr), epochs) for value in values]
    name = name or "-".join([task.name, varied, *([f"equal-{equal}"] if equal != "epochs" else [])])
    bench = Bench(task, name, trials, seeds, seed, storage, workers, threads, engine, target or {}, tell)
    if equal == "parameters":
        arms = design.with_equal_parameters(task, arms, base)
    elif equal == "seconds":
        arms = _with_equal_seconds(bench, arms, base)
    found = concluded(bench, _trained(bench, arms, base, lr), base, level)
    return replace(found, nuisance=tuned, equal=equal, lr=lr, question=question)


def run_compare(
    task: Task,
    space: Space,
    *,
    vary: Mapping[str, Sequence[Scalar]] | None = None,
    question: str | None = None,
    nuisance: Sequence[str] | None = None,
    lr: str | None = None,
    trials: int = 8,
    epochs: int | None = None,
    seeds: int = 5,
    equal: str = "epochs",
    reference: Scalar = None,
    level: float = 0.05,
    name: str | None = None,
    seed: int = 0,
    storage: str | Path | None = None,
    workers: int | None = None,
    threads: int = 1,
    engine: str = "auto",
    target: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = print,
) -> list[Comparison]:
    """`compare` for the command line: of values, or a ready-made question, which may take several comparisons.

    Raises SettingError where both or neither are given, or the question does not fit the network; else as `compare`.
    """
    if (vary is None) == (question is None):
        raise SettingError("What is to be compared? Give either --vary NAME=VALUE,VALUE or --question NAME.")
    rules: Sequence[str] = (lr or "tuned",)
    if question is not None:
        from rheostat.questions import applied

        asked, varies = applied(question, task, space)
        vary = {varies.name: varies.values}
        reference = varies.reference if reference is None else reference
        rules = asked.lr if lr is None else rules
    assert vary is not None
    return [
        compare(
            task,
            space,
            vary=vary,
            nuisance=nuisance,
            lr=rule,
            trials=trials,
            epochs=epochs,
            seeds=seeds,
            equal=equal,
            reference=reference,
            level=level,
            name=name,
            question=question or "",
            seed=seed,
            storage=storage,
            workers=workers,
            threads=threads,
            engine=engine,
            target=target,
            tell=tell,
        )
        for rule in rules
    ]


def concluded(bench: Bench, runs: Sequence[ArmRun], reference: int, level: float) -> Comparison:
    """What the runs of the arms say."""
    task, arms = bench.task, [run.arm for run in runs]
    alike, unlike = _fixed(arms)
    judgements = judge([run.measured(task.direction) for run in runs], reference, level)
    return Comparison(
        bench.name,
        arms[reference].varied,
        tuple(_result(task, *pair) for pair in zip(runs, judgements, strict=True)),
        reference,
        task.metric.removeprefix("val_"),
        task.direction,
        _judged_on(task),
        tuple(arms[reference].space.tuned),
        alike,
        bench.trials,
        bench.seeds,
        arms[reference].epochs,
        level=level,
        memory=_memory_words(task),
        notes=unlike,
    )


def _fixed(arms: Sequence[Arm]) -> tuple[dict[str, Scalar], tuple[str, ...]]:
    """What is fixed at the same value in all arms, and in words what is fixed at different ones."""
    alike: dict[str, Scalar] = {}
    unlike = []
    for name in dict.fromkeys(name for arm in arms for name in arm.space.fixed if name != arm.varied):
        values = [arm.space.fixed[name] for arm in arms if name in arm.space.fixed]
        if len(set(values)) == 1:
            alike[name] = values[0]
        elif name != "lr":  # which stands in the table
            each = (f"{number(arm.space.fixed[name])} with {arm.value}" for arm in arms if name in arm.space.fixed)
            unlike.append(f"{name} is {', '.join(each)}")
    return alike, tuple(unlike)


def _checked_vary(vary: Mapping[str, Sequence[Scalar]]) -> tuple[str, tuple[Scalar, ...]]:
    """The one hyperparameter and its values."""
    if len(vary) != 1:
        raise SettingError(f"vary={dict(vary)!r}: one hyperparameter is compared at a time. Give one, with its values.")
    ((varied, given),) = vary.items()
    values = tuple(_meant(varied, value) for value in ([given] if isinstance(given, str) else given))
    if len(values) < 2 or len({(type(value), value) for value in values}) < len(values):
        raise SettingError(f"vary {varied}={list(values)!r}: give two or more different values.")
    return varied, values


def _meant(name: str, value: Scalar) -> Scalar:
    """The word "none" rather than no value, where that is one of the choices: attention, norm."""
    if value is not None or name not in hyperparameters.names():
        return value
    known = hyperparameters.get(name).range
    return "none" if isinstance(known, Choice) and "none" in known.values else value


def _place(values: Sequence[Scalar], reference: Scalar) -> int:
    if reference is None:
        return 0
    places = [i for i, value in enumerate(values) if value == reference]
    if not places:
        raise SettingError(unknown("reference", reference, values))
    return places[0]


def _check(task: Task, trials: int, seeds: int, epochs: int, equal: str, lr: str, level: float) -> None:
    for what, count, least in (("trials", trials, 1), ("seeds", seeds, 2), ("epochs", epochs, 1)):
        if not isinstance(count, int) or count < least:
            raise SettingError(f"{what}={count!r}: give a whole number, at least {least}.")
    if not 0 < level < 1:
        raise SettingError(f"level={level!r}: give a probability, such as 0.05.")
    for what, given, known in (("equal", equal, EQUAL), ("lr", lr, design.RULES)):
        if given not in known:
            raise SettingError(unknown(what, given, known))
    if not task.metric.startswith("val_"):
        raise SettingError(f"The task is tuned for {task.metric}: arms are judged on held-out data, by a val_ metric.")


def _trained(bench: Bench, arms: Sequence[Arm], base: int, lr: str) -> list[ArmRun]:
    """All arms; where lr follows the reference's, that arm first. Raises TaskError where none can be trained."""
    runs: dict[int, ArmRun] = {}
    if lr in design.POWERS:
        runs[base] = bench.run(arms[base], finalists=1)
        if runs[base].finalists:
            config = runs[base].finalists[0]
            arms = [design.follow(arm, bench.task, config, lr) for arm in arms]
    for place, arm in enumerate(arms):
        if place not in runs:
            runs[place] = bench.run(arm)
    if all(run.failure for run in runs.values()):
        raise TaskError(runs[base].failure)
    return [runs[place] for place in range(len(arms))]


def _with_equal_seconds(bench: Bench, arms: Sequence[Arm], base: int) -> list[Arm]:
    """The arms with as many epochs as take the time that the reference trains for."""
    seconds = [bench.seconds_per_epoch(arm) for arm in arms]
    return [
        replace(arm, epochs=max(round(arm.epochs * seconds[base] / own), 1))
        for arm, own in zip(arms, seconds, strict=True)
    ]


def _result(task: Task, run: ArmRun, judgement: Judgement) -> ArmResult:
    """An arm, with values in the user's direction."""
    sign = -1 if task.direction == "maximize" else 1
    found = ArmResult(
        run.arm.value,
        judgement.verdict,
        _in_direction(judgement.estimate, sign),
        None if judgement.difference is None else _in_direction(judgement.difference, sign),
        tuning=tuple((t.config, math.nan if best_report(t) is None else t.value or 0.0) for t in run.trials),
        wider=len(run.wider),
        epochs=run.arm.epochs,
        notes=(*run.arm.notes, *_notes(run)),
    )
    if not run.finalists:
        return found
    place = judgement.order[0]
    config, trials = run.finalists[place], run.repeats[place]
    reports = [best_report(trial) for trial in trials]
    ended = [(t, r) for t, r in zip(trials, reports, strict=True) if r is not None]
    return replace(
        found,
        config=config,
        repeats=tuple(math.nan if report is None else report.metrics[held_out.VALUE] for report in reports),
        parameters=design.parameters(task, config),
        seconds=_median([trial.seconds for trial, _ in ended]),
        seconds_per_epoch=_median([trial.seconds / trial.epochs for trial, _ in ended]),
        memory_bytes=max((report.metrics[held_out.MEMORY] for _, report in ended), default=math.nan),
    )


def _in_direction(found: Interval, sign: int) -> Interval:
    """A value with its interval, turned round where the user's metric is maximised."""
    if sign > 0:
        return found
    return replace(found, value=-found.value, low=-found.high, high=-found.low)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def _notes(run: ArmRun) -> list[str]:
    notes = []
    if run.failure:
        notes.append(f"{run.arm.label} failed: {run.failure}")
    elif not run.finalists:
        notes.append(f"{run.arm.label} diverged in all of its {len(run.trials)} trials")
    if run.wider:
        reached = run.wider[-1].config[run.along]
        notes.append(
            f"{run.arm.label}: the best {run.along} lay at the end of those tried, so {len(run.wider)} more "
            f"trial{'s' if len(run.wider) > 1 else ''} went further, as far as {reached:.3g}"
        )
    return notes


def _judged_on(task: Task) -> str:
    data: Data = task.validation if task.test is None else task.test
    kind = "validation" if task.test is None else "test"
    count = held_out.examples(data)
    what = "tokens" if isinstance(data, TokenStream) else "examples"
    return f"{count:,} {kind} {what}" if count else f"{kind} data"


def _memory_words(task: Task) -> str:
    on_accelerator = pick_device(task.device).type != "cpu"
    return "the most in use on the accelerator" if on_accelerator else "parameters, gradients and optimiser state"
