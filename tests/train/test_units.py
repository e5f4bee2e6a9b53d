from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rheostat.models.cnn import CNN
from rheostat.models.language_model import RecurrentLanguageModel, Transformer
from rheostat.models.seq2seq import Seq2Seq
from rheostat.train.gates import gates, openness
from rheostat.train.units import Activity, activity

TOKENS = torch.randint(4, 50, (4, 9), generator=torch.Generator().manual_seed(0))
ANEW = torch.ones(4, dtype=torch.bool)


class Functional(nn.Module):
    """Activations that are functions, all within one module."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.four = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        x = self.two(x).tanh()
        x = torch.sigmoid(self.three(x))
        return F.relu6(self.four(x))


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 20))
def test_dead_and_saturated_units_are_those_that_a_pass_by_hand_finds(seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    network, x = Functional(), torch.randn(5, 6)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale)
        one = network.one(x).relu()
        two = network.two(one).tanh()
        three = network.three(two).sigmoid()
        four = network.four(three)
    found = activity(network, (x,))
    assert list(found) == ["one", "two", "three", "four"]
    assert found["one"].dead == pytest.approx(sum(not one[:, unit].any() for unit in range(8)) / 8)
    assert found["two"].saturated == pytest.approx(int((two.abs() > 0.95).sum()) / 40)
    assert found["three"].saturated == pytest.approx(int(((three < 0.025) | (three > 0.975)).sum()) / 40, abs=1e-6)
    assert found["four"].dead == pytest.approx(sum(bool((four[:, unit] <= 0).all()) for unit in range(3)) / 3)
    assert found["four"].output_rms == pytest.approx(float(four.square().mean().sqrt()), rel=1e-5)
    assert all(math.isnan(found[name].dead) for name in ("two", "three"))
    assert all(math.isnan(found[name].saturated) for name in ("one", "four"))


def test_a_channel_is_a_unit_of_a_convolution() -> None:
    network = CNN((1, 8, 8), 3, layers=1, channels=4)
    with torch.no_grad():
        norm = network.blocks[0].body.norm
        norm.weight.zero_()
        norm.bias.copy_(torch.tensor([-1.0, 1.0, -1.0, -1.0]))
    found = activity(network, (torch.randint(0, 255, (3, 1, 8, 8), dtype=torch.uint8),))
    assert list(found) == ["blocks.0.body.convolution", "blocks.0.body.norm", "output"]
    assert found["blocks.0.body.convolution"].dead == 0.75  # the activation behind the norm counts to it


def test_units_of_a_sequence_are_its_last_axis_but_channels_behind_a_convolution() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.convolution = nn.Linear(2, 4), nn.Conv1d(5, 6, 1)

        def forward(self, x: Tensor) -> Tensor:  # (B, 5, 2)
            return self.convolution(self.wide(x).relu()).relu()  # type: ignore[no-any-return]

    network = Both()
    with torch.no_grad():
        network.wide.weight.zero_()
        network.wide.bias.copy_(torch.tensor([1.0, -1.0, -1.0, -1.0]))
        network.convolution.weight.zero_()
        network.convolution.bias.copy_(torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0]))
    found = activity(network, (torch.randn(3, 5, 2),))
    assert (found["wide"].dead, found["convolution"].dead) == (0.75, 0.5)


def test_a_unit_is_alive_where_one_call_of_several_finds_it_so() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).relu() + self.layer(-x).relu()  # type: ignore[no-any-return]

    network = Twice()
    network.layer.weight.data = torch.tensor([[1.0], [0.0]])
    found = activity(network, (-torch.ones(3, 1),))
    assert found["layer"].dead == 0.5


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gates_of_a_recurrent_network_are_found_on_the_inputs_of_its_layers(cell: str) -> None:
    torch.manual_seed(0)
    network = RecurrentLanguageModel(50, cell, 8, 16, recurrent_layers=2).eval()
    found = activity(network, (TOKENS, ANEW))
    first, second = network.recurrent.layers
    with torch.no_grad():
        x = network.embedding(TOKENS)
        expected = {name: openness(gate) for name, gate in gates(first, x).items()}
        above = {name: openness(gate) for name, gate in gates(second, first(x)[0]).items()}
    assert found["recurrent.layers.0"].gates == expected and found["recurrent.layers.1"].gates == above
    assert math.isnan(found["recurrent.layers.0"].saturated)  # what its kernel does inside is no activation behind it


def test_cells_are_seen_at_every_step() -> None:
    class Stepwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 3)
            for step in x.unbind(1):
                h = self.cell(step, hx=h)
            return h

    network, x = Stepwise(), torch.randn(4, 6, 2)
    layer = nn.GRU(2, 3, batch_first=True)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(layer, f"{name}_l0").data = getattr(network.cell, name).data
    expected = openness(gates(layer, x)["update"])
    found = activity(network, (x,))["cell"].gates["update"]
    assert (found.mean, found.shut, found.open) == pytest.approx((expected.mean, expected.shut, expected.open))


@pytest.mark.parametrize(("kind", "measure"), [("tanh", "saturated"), ("relu", "dead")])
def test_vanilla_layers_are_watched_by_their_outputs(kind: str, measure: str) -> None:
    torch.manual_seed(0)
    layer = nn.RNN(3, 8, nonlinearity=kind, batch_first=True)
    layer.weight_ih_l0.data *= 5
    layer.bias_ih_l0.data -= 2
    x = torch.randn(4, 6, 3)
    outputs = layer(x)[0]
    expected = (outputs.abs() > 0.95).float().mean() if kind == "tanh" else (outputs == 0).all((0, 1)).float().mean()
    assert getattr(activity(layer, (x,))[""], measure) == pytest.approx(float(expected))
    assert 0 < float(expected) < 1


def test_every_layer_of_the_larger_families_is_seen() -> None:
    for network, inputs in [
        (Transformer(50, 32, 2, 2), (TOKENS, ANEW)),
        (Seq2Seq(50, 60, 16, "lstm", "gru", 32, attention="additive"), (TOKENS, TOKENS)),
    ]:
        found = activity(network, inputs)
        own = {name for name, module in network.named_modules() if list(module.parameters(recurse=False))}
        tied = {"output"} if isinstance(network, Transformer) else set()
        assert set(found) == own - tied
        assert all(math.isfinite(seen.output_rms) for seen in found.values())
    assert not math.isnan(found["combine"].saturated)  # tanh, as a function


class HalfUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused, self.used = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)  # type: ignore[no-any-return]


def test_layers_that_do_not_run_come_last_and_have_nothing() -> None:
    found = activity(HalfUsed(), (torch.ones(3, 2),))
    assert list(found) == ["used", "unused"] and repr(found["unused"]) == repr(Activity())
