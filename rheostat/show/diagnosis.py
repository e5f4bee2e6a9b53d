"""Diagnoses as text and as JSON: a verdict, and what is behind it."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rheostat.diagnose.base import HEALTHY, Diagnosis
from rheostat.diagnose.catalogue import PATHOLOGIES
from rheostat.diagnose.wording import PROBES, percent
from rheostat.show.text import Table

WIDTH = 100
INDENT = 6  # of what is said of a cause: the width of its percentage
FEW = 6  # trials that are named as examples
SOUND, UNSURE, FAILED = "nothing wrong", "unsure", "failed"


def answer(diagnosis: Diagnosis) -> str:
    """The name of the likeliest cause, "healthy", or "unsure" where none can be relied upon."""
    if not diagnosis.sure:
        return UNSURE
    first = diagnosis.causes[0] if diagnosis.causes else None
    return HEALTHY if first is None or diagnosis.healthy >= first.probability else first.name


def counts_table(answers: Mapping[int, str]) -> Table:
    """How many trials have which answer, the commonest first; `answers` by number of trial."""
    numbers: dict[str, list[int]] = {}
    for number, name in answers.items():
        numbers.setdefault(_title(name), []).append(number)
    ordered = sorted(numbers.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = [(title, str(len(trials)), _few(trials)) for title, trials in ordered]
    return Table(("verdict", "trials", "which"), rows, frozenset({"trials"}))


def commonest(answers: Mapping[int, str]) -> list[int]:
    """The trials with the cause that most of them have; none where no cause is sure."""
    counts = Counter(name for name in answers.values() if name in PATHOLOGIES)
    name = min(counts, key=lambda n: (-counts[n], n), default=None)
    return [number for number, found in answers.items() if found == name]


def _title(name: str) -> str:
    return PATHOLOGIES[name].title if name in PATHOLOGIES else SOUND if name == HEALTHY else name


def words(diagnosis: Diagnosis, command: str, effects: Mapping[str, float] | None = None) -> str:
    """A diagnosis in full: verdict, causes with what speaks for them and what to do, and what would decide.

    `command` runs the counterfactuals; `effects` are those of counterfactuals that were trained already.
    """
    lines = textwrap.wrap(diagnosis.verdict, WIDTH)
    for cause in diagnosis.causes:
        lines += ["", f"{percent(cause.probability):>{INDENT - 2}}  {cause.title}"]
        for sentence in cause.evidence:
            lines += _part("seen", sentence)
        if cause.explains:
            lines += _part("so", f"This explains {_listed([name.replace('_', ' ') for name in cause.explains])}.")
        lines += _part("do", cause.advice.text)
    if diagnosis.causes and diagnosis.healthy >= 0.01:
        lines += ["", f"{percent(diagnosis.healthy):>{INDENT - 2}}  {SOUND.capitalize()}"]
    tried = _tried(effects or {})
    if tried:
        lines += ["", "Tried, and what became of the validation loss:", *(f"  {line}" for line in tried)]
    elif not diagnosis.sure and diagnosis.probe in PROBES:
        lines += ["", f"To decide  {PROBES[diagnosis.probe]}: {command}"]
    return "\n".join(lines)


def describe(diagnosis: Diagnosis, effects: Mapping[str, float] | None = None) -> dict[str, Any]:
    """As docs/json.md describes it."""
    return {
        "verdict": diagnosis.verdict,
        "sure": diagnosis.sure,
        "healthy": diagnosis.healthy,
        "causes": [
            {
                "name": cause.name,
                "title": cause.title,
                "probability": cause.probability,
                "evidence": list(cause.evidence),
                "advice": {
                    "text": cause.advice.text,
                    "times": dict(cause.advice.times),
                    "set": dict(cause.advice.set),
                },
                "since": cause.since,
                "explains": list(cause.explains),
            }
            for cause in diagnosis.causes
        ],
        "probe": diagnosis.probe,
        "effects": dict(effects or {}),
    }


def _part(label: str, sentence: str) -> list[str]:
    start = " " * INDENT
    return textwrap.wrap(
        sentence, WIDTH, initial_indent=f"{start}{label:<6}", subsequent_indent=start + " " * 6, break_long_words=False
    )


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:FEW])) + (" ..." if len(numbers) > FEW else "")


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _tried(effects: Mapping[str, float]) -> list[str]:
    """A line for each counterfactual that was trained, as far as its lowest validation loss was compared."""
    names = ("same", *PROBES)
    found = {name: effects.get(f"probe_{name}", math.nan) for name in names}
    against = {"same": "than before", "larger": "than that of the trial by then", "other_seed": "than by this seed"}
    labels = {"same": "as it was", "lr_up": "lr x3", "lr_down": "lr /3", "cooldown": "lr to zero"}
    width = max(len(labels.get(name, name)) for name in names)
    lines = []
    for name, value in found.items():
        if not math.isnan(value):
            label = labels.get(name, name.replace("_", " "))
            lines.append(f"{label:<{width}}  {_change(value)} {against.get(name, 'than as it was')}")
    return lines


def _change(log_ratio: float) -> str:
    """
    >>> _change(-0.105), _change(0.2), _change(1.1)
    ('10% lower', '22% higher', '3 times as high')
    """
    ratio = math.exp(log_ratio)
    if ratio >= 2:
        return f"{ratio:.2g} times as high"
    return f"{percent(abs(ratio - 1))} {'lower' if ratio < 1 else 'higher'}"
