"""Curves of two runs side by side, as a small SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

from rheostat.diagnose.base import Curve
from rheostat.diagnose.shapes import measured
from rheostat.diagnose.wording import curve_words, number

WIDTH, HEIGHT = 340, 230  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 30, 38
COLOURS = ("#0072B2", "#D55E00")  # Okabe and Ito 2008: told apart by everybody
DASHES = ("none", "5 3")
LOG_FROM = 10.0  # highest over lowest value
HIGHEST = 20.0  # times the highest of the healthy run; beyond, a curve leaves the picture


def pair(titles: tuple[str, str], runs: Sequence[Mapping[str, Curve]]) -> str:
    """Two panels with one scale of values: the curves of a run, by name, and those of the run it is compared with."""
    values = [np.concatenate([measured(curve)[1] for curve in run.values()]) for run in runs]
    top = min(float(np.concatenate(values).max()), HIGHEST * float(values[1].max()))
    low = float(np.concatenate(values).min())
    scale = _Scale(low, max(top, low + 1e-9), low > 0 and top / low > LOG_FROM)
    panels = "".join(
        _panel(i * WIDTH, title, run, scale) for i, (title, run) in enumerate(zip(titles, runs, strict=True))
    )
    size = f'width="{2 * WIDTH}" height="{HEIGHT}" viewBox="0 0 {2 * WIDTH} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11" fill="#333"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{panels}</svg>\n'
    )


class _Scale:
    """Where a value stands in a panel, and the values that are marked."""

    def __init__(self, low: float, high: float, log: bool) -> None:
        self.log = log
        self._low, self._high = (math.log10(low), math.log10(high)) if log else (low, high)

    def __call__(self, value: float) -> float:
        at = math.log10(value) if self.log else value
        share = (at - self._low) / (self._high - self._low)
        return TOP + (1 - min(share, 1.0)) * (HEIGHT - TOP - BOTTOM)

    def marks(self) -> list[float]:
        """Between two and six round values, but for the narrowest ranges of all."""
        if self.log:
            decades = range(math.floor(self._low), math.ceil(self._high) + 1)
            steps = (1,) if self._high - self._low > 3 else (1, 3)
            every = [step * 10.0**decade for decade in decades for step in steps]
            return [v for v in every if self._low <= math.log10(v) <= self._high][:8]
        step = 10.0 ** math.floor(math.log10((self._high - self._low) / 2))
        while (self._high - self._low) / step > 6:
            step *= 2
        first = math.ceil(self._low / step)
        return [i * step for i in range(first, math.floor(self._high / step) + 1)]


def _panel(x: int, title: str, run: Mapping[str, Curve], scale: _Scale) -> str:
    epochs = max(len(curve) for curve in run.values())
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(epoch: float) -> float:
        return LEFT + (epoch - 1) / max(epochs - 1, 1) * (right - LEFT)

    lines = [f'<g transform="translate({x} 0)">', f'<text x="{LEFT}" y="18" font-size="13">{escape(title)}</text>']
    for mark in scale.marks():
        y = scale(mark)
        lines.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{number(mark)}</text>')
    lines.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" stroke="#333" fill="none"/>')
    lines += [
        f'<text x="{place(epoch):.1f}" y="{bottom + 14}" text-anchor="middle">{epoch}</text>'
        for epoch in dict.fromkeys((1, epochs))
    ]
    lines.append(f'<text x="{(LEFT + right) / 2}" y="{bottom + 14}" text-anchor="middle">epoch</text>')
    for i, (name, curve) in enumerate(run.items()):
        style = f'stroke="{COLOURS[i]}" stroke-dasharray="{DASHES[i]}" stroke-width="1.8" fill="none"'
        if points := _points(curve, place, scale):
            lines.append(f'<path d="M{points}" {style} stroke-linecap="round"/>')
        at = LEFT + 135 * i
        lines.append(f'<path d="M{at} {HEIGHT - 9}h22" {style}/>')
        lines.append(f'<text x="{at + 27}" y="{HEIGHT - 5}">{curve_words(name)}</text>')
    return "\n".join([*lines, "</g>\n"])


def _points(curve: Curve, place: Callable[[float], float], scale: _Scale) -> str:
    """The measured values as points of a path, which passes over epochs without one; one value is a dot."""
    epochs, values = measured(curve)
    points = [f"{place(e):.1f} {scale(v):.1f}" for e, v in zip(epochs, values, strict=True)]
    return "L".join(points * 2 if len(points) == 1 else points)
