from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from rheostat.show.network import cost_words, gates_table, history_table, layers_table, percent, replay_words, size
from rheostat.show.text import BLOCKS, NOT_FINITE
from rheostat.train.gates import Openness
from rheostat.train.network import summary
from rheostat.train.observe import LayerState, Moment, NetworkHistory
from rheostat.train.optimizers import SGD
from rheostat.train.replay import Replay
from rheostat.train.spectrum import Spectrum
from rheostat.train.units import Activity


def test_layers_are_listed_with_their_costs_and_their_sum() -> None:
    network = nn.Sequential(nn.Linear(300, 200), nn.Identity(), nn.ReLU(), nn.Linear(200, 10))
    rows = summary(network, (torch.zeros(2, 300),), lambda n: SGD(n.parameters(), lr=1.0, momentum=0.9))
    assert layers_table(rows).lines() == [
        "layer   kind    output  parameters  multiply-adds  parameter memory  kept per example",
        "0       Linear     200      60,200         60,000            241 kB",
        "2       ReLU       200                                                          800 B",
        "3       Linear      10       2,010          2,000           8.04 kB",
        "in all                      62,210         62,000            249 kB             800 B",
    ]
    assert cost_words(rows, 64) == (
        "Training a batch of 64 holds 249 kB of parameters, 249 kB of optimiser state and 51.2 kB of activations."
    )


def test_a_network_that_is_one_layer_and_one_that_runs_twice_have_names() -> None:
    layer = nn.Linear(2, 2)
    assert layers_table(summary(layer, (torch.zeros(2, 2),))).rows[0][:2] == ("(network)", "Linear")
    assert layers_table(summary(nn.Sequential(layer, layer), (torch.zeros(2, 2),))).rows[0][:2] == ("0", "Linear x2")


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (5e12, "5e+03 GB")]
)
def test_sizes(count: float, words: str) -> None:
    assert size(count) == words


def test_shares() -> None:
    assert [percent(s) for s in (0, 0.0042, 0.01, 0.999, 1, math.nan)] == ["0 %", "0.4 %", "1 %", "100 %", "100 %", ""]


def state(gradient: float, dead: float = math.nan, rank: float = math.nan) -> LayerState:
    spectra = {} if math.isnan(rank) else {"weight": Spectrum((1.0,), rank, rank)}
    return LayerState(gradient, gradient / 10, Activity(1.0, dead), spectra)


HISTORY = NetworkHistory(
    tuple(
        Moment(
            step,
            step / 2,
            {
                "first": state(gradient, dead, rank=8.0 - step),
                "": state(100 * gradient),
            },
        )
        for step, gradient, dead in [(0, math.nan, 0.0), (2, 1.0, 0.0), (4, 0.1, 0.5), (6, 0.01, 1.0)]
    )
)


def test_curves_of_a_measure_share_a_scale_and_end_with_the_last_value() -> None:
    table = history_table(HISTORY)
    assert table.titles == ("layer", "gradient norm", "update / weights", "output size", "dead units", "stable rank")
    first, network = table.rows
    assert first[:2] == ("first", f"{BLOCKS[4]}{BLOCKS[2]}{BLOCKS[0]} 0.01")  # four decades, from 0.01 to 100
    assert network[:2] == ("(network)", f"{BLOCKS[7]}{BLOCKS[5]}{BLOCKS[4]} 1")
    assert first[4] == f"{BLOCKS[0]}{BLOCKS[0]}{BLOCKS[4]}{BLOCKS[7]} 100 %" and network[4] == ""
    assert first[5].endswith(" 2.0") and network[5] == ""


def test_a_gradient_that_is_not_finite_is_marked_where_it_was() -> None:
    layers = [{"a": state(value)} for value in (1.0, math.inf, 0.0)]
    history = NetworkHistory(tuple(Moment(step, step, layer) for step, layer in enumerate(layers)))
    assert history_table(history).rows[0][1] == f"{BLOCKS[7]}{NOT_FINITE}{BLOCKS[0]} 0"


def test_a_history_of_nothing_is_an_empty_table() -> None:
    assert history_table(NetworkHistory()).lines() == ["layer"]
    assert gates_table(NetworkHistory()).rows == []


def test_gates_are_listed_with_what_they_end_with() -> None:
    def at(mean: float) -> Moment:
        opened = Openness(mean, 0.25, 0.5)
        return Moment(0, 0, {"cell": LayerState(activity=Activity(gates={"forget": opened}))})

    [row] = gates_table(NetworkHistory((at(0.0), at(0.9)))).rows
    assert row[:3] == ("cell", "forget", f"{BLOCKS[0]}{BLOCKS[6]} 0.90")
    assert [cell.split(" ", 1)[1] for cell in row[3:]] == ["25 %", "50 %"]


def test_what_is_said_of_a_replay() -> None:
    played = Replay(HISTORY, nn.Linear(1, 1), (), 3, 0.0, "")
    assert "same bit for bit: every metric of 3 epochs" in replay_words(played)
    assert "1 epoch differ by up to 2e-06" in replay_words(replace(played, compared=1, difference=2.1e-6))
    ended = replay_words(replace(played, compared=0, difference=math.nan, reason="training loss nan"))
    assert ended == "No earlier reports to compare with. It ended there: training loss nan."
