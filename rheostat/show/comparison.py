"""A comparison as a sentence, a table, an isolation plot, and a page that holds them all.

The isolation plot (Tuning Playbook) shows the best that each value reached with the others tuned for it. Colours are
those of Okabe and Ito (2008), which all kinds of colour vision tell apart; verdicts are also written out.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from rheostat.analysis.compared import ArmResult, Comparison
from rheostat.analysis.comparison import Verdict
from rheostat.show.text import Table, number
from rheostat.types import Scalar

COLOURS = {
    Verdict.REFERENCE: "#000000",
    Verdict.BETTER: "#009E73",
    Verdict.WORSE: "#D55E00",
    Verdict.TIED: "#0072B2",
    Verdict.DIVERGED: "#CC79A7",
}
REPEATS_COLOUR = "rgba(110, 110, 110, 0.6)"
WIDE = 8.0  # times as large: values that far apart stand on a log scale
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums }}
th, td {{ padding: .2rem .8rem .2rem 0; text-align: right; white-space: nowrap }} th {{ border-bottom: 1px solid #999 }}
th:first-child, td:first-child {{ text-align: left }} .notes {{ color: #555; font-size: 14px }}
</style></head><body>
{body}
</body></html>
"""


# -- words ---------------------------------------------------------------------------------------------------


def sentence(comparison: Comparison) -> str:
    """What was found, in one sentence."""
    reference = comparison.arms[comparison.reference]
    own = f"{comparison.varied}={reference.value}"
    how = _how(comparison)
    if reference.verdict is Verdict.DIVERGED:
        return f"{how}, {own} gave no result to compare the others with."
    against = number(reference.estimate.value)
    parts = []
    for verdict, word in ((Verdict.BETTER, "better than"), (Verdict.WORSE, "worse than")):
        arms = [arm for arm in comparison.arms if arm.verdict is verdict]
        if arms:
            values = " and ".join(number(arm.estimate.value) for arm in arms) if len(arms) < 3 else _span(arms)
            parts.append(
                f"{_names(comparison, arms)} {_be(arms)} {word} {own} ({comparison.metric} {values} against {against})"
            )
    tied = [arm for arm in comparison.arms if arm.verdict is Verdict.TIED]
    if tied and parts:
        parts.append(f"{_names(comparison, tied)} {_be(tied)} tied with {'it' if len(parts) == 1 else own}")
    elif tied:
        parts.append(
            f"{_names(comparison, tied)} {_be(tied)} tied with {own} ({comparison.metric} {against}): no difference "
            f"is beyond chance, and one of less than about {number(_smallest_seen(tied))} would not have shown"
        )
    diverged = [arm for arm in comparison.arms if arm.verdict is Verdict.DIVERGED]
    if diverged:
        parts.append(f"{_names(comparison, diverged)} diverged")
    return f"{how}, {'; '.join(parts)}."


def notes(comparison: Comparison) -> list[str]:
    """How it was found, and what to keep in mind; a line each."""
    names = {"epochs": "epochs", "seconds": "training time", "parameters": "numbers of parameters (within 5 %)"}
    others = len(comparison.arms) - 1
    corrected = f", corrected for {others} comparisons (Holm)" if others > 1 else ""
    lines = [
        f"Judged on {comparison.judged_on}, {comparison.seeds} seeds; arms have equal {names[comparison.equal]}. "
        f"Paired t test with the noise of seeds, tuning and examples{corrected}, level {comparison.level:.0%}.",
        f"Fixed: {', '.join(f'{n}={number(v)}' for n, v in comparison.fixed.items()) or 'nothing'}.",
        *(f"{note}." for note in comparison.notes),
    ]
    if "validation" in comparison.judged_on:
        lines.append("The same examples chose epochs and configurations, so the values are a little optimistic.")
    for arm in comparison.arms:
        if arm.diverged:
            lines.append(f"{comparison.varied}={arm.value}: {arm.diverged} of {len(arm.repeats)} repeats diverged.")
        lines += [f"{note}." for note in arm.notes]
    return lines


def _how(comparison: Comparison) -> str:
    reference = f"{comparison.varied}={comparison.arms[comparison.reference].value}"
    return {
        "tuned": f"With {_listed(comparison.nuisance)} tuned for each"
        if comparison.nuisance
        else "With all else equal",
        "fixed": f"With the lr that is best for {reference}",
        "linear": f"With the lr of {reference} scaled linearly",
        "sqrt": f"With the lr of {reference} scaled by the square root",
        "default": "With the optimiser's defaults",
    }[comparison.lr]


def _names(comparison: Comparison, arms: Sequence[ArmResult]) -> str:
    return f"{comparison.varied}={_listed([str(arm.value) for arm in arms])}"


def _be(arms: Sequence[ArmResult]) -> str:
    return "is" if len(arms) == 1 else "are"


def _listed(words: Sequence[str]) -> str:
    """
    >>> _listed(["1", "3", "4"])
    '1, 3 and 4'
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _span(arms: Sequence[ArmResult]) -> str:
    values = [arm.estimate.value for arm in arms]
    return f"{number(min(values))} to {number(max(values))}"


def _smallest_seen(arms: Sequence[ArmResult]) -> float:
    """The half width of the narrowest interval of a difference, to two digits."""
    halves = [(arm.difference.high - arm.difference.low) / 2 for arm in arms if arm.difference is not None]
    return float(f"{min(halves):.2g}")


# -- the table -----------------------------------------------------------------------------------------------


def table(comparison: Comparison) -> Table:
    """A line for each arm: what it reached, how it stands beside the reference, and what it costs."""
    reference = comparison.arms[comparison.reference].value
    titles = [comparison.varied, comparison.metric, f"less {reference}", "p", "verdict", "lr", "parameters"]
    titles += ["epochs", "seconds", "memory"]
    rows = [_cells(arm) for arm in comparison.arms]
    return Table(titles, rows, frozenset(titles) - {comparison.varied, "verdict"})


def _cells(arm: ArmResult) -> list[str]:
    half = (arm.estimate.high - arm.estimate.low) / 2
    difference, p = "", ""
    if arm.difference is not None:
        around = (arm.difference.high - arm.difference.low) / 2
        difference, p = f"{arm.difference.value:+.2g} ±{around:.2g}", f"{arm.difference.adjusted_p:.2g}"
    mean = number(arm.estimate.value) if math.isfinite(arm.estimate.value) else "none"
    return [
        str(arm.value),
        mean + (f" ±{half:.2g}" if math.isfinite(half) else ""),
        difference,
        p,
        str(arm.verdict),
        "" if arm.lr is None else f"{arm.lr:.3g}",
        f"{arm.parameters:,}" if arm.parameters else "",
        str(arm.epochs),
        f"{arm.seconds:.3g}" if math.isfinite(arm.seconds) else "",
        _memory(arm.memory_bytes),
    ]


def _memory(size_bytes: float) -> str:
    """
    >>> _memory(155828.0), _memory(3.2e9)
    ('0.156 MB', '3.2 GB')
    """
    if not math.isfinite(size_bytes):
        return ""
    return f"{size_bytes / 1e9:.3g} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.3g} MB"


# -- figures -------------------------------------------------------------------------------------------------


def isolation_plot(comparison: Comparison) -> go.Figure:
    """Each value with the mean of its repeats, their interval, and the repeats themselves."""
    axis = _axis([arm.value for arm in comparison.arms])
    figure = go.Figure()
    for arm in comparison.arms:
        place = arm.value if axis.get("type") != "category" else str(arm.value)
        finite = [value for value in arm.repeats if math.isfinite(value)]
        dots = {"mode": "markers", "marker": {"size": 5, "color": REPEATS_COLOUR}, "hoverinfo": "y"}
        figure.add_scatter(x=[place] * len(finite), y=finite, showlegend=False, **dots)
        if math.isfinite(arm.estimate.value):
            figure.add_scatter(**_point(arm, place))
    figure.update_layout(
        title=f"{comparison.varied}: {comparison.metric} on {comparison.judged_on}",
        template="simple_white",
        showlegend=False,
        width=800,
        height=450,
    )
    figure.update_xaxes(title=comparison.varied, **axis)
    figure.update_yaxes(
        title=f"{comparison.metric} (mean of {comparison.seeds} seeds, {1 - comparison.level:.0%} interval)"
    )
    return figure


def _point(arm: ArmResult, place: Scalar) -> dict[str, Any]:
    value, low, high = arm.estimate.value, arm.estimate.low, arm.estimate.high
    known = math.isfinite(low)
    bars = {"type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low], "width": 6}
    settings = "<br>".join(f"{n} = {number(v)}" for n, v in (arm.config or {}).items())
    return {
        "x": [place],
        "y": [value],
        "mode": "markers+text",
        "text": [f" {arm.verdict}"],
        "textposition": "middle right",
        "marker": {"size": 11, "color": COLOURS[arm.verdict]},
        "textfont": {"color": COLOURS[arm.verdict]},
        "error_y": bars if known else None,
        "hovertemplate": f"%{{y:.4g}}<br>{html.escape(settings)}<extra></extra>",
    }


def tuning_plot(comparison: Comparison) -> go.Figure | None:
    """The validation values of the trials by learning rate, a line for each arm; None where lr was not tuned."""
    arms = [arm for arm in comparison.arms if arm.tuning and "lr" in arm.tuning[0][0]]
    if not arms or "lr" not in comparison.nuisance:
        return None
    shades = sample_colorscale("Cividis", [i / max(len(arms) - 1, 1) * 0.9 for i in range(len(arms))])
    figure = go.Figure()
    for arm, shade in zip(arms, shades, strict=True):
        tried = sorted((config["lr"], value) for config, value in arm.tuning if math.isfinite(value))
        figure.add_scatter(
            x=[lr for lr, _ in tried],
            y=[value for _, value in tried],
            name=f"{comparison.varied}={arm.value}",
            mode="lines+markers",
            line={"color": shade},
        )
    figure.update_layout(title="How each was tuned", template="simple_white", width=800, height=400)
    values = [value for arm in arms for _, value in arm.tuning if math.isfinite(value)]
    figure.update_xaxes(title="lr", type="log", exponentformat="e")
    figure.update_yaxes(title=f"validation {comparison.metric} of a trial", type=_scale(values))
    return figure


def _axis(values: Sequence[Scalar]) -> dict[str, Any]:
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        return {"type": "category"}
    ticks = {"tickvals": numbers, "ticktext": [number(v) for v in values]}
    return {"type": _scale(numbers), **ticks}


def _scale(values: Sequence[float]) -> str:
    return "log" if values and min(values) > 0 and max(values) >= WIDE * min(values) else "linear"


# -- the page ------------------------------------------------------------------------------------------------


def page(comparisons: Sequence[Comparison]) -> str:
    """A file in HTML that needs no other: sentences, figures, tables and notes."""
    parts: list[str] = []
    script: bool | str = True  # the first figure brings plotly's code
    for comparison in comparisons:
        parts.append(f"<h1>{html.escape(comparison.name)}</h1><p>{html.escape(sentence(comparison))}</p>")
        for figure in (isolation_plot(comparison), tuning_plot(comparison)):
            if figure is not None:
                config = {"displayModeBar": False}
                parts.append(figure.to_html(full_html=False, include_plotlyjs=script, config=config))
                script = False
        parts.append(_html_table(table(comparison)))
        parts.append("".join(f'<p class="notes">{html.escape(note)}</p>' for note in notes(comparison)))
    title = html.escape(comparisons[0].name) if comparisons else "comparison"
    return PAGE.format(title=title, body="\n".join(parts))


def _html_table(content: Table) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in content.titles)
    rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in content.rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
