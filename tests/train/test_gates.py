from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from rheostat.train.gates import gates, gates_within, openness

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def by_hand(module: nn.RNNBase, layer: int, suffix: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, dict]:
    """One row of one layer in one direction, a step at a time: outputs (T, H) and gates, each (T, hidden)."""
    w = {name: getattr(module, f"{name}_l{layer}{suffix}") for name in ("weight_ih", "weight_hh")}
    b = {name: getattr(module, f"{name}_l{layer}{suffix}", 0) for name in ("bias_ih", "bias_hh")}
    n = module.hidden_size
    outputs, found = [], {}
    for step in x:
        a, r = w["weight_ih"] @ step + b["bias_ih"], w["weight_hh"] @ h + b["bias_hh"]
        if isinstance(module, nn.GRU):
            gate = {"reset": torch.sigmoid((a + r)[:n]), "update": torch.sigmoid((a + r)[n : 2 * n])}
            new = torch.tanh(a[2 * n :] + gate["reset"] * r[2 * n :])
            h = (1 - gate["update"]) * new + gate["update"] * h
        else:
            s = a + r
            gate = {
                "input": torch.sigmoid(s[:n]),
                "forget": torch.sigmoid(s[n : 2 * n]),
                "output": torch.sigmoid(s[3 * n :]),
            }
            c = gate["forget"] * c + gate["input"] * torch.tanh(s[2 * n : 3 * n])
            h = gate["output"] * torch.tanh(c)
            if module.proj_size:
                h = getattr(module, f"weight_hr_l{layer}{suffix}") @ h
        outputs.append(h)
        for name, value in gate.items():
            found.setdefault(name, []).append(value)
    return torch.stack(outputs), {name: torch.stack(values) for name, values in found.items()}


@settings(max_examples=40)
@given(
    lstm=st.booleans(),
    layers=st.integers(1, 2),
    both_ways=st.booleans(),
    projected=st.booleans(),
    bias=st.booleans(),
    batch_first=st.booleans(),
    packed=st.booleans(),
    started=st.booleans(),
    seed=st.integers(0, 10**6),
)
@torch.no_grad()
def test_gates_are_those_of_the_equations(
    lstm: bool,
    layers: int,
    both_ways: bool,
    projected: bool,
    bias: bool,
    batch_first: bool,
    packed: bool,
    started: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    kind, more = (nn.LSTM, {"proj_size": 2 if projected else 0}) if lstm else (nn.GRU, {})
    module = kind(3, 4, layers, bias=bias, batch_first=batch_first, bidirectional=both_ways, **more).eval()
    lengths, directions = [5, 2, 4], 1 + both_ways
    x = torch.randn(3, 5, 3)
    out = module.proj_size or 4
    h = torch.randn(layers * directions, 3, out) if started else torch.zeros(layers * directions, 3, out)
    c = torch.randn(layers * directions, 3, 4) if started else torch.zeros(layers * directions, 3, 4)
    given_x = x if batch_first else x.transpose(0, 1)
    if packed:
        given_x = pack_padded_sequence(given_x, torch.tensor(lengths), batch_first=batch_first, enforce_sorted=False)
    state = ((h, c) if lstm else h) if started else None

    found = gates(module, given_x, state)

    assert len(found) == (3 if lstm else 2) * layers * directions
    for row, length in enumerate(lengths if packed else [5] * 3):
        inputs = x[row, :length]
        for layer in range(layers):
            outputs = []
            for direction, suffix in enumerate(("", "_reverse")[:directions]):
                place = layer * directions + direction
                turned = inputs.flip(0) if suffix else inputs
                output, expected = by_hand(module, layer, suffix, turned, h[place, row], c[place, row])
                prefix = "" if layers == directions == 1 else f"l{layer}{suffix}."
                for name, gate in expected.items():
                    gate = gate.flip(0) if suffix else gate
                    torch.testing.assert_close(found[prefix + name][row, :length], gate, atol=1e-5, rtol=1e-4)
                    assert found[prefix + name][row, length:].isnan().all()
                outputs.append(output.flip(0) if suffix else output)
            inputs = torch.cat(outputs, 1)


@pytest.mark.parametrize(("cell", "layer"), [(nn.GRUCell, nn.GRU), (nn.LSTMCell, nn.LSTM)])
@torch.no_grad()
def test_a_cell_has_the_gates_of_a_layer_at_that_step(cell: type[nn.GRUCell], layer: type[nn.GRU]) -> None:
    torch.manual_seed(0)
    one, many = cell(3, 4), layer(3, 4, batch_first=True)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(many, f"{name}_l0").copy_(getattr(one, name))
    x = torch.randn(2, 5, 3)
    expected, state = gates(many, x), None
    for step in range(5):
        found = gates(one, x[:, step], state)
        assert found.keys() == expected.keys()
        for name, gate in found.items():
            torch.testing.assert_close(gate, expected[name][:, step])
        state = one(x[:, step], state)


class Stepwise(nn.Module):
    """A cell, and a layer that is given one step at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.layer, self.vanilla = nn.LSTMCell(3, 4), nn.GRU(4, 5, batch_first=True), nn.RNN(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        state, deep = None, None
        for step in x.unbind(1):
            state = self.cell(step, state)
            _, deep = self.layer(state[0][:, None], hx=deep)
        return self.vanilla(deep)[0]  # type: ignore[no-any-return]


@torch.no_grad()
def test_gates_within_a_network_stand_in_the_order_of_its_steps() -> None:
    torch.manual_seed(0)
    network, x = Stepwise().train(), torch.randn(2, 6, 3)
    found = gates_within(network, (x,))
    whole = nn.LSTM(3, 4, batch_first=True)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(whole, f"{name}_l0").copy_(getattr(network.cell, name))
    assert found.keys() == {"cell", "layer"} and network.training
    for name, gate in gates(whole, x).items():
        torch.testing.assert_close(found["cell"][name], gate)
    for name, gate in gates(network.layer, whole(x)[0]).items():
        torch.testing.assert_close(found["layer"][name], gate)


def test_inputs_without_a_batch_are_one_row() -> None:
    module = nn.GRU(3, 4)
    x = torch.randn(5, 3)
    found = gates(module, x, torch.zeros(1, 4))
    torch.testing.assert_close(found["update"], gates(module, x[:, None])["update"])
    assert found["update"].shape == (1, 5, 4)


def test_vanilla_layers_have_no_gates() -> None:
    assert gates(nn.RNN(3, 4), torch.randn(5, 2, 3)) == {} == gates(nn.RNNCell(3, 4), torch.randn(2, 3))


def test_openness_counts_what_is_shut_and_open_and_leaves_padding_out() -> None:
    found = openness(torch.tensor([[0.0, 0.05, 0.1, 0.5], [0.9, 0.95, torch.nan, torch.nan]]))
    assert (found.mean, found.shut, found.open) == pytest.approx((2.5 / 6, 2 / 6, 1 / 6))
