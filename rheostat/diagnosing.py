"""The trials of a study diagnosed: from what is recorded of them, and from counterfactuals that are trained for it.

Reading records needs no torch, which takes longer to load than a thousand trials to diagnose.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rheostat.analysis.advice import advise
from rheostat.analysis.rules.base import Advice, Forecast
from rheostat.diagnose.base import Diagnosis, Observations
from rheostat.diagnose.catalogue import PATHOLOGIES
from rheostat.diagnose.classifier import probabilities_of
from rheostat.diagnose.diagnosis import diagnose
from rheostat.diagnose.observations import from_reports
from rheostat.errors import SettingError, SpaceError, StudyError
from rheostat.probe.counterfactual import FORKS, effects
from rheostat.records.store import Records, StudyRecord, TrialRow, existing
from rheostat.results import TrialResult, best_of, eligible, objectives, record_of, results
from rheostat.show import text
from rheostat.show.diagnosis import FAILED, answer, commonest, counts_table, describe, words
from rheostat.types import UNLIMITED, Config, Notice, Report, Status

if TYPE_CHECKING:
    from rheostat.study import Study
    from rheostat.train.task import Task


@dataclass(frozen=True)
class Diagnosed:
    """A trial, what is thought of it, and what the counterfactuals did that were trained of it (`effects`)."""

    trial: TrialResult
    diagnosis: Diagnosis
    effects: Mapping[str, float] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The name of the cause, "healthy", "unsure", or "failed" where an exception ended it."""
        return FAILED if self.trial.status is Status.FAILED else answer(self.diagnosis)


def diagnose_study(study: Study, trial: int | None = None) -> list[Diagnosed]:
    """What is wrong with each trial of a study, or with one of them, from its records alone.

    Counterfactuals that were trained of a trial count to its evidence, and are not diagnosed themselves. Raises
    StudyError for a trial that there is not.
    """
    return diagnose_records(study.records, study.record, trial)


def probe(study: Study, trial: int, task: Task) -> Diagnosed:
    """Train the counterfactuals of a trial as far as they were not yet, and diagnose it again.

    `task` is that of the study. They are recorded as trials of it (`rheostat/forking.py`). Raises StudyError for a
    trial that Rheostat did not train, and TaskError where no counterfactual could be trained.
    """
    from rheostat.forking import train_arms

    train_arms(study, trial, task)
    return diagnose_study(study, trial)[0]


def improve(study: Study, task: Task, share: float) -> list[Config]:
    """Train counterfactuals where they may help most, and queue what they say would be better; the configurations.

    First of the best trial, then of those about which diagnosis is unsure, the better first. All together takes no
    more than this share of the epochs that the study has trained, the queued configurations among it; what earlier
    calls took counts. One that the space does not hold, or that was tried, is not queued. Raises SettingError where
    the share is not between 0 and 1.
    """
    from rheostat.forking import cost

    if not 0 < share < 1:
        raise SettingError(f"diagnose={share!r}: give a share of the epochs, such as 0.1.")
    trials = study.trials
    left = int(share * sum(t.epochs for t in trials if not t.arm)) - sum(t.epochs for t in trials if t.arm)
    tried = {trial.config for trial in trials}
    queued: list[Config] = []
    for one in _in_doubt(diagnose_study(study), study):
        if one.effects or left < cost(study, one.trial):
            continue
        left -= cost(study, one.trial)
        better = _better(study, probe(study, one.trial.number, task))
        if better is not None and better not in tried and left >= (epochs := study.record.settings["epochs"]):
            study.enqueue(better)
            words = f"to be tried after a probe of trial {one.trial.number}: {text.settings(better)}"
            study.records.log(study.record, [Notice("probe", words, one.trial.number)])
            left -= epochs
            tried.add(better)
            queued.append(better)
    return queued


def _in_doubt(found: Sequence[Diagnosed], study: Study) -> list[Diagnosed]:
    """The best trial, and those about which there is doubt, from the best value on."""
    able = {trial.number for trial in eligible([one.trial for one in found])}
    ranked = sorted(
        (one for one in found if one.trial.number in able),
        key=lambda one: (objectives(one.trial, study.direction, study.goals), one.trial.number),
    )
    return [one for place, one in enumerate(ranked) if not place or not one.diagnosis.sure]


def _better(study: Study, one: Diagnosed) -> Config | None:
    """What the first advice makes of the configuration, where it can be relied upon and the space holds it."""
    if one.answer not in PATHOLOGIES or not one.diagnosis.causes[0].advice.automatic:
        return None
    try:
        return study.space.complete(one.diagnosis.causes[0].advice.apply(one.trial.config))
    except SpaceError:
        return None


def diagnose_records(records: Records, study: StudyRecord, trial: int | None = None) -> list[Diagnosed]:
    """`diagnose_study` for who has the records alone. Trials of which nothing is known yet are left out."""
    with records.one_moment():
        rows = [row for row in records.trials(study) if trial in (None, row.number, row.parent if row.arm else None)]
        numbers = [None] if trial is None else [row.number for row in rows]
        reports: dict[int, list[Report]] = {}
        for report in chain.from_iterable(records.reports(study, number) for number in numbers):
            reports.setdefault(report.trial, []).append(report)
        if trial is not None and not any(row.number == trial and not row.arm for row in rows):
            raise StudyError(_no_trial(study, records.trials(study), trial))
    wanted = [row for row in rows if not row.arm and (trial is not None or row.status.ended or row.number in reports)]
    seen = {row.number: _observed(row, reports.get(row.number, ()), study) for row in rows}
    arms: dict[int | None, dict[str, TrialRow]] = {}
    for row in rows:  # of an arm that was trained twice, the last counts
        if row.arm and _says_something(row):
            arms.setdefault(row.parent, {})[row.arm] = row
    changed = [_effects(row, arms.get(row.number, {}), seen) for row in wanted]
    chances = probabilities_of([seen[row.number] for row in wanted], changed)
    told = chain.from_iterable(reports.values())
    found = results(wanted, told, study.metric, study.direction, study.goals)
    return [
        Diagnosed(result, diagnose(seen[result.number], chance), effect)
        for result, chance, effect in zip(found, chances, changed, strict=True)
    ]


def study_advice(
    study: StudyRecord, trials: Sequence[TrialResult], validation_size: int | None, forecast: Forecast | None = None
) -> list[Advice]:
    """What the study as a whole suggests to try next; `forecast` is what more trials would gain, where it is known."""
    records = [record_of(trial, study.metric, study.direction, study.goals) for trial in trials if not trial.arm]
    good = [record for record in records if record.keeps_limits]  # others do not show what is good
    sign = -1 if study.direction == "maximize" else 1
    return advise(study.space, good, study.settings.get("epochs"), study.metric, sign, validation_size, forecast)


def _no_trial(study: StudyRecord, rows: Sequence[TrialRow], trial: int) -> str:
    if trial < len(rows) and rows[trial].arm:
        return f"Trial {trial} is a probe of trial {rows[trial].parent}: diagnose that one."
    numbers = f"it has trials 0 to {len(rows) - 1}" if rows else "it has none yet"
    return f"Study {study.name!r} has no trial {trial}: {numbers}."


def _observed(row: TrialRow, reports: Sequence[Report], study: StudyRecord) -> Observations:
    epochs = study.settings.get("epochs", UNLIMITED)
    return from_reports(reports, row.config, row.status, row.reason, 0 if epochs == UNLIMITED else epochs)


def _effects(trial: TrialRow, arms: Mapping[str, TrialRow], seen: Mapping[int, Observations]) -> dict[str, float]:
    """What the counterfactuals of a trial did; empty where that says nothing."""
    born = max((row.born for name, row in arms.items() if name in FORKS), default=0)
    parent = seen[trial.number].until(born) if born else seen[trial.number]
    found = effects(parent, {name: seen[row.number] for name, row in arms.items()})
    return {} if all(map(math.isnan, found.values())) else found


def _says_something(row: TrialRow) -> bool:
    """One that failed, or for which there was no memory, does not; one that diverged does."""
    diverged = row.status is Status.INFEASIBLE and not row.reason.startswith("out of memory")
    return diverged or row.status in (Status.DONE, Status.CONVERGED)


# -- the command ---------------------------------------------------------------------------------------------


def show(name: str, trial: int | None, probing: bool, storage: str | Path | None, as_json: bool) -> None:
    """What `rheostat diagnose` does and prints."""
    if probing:
        trial = _probe_target(name, trial, storage)
    with existing(storage) as records:
        study = records.study(name)
        found = diagnose_records(records, study, trial)
        command = f"rheostat diagnose {name} {{}} --probe" + (f" --storage {storage}" if storage else "")
    if trial is not None:
        one = found[0]
        if as_json:
            text.print_json(_described(one))
        else:
            text.show(f"trial {trial} of {name}\n{words(one.diagnosis, command.format(trial), one.effects)}")
        return
    advice = study_advice(study, [one.trial for one in found], _validation_size(found))
    if as_json:
        described = [_described(one) for one in found]
        counts = dict(Counter(one.answer for one in found))
        text.print_json({"study": name, "counts": counts, "trials": described, "advice": [a.text for a in advice]})
        return
    _show_study(study, found, advice, command)


def _validation_size(found: Sequence[Diagnosed]) -> int | None:
    """As the first report of a trial says."""
    sizes = (one.trial.reports[0].metrics.get("validation_examples") for one in found if one.trial.reports)
    return next((int(size) for size in sizes if size is not None), None)


def _described(one: Diagnosed) -> dict[str, Any]:
    return {"trial": one.trial.number, **describe(one.diagnosis, one.effects)}


def _probe_target(name: str, trial: int | None, storage: str | Path | None) -> int:
    """Train the counterfactuals of a trial, by default of the best; its number."""
    from rheostat.study import Study
    from rheostat.targets import load_target

    study = Study.load(name, storage)
    if not study.record.target:
        raise StudyError(f"Study {name!r} was made from Python: call rheostat.diagnosing.probe with its task.")
    number = study.best.number if trial is None else trial
    text.show(f"Training trial {number} on in other ways, and a few others anew ...", sys.stderr)
    probe(study, number, load_target(**study.record.target).task)
    return number


def _show_study(study: StudyRecord, found: Sequence[Diagnosed], advice: Sequence[Advice], command: str) -> None:
    """Counts of verdicts, the best trial in full, the commonest cause of the others, and what to try next."""
    if not found:
        raise StudyError(f"Study {study.name!r} has no trials yet.")
    answers = {one.trial.number: one.answer for one in found}
    by_number = {one.trial.number: one for one in found}
    text.show(f"{study.name}  {study.direction} {study.metric}  {len(found)} trials\n")
    text.show(counts_table(answers))
    best = best_of([one.trial for one in found], study.direction, study.goals)
    if best is not None:
        value = "" if best.value is None else f", {study.metric} {text.number(best.value)}"
        one = by_number.pop(best.number)
        text.show(f"\nthe best, trial {best.number}{value}")
        text.show(words(one.diagnosis, command.format(best.number), one.effects))
    numbers = commonest({number: answers[number] for number in by_number})
    if numbers:
        example = best_of([by_number[n].trial for n in numbers], study.direction, study.goals)
        one = by_number[numbers[0] if example is None else example.number]
        cause = one.diagnosis.causes[0]
        text.show(f"\nmost often of the others, {len(numbers)} of {len(by_number)}: {cause.title}")
        text.show(f"trial {one.trial.number}  {one.diagnosis.verdict}")
    text.show("".join(f"\ntry next  {a.text}" for a in advice) + f"\nmore      rheostat diagnose {study.name} TRIAL")
