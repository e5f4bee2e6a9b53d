"""A network and its training as text: what each layer is and costs, and what it did."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rheostat.show.text import Table, sparkline
from rheostat.train.network import Cost, LayerRow, total
from rheostat.train.observe import NetworkHistory
from rheostat.train.replay import Replay

WHOLE = "(network)"  # the name of the network itself, which has none
SMALLEST = 1e-12  # what logarithms begin at


def layers_table(rows: Sequence[LayerRow]) -> Table:
    """A line per layer in the order in which they run, and one for all of them; layers that do nothing are left out."""
    shown = [row for row in rows if row.kind != "Identity"]
    lines = [
        (
            row.name or WHOLE,
            row.kind + (f" x{row.calls}" if row.calls > 1 else ""),
            "x".join(map(str, row.shape)) or "1",
            *_costs(row.cost),
        )
        for row in shown
    ]
    titles = ("layer", "kind", "output", "parameters", "multiply-adds", "parameter memory", "kept per example")
    return Table(titles, [*lines, ("in all", "", "", *_costs(total(rows), zeros=True))], frozenset(titles[2:]))


def _costs(cost: Cost, zeros: bool = False) -> tuple[str, ...]:
    counts = (f"{n:,}" if n or zeros else "" for n in (cost.parameters, cost.multiply_adds))
    sizes = (size(n) if n or zeros else "" for n in (cost.parameter_bytes, cost.activation_bytes))
    return (*counts, *sizes)


def cost_words(rows: Sequence[LayerRow], batch_size: int) -> str:
    """
    >>> cost_words([LayerRow("", "Linear", (2,), 1, Cost(10, 8, 40, 0, 80))], 32)
    'Training a batch of 32 holds 40 B of parameters, 80 B of optimiser state and 0 B of activations.'
    """
    cost = total(rows)
    activations = size(cost.activation_bytes * batch_size)
    return (
        f"Training a batch of {batch_size} holds {size(cost.parameter_bytes)} of parameters, "
        f"{size(cost.optimizer_bytes)} of optimiser state and {activations} of activations."
    )


def size(count: float) -> str:
    """
    >>> [size(n) for n in (0, 999, 104488, 2.5e9)]
    ['0 B', '999 B', '104 kB', '2.5 GB']
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


# -- training ------------------------------------------------------------------------------------------------


def history_table(history: NetworkHistory) -> Table:
    """A line per layer: each measure as a curve over the moments and its last value.

    Curves of one measure have one scale, a logarithmic one for norms, ratios and sizes, so that layers can be
    compared; ranks go from 1 to the most of their own layer. What no layer has is left out.
    """
    columns = [
        ("gradient norm", _column(history, "gradient_norm", log=True)),
        ("update / weights", _column(history, "update_ratio", log=True)),
        ("output size", _column(history, "output_rms", log=True)),
        ("dead units", _column(history, "dead", share=True)),
        ("saturated", _column(history, "saturated", share=True)),
        ("stable rank", _ranks(history)),
    ]
    columns = [(title, cells) for title, cells in columns if any(cells)]
    rows = zip([name or WHOLE for name in history.layers], *(cells for _, cells in columns), strict=True)
    return Table(("layer", *(title for title, _ in columns)), [tuple(row) for row in rows])


def gates_table(history: NetworkHistory) -> Table:
    """A line per gate: how open it is on average, and how often it is shut (< 0.1) and open (> 0.9), at the end."""
    rows = []
    for layer in history.layers:
        for gate, last in history.moments[-1].layers[layer].activity.gates.items():
            seen = [moment.layers[layer].activity.gates[gate] for moment in history.moments]
            rows.append(
                (
                    layer or WHOLE,
                    gate,
                    _cell([s.mean for s in seen], 0, 1, f"{last.mean:.2f}"),
                    _cell([s.shut for s in seen], 0, 1, percent(last.shut)),
                    _cell([s.open for s in seen], 0, 1, percent(last.open)),
                )
            )
    return Table(("layer", "gate", "mean", "shut", "open"), rows)


def replay_words(replay: Replay) -> str:
    """Whether the trial came out as it did, and why it ended."""
    ended = f" It ended there: {replay.reason}." if replay.reason else ""
    epochs = f"{replay.compared} epoch{'s' if replay.compared > 1 else ''}"
    if not replay.compared:
        return f"No earlier reports to compare with.{ended}"
    if replay.difference == 0:
        return f"Trained again, and the same bit for bit: every metric of {epochs} is the one recorded.{ended}"
    return (
        f"Trained again, and not quite the same: metrics of {epochs} differ by up to {replay.difference:.1g} of their "
        f"size. Another engine (lanes), device, number of threads or version of torch does that.{ended}"
    )


def percent(share: float) -> str:
    """
    >>> percent(0.0), percent(0.004), percent(0.256), percent(float("nan"))
    ('0 %', '0.4 %', '26 %', '')
    """
    if math.isnan(share):
        return ""
    return f"{100 * share:.1f} %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def _column(history: NetworkHistory, measure: str, log: bool = False, share: bool = False) -> list[str]:
    curves = [_from_first(history.curve(layer, measure)) for layer in history.layers]
    drawn = [[_log(value) for value in curve] if log else curve for curve in curves]
    finite = [value for curve in drawn for value in curve if math.isfinite(value)]
    low, high = (0.0, 1.0) if share else (min(finite, default=0.0), max(finite, default=0.0))
    lasts = [(percent(curve[-1]) if share else f"{curve[-1]:.3g}") if curve else "" for curve in curves]
    return [_cell(curve, low, high, last) for curve, last in zip(drawn, lasts, strict=True)]


def _ranks(history: NetworkHistory) -> list[str]:
    curves = [_from_first(history.curve(layer, "stable_rank")) for layer in history.layers]
    return [_cell(curve, 1.0, max(curve), f"{curve[-1]:.1f}") if curve else "" for curve in curves]


def _from_first(curve: Sequence[float]) -> list[float]:
    """A curve from its first number on: before the first update there is no gradient."""
    first = next((place for place, value in enumerate(curve) if not math.isnan(value)), len(curve))
    return list(curve[first:])


def _log(value: float) -> float:
    return math.log10(max(value, SMALLEST)) if math.isfinite(value) else value


def _cell(curve: Sequence[float], low: float, high: float, last: str) -> str:
    return f"{sparkline(curve, low, high)} {last}".strip()
