"""Language models: the recurrent one carries its state, the transformer equals a naive one, neither sees the future."""

from __future__ import annotations

import copy
import doctest
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from rheostat.errors import TaskError
from rheostat.models import language_model
from rheostat.models.language_model import (
    RecurrentLanguageModel,
    Transformer,
    TransformerBlock,
    rotated,
    rotations,
)
from rheostat.models.layers import CELLS

ANEW, ON = torch.tensor([True] * 3), torch.tensor([False] * 3)
recurrent = st.builds(
    RecurrentLanguageModel,
    vocabulary=st.just(11),
    cell=st.sampled_from(list(CELLS)),
    embedding=st.integers(1, 5),
    hidden=st.integers(1, 5),
    recurrent_layers=st.integers(1, 3),
    tied=st.booleans(),
    residual=st.booleans(),
)
transformers = st.builds(
    lambda heads, half, **rest: Transformer(11, hidden=heads * 2 * half, heads=heads, **rest),
    heads=st.integers(1, 3),
    half=st.integers(1, 3),
    layers=st.integers(1, 3),
    tied=st.booleans(),
)


def tokens(*shape):
    return torch.randint(11, shape)


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


@settings(max_examples=20)
@given(st.one_of(recurrent, transformers), st.integers(1, 6), st.integers(1, 6))
def test_the_future_changes_nothing_before_it(network, before, after):
    one, other = tokens(3, before + after), tokens(3, before + after)
    other[:, :before] = one[:, :before]
    torch.testing.assert_close(network(one, ANEW)[:, :before], network(other, ANEW)[:, :before])


@settings(max_examples=20)
@given(st.one_of(recurrent, transformers), st.integers(1, 6))
def test_rows_do_not_see_each_other(network, length):
    batch = tokens(3, length)
    alone = [copy.deepcopy(network)(row[None], ANEW[:1])[0] for row in batch]
    torch.testing.assert_close(network(batch, ANEW), torch.stack(alone))


# -- recurrent ---------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(recurrent, st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans())
def test_pieces_equal_one_pass(network, lengths, training):
    network.train(training)
    text = tokens(3, sum(lengths))
    pieces = [network(piece, ON if number else ANEW) for number, piece in enumerate(text.split(lengths, 1))]
    torch.testing.assert_close(torch.cat(pieces, 1), network(text, ANEW))


@settings(max_examples=20)
@given(recurrent, st.lists(st.booleans(), min_size=3, max_size=3))
def test_rows_that_begin_anew_know_nothing_of_before(network, anew):
    past, text = tokens(3, 4), tokens(3, 5)
    fresh = network(text, ANEW)
    network(past, ANEW)
    going_on = network(text, ON)
    network(past, ANEW)
    mixed = network(text, torch.tensor(anew))
    torch.testing.assert_close(mixed, torch.where(torch.tensor(anew)[:, None, None], fresh, going_on))
    assert not torch.allclose(fresh, going_on, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_those_of_a_state_given_as_a_constant(cell):
    network, text = RecurrentLanguageModel(11, cell, 4, 5, 2), tokens(3, 7)
    network(text[:, :4], ANEW)
    network(text[:, 4:], ON).square().sum().backward()
    got = [parameter.grad for parameter in network.parameters()]
    with torch.no_grad():
        _, states = network.recurrent(network.embedding(text[:, :4]))
    x, _ = network.recurrent(network.embedding(text[:, 4:]), states)
    expected = torch.autograd.grad(network.output(x).square().sum(), list(network.parameters()))
    torch.testing.assert_close(got, list(expected))


def test_evaluation_begins_anew_and_training_goes_on():
    network, first, second, other = RecurrentLanguageModel(11), tokens(3, 4), tokens(3, 4), tokens(3, 4)
    network(first, ANEW)
    expected = network(second, ON)
    network(first, ANEW)
    for _ in range(2):
        torch.testing.assert_close(network.eval()(other, ON), network.eval()(other, ANEW))
    torch.testing.assert_close(network.train()(second, ON), expected)


def test_another_number_of_rows_begins_anew():
    network, text = RecurrentLanguageModel(11), tokens(3, 4)
    expected = network(text[:2], ANEW[:2])
    network(text, ANEW)
    torch.testing.assert_close(network(text[:2], ON[:2]), expected)


def test_states_are_not_among_the_weights():
    network = RecurrentLanguageModel(11)
    network(tokens(3, 4), ANEW)
    assert set(network.state_dict()) == set(dict(network.named_parameters()))


@pytest.mark.parametrize(("embedding", "hidden"), [(6, 6), (6, 9)])
def test_tied_weights_are_one(embedding, hidden):
    network = RecurrentLanguageModel(11, embedding=embedding, hidden=hidden, tied=True)
    assert network.output.weight is network.embedding.weight
    narrow = 0 if embedding == hidden else (hidden + 1) * embedding
    assert size(network) == 11 * embedding + size(nn.LSTM(embedding, hidden)) + narrow + 11
    x, _ = network.recurrent(network.embedding(text := tokens(3, 4)))
    x = x if embedding == hidden else F.linear(x, network.narrow.weight, network.narrow.bias)
    torch.testing.assert_close(network(text, ANEW), x @ network.embedding.weight.T + network.output.bias)


def test_untied_weights_are_two():
    assert size(RecurrentLanguageModel(11, "gru", 6, 9)) == 11 * 6 + size(nn.GRU(6, 9)) + 11 * 10


def test_the_first_loss_is_that_of_guessing():
    torch.manual_seed(0)
    text, following = torch.randint(65, (2, 8, 50))
    for network in (RecurrentLanguageModel(65), RecurrentLanguageModel(65, tied=True), Transformer(65)):
        loss = F.cross_entropy(network(text, torch.ones(8, dtype=torch.bool)).flatten(0, 1), following.flatten())
        assert loss.item() == pytest.approx(math.log(65), abs=0.15)


# -- transformer -------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 4))
def test_rotations_multiply_complex_numbers(length, half):
    x = torch.randn(2, 3, length, 2 * half, dtype=torch.float64)
    angles = torch.arange(length)[:, None] * 10_000.0 ** (-torch.arange(half) / half)  # (T, size / 2)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    expected = torch.cat([turned.real, turned.imag], -1)
    torch.testing.assert_close(rotated(x, rotations(length, 2 * half, x)), expected, atol=1e-6, rtol=1e-6)


def test_products_of_rotated_vectors_depend_on_their_distance_alone():
    query, key = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).expand(-1, -1, -1, 12, -1)
    turns = rotations(12, 8, query)
    products = (rotated(query, turns) @ rotated(key, turns).transpose(2, 3))[0, 0]
    for distance in range(12):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def rms_norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt() * weight


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 7))
def test_a_block_equals_a_naive_one(heads, half, length):
    hidden = heads * 2 * half
    block, x = TransformerBlock(hidden, heads, 0.0), torch.randn(2, length, hidden)
    for parameter in block.parameters():
        parameter.data.normal_()
    turns = rotations(length, 2 * half, x)
    normed = rms_norm(x, block.before_attention.weight)
    q, k, v = (normed @ weight.T for weight in block.query_key_value.weight.chunk(3))
    attended = torch.zeros_like(x)
    for head in range(heads):
        part = slice(head * 2 * half, (head + 1) * 2 * half)
        query = rotated(rms_norm(q[..., part], block.query_norm.weight)[:, None], turns)[:, 0]
        key = rotated(rms_norm(k[..., part], block.key_norm.weight)[:, None], turns)[:, 0]
        for place in range(length):
            scores = (key[:, : place + 1] @ query[:, place, :, None])[..., 0] / math.sqrt(2 * half)  # (B, place + 1)
            attended[:, place, part] = (scores.softmax(1)[..., None] * v[:, : place + 1, part]).sum(1)
    middle = x + F.linear(attended, block.project.weight)
    wide = F.linear(rms_norm(middle, block.before_mlp.weight), block.widen.weight, block.widen.bias)
    expected = middle + F.linear(
        wide * (1 + torch.erf(wide / math.sqrt(2))) / 2, block.shrink.weight, block.shrink.bias
    )
    torch.testing.assert_close(block(x, turns), expected, atol=1e-4, rtol=1e-4)


def test_a_block_equals_torchs_attention():
    """With the norms undone and nothing turned, attention is nn.MultiheadAttention with a causal mask."""
    block, x = TransformerBlock(12, 3, 0.0), torch.randn(2, 5, 12)
    for norm in (block.before_attention, block.query_norm, block.key_norm):
        norm.forward = lambda x: x
    block.shrink.weight.data.zero_()
    block.shrink.bias.data.zero_()
    theirs = nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
    theirs.in_proj_weight.data.copy_(block.query_key_value.weight.data)
    theirs.out_proj.weight.data.copy_(block.project.weight.data)
    expected, _ = theirs(x, x, x, attn_mask=nn.Transformer.generate_square_subsequent_mask(5))
    turns = torch.ones(5, 2), torch.zeros(5, 2)
    torch.testing.assert_close(block(x, turns) - x, expected, atol=1e-5, rtol=1e-4)


def test_transformer_is_its_blocks_between_embedding_and_output():
    network, text = Transformer(11, hidden=8, layers=2, heads=2), tokens(3, 5)
    x = network.embedding(text)
    for block in network.blocks:
        x = block(x, rotations(5, 4, x))
    torch.testing.assert_close(network(text), rms_norm(x, network.norm.weight) @ network.embedding.weight.T)
    assert torch.equal(network(text, ANEW), network(text, ON))


def test_parameters_of_a_transformer():
    block = 4 * 8 * 8 + 2 * 4 * 8 * 8 + 5 * 8 + 2 * 8 + 2 * 4  # attention, MLP with biases, norms
    assert size(Transformer(11, hidden=8, layers=3, heads=2)) == 11 * 8 + 3 * block + 8
    assert size(Transformer(11, hidden=8, layers=3, heads=2, tied=False)) == 2 * 11 * 8 + 3 * block + 8


def test_weights_of_a_transformer_at_first():
    torch.manual_seed(0)
    network = Transformer(500, hidden=64, layers=8, heads=2, tied=False)
    for module in (network.embedding, network.output, network.blocks[0].query_key_value, network.blocks[0].widen):
        assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for module in (network.blocks[3].project, network.blocks[3].shrink):
        assert module.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert not network.blocks[0].widen.bias.any() and not network.blocks[0].shrink.bias.any()


# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [RecurrentLanguageModel, lambda *a, **k: Transformer(*a, hidden=16, **k)])
def test_dropout_acts_in_training_alone(make):
    network, text = make(11, dropout=0.5), tokens(3, 6)
    assert not torch.equal(network(text, ANEW), network(text, ANEW))
    assert torch.equal(network.eval()(text, ANEW), network(text, ANEW))


@pytest.mark.parametrize("make", [
    lambda: RecurrentLanguageModel(11, "vanilla", 8, 32),
    lambda: RecurrentLanguageModel(11, "gru", 8, 32),
    lambda: RecurrentLanguageModel(11, "lstm", 8, 32, tied=True),
    lambda: Transformer(11, hidden=32, layers=2, heads=2),
])  # fmt: skip
def test_they_learn_to_repeat(make):
    """Each text says six random tokens twice: the second time can be known."""
    torch.manual_seed(0)
    network, anew = make(), torch.ones(64, dtype=torch.bool)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(100):
        text = torch.randint(2, 11, (64, 3)).repeat(1, 2)
        loss = F.cross_entropy(network(text[:, :-1], anew)[:, 2:].flatten(0, 1), text[:, 3:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (RecurrentLanguageModel, {"vocabulary": 0}, "vocabulary=0: give a whole number from 1"),
        (RecurrentLanguageModel, {"embedding": 0}, "embedding=0"),
        (RecurrentLanguageModel, {"hidden": 2.0}, "hidden=2.0"),
        (RecurrentLanguageModel, {"recurrent_layers": 0}, "recurrent_layers=0"),
        (RecurrentLanguageModel, {"cell": "rnn"}, "Unknown cell 'rnn'.* Known: vanilla, gru, lstm"),
        (RecurrentLanguageModel, {"dropout": 1}, "dropout=1 must be at least 0 and less than 1"),
        (Transformer, {"vocabulary": 0}, "vocabulary=0"),
        (Transformer, {"layers": 0}, "layers=0"),
        (Transformer, {"heads": 0}, "heads=0"),
        (Transformer, {"hidden": 36, "heads": 4}, "hidden=36 must be a multiple of 8, for 4 heads of even size"),
        (Transformer, {"dropout": -0.1}, "dropout=-0.1"),
    ],
)
def test_values_that_are_not_allowed(kind, settings, words):
    with pytest.raises(TaskError, match=words):
        kind(**{"vocabulary": 11, **settings})


def test_examples_in_docstrings():
    results = doctest.testmod(language_model)
    assert results.attempted and not results.failed
