"""The classifier of texts: equal to torch's packed layers and a pooling by hand, and blind to padding."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rheostat.errors import TaskError
from rheostat.models import text_classifier
from rheostat.models.layers import CELLS
from rheostat.models.text_classifier import POOLINGS, TextClassifier

texts = st.lists(st.lists(st.integers(1, 19), min_size=1, max_size=8), min_size=1, max_size=5)
networks = st.builds(
    TextClassifier,
    vocabulary=st.just(20),
    outputs=st.integers(1, 4),
    embedding=st.integers(1, 6),
    cell=st.sampled_from(list(CELLS)),
    hidden=st.integers(1, 6),
    recurrent_layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    sequence_pooling=st.sampled_from(POOLINGS),
)


def padded(rows, more=0):
    width = max(map(len, rows)) + more
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


@settings(max_examples=20)
@given(networks, texts, st.integers(0, 5))
def test_neither_padding_nor_other_rows_change_anything(network, rows, more):
    together = network(padded(rows, more))
    for row, tokens in enumerate(rows):
        torch.testing.assert_close(together[row], network(torch.tensor([tokens]))[0], atol=1e-6, rtol=1e-5)


@settings(max_examples=20)
@given(networks, texts)
def test_neither_padding_nor_other_rows_change_the_gradients(network, rows):
    def gradients(batches):
        network.zero_grad()
        sum(network(batch).square().sum() for batch in batches).backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    alone = gradients([torch.tensor([tokens]) for tokens in rows])
    torch.testing.assert_close(gradients([padded(rows, 3)]), alone, atol=1e-5, rtol=1e-4)


@settings(max_examples=20)
@given(st.sampled_from(list(CELLS)), st.integers(1, 3), st.booleans(), st.sampled_from(POOLINGS), texts)
def test_equal_to_torchs_packed_layers(cell, depth, bidirectional, pooling, rows):
    network = TextClassifier(20, 3, 5, cell, 4, depth, bidirectional, pooling)
    theirs = CELLS[cell](5, 4, depth, batch_first=True, bidirectional=bidirectional)
    for suffix, directions in (("", network.encoder.forwards), ("_reverse", network.encoder.backwards)):
        for number, layer in enumerate(directions):
            for name, parameter in layer.named_parameters():
                getattr(theirs, name.replace("_l0", f"_l{number}{suffix}")).data.copy_(parameter.data)
    tokens, lengths = padded(rows), torch.tensor([len(row) for row in rows])
    packed = pack_padded_sequence(network.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
    outputs, state = theirs(packed)
    outputs, _ = pad_packed_sequence(outputs, batch_first=True)
    if pooling == "last":
        state = state[0] if cell == "lstm" else state
        pooled = torch.cat(list(state[-2:] if bidirectional else state[-1:]), 1)
    else:
        reduced = {"max": lambda x: x.amax(0), "average": lambda x: x.mean(0)}[pooling]
        pooled = torch.stack([reduced(row[:length]) for row, length in zip(outputs, lengths, strict=True)])
    torch.testing.assert_close(network(tokens), F.linear(pooled, network.output.weight, network.output.bias))
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == 20 * 5 + sum(p.numel() for p in theirs.parameters()) + (pooled.shape[1] + 1) * 3


@settings(max_examples=20)
@given(networks, st.integers(1, 4))
def test_a_text_without_tokens_is_one_of_padding(network, width):
    outputs = network(torch.tensor([[0] * width, [5] + [0] * (width - 1)]))
    assert outputs.isfinite().all()
    torch.testing.assert_close(outputs[0], network(torch.tensor([[0]]))[0])


def test_order_of_words_matters_and_both_ways_see_it():
    for bidirectional in (False, True):
        network = TextClassifier(20, 2, bidirectional=bidirectional)
        one, other = network(torch.tensor([[4, 5, 6], [6, 5, 4]]))
        assert not torch.allclose(one, other)


def test_pretrained_vectors():
    vectors = torch.randn(20, 5)
    network = TextClassifier(20, 2, embedding=5, vectors=vectors)
    assert torch.equal(network.embedding.weight, vectors)
    assert network.embedding.weight is not vectors and network.embedding.weight.requires_grad
    network.embedding.weight.data.zero_()
    assert vectors.any()


def test_dropout_is_on_embeddings_and_before_the_output():
    network, tokens = TextClassifier(20, 2, embedding=50, dropout=0.5, sequence_pooling="last"), torch.tensor([[4, 5]])
    torch.manual_seed(0)
    got = network(tokens)
    torch.manual_seed(0)
    drop = nn.Dropout(0.5)
    outputs = network.encoder(drop(network.embedding(tokens)), torch.tensor([2]))
    assert torch.equal(got, network.output(drop(network.encoder.ends(outputs, torch.tensor([2])))))
    assert torch.equal(network.eval()(tokens), network(tokens))


@pytest.mark.parametrize(("cell", "pooling"), list(zip(CELLS, POOLINGS, strict=True)))
def test_it_learns_what_only_order_tells(cell, pooling):
    """Whether a 4 comes before a 5: no bag of words could."""
    torch.manual_seed(0)
    tokens = torch.randint(6, 20, (128, 6))
    places = torch.rand(128, 6).argsort(1)[:, :2].sort(1).values
    labels = torch.randint(2, (128,))
    rows = torch.arange(128)
    tokens[rows, places[rows, 1 - labels]] = 4
    tokens[rows, places[rows, labels]] = 5
    network = TextClassifier(20, 2, 16, cell, 16, sequence_pooling=pooling)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(50):
        optimizer.zero_grad()
        F.cross_entropy(network(tokens), labels).backward()
        optimizer.step()
    assert (network(tokens).argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vocabulary": 0}, "vocabulary=0: give a whole number from 1"),
        ({"outputs": 0}, "outputs=0"),
        ({"embedding": 1.5}, "embedding=1.5"),
        ({"hidden": 0}, "hidden=0"),
        ({"recurrent_layers": 0}, "recurrent_layers=0: give a whole number from 1"),
        ({"cell": "ltsm"}, "Unknown cell 'ltsm'. Did you mean 'lstm'"),
        ({"sequence_pooling": "mean"}, "Unknown sequence_pooling 'mean'.* Known: last, max, average"),
        ({"dropout": math.nan}, "dropout=nan must be at least 0"),
        ({"forget_bias": math.inf}, "forget_bias=inf must be a finite number"),
        ({"vectors": torch.zeros(20, 7)}, r"vectors have the shape \(20, 7\); give \(20, 128\)"),
    ],
)
def test_values_that_are_not_allowed(settings, words):
    with pytest.raises(TaskError, match=words):
        TextClassifier(**{"vocabulary": 20, "outputs": 2, **settings})


def test_example_in_docstring():
    results = doctest.testmod(text_classifier)
    assert results.attempted and not results.failed
