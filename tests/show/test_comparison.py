"""A comparison as people see it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from rheostat.analysis.compared import ArmResult, Comparison
from rheostat.analysis.comparison import Difference, Estimate, Verdict
from rheostat.show.comparison import isolation_plot, notes, page, sentence, table, tuning_plot
from rheostat.types import Config, Scalar

NAN = math.nan


def arm(value: Scalar, verdict: Verdict, mean: float, **changes: Any) -> ArmResult:
    difference = None
    if verdict not in (Verdict.REFERENCE, Verdict.DIVERGED):
        difference = Difference(mean - 0.2, mean - 0.24, mean - 0.16, 0.01, 0.01, 0.01, 0.01, 0.02)
    facts: dict[str, Any] = {
        "config": Config(lr=0.0123456, units=64),
        "repeats": (mean, mean + 0.01, mean - 0.01),
        "tuning": ((Config(lr=0.1), NAN), (Config(lr=0.01), mean), (Config(lr=0.02), mean + 0.1)),
        "epochs": 10,
        "parameters": 12345,
        "seconds": 1.234,
        "seconds_per_epoch": 0.1234,
        "memory_bytes": 2.5e6,
    }
    return ArmResult(value, verdict, Estimate(mean, mean - 0.02, mean + 0.02), difference, **{**facts, **changes})


def comparison(*arms: ArmResult, **changes: Any) -> Comparison:
    facts: dict[str, Any] = {
        "reference": next((i for i, a in enumerate(arms) if a.verdict is Verdict.REFERENCE), 0),
        "metric": "error",
        "direction": "minimize",
        "judged_on": "360 validation examples",
        "nuisance": ("lr",),
        "fixed": {"units": 64, "schedule": "cosine"},
        "trials": 8,
        "seeds": 3,
        "epochs": 10,
    }
    return Comparison(name="digits-layers", arms=arms, **{"varied": "layers", **facts, **changes})


ONE, TWO = arm(1, Verdict.WORSE, 0.3), arm(2, Verdict.REFERENCE, 0.2)
TIED, BETTER = arm(3, Verdict.TIED, 0.21), arm(4, Verdict.BETTER, 0.1)
BROKEN = ArmResult(5, Verdict.DIVERGED, Estimate(NAN, NAN, NAN), notes=("layers=5 diverged in all of its 8 trials",))
MIXED = comparison(ONE, TWO, TIED, BETTER, BROKEN)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            MIXED,
            "With lr tuned for each, layers=4 is better than layers=2 (error 0.1 against 0.2); layers=1 is worse than "
            "layers=2 (error 0.3 against 0.2); layers=3 is tied with layers=2; layers=5 diverged.",
        ),
        (
            comparison(ONE, TWO, TIED, replace(TIED, value=4)),
            "With lr tuned for each, layers=1 is worse than layers=2 (error 0.3 against 0.2); "
            "layers=3 and 4 are tied with it.",
        ),
        (
            comparison(TWO, TIED, lr="fixed"),
            "With the lr that is best for layers=2, layers=3 is tied with layers=2 (error 0.2): no difference is "
            "beyond chance, and one of less than about 0.04 would not have shown.",
        ),
        (
            comparison(TWO, ONE, replace(ONE, value=3), replace(arm(4, Verdict.WORSE, 0.5)), nuisance=()),
            "With all else equal, layers=1, 3 and 4 are worse than layers=2 (error 0.3 to 0.5 against 0.2).",
        ),
        (comparison(BROKEN, TIED), "With lr tuned for each, layers=5 gave no result to compare the others with."),
    ],
)  # fmt: skip
def test_one_plain_sentence_answers(found: Comparison, words: str) -> None:
    assert sentence(found) == words


def test_the_table_shows_each_arm_with_what_it_costs() -> None:
    lines = [re.sub(" +", " ", line) for line in table(MIXED).lines()]
    assert lines[:3] == [
        "layers error less 2 p verdict lr parameters epochs seconds memory",
        "1 0.3 ±0.02 +0.1 ±0.04 0.02 worse 0.0123 12,345 10 1.23 2.5 MB",
        "2 0.2 ±0.02 reference 0.0123 12,345 10 1.23 2.5 MB",
    ]
    assert lines[5] == "5 none diverged 0"


def test_notes_say_how_it_was_found_and_what_to_keep_in_mind() -> None:
    shaky = replace(TIED, repeats=(0.2, NAN, 0.21), notes=("layers=3: the best lr lay at the end",))
    lines = notes(comparison(TWO, shaky, notes=("units is 64 with 2, 32 with 3",)))
    assert "equal epochs" in lines[0] and "Paired t test" in lines[0] and "Holm" not in lines[0]
    assert lines[1:] == [
        "Fixed: units=64, schedule=cosine.",
        "units is 64 with 2, 32 with 3.",
        "The same examples chose epochs and configurations, so the values are a little optimistic.",
        "layers=3: 1 of 3 repeats diverged.",
        "layers=3: the best lr lay at the end.",
    ]
    assert "4 comparisons (Holm)" in notes(MIXED)[0]
    assert not any("optimistic" in line for line in notes(comparison(TWO, TIED, judged_on="900 test examples")))


def test_the_isolation_plot_shows_means_intervals_and_repeats() -> None:
    figure = isolation_plot(MIXED)
    means = [trace for trace in figure.data if trace.mode == "markers+text"]
    assert [trace.text[0].strip() for trace in means] == ["worse", "reference", "tied", "better"]
    assert [trace.y[0] for trace in means] == [0.3, 0.2, 0.21, 0.1]
    assert means[0].error_y.array[0] == pytest.approx(0.02)
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(dots[0].y) == 3 and len(dots[-1].y) == 0


@pytest.mark.parametrize(
    ("values", "kind"), [((1, 2, 3), "linear"), ((16, 64, 1024), "log"), ((16, "full"), "category"), ((0, 8), "linear")]
)
def test_the_axis_fits_the_values(values: tuple[Scalar, ...], kind: str) -> None:
    arms = [replace(TWO, value=value) for value in values]
    assert isolation_plot(comparison(*arms)).layout.xaxis.type == kind


def test_the_tuning_plot_has_a_line_for_each_arm_without_what_diverged() -> None:
    figure = tuning_plot(comparison(TWO, TIED))
    assert figure is not None and [trace.name for trace in figure.data] == ["layers=2", "layers=3"]
    assert figure.data[0].x == (0.01, 0.02)
    assert tuning_plot(comparison(TWO, TIED, nuisance=())) is None


def test_a_page_needs_no_other_file_and_escapes_what_it_is_given() -> None:
    nasty = comparison(replace(TWO, value="<b>"), replace(TIED, value="&"), varied="<i>layers")
    text = page([MIXED, nasty])
    assert text.startswith("<!doctype html>") and text.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text)
    assert (
        sentence(MIXED).split(",")[0] in text
        and "<td><b></td>" not in text
        and "<i>layers" not in text.split("</script>")[-1]
    )
