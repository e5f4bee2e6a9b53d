"""Translation: a recurrent encoder, a recurrent decoder, and attention between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rheostat.errors import TaskError
from rheostat.models.layers import (
    BEGIN,
    END,
    PADDING,
    Recurrent,
    RecurrentEncoder,
    State,
    check_dropout,
    check_known,
    check_whole,
    token_embedding,
)

ATTENTIONS = ("none", "multiplicative", "additive")


@dataclass(frozen=True)
class Encoded:
    """What the decoder knows of the source sentences."""

    outputs: Tensor  # (B, S, size)
    keys: Tensor | None  # (B, S, hidden): what attention compares with
    padding: Tensor  # (B, S) bool
    states: list[State]  # that each decoder layer begins with


class Seq2Seq(nn.Module):
    """Takes source tokens (B, S) and target tokens (B, T) that start with BEGIN; gives scores (B, T, vocabulary).

    Scores are for what follows each target token; padding, at the end of rows, changes nothing before it. The
    encoder reads both ways, with half of `hidden` in each; what it ends with makes the decoder's first states,
    through a linear layer and tanh. The decoder attends with its output and predicts from both (Luong et al. 2015,
    eq. 5 and 6), so that training is one pass over all places. `attention` is multiplicative (Luong's general),
    additive (Bahdanau et al. 2015), or none: then the decoder knows the source by its first states alone. With
    `tied`, the target's embedding is the output layer's weights too (Press and Wolf 2017). Dropout acts on
    embeddings, between layers, and before the output.

    `teacher_forcing` is the chance of each target token to be given in training; the others are what the network
    itself finds likeliest there, taken from a pass without gradients in which all are given (scheduled sampling,
    Bengio et al. 2015; in one pass, Mihaylova and Martins 2019).

    Raises TaskError for a value that is not allowed.

    >>> tokens = torch.tensor([[4, 5, 6], [7, 0, 0]])
    >>> Seq2Seq(20, 30, hidden=16)(tokens, torch.tensor([[2, 9], [2, 8]])).shape
    torch.Size([2, 2, 30])
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        embedding: int = 128,
        encoder_cell: str = "gru",
        decoder_cell: str = "gru",
        hidden: int = 256,
        encoder_layers: int = 1,
        recurrent_layers: int = 1,
        attention: str = "additive",
        dropout: float = 0.0,
        residual: bool = False,
        tied: bool = False,
        teacher_forcing: float = 1.0,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__()
        check_whole(1, source_vocabulary=source_vocabulary, target_vocabulary=target_vocabulary, embedding=embedding)
        check_whole(1, hidden=hidden, encoder_layers=encoder_layers, recurrent_layers=recurrent_layers)
        check_known("attention", attention, ATTENTIONS)
        check_dropout(dropout)
        if not 0 <= teacher_forcing <= 1:
            raise TaskError(f"teacher_forcing={teacher_forcing!r} must be from 0 to 1; 1 gives all target tokens.")
        self.source = token_embedding(source_vocabulary, embedding, PADDING)
        self.target = token_embedding(target_vocabulary, embedding, PADDING)
        self.dropout = nn.Dropout(dropout)
        self.encoder = RecurrentEncoder(
            encoder_cell, embedding, -(-hidden // 2), encoder_layers, True, dropout, residual, forget_bias
        )
        self.decoder = Recurrent(decoder_cell, embedding, hidden, recurrent_layers, dropout, residual, forget_bias)
        parts = 2 if decoder_cell == "lstm" else 1
        self.layout = (recurrent_layers, parts, hidden)  # of the decoder's states
        self.bridge = nn.Linear(self.encoder.size, recurrent_layers * parts * hidden)
        self.attention = Attention(attention, self.encoder.size, hidden) if attention != "none" else None
        self.combine = nn.Linear(hidden + (self.encoder.size if self.attention else 0), embedding)
        self.output = nn.Linear(embedding, target_vocabulary)
        nn.init.zeros_(self.output.bias)
        if tied:
            self.output.weight = self.target.weight
        self.teacher_forcing = teacher_forcing

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        encoded = self.encode(source)
        if self.training and self.teacher_forcing < 1:
            with torch.no_grad():
                guesses = self._decode(encoded, target).argmax(2).roll(1, 1)  # (B, T), each at its own place
            given = torch.rand(target.shape, device=target.device) < self.teacher_forcing
            target = torch.where(given | (target == BEGIN) | (target == PADDING), target, guesses)
        return self._decode(encoded, target)

    def encode(self, source: Tensor) -> Encoded:
        """Of source tokens (B, S); a sentence without any counts as one of a single PADDING."""
        lengths = (source != PADDING).sum(1).clamp(min=1)
        outputs = self.encoder(self.dropout(self.source(source)), lengths)
        states = self.bridge(self.encoder.ends(outputs, lengths)).tanh().unflatten(1, self.layout)
        return Encoded(
            outputs,
            self.attention.key(outputs) if self.attention else None,
            torch.arange(source.shape[1], device=source.device) >= lengths[:, None],
            [layer.unbind(1) for layer in states.unbind(1)],
        )

    def _decode(self, encoded: Encoded, target: Tensor) -> Tensor:
        return self._scores(encoded, self.decoder(self.dropout(self.target(target)), encoded.states)[0])

    def _scores(self, encoded: Encoded, x: Tensor) -> Tensor:
        """Of the decoder's outputs (B, T, hidden): (B, T, vocabulary)."""
        if self.attention is not None:
            x = torch.cat([x, self.attention(x, encoded)[0]], 2)
        return self.output(self.dropout(self.combine(x).tanh()))  # type: ignore[no-any-return]

    def greedy(self, source: Tensor, longest: int) -> list[list[int]]:
        """Translations by the likeliest token at every place: beam search of width 1."""
        return self.beam(source, longest, 1)

    @torch.no_grad()
    def beam(self, source: Tensor, longest: int, width: int = 5, length_penalty: float = 1.0) -> list[list[int]]:
        """Translations of source tokens (B, S) by beam search, without BEGIN and END; for evaluation mode.

        The `width` best beginnings of a sentence are kept at every place. A finished one keeps its place among them
        until better ones take it. They are compared by their log-probability divided by ((5 + n) / 6) **
        `length_penalty` for n tokens, END included (Wu et al. 2016, eq. 14): 0 does not correct for length, which
        favours short sentences. What has no END after `longest` tokens counts as it stands.

        Raises TaskError for a value that is not allowed.
        """
        check_whole(1, longest=longest, beam=width)
        if not 0 <= length_penalty < torch.inf:
            raise TaskError(f"length_penalty={length_penalty!r} must be a number from 0; 1 is usual.")
        encoded, batch, device = self.encode(source), len(source), source.device
        states = [tuple(part.repeat_interleave(width, 0) for part in state) for state in encoded.states]
        tokens = torch.full((batch, width, 1), BEGIN, device=device)
        totals = encoded.outputs.new_full((batch, width), -torch.inf)  # log-probabilities
        totals[:, 0] = 0  # at first all are the same: only one of them counts
        lengths, ended = torch.zeros_like(totals), torch.zeros_like(totals, dtype=torch.bool)
        first = torch.arange(batch, device=device)[:, None] * width
        while tokens.shape[2] <= longest and not ended.all():
            x, states = self.decoder(self.target(tokens[:, :, -1:].flatten(0, 1)), states)  # (B * width, 1, hidden)
            scores = self._scores(encoded, x.view(batch, width, -1))  # a sentence's beams, as if they were its places
            norms = scores.logsumexp(2, keepdim=True)
            scores[:, :, [PADDING, BEGIN]] = -torch.inf
            values, follow = scores.topk(min(width, scores.shape[2]), 2)  # (B, width, k), of which width are chosen
            values -= norms
            values[ended] = -torch.inf
            values[..., 0].masked_fill_(ended, 0)  # the one continuation of an ended sentence: nothing
            follow.masked_fill_(ended[..., None], PADDING)
            lengths += ~ended
            values += totals[..., None]
            ranks = (values / _penalty(lengths, length_penalty)[..., None]).flatten(1).topk(width).indices
            kept = ranks // values.shape[2]  # (B, width)
            totals, last = values.flatten(1).gather(1, ranks), follow.flatten(1).gather(1, ranks)
            lengths, ended = lengths.gather(1, kept), ended.gather(1, kept) | (last == END)
            kept = (first + kept).flatten()
            states = [tuple(part[kept] for part in state) for state in states]
            tokens = torch.cat([tokens.flatten(0, 1)[kept].view(batch, width, -1), last[..., None]], 2)
        best = (totals / _penalty(lengths, length_penalty)).argmax(1)
        sentences = tokens[torch.arange(batch, device=device), best, 1:]
        return [[token for token in row if token not in (END, PADDING)] for row in sentences.tolist()]

    @torch.no_grad()
    def attention_map(self, source: Tensor, target: Tensor) -> Tensor:
        """How much each target place (B, T) looks at each source place (B, S): (B, T, S); for evaluation mode.

        Raises TaskError where there is no attention.
        """
        if self.attention is None:
            raise TaskError("attention='none' has no map: choose multiplicative or additive.")
        encoded = self.encode(source)
        x, _ = self.decoder(self.dropout(self.target(target)), encoded.states)
        return self.attention(x, encoded)[1]  # type: ignore[no-any-return]


class Attention(nn.Module):
    """How queries (B, T, hidden) look at encoded sentences: gives contexts (B, T, size) and weights (B, T, S).

    A query q scores a source place with output o: qᵀ W o if multiplicative (Luong et al. 2015, eq. 8, general),
    or vᵀ tanh(W q + U o + b) if additive (Bahdanau et al. 2015, A.1.2). Weights are the softmax of scores.
    """

    def __init__(self, kind: str, size: int, hidden: int) -> None:
        super().__init__()
        self.kind = kind
        self.key = nn.Linear(size, hidden, bias=kind == "additive")
        if kind == "additive":
            self.query = nn.Linear(hidden, hidden, bias=False)
            self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, queries: Tensor, encoded: Encoded) -> tuple[Tensor, Tensor]:
        keys = encoded.keys
        assert keys is not None
        if self.kind == "multiplicative":
            scores = queries @ keys.transpose(1, 2)  # (B, T, S)
        else:  # place by place, as (B, T, S, hidden) at once leaves the cache and takes twice as long
            places = self.query(queries).unbind(1)
            scores = torch.cat([self.score((place[:, None] + keys).tanh()).transpose(1, 2) for place in places], 1)
        weights = scores.masked_fill(encoded.padding[:, None], -torch.inf).softmax(2)
        return weights @ encoded.outputs, weights


def _penalty(lengths: Tensor, length_penalty: float) -> Tensor:
    return ((5 + lengths) / 6) ** length_penalty
