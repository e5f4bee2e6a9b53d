"""The pages on pathologies, made from their modules: python -m benchmarks.pathologies.pages RUNS FOLDER

Writes FOLDER/diagnose.md and FOLDER/diagnose/NAME.md, with FOLDER/diagnose/NAME.svg where RUNS, a file of labelled
runs, holds an example: a run with that label, or, for a pathology that only a rule knows, one in which it speaks.
"""

from __future__ import annotations

import argparse
import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pathologies.figure import pair
from rheostat.diagnose.base import HEALTHY, Observations, Pathology
from rheostat.diagnose.catalogue import PATHOLOGIES
from rheostat.diagnose.observations import LabelledRun, read_runs
from rheostat.diagnose.shapes import measured
from rheostat.diagnose.wording import PROBES

MADE = "<!-- Made by `python -m benchmarks.pathologies.pages`: change the module and make it again. -->"
NO_EXAMPLE = "The controlled runs hold no example of it."
CURVES = ("train_loss", "val_loss")


@dataclass(frozen=True)
class Example:
    """A run with a pathology, and a healthy one of the same task."""

    sick: LabelledRun
    healthy: LabelledRun


def text(pathology: Pathology) -> str:
    """The page of a pathology up to its example."""
    rule = " ".join(inspect.cleandoc(pathology.detect.__doc__ or "").split())
    known = (
        "The classifier gives its probability; the rule gives the evidence."
        if pathology.learnt
        else f"The classifier does not know it. Where the rule speaks, it is taken to be right in "
        f"{pathology.certainty:.0%} of cases."
    )
    parts = [
        MADE,
        f"# {pathology.title}",
        f"`{pathology.name}` · [all pathologies](../diagnose.md)",
        pathology.words,
        f"## How it is seen\n\n{rule}\n\n{known}",
        f"## What to do\n\n{pathology.remedy(Observations({})).text}",
    ]
    if pathology.confused_with:
        decides = f" To decide: {PROBES[pathology.probe]} (`{pathology.probe}`)." if pathology.probe else ""
        parts.append(f"## Easily confused with\n\n{_links(pathology.confused_with)}.{decides}")
    if pathology.leads_to:
        parts.append(
            f"## Leads to\n\n{_links(pathology.leads_to)}: where these come later, they are told as its symptoms."
        )
    parts.append("## Sources\n\n" + "\n".join(f"- {source}" for source in pathology.sources))
    return "\n\n".join(parts) + "\n"


def _links(names: Sequence[str]) -> str:
    return ", ".join(f"[{PATHOLOGIES[name].title.lower()}]({name}.md)" for name in names)


def index() -> str:
    """The page that lists all of them."""
    rows = "\n".join(
        f"| [{p.title}](diagnose/{p.name}.md) | {p.words} | {'classifier' if p.learnt else 'rule'} |"
        for p in PATHOLOGIES.values()
    )
    return f"""{MADE}

# What can be wrong with a run

A diagnosis names the causes of how a run went, the likeliest first, each with what was seen and what to do. Learnt
pathologies get their probability from a classifier of curves; the others come in where their rule speaks. A
pathology that another leads to, and that came after it, is told as its symptom. Where no answer is likely enough, the
diagnosis says so and names the experiment that would decide.

| Pathology | What happens | Known by |
|---|---|---|
{rows}
"""


def examples(runs: Sequence[LabelledRun]) -> dict[str, Example]:
    """By name of a pathology, a run that shows it, from as many tasks as there are."""
    partners: dict[tuple[str, str], list[LabelledRun]] = {}
    for run in runs:
        if run.label == HEALTHY:
            partners.setdefault((run.dataset, run.architecture), []).append(run)
    used: Counter[tuple[str, str]] = Counter()
    found = {}
    for pathology in PATHOLOGIES.values():
        fitting = [run for run in runs if (run.dataset, run.architecture) in partners and _shows(run, pathology)]
        if fitting:
            sick = min(fitting, key=lambda run: (_rank(run, pathology), used[run.dataset, run.architecture], run.id))
            task = sick.dataset, sick.architecture
            used[task] += 1
            found[pathology.name] = Example(sick, min(partners[task], key=lambda r: (r.group != sick.group, r.id)))
    return found


def _shows(run: LabelledRun, pathology: Pathology) -> bool:
    if not any(len(measured(run.observations.curve(name))[0]) >= 2 for name in CURVES):
        return False
    if pathology.learnt:
        return run.label == pathology.name
    return run.label != HEALTHY and bool(pathology.detect(run.observations))


def _rank(run: LabelledRun, pathology: Pathology) -> int:
    """Runs in which the rule speaks first, and long ones."""
    return -2 * bool(pathology.detect(run.observations)) - (run.observations.epochs >= 10)


def page(pathology: Pathology, example: Example | None) -> str:
    """The whole page."""
    head = f"{text(pathology)}\n## A real run\n\n"
    if example is None:
        return f"{head}{NO_EXAMPLE}\n"
    sick = example.sick
    seen = " ".join(symptom.text for symptom in pathology.detect(sick.observations))
    labelled = "" if pathology.learnt else f" Its label among the controlled runs is `{sick.label}`."
    return (
        f"{head}![Losses of a run with this fault beside those of a healthy run]({pathology.name}.svg)\n\n"
        f"{sick.dataset}, {sick.architecture}, {sick.optimizer}, beside a healthy run of the same task.{labelled}\n\n"
        f"- Seen: {seen or 'by the classifier alone, from the shape of its curves.'}\n"
        f"- Advice: {pathology.remedy(sick.observations).text}\n"
    )


def write(runs: Sequence[LabelledRun], folder: Path) -> None:
    """All pages and figures."""
    shown = examples(runs)
    (folder / "diagnose").mkdir(parents=True, exist_ok=True)
    (folder / "diagnose.md").write_text(index(), encoding="utf-8")
    for name, pathology in PATHOLOGIES.items():
        example = shown.get(name)
        (folder / "diagnose" / f"{name}.md").write_text(page(pathology, example), encoding="utf-8")
        figure = folder / "diagnose" / f"{name}.svg"
        figure.unlink(missing_ok=True)
        if example is not None:
            curves = [{c: run.observations.curve(c) for c in CURVES} for run in (example.sick, example.healthy)]
            figure.write_text(pair((pathology.title, "Healthy"), curves), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write(list(read_runs(arguments.runs)), arguments.folder)


if __name__ == "__main__":
    main()
