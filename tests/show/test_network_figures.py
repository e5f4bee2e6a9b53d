from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plotly.colors import unlabel_rgb
from torch import Tensor, nn

from rheostat.errors import DataError
from rheostat.models.language_model import RecurrentLanguageModel
from rheostat.models.mlp import MLP
from rheostat.models.seq2seq import Seq2Seq
from rheostat.models.text_classifier import TextClassifier
from rheostat.show.network_figures import (
    COLOURS,
    MOST_STEPS,
    _in_order,
    _logarithmic,
    animated_figure,
    attention_figure,
    figures,
    gates_figure,
    history_figure,
    save_page,
    spectra_figure,
    token_labels,
)
from rheostat.train.gates import gates_within
from rheostat.train.observe import LayerState, Moment, NetworkHistory
from rheostat.train.spectrum import Spectrum
from rheostat.train.units import Activity


class Letters:
    """Token 4 is a, and so on; those before stand for nothing."""

    def __len__(self) -> int:
        return 30

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 93 for letter in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(chr(token + 93) for token in tokens if token > 3)


LETTERS = Letters()


def history(layers: int = 3, moments: int = 12) -> NetworkHistory:
    def state(layer: int, moment: int) -> LayerState:
        gradient = math.nan if moment == 0 else 10.0 ** (-layer - moment / 4)
        spectra = {"weight": Spectrum((3.0 + moment, 1.0, 0.01), 1.5, 2.0)}
        return LayerState(gradient, gradient, Activity(1.0 + layer), spectra)

    return NetworkHistory(
        tuple(Moment(5 * m, m, {f"layer{n}": state(n, m) for n in range(layers)}) for m in range(moments))
    )


def titles(figure: Any) -> str:
    return str(figure.layout.title.text)


# --- over training ---


def test_a_history_has_a_plot_per_measure_and_a_line_per_layer() -> None:
    figure = history_figure(history())
    plots = [annotation.text for annotation in figure.layout.annotations]
    assert [plot.split(",")[0] for plot in plots] == [
        "gradient norm",
        "size of an update / size of the weights",
        "size of the outputs (root mean square)",
        "stable rank of the weights",  # no layer has dead or saturated units
    ]
    assert len(figure.data) == 4 * 3
    assert [line.name for line in figure.data if line.showlegend] == ["layer0", "layer1", "layer2"]
    assert list(figure.data[1].y)[1:] == [10.0 ** (-1 - m / 4) for m in range(1, 12)]
    assert figure.layout.yaxis.type == "log" and "Layers over training" in titles(figure)


def test_lines_differ_in_more_than_their_colour() -> None:
    looks = {(line.line.color, line.line.dash, line.marker.symbol) for line in history_figure(history(20)).data}
    assert len(looks) == 20
    assert len({(dash, mark) for _, dash, mark in looks}) == 20


def luminance(colour: str) -> float:
    """Relative luminance of sRGB (WCAG 2)."""
    if colour.startswith("#"):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    else:
        parts = [part / 255 for part in unlabel_rgb(colour)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_can_be_seen_on_paper() -> None:
    """Each has a contrast with white, and those of a scale get lighter in their order, also in grey."""
    scale = [luminance(colour) for colour in _in_order(6)]
    assert scale == sorted(scale)
    assert all(1.05 / (light + 0.05) > 1.6 for light in [*scale, *map(luminance, COLOURS)])


def test_an_animation_has_a_picture_of_all_layers_for_each_moment() -> None:
    figure = animated_figure(history(3, 5))
    assert [frame.name for frame in figure.frames] == ["0", "1", "2", "3", "4"]
    assert [step.label for step in figure.layout.sliders[0].steps] == ["0", "1", "2", "3", "4"]
    gradients = figure.frames[2].data[0]
    assert list(gradients.x) == ["layer0", "layer1", "layer2"]
    assert list(gradients.y) == pytest.approx([10**-0.5, 10**-1.5, 10**-2.5])
    low, high = figure.layout.yaxis.range  # stays, and holds every frame
    assert low < -3 and high > -0.25


def test_spectra_show_the_first_the_last_and_some_moments_between() -> None:
    figure = spectra_figure(history(2, 30))
    assert [a.text for a in figure.layout.annotations] == ["layer0", "layer1"]
    assert len(figure.data) == 2 * 6
    assert (figure.data[0].name, figure.data[5].name) == ("epoch 0", "epoch 29")
    assert list(figure.data[5].y) == [32.0, 1.0, 0.01]
    assert len(spectra_figure(history(1, 1)).data) == 1


def test_numbers_on_an_axis_are_whole_numbers_of_their_decade() -> None:
    assert _logarithmic([1.0, 3.0])["type"] == "linear"
    assert _logarithmic([0.1, 1.0])["ticktext"] == ["0.1", "0.2", "0.5", "1", "2", "5"]
    assert _logarithmic([1e-5, 1.0, math.nan, 0.0])["ticktext"] == ["1e-05", "0.0001", "0.001", "0.01", "0.1", "1"]
    assert _logarithmic([math.nan])["type"] == "linear"


# --- on one example ---


def test_gates_are_drawn_unit_by_unit_in_the_order_of_the_one_that_keeps_the_state() -> None:
    forget = torch.tensor([[0.9, 0.1], [0.8, 0.3]])  # (T, hidden): the second unit forgets
    figure = gates_figure({"input": torch.tensor([[0.0, 1.0], [0.5, 0.5]]), "forget": forget}, ["a", "b"], "cell")
    heats = [trace for trace in figure.data if trace.type == "heatmap"]
    assert np.allclose(heats[0].z, [[1.0, 0.5], [0.0, 0.5]]) and np.allclose(heats[1].z, [[0.1, 0.3], [0.9, 0.8]])
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [sum(bar.y) for bar in bars] == pytest.approx([1, 1])
    assert bars[0].y[0] == bars[0].y[-1] == 0.25
    assert list(figure.layout.xaxis.ticktext) == ["a", "b"]
    assert "Gates of cell" in titles(figure) and "mean forget gate" in titles(figure)


def test_attention_is_drawn_with_its_words() -> None:
    figure = attention_figure(torch.eye(2, 3), ["one", "<b>", "three"], ["eins", "zwei"])
    assert np.array_equal(figure.data[0].z, np.eye(2, 3))
    assert list(figure.layout.xaxis.ticktext) == ["one", "&lt;b&gt;", "three"]
    assert list(figure.layout.yaxis.ticktext) == ["eins", "zwei"] and figure.layout.yaxis.autorange == "reversed"
    with pytest.raises(DataError, match=r"\(2, 3\).*\(2, 2\)"):
        attention_figure(torch.eye(2, 3), ["one", "two"], ["eins", "zwei"])


def test_tokens_are_written_as_people_see_them() -> None:
    class Characters(Letters):
        def decode(self, tokens: Sequence[int]) -> str:
            return "".join({4: " ", 5: "\n"}.get(t, "x") for t in tokens if t > 3)

    tokens = torch.tensor([[2, 4, 5, 6, 3, 1]])
    assert token_labels(tokens, Characters()) == ["⟨begin⟩", "␣", "⏎", "x", "⟨end⟩", "?"]
    assert token_labels(tokens, LETTERS) == ["⟨begin⟩", "a", "b", "c", "⟨end⟩", "?"]
    assert token_labels(tokens, None) == ["2", "4", "5", "6", "3", "1"]
    assert token_labels(torch.zeros(1, 3, 7), None) == ["1", "2", "3"]


def test_figures_of_a_translation() -> None:
    torch.manual_seed(0)
    network = Seq2Seq(30, 30, 8, "gru", "lstm", 8).eval()
    source, target = torch.tensor([[4, 5, 6, 0, 0], [4] * 5]), torch.tensor([[2, 7, 0], [2, 8, 9]])
    found = figures(network, (source, target), None, (LETTERS, LETTERS))
    assert [titles(figure).split(":")[0].split(" over")[0] for figure in found] == [
        "Spectra of the weights",
        "Attention",
        "Gates of encoder.forwards.0",
        "Gates of encoder.backwards.0",
        "Gates of decoder.layers.0",
    ]
    attention, forwards, backwards, decoder = found[1:]
    assert list(attention.layout.xaxis.ticktext) == ["a", "b", "c"]  # without padding
    assert list(attention.layout.yaxis.ticktext) == ["⟨begin⟩", "d"]
    assert np.allclose(attention.data[0].z, network.attention_map(source[:1, :3], target[:1, :2])[0].numpy())
    for figure, name in ((forwards, "forwards"), (backwards, "backwards")):
        assert list(figure.layout.xaxis.ticktext) == ["a", "b", "c"]
        gates = gates_within(network, (source[:1, :3], target[:1, :2]))[f"encoder.{name}.0"]
        order = gates["update"][0].mean(0).argsort(stable=True)
        drawn = Tensor(figure.data[2].z.astype(np.float32))  # (hidden, T)
        read = drawn.flip(1) if name == "backwards" else drawn  # this layer reads the text from its end
        torch.testing.assert_close(read.T, gates["update"][0][:, order])
    assert list(decoder.layout.xaxis3.ticktext) == ["⟨begin⟩", "d"]


def test_figures_of_other_networks() -> None:
    texts = figures(TextClassifier(30, 2, 4, "gru", 4), (torch.tensor([[4, 5, 0], [5, 6, 7]]),), None, (LETTERS,))
    assert [titles(f).split(" ")[0] for f in texts] == ["Spectra", "Gates", "Gates"]
    network = RecurrentLanguageModel(30, "lstm", 4, 4)
    stream = figures(network, (torch.full((2, 200), 5), torch.ones(2, dtype=torch.bool)), history(), (LETTERS,))
    assert [titles(f).split(" ")[0] for f in stream] == ["Layers", "Layers", "Spectra", "Gates"]
    assert len(stream[3].layout.xaxis.ticktext) == MOST_STEPS
    assert len(figures(MLP(4, 2), (torch.zeros(3, 4),))) == 1
    vanilla = figures(nn.RNN(4, 5, batch_first=True), (torch.zeros(3, 6, 4),))
    assert [titles(f).split(" ")[0] for f in vanilla] == ["Spectra"]


# --- the page ---


def test_a_page_holds_all_it_needs(tmp_path: Path) -> None:
    figure = attention_figure(torch.eye(2), ["a", "b"], ["c", "d"])
    path = save_page(tmp_path / "new" / "page.html", "Trial <3> & more", [figure, figure])
    page = path.read_text(encoding="utf-8")
    assert "<title>Trial &lt;3&gt; &amp; more</title>" in page
    assert page.count("<section>") == 2
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="https?:', page)  # nothing is fetched
    assert page.count("plotly.js v") == 1 and len(page) < 8_000_000


def test_an_animation_waits_to_be_played(tmp_path: Path) -> None:
    path = save_page(tmp_path / "page.html", "x", [history_figure(history()), animated_figure(history())])
    last = path.read_text(encoding="utf-8").rpartition("<section>")[2]
    assert "Plotly.addFrames" in last and "Plotly.animate(" not in last


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        save_page(tmp_path / "file" / "page.html", "x", [attention_figure(torch.eye(1), ["a"], ["b"])])
