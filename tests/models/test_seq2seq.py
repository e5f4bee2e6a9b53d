"""Translation: one pass equals step by step, attention equals its formulas, beam search equals trying everything."""

from __future__ import annotations

import doctest
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from rheostat.errors import TaskError
from rheostat.models import seq2seq
from rheostat.models.layers import BEGIN, CELLS, END
from rheostat.models.seq2seq import ATTENTIONS, Seq2Seq

SOURCES, TARGETS = 9, 7  # vocabularies
cells, seeds = st.sampled_from(list(CELLS)), st.integers(0, 10_000)
networks = st.builds(
    Seq2Seq,
    source_vocabulary=st.just(SOURCES),
    target_vocabulary=st.just(TARGETS),
    embedding=st.integers(1, 5),
    encoder_cell=cells,
    decoder_cell=cells,
    hidden=st.integers(1, 6),
    encoder_layers=st.integers(1, 3),
    recurrent_layers=st.integers(1, 3),
    attention=st.sampled_from(ATTENTIONS),
    residual=st.booleans(),
    tied=st.booleans(),
)
sentences = st.lists(st.integers(4, SOURCES - 1), min_size=1, max_size=6)
pairs = st.lists(st.tuples(sentences, st.lists(st.integers(3, TARGETS - 1), max_size=5)), min_size=1, max_size=4)


def padded(rows, more=0):
    width = max(map(len, rows)) + more
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


# -- one pass ----------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(networks, pairs, st.integers(0, 3))
def test_neither_padding_nor_other_rows_change_anything(network, pairs, more):
    sources, targets = [source for source, _ in pairs], [[BEGIN, *target] for _, target in pairs]
    together = network(padded(sources, more), padded(targets, more))
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        alone = network(torch.tensor([source]), torch.tensor([target]))[0]
        torch.testing.assert_close(together[row, : len(target)], alone, atol=1e-5, rtol=1e-5)


@settings(max_examples=20)
@given(networks, st.lists(st.integers(0, TARGETS - 1), min_size=2, max_size=6), st.integers(1, 5))
def test_the_future_changes_nothing_before_it(network, target, place):
    source, place = torch.tensor([[4, 5, 6]]), min(place, len(target) - 1)
    other = target[:place] + [(token + 1) % TARGETS for token in target[place:]]
    one, two = (network(source, torch.tensor([row]))[0, :place] for row in (target, other))
    torch.testing.assert_close(one, two)


@settings(max_examples=20)
@given(networks, pairs)
def test_step_by_step_equals_one_pass(network, pairs):
    source, target = padded([source for source, _ in pairs]), padded([[BEGIN, *target] for _, target in pairs])
    encoded, steps = network.encode(source), []
    states = encoded.states
    for token in target.unbind(1):
        x, states = network.decoder(network.target(token[:, None]), states)
        steps.append(network._scores(encoded, x))
    torch.testing.assert_close(torch.cat(steps, 1), network(source, target), atol=1e-5, rtol=1e-5)


@settings(max_examples=20)
@given(networks)
def test_a_sentence_without_words_is_one_of_padding(network):
    target = torch.tensor([[BEGIN, 4], [BEGIN, 5]])
    outputs = network(torch.tensor([[0, 0, 0], [4, 5, 6]]), target)
    assert outputs.isfinite().all()
    torch.testing.assert_close(outputs[:1], network(torch.tensor([[0]]), target[:1]))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(("encoder_cell", "decoder_cell"), [("gru", "lstm"), ("lstm", "vanilla"), ("vanilla", "gru")])
def test_parameters(attention, encoder_cell, decoder_cell):
    network = Seq2Seq(9, 7, 5, encoder_cell, decoder_cell, 6, 2, 3, attention)
    states = 6 * 3 * (2 if decoder_cell == "lstm" else 1)
    expected = (9 + 7) * 5 + (6 + 1) * states + (6 + 1) * 7 - 7  # embeddings, bridge, output
    expected += size(CELLS[encoder_cell](5, 3, 2, bidirectional=True)) + size(CELLS[decoder_cell](5, 6, 3))
    expected += {"none": 0, "multiplicative": 6 * 6, "additive": 6 * 6 + 6 + 6 * 6 + 6}[attention]
    expected += (6 if attention == "none" else 12) * 5 + 5  # combine
    assert size(network) == expected
    assert size(Seq2Seq(9, 7, 5, encoder_cell, decoder_cell, 6, 2, 3, attention, tied=True)) == expected - 7 * 5


def test_an_odd_number_of_units_is_halved_upwards():
    network = Seq2Seq(9, 7, hidden=5)
    assert network.encoder.hidden == 3
    assert network(torch.tensor([[4, 5]]), torch.tensor([[BEGIN]])).shape == (1, 1, 7)


def test_tied_weights_are_one():
    network = Seq2Seq(9, 7, tied=True)
    assert network.output.weight is network.target.weight and network.source.weight is not network.target.weight


@pytest.mark.parametrize("residual", [False, True])
def test_residual_is_that_of_encoder_and_decoder(residual):
    network = Seq2Seq(9, 7, residual=residual)
    assert network.encoder.residual is network.decoder.residual is residual


@pytest.mark.parametrize("attention", ["none", "multiplicative"])
def test_equal_to_torchs_layers_in_a_row(attention):
    """One LSTM layer each, every step written out with torch's own functions."""
    network = Seq2Seq(9, 7, 5, "lstm", "lstm", 6, attention=attention)
    source, target = torch.tensor([[4, 5, 6, 7]]), torch.tensor([[BEGIN, 4, 5]])
    x = F.embedding(source, network.source.weight)
    there, _ = network.encoder.forwards[0](x)
    back, _ = network.encoder.backwards[0](x.flip(1))
    outputs = torch.cat([there, back.flip(1)], 2)
    ends = torch.cat([there[:, -1], back[:, -1]], 1)
    h, c = network.bridge(ends).tanh().split(6, 1)
    x, _ = network.decoder.layers[0](F.embedding(target, network.target.weight), (h[None], c[None]))
    if attention == "multiplicative":
        query = x @ network.attention.key.weight  # q^T W o = (W^T q)^T o
        x = torch.cat([x, F.scaled_dot_product_attention(query, outputs, outputs, scale=1.0)], 2)
    torch.testing.assert_close(network(source, target), network.output(network.combine(x).tanh()))


# -- attention ---------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.sampled_from(ATTENTIONS[1:]), st.integers(1, 5), pairs)
def test_attention_equals_a_naive_loop(kind, hidden, pairs):
    network = Seq2Seq(SOURCES, TARGETS, hidden=hidden, attention=kind)
    sources, targets = [source for source, _ in pairs], [[BEGIN, *target] for _, target in pairs]
    encoded, attention = network.encode(padded(sources, 2)), network.attention
    x, _ = network.decoder(network.target(padded(targets)), encoded.states)
    contexts, weights = attention(x, encoded)
    for row, source in enumerate(sources):
        for place in range(x.shape[1]):
            scores = []
            for output in encoded.outputs[row, : len(source)]:
                if kind == "multiplicative":
                    scores.append(x[row, place] @ attention.key.weight @ output)
                else:
                    sums = attention.query.weight @ x[row, place] + attention.key.weight @ output + attention.key.bias
                    scores.append(attention.score.weight[0] @ sums.tanh())
            shares = torch.stack(scores).softmax(0)
            torch.testing.assert_close(weights[row, place, : len(source)], shares, atol=1e-5, rtol=1e-5)
            assert not weights[row, place, len(source) :].any()
            context = (shares[:, None] * encoded.outputs[row, : len(source)]).sum(0)
            torch.testing.assert_close(contexts[row, place], context, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.attention_map(padded(sources, 2), padded(targets)), weights)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_gradients_equal_differences(attention):
    torch.manual_seed(0)
    network = Seq2Seq(9, 7, 3, "gru", "lstm", 4, attention=attention).double()
    source, target = torch.tensor([[4, 5, 6], [7, 8, 0]]), torch.tensor([[BEGIN, 4], [BEGIN, 5]])
    names, values = zip(*((n, p.detach().requires_grad_()) for n, p in network.named_parameters()), strict=True)

    def outputs(*values):
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), (source, target))

    assert torch.autograd.gradcheck(outputs, values, fast_mode=True)


# -- teacher forcing ---------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(networks, pairs)
def test_without_teacher_forcing_the_network_reads_its_own_guesses(network, pairs):
    source, target = padded([source for source, _ in pairs]), padded([[BEGIN, *target] for _, target in pairs], 1)
    given_all = network(source, target)
    guesses = torch.cat([target[:, :1], given_all.argmax(2)[:, :-1]], 1)
    expected = network(source, torch.where(target == 0, 0, guesses))
    network.teacher_forcing = 0.0
    torch.testing.assert_close(network(source, target), expected)
    torch.testing.assert_close(network.eval()(source, target), given_all)


def test_the_share_of_given_tokens():
    torch.manual_seed(0)
    network = Seq2Seq(9, 7, teacher_forcing=0.7)
    for layer in (network.output, network.combine):  # always guesses a 5
        layer.weight.data.zero_()
    network.output.bias.data[5] = 1
    seen = []
    network.target.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network(torch.tensor([[4]] * 100), torch.tensor([[BEGIN] + [6] * 200] * 100))
    assert seen[1][:, 0].eq(BEGIN).all()
    share = seen[1][:, 1:].eq(6).float().mean().item()
    assert share == pytest.approx(0.7, abs=0.015) and seen[1][:, 1:].eq(5).float().mean().item() == 1 - share


# -- beam search -------------------------------------------------------------------------------------------------------


def log_probability(network, source, sentence):
    tokens = torch.tensor([[BEGIN, *sentence]])
    with torch.no_grad():
        steps = network(torch.tensor([source]), tokens[:, :-1])[0].log_softmax(1)
    return sum(float(steps[place, token]) for place, token in enumerate(sentence))


def sharpened(network, seed):
    """With large random weights, so that sentences differ widely in probability."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(std=1.5)
    return network.eval()


@settings(max_examples=20)
@given(networks, st.lists(sentences, min_size=1, max_size=3), st.integers(1, 3), st.floats(0, 2), seeds)
def test_a_wide_beam_equals_trying_all_sentences(network, sources, longest, length_penalty, seed):
    network = sharpened(network, seed)
    words = [token for token in range(TARGETS) if token not in (0, BEGIN, END)]
    everything = [[*start, END] for n in range(longest) for start in itertools.product(words, repeat=n)] + [
        list(sentence) for sentence in itertools.product(words, repeat=longest)
    ]

    def score(source, sentence):
        return log_probability(network, source, sentence) / ((5 + len(sentence)) / 6) ** length_penalty

    found = network.beam(padded(sources), longest, 200, length_penalty)
    for source, sentence in zip(sources, found, strict=True):
        finished = sentence if len(sentence) == longest else [*sentence, END]
        assert score(source, finished) >= max(score(source, other) for other in everything) - 1e-4


def naive_beam(network, source, longest, width, length_penalty):
    """Over lists, one sentence at a time."""
    beam = [([], 0.0)]

    def rank(sentence_and_score):
        sentence, score = sentence_and_score
        return score / ((5 + len(sentence)) / 6) ** length_penalty

    for _ in range(longest):
        candidates = []
        for sentence, score in beam:
            if sentence[-1:] == [END]:
                candidates.append((sentence, score))
                continue
            with torch.no_grad():
                steps = network(torch.tensor([source]), torch.tensor([[BEGIN, *sentence]]))[0, -1].log_softmax(0)
            candidates += [([*sentence, t], score + float(steps[t])) for t in range(TARGETS) if t not in (0, BEGIN)]
        beam = sorted(candidates, key=rank, reverse=True)[:width]
    best, _ = max(beam, key=rank)
    return best[:-1] if best[-1:] == [END] else best


@settings(max_examples=20)
@given(networks, st.lists(sentences, min_size=1, max_size=3), st.integers(1, 4), st.floats(0, 2), seeds)
def test_beam_search_equals_a_naive_one(network, sources, width, length_penalty, seed):
    network = sharpened(network.double(), seed)
    expected = [naive_beam(network, source, 6, width, length_penalty) for source in sources]
    assert network.beam(padded(sources), 6, width, length_penalty) == expected


@settings(max_examples=20)
@given(networks, st.lists(sentences, min_size=1, max_size=3), st.floats(0, 2), seeds)
def test_width_one_is_greedy(network, sources, length_penalty, seed):
    network = sharpened(network.double(), seed)
    for source, found in zip(sources, network.beam(padded(sources), 7, 1, length_penalty), strict=True):
        sentence = []
        while len(sentence) < 7:
            scores = network(torch.tensor([source]), torch.tensor([[BEGIN, *sentence]]))[0, -1]
            scores[[0, BEGIN]] = -math.inf
            if (token := int(scores.argmax())) == END:
                break
            sentence.append(token)
        assert found == sentence
    assert network.greedy(padded(sources), 7) == network.beam(padded(sources), 7, 1)


def test_many_sentences_keep_their_order_and_do_not_see_each_other():
    network = sharpened(Seq2Seq(SOURCES, TARGETS, 8, hidden=8).double(), 1)
    sources = [torch.randint(4, SOURCES, (int(length),)).tolist() for length in torch.randint(1, 7, (70,))]
    together = network.beam(padded(sources, 2), 10, width=3)
    assert together == [network.beam(torch.tensor([source]), 10, width=3)[0] for source in sources]
    assert len({tuple(sentence) for sentence in together}) > 5


def test_no_correction_for_length_favours_short_sentences():
    network = Seq2Seq(SOURCES, TARGETS)
    for layer in (network.output, network.combine):
        layer.weight.data.zero_()
    network.output.bias.data = torch.tensor([0.5, 0.5, 0.5, 10, 10.3, 0.5, 0.5])  # END, and a likelier word
    source = torch.tensor([[4]])
    assert network.eval().greedy(source, 5) == [[4] * 5]
    assert network.beam(source, 5, width=4, length_penalty=0) == [[]]
    assert network.beam(source, 5, width=4, length_penalty=50) == [[4] * 5]


def test_more_beams_than_sentences_there_are():
    network = sharpened(Seq2Seq(SOURCES, 5), 0)
    (sentence,) = network.beam(torch.tensor([[4]]), 1, width=50)
    assert sentence in ([], [1], [4])


# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder_cell", "decoder_cell", "attention"),
    [("gru", "lstm", "none"), ("lstm", "gru", "multiplicative"), ("vanilla", "lstm", "additive")],
)
def test_it_learns_to_reverse(encoder_cell, decoder_cell, attention):
    torch.manual_seed(0)
    network = Seq2Seq(14, 14, 16, encoder_cell, decoder_cell, 32, attention=attention)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(120):
        source = torch.randint(4, 14, (64, 3))
        target = torch.cat([torch.full((64, 1), BEGIN), source.flip(1), torch.full((64, 1), END)], 1)
        loss = F.cross_entropy(network(source, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    source = torch.randint(4, 14, (64, 3))
    found = network.eval().beam(source, 10, width=3)
    assert sum(a == b for a, b in zip(found, source.flip(1).tolist(), strict=True)) > 50


def test_dropout_acts_in_training_alone():
    network, source, target = Seq2Seq(9, 7, dropout=0.5), torch.tensor([[4, 5]]), torch.tensor([[BEGIN, 4]])
    assert not torch.equal(network(source, target), network(source, target))
    assert torch.equal(network.eval()(source, target), network(source, target))
    assert sum(isinstance(module, nn.Dropout) and module.p == 0.5 for module in network.modules()) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source_vocabulary": 0}, "source_vocabulary=0: give a whole number from 1"),
        ({"target_vocabulary": 0}, "target_vocabulary=0"),
        ({"embedding": 0}, "embedding=0"),
        ({"hidden": 0}, "hidden=0"),
        ({"encoder_layers": 0}, "encoder_layers=0"),
        ({"recurrent_layers": 0}, "recurrent_layers=0"),
        ({"encoder_cell": "ltsm"}, "Unknown cell 'ltsm'. Did you mean 'lstm'"),
        ({"decoder_cell": "gur"}, "Unknown cell 'gur'. Did you mean 'gru'"),
        ({"attention": "bahdanau"}, "Unknown attention 'bahdanau'.* Known: none, multiplicative, additive"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"teacher_forcing": 1.1}, "teacher_forcing=1.1 must be from 0 to 1"),
        ({"teacher_forcing": math.nan}, "teacher_forcing=nan"),
    ],
)
def test_values_that_are_not_allowed(settings, words):
    with pytest.raises(TaskError, match=words):
        Seq2Seq(**{"source_vocabulary": 9, "target_vocabulary": 7, **settings})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"longest": 0}, "longest=0: give a whole number from 1"),
        ({"width": 0}, "beam=0: give a whole number from 1"),
        ({"length_penalty": -0.1}, "length_penalty=-0.1 must be a number from 0"),
        ({"length_penalty": math.nan}, "length_penalty=nan"),
    ],
)
def test_translations_that_are_not_allowed(settings, words):
    with pytest.raises(TaskError, match=words):
        Seq2Seq(9, 7).beam(torch.tensor([[4]]), **{"longest": 5, **settings})


def test_no_attention_has_no_map():
    with pytest.raises(TaskError, match="attention='none' has no map: choose multiplicative or additive"):
        Seq2Seq(9, 7, attention="none").attention_map(torch.tensor([[4]]), torch.tensor([[BEGIN]]))


def test_example_in_docstring():
    results = doctest.testmod(seq2seq)
    assert results.attempted and not results.failed
