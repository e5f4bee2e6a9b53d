"""What the commands do and print."""

from __future__ import annotations

import sys
import time
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rheostat.analysis.importance import Importances, importance
from rheostat.analysis.rules.base import Advice
from rheostat.confirming import Confirmation
from rheostat.confirming import confirm as confirm_best
from rheostat.diagnosing import study_advice
from rheostat.errors import RheostatError, SpaceError, StudyError, unknown
from rheostat.results import TrialResult, record_of
from rheostat.show import text
from rheostat.show.console import make_console
from rheostat.space import Choice, Float, Hyperparameter, Int, Space, part_from_description
from rheostat.study import Study
from rheostat.targets import Target, load_target
from rheostat.train.task import MAXIMISED, evaluate, pick_device
from rheostat.tuning import tune as tune_task
from rheostat.types import Report, Scalar, Status, TrialRecord


@dataclass(frozen=True)
class SpaceChanges:
    """What the command line makes of a target's default space."""

    file: Path | None = None
    fixed: Mapping[str, Scalar] = field(default_factory=dict)
    varied: Mapping[str, str] = field(default_factory=dict)

    def apply(self, space: Space) -> Space:
        """The space to search. Raises SpaceError for a name the space does not have, or a range in no known form."""
        if self.file is not None:
            space = space_from_toml(self.file)
        parts: dict[str, Hyperparameter | Scalar] = {**space.tuned, **space.fixed}
        for name, value in self.fixed.items():
            parts = _with_fixed(parts, name, _among(parts.get(name), value))
        for name, words in self.varied.items():
            parts[name] = _range(name, words, parts.get(name))
        return Space(parts)


def tune(
    *,
    target: Mapping[str, Any],
    changes: SpaceChanges,
    name: str | None,
    as_json: bool,
    storage: str | None,
    confirm: float | None,
    **settings: Any,
) -> None:
    """Tune a target, with a share of the epochs for `confirm` train its best again, and print what was found."""
    started = time.monotonic()
    loaded = load_target(**target)
    name = name or loaded.name
    for budget, usual in (("trials", loaded.trials), ("epochs", loaded.epochs)):
        if settings[budget] is None:
            settings[budget] = usual
    space = changes.apply(loaded.space)
    out = sys.stderr if as_json else sys.stdout
    watcher = make_console("plain" if as_json else "auto", out)
    for note in [*loaded.notes, *_continuing(name, storage, settings["trials"])]:
        text.show(note, out)
    study = tune_task(
        loaded.task,
        space,
        name=name,
        storage=storage,
        progress=watcher,
        first=loaded.first(space, settings["search"]),
        target={**target, "target": _absolute(str(target["target"]))},
        **settings,
    )
    confirmation = None
    if confirm is not None and study.state == "finished":
        text.show("Confirming: the best configurations again, with other seeds.", out)
        confirmation = confirm_best(
            study,
            loaded.task,
            share=confirm,
            workers=settings["workers"],
            progress=lambda: make_console("plain" if as_json else "auto", out),
        )
    _conclude(study, loaded, as_json, time.monotonic() - started, storage, confirmation)


def objective(words: str) -> tuple[str, str]:
    """A metric and its direction: `parameters`, `val_accuracy`, `examples_per_second=maximize`."""
    name, _, direction = words.partition("=")
    return name, direction or ("maximize" if name in MAXIMISED else "minimize")


def resume(study: Study) -> None:
    """Go on with a study that no process runs, as it was begun."""
    target = dict(study.record.target)
    settings = {name: value for name, value in study.record.settings.items() if name != "widened"}
    if not target:
        raise StudyError(f"Study {study.name!r} was made from Python: run its script again to go on with it.")
    loaded = load_target(**target)
    started = time.monotonic()
    settings["progress"] = make_console("auto", sys.stdout)
    study.train(loaded.task, **settings)
    _conclude(study, loaded, False, time.monotonic() - started, None)


def _conclude(
    study: Study,
    target: Target,
    as_json: bool,
    seconds: float,
    storage: str | None,
    confirmation: Confirmation | None = None,
) -> None:
    trials = study.trials
    counts = Counter(str(trial.status) for trial in trials)
    advice = _advice(study, trials, target.validation_size)
    try:
        best = study.best
    except StudyError:
        if any(trial.broken for trial in trials):
            raise
        why = _failures(trials) if study.state == "finished" else "Run the same command again to go on."
        raise StudyError(f"No trial of {study.name!r} gave a result. {why}") from None
    test = _test_value(study, target)
    if as_json:
        text.print_json(
            {
                "study": study.name,
                "storage": study.records.url,
                "metric": study.metric,
                "direction": study.direction,
                "best": {
                    "trial": best.number,
                    "value": best.value,
                    "epoch": best.epoch,
                    "config": dict(best.config),
                },
                "test": test,
                **_goals_json(study),
                "trials": dict(counts),
                "epochs": sum(trial.epochs for trial in trials),
                "seconds": round(seconds, 3),
                "advice": [a.text for a in advice],
                **({} if confirmation is None else {"confirmation": confirmation.describe()}),
            }
        )
        return
    show_best(study, False, storage)
    if study.goals.also:
        sign = -1 if study.direction == "maximize" else 1
        text.show("\nfront     no other trial is better in one objective and as good in the others")
        text.show(text.front_table(_records(trials, study), study.metric, sign, study.goals))
    held_out = f"{study.metric.removeprefix('val_')} {text.number(test)}" if test is not None else ""
    not_measured = "not measured (give --test FILE): a best validation value is optimistic"
    words = [] if confirmation is None else ["", *confirmation.words()]
    lines = [*words, f"\nheld out  {held_out or not_measured}", *(f"try next  {a.text}" for a in advice)]
    if study.state == "stopped":
        lines.append("go on     stopped before the end: run the same command again, and nothing is trained twice")
    more = (f"show {study.name} {best.number}", f"diagnose {study.name}", f"trials {study.name}")
    lines.append("more      " + " · ".join(f"rheostat {command}" for command in more))
    text.show("\n".join(lines))


def _goals_json(study: Study) -> dict[str, Any]:
    """The goals and the front; nothing for a study of one objective without limits."""
    if not study.goals:
        return {}
    described: dict[str, Any] = study.goals.describe()
    if study.goals.also:
        names = [study.metric, *(name for name, _ in study.goals.also)]
        described["front"] = [
            {
                "trial": trial.number,
                "values": {name: trial.also.get(name, trial.value) for name in names},
                "epoch": trial.epoch,
                "config": dict(trial.config),
            }
            for trial in study.front()
        ]
    return described


def _continuing(name: str, storage: str | None, trials: int) -> list[str]:
    """What is there already of a study of this name."""
    try:
        found = sum(not trial.arm for trial in Study.load(name, storage).trials)
    except RheostatError:
        return []
    if found >= trials:
        return [
            f"Study {name} has {found} trials already; give --trials {2 * found} for more, or --name for a new one."
        ]
    return [f"Continuing study {name}, which has {found} of {trials} trials."] if found else []


def _test_value(study: Study, target: Target) -> float | None:
    if target.task.test is None:
        return None
    device = pick_device(target.task.device)
    model = study.best.load(target.task.model).to(device)
    task = replace(target.task, scores={**target.task.scores, **target.final})
    return evaluate(task, model, target.task.test, device)[study.metric.removeprefix("val_")]


def _advice(study: Study, trials: Sequence[TrialResult], validation_size: int | None) -> list[Advice]:
    return study_advice(study.record, trials, validation_size, None if study.goals else study.outlook())


def _importance(study: Study, trials: Sequence[TrialResult]) -> Importances | None:
    return importance(study.space, [record for record in _records(trials, study) if not record.arm])


def _records(trials: Sequence[TrialResult], study: Study) -> list[TrialRecord]:
    return [record_of(trial, study.metric, study.direction, study.goals) for trial in trials]


def _failures(trials: Sequence[TrialResult]) -> str:
    reasons = Counter(t.reason for t in trials if t.status in (Status.FAILED, Status.INFEASIBLE))
    return "Why: " + "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3)) + "."


# -- reading a study -----------------------------------------------------------------------------------------


def show_best(study: Study, as_json: bool, storage: str | None = None) -> None:
    best = study.best
    if as_json:
        text.print_json(trial_json(best.trial))
        return
    print(f"best      {study.metric} {text.number(best.value)}  trial {best.number}, epoch {best.epoch}")
    width = max(map(len, best.config))
    for name in sorted(best.config):
        print(f"          {name:<{width}} = {best.config[name]!r}")
    print(f"\n{text.code_to_use(study.name, storage)}")


def list_trials(study: Study, as_json: bool) -> None:
    if as_json:
        text.print_json([trial_json(trial) for trial in study.trials])
        return
    sign = -1 if study.direction == "maximize" else 1
    text.show(text.trials_table(_records(study.trials, study), study.metric, sign, goals=study.goals))


def show_study(study: Study, as_json: bool) -> None:
    trials = study.trials
    counts = Counter(str(trial.status) for trial in trials)
    matters = _importance(study, trials)
    if as_json:
        record = study.record
        text.print_json(
            {
                "study": study.name,
                "metric": study.metric,
                "direction": study.direction,
                "seed": study.seed,
                "space": study.space.describe(),
                "settings": dict(record.settings),
                "target": dict(record.target),
                "environment": {
                    "versions": record.environment.versions,
                    "hardware": record.environment.hardware,
                    "git_commit": record.environment.git_commit,
                    "data_fingerprint": record.environment.data_fingerprint,
                },
                **_goals_json(study),
                "trials": dict(counts),
                "importance": None if matters is None else asdict(matters),
                "events": [
                    {"time": at, "kind": notice.kind, "trial": notice.trial, "message": notice.message}
                    for at, notice in study.records.events(record)
                ],
            }
        )
        return
    print(f"{study.name}  {study.direction} {study.metric}  seed {study.seed}  {dict(counts)}")
    for name, direction in study.goals.also:
        print(f"  {'also':<16} {direction} {name}")
    for limit in study.goals.limits:
        print(f"  {'limit':<16} {limit}")
    for name, part in study.space.describe().items():
        share = "" if matters is None or name not in study.space else f"explains {matters[name]}"
        print(f"  {name:<16} {text.part(part):<{32 if share else 0}} {share}".rstrip())
    if matters is not None:
        text.show(f"  {'(explains)':<16} {matters}")
    for at, notice in study.records.events(study.record)[-10:]:
        print(f"  {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))}  {notice.kind}: {notice.message}")
    if trials:
        list_trials(study, False)


def show_network(study: Study, number: int, epochs: int | None, folder: Path | None, as_json: bool) -> None:
    from rheostat import looking

    if not study.record.target:
        raise StudyError(
            f"Study {study.name!r} was made from Python: call rheostat.looking.show_network with its task."
        )
    target, chosen = load_target(**study.record.target), _trial(study, number)
    if as_json:
        text.print_json(looking.network_json(study, chosen, target.task, epochs))
    else:
        looking.show_network(study, chosen, target.task, epochs, folder, target.vocabularies)


def _trial(study: Study, number: int) -> TrialResult:
    for trial in study.trials:
        if trial.number == number:
            return trial
    numbers = f"it has trials 0 to {len(study.trials) - 1}" if study.trials else "it has none yet"
    raise StudyError(f"Study {study.name!r} has no trial {number}: {numbers}.")


def show_trial(study: Study, number: int, as_json: bool) -> None:
    chosen = _trial(study, number)
    if as_json:
        text.print_json({**trial_json(chosen), "reports": [_report_json(report) for report in chosen.reports]})
        return
    value = "none" if chosen.value is None else f"{text.number(chosen.value)} at epoch {chosen.epoch}"
    print(f"trial {number} of {study.name}: {chosen.status}, {chosen.epochs} epochs, {study.metric} {value}")
    for words in filter(None, (chosen.reason, *chosen.broken)):
        print(f"  {words}")
    for name in sorted(chosen.config):
        print(f"  {name} = {chosen.config[name]!r}")
    text.show(text.reports_table(chosen.reports))
    if chosen.detail:
        print(chosen.detail)


def list_studies(storage: str | None, as_json: bool) -> None:
    from rheostat.records.store import Records, storage_url

    url = storage_url(storage)
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        if as_json:
            text.print_json([])
            return
        raise StudyError(f"No studies at {url}: run `rheostat tune` first, or give another --storage.")
    with Records(url) as records:
        names = [record.name for record in records.studies()]
    rows = [_study_row(Study.load(name, storage)) for name in names]
    if as_json:
        text.print_json(rows)
    else:
        text.show(text.studies_table(rows))


def _study_row(study: Study) -> dict[str, Any]:
    trials = study.trials
    measured = [t for t in trials if t.value is not None]
    running = study.records.coordinator(study.record) is not None
    return {
        "study": study.name,
        "metric": study.metric,
        "direction": study.direction,
        "running": running,
        "trials": dict(Counter(str(trial.status) for trial in trials)),
        "best": study.best.value if measured else None,
        "last_activity": study.records.last_activity(study.record),
    }


def enqueue(study: Study, given: Mapping[str, Scalar]) -> None:
    """Queue a configuration; what is not given is taken from the best trial."""
    for name in given:
        if name not in study.space.tuned and name not in study.space.fixed:
            raise SpaceError(unknown("hyperparameter", name, [*study.space.tuned, *study.space.fixed]))
    complete = study.space.tuned.keys() <= given.keys()
    merged = {**({} if complete else study.best.config), **study.space.fixed, **given}
    active = {n: v for n, v in merged.items() if n in given or n not in study.space or study.space.is_active(n, merged)}
    study.enqueue(active)
    print(f"Queued. It is tried next while {study.name} runs, or when you run it again.")


# -- spaces in text ------------------------------------------------------------------------------------------


def space_from_toml(path: Path) -> Space:
    """A space from a file: `lr = {low = 1e-5, high = 0.1, log = true}`, `optimizer = ["adam", "sgd"]`, `epochs = 20`.

    A table is a Float, or an Int where low and high are whole numbers and it does not say `type = "float"`.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as cause:
        raise SpaceError(f"--space {path}: {cause.strerror}. Give a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise SpaceError(
            f"--space {path} is not TOML: {cause}. A line reads lr = {{low = 1e-5, high = 0.1}}."
        ) from None
    return Space({name: _from_toml(name, value) for name, value in content.items()})


def _from_toml(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return Choice(value)
    if not isinstance(value, dict):
        return value
    whole = isinstance(value.get("low"), int) and isinstance(value.get("high"), int)
    kind = "choice" if "values" in value else "int" if whole else "float"
    return part_from_description(name, {"type": kind, **value})


def parse_value(text: str) -> Scalar:
    """What a person means by a text: 3 is a whole number, 1e-3 a number, true and none themselves."""
    words: dict[str, bool | None] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _with_fixed(
    parts: Mapping[str, Hyperparameter | Scalar], name: str, value: Scalar
) -> dict[str, Hyperparameter | Scalar]:
    """Fixes one; those that exist only under another value of it go."""
    rest = {
        n: p
        for n, p in parts.items()
        if not (isinstance(p, Float | Int | Choice) and name in p.when and value not in p.when[name])
    }
    return {**rest, name: value}


def _among(old: Hyperparameter | Scalar, value: Scalar) -> Scalar:
    """The word "none" rather than no value, where that is one of the choices."""
    return "none" if value is None and isinstance(old, Choice) and "none" in old.values else value


def _range(name: str, words: str, old: Hyperparameter | Scalar) -> Hyperparameter:
    """`16..512`, `1e-5..0.1:log`, or `adam,sgd`; the scale is the one that the hyperparameter has already."""
    low, dots, rest = words.partition("..")
    if not dots:
        return Choice([_among(old, parse_value(v)) for v in words.split(",")])
    high, _, scale = rest.partition(":")
    ends = parse_value(low), parse_value(high)
    if any(isinstance(end, bool | str | None) for end in ends) or scale not in ("", "log", "linear"):
        raise SpaceError(f"--vary {name}={words}: write LOW..HIGH, LOW..HIGH:log, or VALUE,VALUE.")
    log = scale == "log" or (scale == "" and isinstance(old, Float | Int) and old.log)
    kind = Int if all(isinstance(end, int) for end in ends) and not isinstance(old, Float) else Float
    return kind(*ends, log=log)  # type: ignore[arg-type]


# -- JSON ----------------------------------------------------------------------------------------------------


def trial_json(trial: TrialResult) -> dict[str, Any]:
    """A trial as docs/json.md describes it."""
    return {
        "number": trial.number,
        "state": str(trial.status),
        "reason": trial.reason,
        "config": dict(trial.config),
        "epochs": trial.epochs,
        "value": trial.value,
        "epoch": trial.epoch,
        "seconds": round(trial.seconds, 3),
        **({"probe": {"trial": trial.parent, "arm": trial.arm}} if trial.arm else {}),
        **({"also": dict(trial.also), "broken": list(trial.broken)} if trial.also else {}),
    }


def _report_json(report: Report) -> dict[str, Any]:
    return {
        "epoch": report.epoch,
        "step": report.step,
        "epoch_end": report.epoch_end,
        "seconds": round(report.seconds, 3),
        **report.metrics,
    }


def _absolute(target: str) -> str:
    """The target as another folder would name it, so that the study can be taken up from there."""
    path, separator, rest = target.partition(".py:")
    file = Path(path + ".py" if separator else path)
    if not file.exists():
        return target
    return str(file.resolve()) + (":" + rest if separator else "")
