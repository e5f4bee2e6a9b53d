"""Figures of a network: its layers over training, the spectra of its weights, its gates, and what it attends to.

Colours are those of Okabe and Ito (2008), told apart by all kinds of colour vision, and cividis, which also keeps its
order in grey; lines differ in their dashes and marks too.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots
from torch import Tensor, nn

from rheostat.data.base import BEGIN, END, PADDING, UNKNOWN, Vocabulary
from rheostat.errors import DataError
from rheostat.models.layers import RecurrentEncoder
from rheostat.models.seq2seq import Seq2Seq
from rheostat.train.gates import OPEN, SHUT, gates_within
from rheostat.train.observe import Moment, NetworkHistory, moment

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MARKS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")
ORDERED = "Cividis"
MOST_STEPS = 80  # of a text, which is what can be read side by side
MOST_MOMENTS = 6  # that a figure of spectra shows
WHOLE = "(network)"
SPECIAL = {PADDING: "", UNKNOWN: "?", BEGIN: "⟨begin⟩", END: "⟨end⟩"}

# measure: title, whether its axis is logarithmic
CURVES: Mapping[str, tuple[str, bool]] = {
    "gradient_norm": ("gradient norm, unclipped", True),
    "update_ratio": ("size of an update / size of the weights", True),
    "output_rms": ("size of the outputs (root mean square)", True),
    "dead": ("dead units, share", False),
    "saturated": ("saturated units, share", False),
    "stable_rank": ("stable rank of the weights", False),
}


def figures(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    history: NetworkHistory | None = None,
    vocabularies: Sequence[Vocabulary] = (),
) -> list[go.Figure]:
    """All figures that this network has: of its history, if it is given, and of the first of the inputs (B, ...).

    Without a history, spectra are those of the network as it is. `vocabularies` name the tokens: that of a text, or
    of source and target.

    Raises TaskError where the network cannot be applied to the inputs.
    """
    if history is None:
        found = [spectra_figure(NetworkHistory((moment(network, inputs),)))]
    else:
        found = [history_figure(history), animated_figure(history), spectra_figure(history)]
    example = tuple(_one(part) for part in inputs)
    source = token_labels(example[0], vocabularies[0] if vocabularies else None)
    target = source
    if isinstance(network, Seq2Seq):
        target = token_labels(example[1], vocabularies[1] if len(vocabularies) > 1 else None)
        if network.attention is not None:
            found.append(attention_figure(network.attention_map(*example)[0], source, target))
    backwards = _backward_layers(network)
    for layer, gates in gates_within(network, example).items():
        labels = target if layer.startswith("decoder") else source
        turned = {name: gate[0].flip(0) if layer in backwards else gate[0] for name, gate in gates.items()}
        found.append(gates_figure(turned, labels, layer or WHOLE))
    return found


def _one(part: Tensor) -> Tensor:
    """The first example alone, (1, ...); of tokens, as many as can be shown, without the padding behind them."""
    one = part[:1]
    if one.dim() != 2 or one.is_floating_point():
        return one
    real = int((one[0] != PADDING).nonzero().max()) + 1 if one.any() else 1
    return one[:, : min(real, MOST_STEPS)]


def _backward_layers(network: nn.Module) -> set[str]:
    """The layers that read each text from its end."""
    encoders = [(name, m) for name, m in network.named_modules() if isinstance(m, RecurrentEncoder)]
    return {
        f"{name}.backwards.{number}".removeprefix(".")
        for name, encoder in encoders
        for number in range(len(encoder.backwards))
    }


def token_labels(tokens: Tensor, vocabulary: Vocabulary | None) -> list[str]:
    """How tokens (1, L) are written below a figure; other inputs are numbered from 1."""
    if tokens.dim() != 2 or tokens.is_floating_point():
        return [str(step + 1) for step in range(tokens.shape[1] if tokens.dim() > 1 else 1)]
    numbers = tokens[0].tolist()
    if vocabulary is None:
        return [str(token) for token in numbers]
    return [_visible(vocabulary.decode([token])) or SPECIAL.get(token, str(token)) for token in numbers]


def _visible(text: str) -> str:
    return text.replace("\n", "⏎") if text.strip(" ") else "␣" * len(text)


# -- over training -------------------------------------------------------------------------------------------


def history_figure(history: NetworkHistory) -> go.Figure:
    """Each measure of every layer over the epochs, one plot per measure; what no layer has is left out."""
    curves = {measure: {layer: history.curve(layer, measure) for layer in history.layers} for measure in CURVES}
    curves = {measure: by_layer for measure, by_layer in curves.items() if _finite(*by_layer.values())}
    rows = -(-len(curves) // 2)
    titles = [CURVES[measure][0] for measure in curves]
    figure = make_subplots(rows, 2, subplot_titles=titles, vertical_spacing=0.27 / rows, horizontal_spacing=0.1)
    epochs = [moment.epoch for moment in history.moments]
    looks = dict(zip(history.layers, _looks(len(history.layers)), strict=True))
    named: set[str] = set()
    for place, (measure, by_layer) in enumerate(curves.items()):
        at = {"row": place // 2 + 1, "col": place % 2 + 1}
        for layer, curve in by_layer.items():
            if _finite(curve):
                line = {"x": epochs, "y": curve, "name": layer or WHOLE, "legendgroup": layer, **looks[layer]}
                figure.add_trace(go.Scatter(**line, showlegend=layer not in named), **at)
                named.add(layer)
        figure.update_xaxes(title="epoch" if place >= len(curves) - 2 else None, **at)
        if CURVES[measure][1]:
            figure.update_yaxes(**_logarithmic(*by_layer.values()), **at)
        else:
            figure.update_yaxes(rangemode="tozero", **at)
    return _dressed(figure, "Layers over training", 110 + 250 * rows)


def animated_figure(history: NetworkHistory) -> go.Figure:
    """Each measure as a line through the layers, from the first to the last, to be played moment by moment."""
    measures = [m for m in CURVES if _finite(*(history.curve(layer, m) for layer in history.layers))]
    rows = -(-len(measures) // 2)
    titles = [CURVES[measure][0] for measure in measures]
    figure = make_subplots(rows, 2, subplot_titles=titles, vertical_spacing=0.27 / rows, horizontal_spacing=0.1)
    names = [layer or WHOLE for layer in history.layers]

    def lines(moment: Moment) -> list[go.Scatter]:
        look = {"mode": "lines+markers", "line": {"color": COLOURS[0]}, "marker": {"size": 8}, "showlegend": False}
        return [
            go.Scatter(x=names, y=[layer.measured(measure) for layer in moment.layers.values()], **look)
            for measure in measures
        ]

    last = history.moments[-1]
    for place, (measure, line) in enumerate(zip(measures, lines(last), strict=True)):
        at = {"row": place // 2 + 1, "col": place % 2 + 1}
        figure.add_trace(line, **at)
        everything = [history.curve(layer, measure) for layer in history.layers]
        figure.update_yaxes(**_range(*everything, log=CURVES[measure][1]), **at)
        figure.update_xaxes(showticklabels=place >= len(measures) - 2, tickangle=_angle(names), **at)
    figure.frames = [go.Frame(data=lines(moment), name=f"{moment.epoch:g}") for moment in history.moments]
    at_once = {"mode": "immediate", "frame": {"duration": 0, "redraw": False}, "transition": {"duration": 0}}
    steps = [{"method": "animate", "label": f.name, "args": [[f.name], at_once]} for f in figure.frames]
    play = {"frame": {"duration": 400, "redraw": False}, "fromcurrent": False, "transition": {"duration": 200}}
    above = {"y": 1, "yanchor": "bottom", "pad": {"b": 30}}  # below are the names of the layers
    slider = {"active": len(steps) - 1, "steps": steps, "currentvalue": {"prefix": "epoch "}, "x": 0.1, "len": 0.9}
    button = {"type": "buttons", "buttons": [{"label": "Play", "method": "animate", "args": [None, play]}], "x": 0.06}
    figure.update_layout(sliders=[{**slider, **above}], updatemenus=[{**button, **above}])
    return _dressed(figure, "Layers from the first to the last, as training goes on", 230 + 250 * rows, top=200)


def spectra_figure(history: NetworkHistory) -> go.Figure:
    """The largest singular values of every matrix, a line per moment, the darkest before training."""
    last = history.moments[-1]
    matrices = [(name, part) for name, layer in last.layers.items() for part, s in layer.spectra.items() if s.largest]
    count = len(history.moments)
    shown = sorted({round(place * (count - 1) / (MOST_MOMENTS - 1)) for place in range(MOST_MOMENTS)})
    colours = _in_order(len(shown))
    columns = min(len(matrices), 3)
    rows = max(-(-len(matrices) // 3), 1)
    titles = [_matrix_name(name, part) for name, part in matrices]
    figure = make_subplots(
        rows, max(columns, 1), subplot_titles=titles, vertical_spacing=0.27 / rows, horizontal_spacing=0.07
    )
    for place, (name, part) in enumerate(matrices):
        at = {"row": place // 3 + 1, "col": place % 3 + 1}
        lines = [history.moments[number].layers[name].spectra[part].largest for number in shown]
        for number, colour, values in zip(shown, colours, lines, strict=True):
            epoch = f"epoch {history.moments[number].epoch:g}"
            ranks = list(range(1, len(values) + 1))
            look = {"mode": "lines+markers", "line": {"color": colour, "width": 1.5}, "marker": {"size": 4}}
            trace = go.Scatter(
                x=ranks, y=values, name=epoch, legendgroup=epoch, showlegend=place == 0 and count > 1, **look
            )
            figure.add_trace(trace, **at)
        figure.update_yaxes(**_logarithmic(*lines), **at)
        figure.update_xaxes(title="from the largest" if place >= len(matrices) - 3 else None, **at)
    return _dressed(figure, "Spectra of the weights: the largest singular values of each matrix", 110 + 240 * rows)


def _matrix_name(layer: str, part: str) -> str:
    name = f"{layer}.{part}".removeprefix(".")
    return name.removesuffix(".weight") if name != "weight" else WHOLE


# -- on one example ------------------------------------------------------------------------------------------


def gates_figure(gates: Mapping[str, Tensor], labels: Sequence[str], layer: str) -> go.Figure:
    """How open the gates (T, hidden) of one layer are over a text, unit by unit, and how often they are how open.

    Units stand in the order of the mean of the gate that keeps the state: forget or update, or else the first.
    """
    keeping = next((name for name in gates if name.endswith(("forget", "update"))), next(iter(gates)))
    order = gates[keeping].mean(0).argsort(stable=True)
    figure = make_subplots(
        len(gates), 2, column_widths=[0.78, 0.22], horizontal_spacing=0.06, vertical_spacing=0.16 / len(gates)
    )
    for row, (name, gate) in enumerate(gates.items(), start=1):
        values = gate[:, order].T.cpu().double()  # (hidden, T)
        heat = go.Heatmap(z=values.numpy(), coloraxis="coloraxis", hovertemplate="step %{x}, unit %{y}: %{z:.2f}")
        figure.add_trace(heat, row=row, col=1)
        shares = values.flatten().histc(20, 0, 1) / values.numel()
        middles = [(place + 0.5) / 20 for place in range(20)]
        figure.add_trace(go.Bar(x=middles, y=shares.tolist(), marker_color=COLOURS[0], width=0.05), row=row, col=2)
        for edge in (SHUT, OPEN):
            figure.add_vline(x=edge, line={"dash": "dot", "color": "#444444", "width": 1}, row=row, col=2)
        figure.update_xaxes(showticklabels=row == len(gates), row=row, col=1)
        figure.update_yaxes(title=f"{name}: unit", row=row, col=1)
        figure.update_yaxes(title="share", rangemode="tozero", row=row, col=2)
        figure.update_xaxes(range=[0, 1], row=row, col=2)
    figure.update_xaxes(col=1, tickangle=_angle(labels), **_ticks(labels))
    figure.update_xaxes(title="openness", row=len(gates), col=2)
    bar = {"title": "openness", "thickness": 12, "len": 0.6}
    figure.update_layout(coloraxis={"colorscale": ORDERED, "cmin": 0, "cmax": 1, "colorbar": bar}, showlegend=False)
    title = f"Gates of {layer} over a text: 0 is shut, 1 is open; units in the order of their mean {keeping} gate"
    return _dressed(figure, title, 110 + 210 * len(gates))


def attention_figure(weights: Tensor, source: Sequence[str], target: Sequence[str]) -> go.Figure:
    """What each place of the target (T) looks at in the source (S); weights (T, S), of which each row sums to 1.

    Raises DataError where the words are not as many as the places.
    """
    if weights.shape != (len(target), len(source)):
        raise DataError(
            f"attention weights of shape {tuple(weights.shape)} need as many words of target and source, not "
            f"({len(target)}, {len(source)})."
        )
    heat = go.Heatmap(
        z=weights.cpu().double().numpy(),
        colorscale=[[0, "#FFFFFF"], [1, "#08306B"]],
        zmin=0,
        zmax=1,
        colorbar={"title": "weight", "thickness": 12},
        hovertemplate="%{y} looks at %{x}: %{z:.2f}",
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    figure.update_xaxes(title="source", side="top", showgrid=False, tickangle=_angle(source), **_ticks(source))
    figure.update_yaxes(
        title={"text": "target, read so far", "standoff": 14}, autorange="reversed", showgrid=False, **_ticks(target)
    )
    return _dressed(figure, "Attention: what each target word looks at in the source", 190 + 26 * len(target), top=150)


# -- looks ---------------------------------------------------------------------------------------------------


def save_page(path: Path, title: str, shown: Sequence[go.Figure]) -> Path:
    """Write figures into one HTML file that needs nothing else to be seen, and prints well. Gives the path.

    Raises DataError where it cannot be written.
    """
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=number == 0, auto_play=False, config={"displaylogo": False})
        for number, figure in enumerate(shown)
    ]
    style = (
        "body{font:16px system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
        "section{break-inside:avoid;margin-bottom:2em}"
    )
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style></head><body><h1>{html.escape(title)}</h1>"
        + "".join(f"<section>{part}</section>" for part in parts)
        + "</body></html>"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as cause:
        raise DataError(f"{path} cannot be written: {cause.strerror}. Give another folder.") from None
    return path


def _dressed(figure: go.Figure, title: str, height: int, top: int = 90) -> go.Figure:
    axis = {"showline": True, "linecolor": "#888888", "gridcolor": "#E5E5E5", "zeroline": False, "automargin": True}
    figure.update_layout(
        title={"text": title, "x": 0.01, "font": {"size": 18}},
        height=height,
        template="none",
        font={"size": 12, "color": "#222222"},
        margin={"l": 60, "r": 20, "t": top, "b": 50},
    )
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    figure.update_annotations(font_size=13)
    return figure


def _looks(count: int) -> list[dict[str, object]]:
    """Of `count` lines that belong together in this order: colours of their own, or of a scale where they are many."""
    colours = list(COLOURS[:count]) if count <= len(COLOURS) else _in_order(count)
    return [
        {
            "mode": "lines+markers",
            "line": {"color": colour, "dash": dash, "width": 2},
            "marker": {"symbol": mark, "size": 6},
        }
        for colour, dash, mark in zip(colours, itertools.cycle(DASHES), itertools.cycle(MARKS))
    ]


def _in_order(count: int) -> list[str]:
    """Colours from dark to light; not the lightest, which is lost on white."""
    colours: list[str] = sample_colorscale(ORDERED, [0.85 * place / max(count - 1, 1) for place in range(count)])
    return colours


def _logarithmic(*curves: Sequence[float]) -> dict[str, object]:
    """An axis for positive numbers: powers of ten are marked, between few of them 2 and 5 too; linear where near 1."""
    positive = [value for curve in curves for value in curve if math.isfinite(value) and value > 0]
    low, high = min(positive, default=1.0), max(positive, default=1.0)
    if high < 4 * low:
        return {"type": "linear"}
    steps = (1,) if high > 100 * low else (1, 2, 5)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [step * 10.0**decade for decade in decades for step in steps]
    return {"type": "log", "tickmode": "array", "tickvals": marks, "ticktext": [f"{mark:g}" for mark in marks]}


def _range(*curves: Sequence[float], log: bool) -> dict[str, object]:
    """An axis that holds all of the curves, and stays as it is while they move."""
    values = [value for curve in curves for value in curve if math.isfinite(value) and (value > 0 or not log)]
    if not log:
        return {"range": [0, 1.05 * max(values, default=1.0) or 1]}
    ends = [math.log10(end) for end in (min(values, default=1.0), max(values, default=1.0))]
    return {**_logarithmic(values), "type": "log", "range": [ends[0] - 0.1, ends[1] + 0.1]}


def _angle(labels: Sequence[str]) -> int:
    """Words are written aslant where they stand side by side."""
    return -60 if max(map(len, labels), default=0) > 2 else 0


def _ticks(labels: Sequence[str]) -> dict[str, object]:
    """A label at every place."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": [html.escape(label) for label in labels],
        "tickfont": {"size": 11 if len(labels) <= 40 else 9},
    }


def _finite(*curves: Sequence[float]) -> bool:
    return any(math.isfinite(value) for curve in curves for value in curve)
