"""Recurrent layers equal torch's own: stacked, both ways over packed rows, and in pieces."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rheostat.data import base
from rheostat.errors import TaskError
from rheostat.models import layers
from rheostat.models.layers import CELLS, Recurrent, RecurrentEncoder, recurrent_layer, token_embedding, weight_sd

each_cell = pytest.mark.parametrize("cell", CELLS)
cells, sizes, depths = st.sampled_from(list(CELLS)), st.integers(1, 6), st.integers(1, 3)


def copied(ours, theirs, number, suffix=""):
    """The weights of one of our layers go into a layer of torch's module."""
    for name, parameter in ours.named_parameters():
        getattr(theirs, name.replace("_l0", f"_l{number}{suffix}")).data.copy_(parameter.data)


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_tokens_are_those_of_the_data():
    assert (layers.PADDING, layers.BEGIN, layers.END) == (base.PADDING, base.BEGIN, base.END)


# -- forwards ----------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(cells, sizes, sizes, depths, st.integers(1, 5), st.integers(1, 7))
def test_stacked_layers_equal_torchs(cell, inputs, hidden, depth, batch, length):
    ours, theirs = Recurrent(cell, inputs, hidden, depth), CELLS[cell](inputs, hidden, depth, batch_first=True)
    assert size(ours) == size(theirs)
    for number, layer in enumerate(ours.layers):
        copied(layer, theirs, number)
    x = torch.randn(batch, length, inputs)
    before = torch.randn(2, depth, batch, hidden)
    outputs, after = ours(x, [tuple(h[number] for h in before[: 1 + (cell == "lstm")]) for number in range(depth)])
    expected, states = theirs(x, tuple(before) if cell == "lstm" else before[0])
    torch.testing.assert_close(outputs, expected)
    for part, state in enumerate(states if cell == "lstm" else (states,)):
        torch.testing.assert_close(torch.stack([layer[part] for layer in after]), state)


@settings(max_examples=20)
@given(cells, depths, st.booleans(), st.integers(1, 6), st.integers(1, 6))
def test_pieces_that_carry_the_state_equal_one_pass(cell, depth, residual, first, second):
    network, x = Recurrent(cell, 3, 4, depth, residual=residual), torch.randn(2, first + second, 3)
    start, states = network(x[:, :first])
    end, states = network(x[:, first:], states)
    whole, last = network(x)
    torch.testing.assert_close(torch.cat([start, end], 1), whole)
    torch.testing.assert_close(states, last)


def test_no_state_is_a_state_of_zeros():
    network, x = Recurrent("lstm", 3, 4, 2), torch.randn(5, 6, 3)
    zeros = [(torch.zeros(5, 4), torch.zeros(5, 4))] * 2
    torch.testing.assert_close(network(x)[0], network(x, zeros)[0])


@each_cell
def test_residual_layers_add_their_input_from_the_second_on(cell):
    network, x = Recurrent(cell, 3, 4, 3, residual=True), torch.randn(5, 6, 3)
    one, two, three = network.layers
    expected = one(x)[0]
    expected = two(expected)[0] + expected
    expected = three(expected)[0] + expected
    torch.testing.assert_close(network(x)[0], expected)


def test_dropout_is_between_layers_only():
    network, x = Recurrent("gru", 3, 200, 2, dropout=0.5), torch.randn(2, 6, 3)
    assert not torch.equal(network(x)[0], network(x)[0])
    assert torch.equal(network.eval()(x)[0], network(x)[0])
    one = Recurrent("gru", 3, 200, 1, dropout=0.5)
    assert torch.equal(one(x)[0], one(x)[0])
    torch.manual_seed(0)
    got = network.train()(x)[0]
    torch.manual_seed(0)
    torch.testing.assert_close(got, network.layers[1](nn.Dropout(0.5)(network.layers[0](x)[0]))[0])


# -- both ways ---------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    cells, sizes, sizes, depths, st.booleans(), st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 3)
)
def test_padded_rows_equal_torchs_packed_ones(cell, inputs, hidden, depth, bidirectional, lengths, more):
    ours = RecurrentEncoder(cell, inputs, hidden, depth, bidirectional)
    theirs = CELLS[cell](inputs, hidden, depth, batch_first=True, bidirectional=bidirectional)
    assert size(ours) == size(theirs) and ours.size == hidden * (1 + bidirectional)
    for number, layer in enumerate(ours.forwards):
        copied(layer, theirs, number)
    for number, layer in enumerate(ours.backwards):
        copied(layer, theirs, number, "_reverse")
    x = torch.randn(len(lengths), max(lengths) + more, inputs)  # what stands in the padding is noise
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    expected, state = theirs(packed)
    expected, _ = pad_packed_sequence(expected, batch_first=True)
    outputs = ours(x, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        torch.testing.assert_close(outputs[row, :length], expected[row, :length])
    state = state[0] if cell == "lstm" else state
    last = torch.cat(list(state[-2:] if bidirectional else state[-1:]), 1)
    torch.testing.assert_close(ours.ends(outputs, torch.tensor(lengths)), last)


@each_cell
def test_gradients_equal_those_of_packed_rows(cell):
    ours, theirs = RecurrentEncoder(cell, 3, 4), CELLS[cell](3, 4, batch_first=True, bidirectional=True)
    copied(ours.forwards[0], theirs, 0)
    copied(ours.backwards[0], theirs, 0, "_reverse")
    x, lengths, weights = torch.randn(3, 6, 3), torch.tensor([6, 1, 4]), torch.randn(8)
    mask = torch.arange(6) < lengths[:, None]
    (ours(x, lengths)[mask] @ weights).sum().backward()
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    (pad_packed_sequence(theirs(packed)[0], batch_first=True)[0][mask] @ weights).sum().backward()
    for name, parameter in theirs.named_parameters():
        layer = ours.backwards[0] if name.endswith("_reverse") else ours.forwards[0]
        got = layer.get_parameter(name.removesuffix("_reverse")).grad
        torch.testing.assert_close(got, parameter.grad, atol=1e-5, rtol=1e-4)


def test_residual_layers_of_an_encoder():
    network, x, lengths = RecurrentEncoder("gru", 3, 4, 2, residual=True), torch.randn(2, 5, 3), torch.tensor([5, 5])
    below = torch.cat([network.forwards[0](x)[0], network.backwards[0](x.flip(1))[0].flip(1)], 2)
    above = torch.cat([network.forwards[1](below)[0], network.backwards[1](below.flip(1))[0].flip(1)], 2)
    torch.testing.assert_close(network(x, lengths), below + above)


def test_an_encoder_drops_between_layers_only():
    x, lengths = torch.randn(2, 5, 3), torch.tensor([5, 3])
    one, two = (RecurrentEncoder("gru", 3, 50, depth, dropout=0.5) for depth in (1, 2))
    assert torch.equal(one(x, lengths), one(x, lengths))
    assert not torch.equal(two(x, lengths), two(x, lengths))
    assert torch.equal(two.eval()(x, lengths), two(x, lengths))


# -- at first ----------------------------------------------------------------------------------------------------------


@each_cell
def test_each_gate_begins_on_its_own(cell):
    torch.manual_seed(0)
    layer = recurrent_layer(cell, 200, 100, forget_bias=1.5)
    for gate in layer.weight_hh_l0.split(100):
        torch.testing.assert_close(gate @ gate.T, torch.eye(100), atol=1e-5, rtol=0)
    for gate in layer.weight_ih_l0.split(100):
        assert gate.abs().max() <= math.sqrt(6 / 300)
        assert gate.var().item() == pytest.approx(2 / 300, rel=0.05)
    biases = (layer.bias_ih_l0 + layer.bias_hh_l0).split(100)
    assert [bias.unique().tolist() for bias in biases] == (
        [[0], [1.5], [0], [0]] if cell == "lstm" else [[0]] * len(biases)
    )


def test_the_forget_bias_is_that_of_the_forget_gate():
    """With all weights at zero, c' = sigmoid(forget bias) c + sigmoid(0) tanh(0)."""
    layer = recurrent_layer("lstm", 1, 1, forget_bias=2.0)
    layer.weight_ih_l0.data.zero_()
    layer.weight_hh_l0.data.zero_()
    _, (_, c) = layer(torch.zeros(1, 1, 1), (torch.zeros(1, 1, 1), torch.ones(1, 1, 1)))
    assert c.item() == pytest.approx(1 / (1 + math.exp(-2)))


def test_embeddings_at_first():
    torch.manual_seed(0)
    table = token_embedding(500, 40, padding=0)
    assert table.weight[1:].std().item() == pytest.approx(0.1, rel=0.03) and not table.weight[0].any()
    table(torch.tensor([[0, 3]])).sum().backward()
    assert not table.weight.grad[0].any() and table.weight.grad[3].all()
    assert token_embedding(5, 4).weight[0].all()


def test_weight_sd():
    assert weight_sd(50, 70, "relu") == math.sqrt(2 / 50) and weight_sd(50, 70, "linear") == math.sqrt(1 / 50)
    assert weight_sd(50, 70, "tanh") == math.sqrt(2 / 120) and weight_sd(50, 70, "sigmoid") == 4 * math.sqrt(2 / 120)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Recurrent, RecurrentEncoder])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cell": "ltsm"}, "Unknown cell 'ltsm'. Did you mean 'lstm'"),
        ({"hidden": 0}, "hidden=0: give a whole number from 1"),
        ({"layers": 0}, "layers=0: give a whole number from 1"),
        ({"layers": 1.0}, "layers=1.0"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and less than 1"),
        ({"forget_bias": math.nan}, "forget_bias=nan must be a finite number"),
    ],
)
def test_values_that_are_not_allowed(kind, settings, words):
    with pytest.raises(TaskError, match=words):
        kind(**{"cell": "lstm", "inputs": 3, "hidden": 4, **settings})


def test_examples_in_docstrings():
    results = doctest.testmod(layers)
    assert results.attempted and not results.failed
