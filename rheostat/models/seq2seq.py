"""Translation: a recurrent encoder, a recurrent decoder, and attention between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rheostat.models.layers import Recurrent, State, check_dropout, check_known, check_whole

HYPERPARAMETERS = ("embedding", "encoder_cell", "decoder_cell", "hidden", "recurrent_layers", "attention", "dropout")

ATTENTIONS = ("none", "multiplicative", "additive")
BEGIN, END = 2, 3  # as in data.base; 0 is padding


@dataclass(frozen=True)
class Encoded:
    """What the decoder knows of the source sentences."""

    outputs: Tensor  # (B, S, hidden)
    real: Tensor  # (B, S) bool: no padding
    states: list[State]  # of each decoder layer at first


class Seq2Seq(nn.Module):
    """Takes source tokens (B, S) and the target so far (B, T), behind BEGIN; gives scores (B, T, vocabulary).

    The encoder reads in both directions; what it ends with begins the decoder's states, through a linear layer.
    `attention` is none, multiplicative (Luong et al. 2015: general) or additive (Bahdanau et al. 2015); the
    decoder attends with its output and predicts from both (Luong's input order), so that training is one pass over
    all places. Without attention the decoder knows the source by its first state alone.
    `teacher_forcing` is the share of target tokens given in training; the others are the decoder's own guesses
    (Bengio et al. 2015, scheduled sampling), from a first pass without gradients.

    Raises TaskError for a value that is not allowed.
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
        teacher_forcing: float = 1.0,
    ) -> None:
        super().__init__()
        check_whole(1, source_vocabulary=source_vocabulary, target_vocabulary=target_vocabulary, embedding=embedding)
        check_whole(1, hidden=hidden, encoder_layers=encoder_layers, recurrent_layers=recurrent_layers)
        check_known("attention", attention, ATTENTIONS)
        check_dropout(dropout)
        self.source = nn.Embedding(source_vocabulary, embedding, padding_idx=0)
        self.target = nn.Embedding(target_vocabulary, embedding, padding_idx=0)
        for table in (self.source, self.target):
            nn.init.normal_(table.weight, std=0.1)
            table.weight.data[0] = 0
        self.dropout = nn.Dropout(dropout)
        half = -(-hidden // 2)
        sizes = [embedding] + [2 * half] * (encoder_layers - 1)
        self.forwards = nn.ModuleList(Recurrent(encoder_cell, size, half) for size in sizes)
        self.backwards = nn.ModuleList(Recurrent(encoder_cell, size, half) for size in sizes)
        self.decoder = Recurrent(decoder_cell, embedding, hidden, recurrent_layers, dropout, residual)
        parts = 2 if decoder_cell == "lstm" else 1
        self.bridge = nn.Linear(2 * half, recurrent_layers * parts * hidden)
        self.layout = (recurrent_layers, parts, hidden)
        self.attention = Attention(attention, 2 * half, hidden) if attention != "none" else None
        self.combine = nn.Linear(hidden + 2 * half, embedding) if self.attention else nn.Linear(hidden, embedding)
        self.output = nn.Linear(embedding, target_vocabulary)
        nn.init.zeros_(self.output.bias)
        self.teacher_forcing = teacher_forcing

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        encoded = self.encode(source)
        if self.training and self.teacher_forcing < 1:
            with torch.no_grad():
                guesses = self.decode(encoded, target, encoded.states)[0].argmax(-1)  # (B, T): what follows each
            given = torch.rand(target.shape, device=target.device) < self.teacher_forcing
            given |= (target == BEGIN) | (target == 0)
            target = torch.where(given, target, guesses.roll(1, 1))
        return self.decode(encoded, target, encoded.states)[0]

    def encode(self, source: Tensor) -> Encoded:
        """Source tokens (B, S), padded with 0."""
        real = source != 0
        lengths = real.sum(1).clamp(min=1)
        places = torch.arange(source.shape[1], device=source.device)
        turned = (lengths[:, None] - 1 - places).remainder(source.shape[1])[..., None]
        x = self.source(source)
        for forwards, backwards in zip(self.forwards, self.backwards, strict=True):
            x = self.dropout(x)
            there, _ = forwards(x)
            back, _ = backwards(x.gather(1, turned.expand_as(x)))
            x = torch.cat([there, back.gather(1, turned.expand_as(back))], 2)  # (B, S, 2 half)
        ends = torch.cat([there[torch.arange(len(x), device=x.device), lengths - 1], x[:, 0, there.shape[2] :]], 1)
        layers, parts, hidden = self.layout
        states = self.bridge(ends).tanh().view(len(x), layers, parts, hidden)
        return Encoded(x, real, [tuple(states[:, n].unbind(1)) for n in range(layers)])

    def decode(self, encoded: Encoded, target: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
        """Scores (B, T, vocabulary) for what follows each token of `target` (B, T), and the states after it."""
        x, states = self.decoder(self.dropout(self.target(target)), states)  # (B, T, hidden)
        if self.attention is not None:
            context, _ = self.attention(x, encoded.outputs, encoded.real)
            x = torch.cat([x, context], 2)
        return self.output(self.dropout(self.combine(x).tanh())), states

    @torch.no_grad()
    def greedy(self, source: Tensor, longest: int) -> list[list[int]]:
        """The likeliest token at every place; without BEGIN, up to END or `longest` tokens."""
        encoded = self.encode(source)
        states, last = encoded.states, source.new_full((len(source), 1), BEGIN)
        ended, tokens = torch.zeros(len(source), dtype=torch.bool, device=source.device), []
        for _ in range(longest):
            scores, states = self.decode(encoded, last, states)
            last = scores[:, -1].argmax(-1, keepdim=True)
            tokens.append(last)
            ended |= last[:, 0] == END
            if ended.all():
                break
        return [_until_end(row) for row in torch.cat(tokens, 1).tolist()]

    @torch.no_grad()
    def beam(self, source: Tensor, longest: int, width: int = 5, length_penalty: float = 1.0) -> list[list[int]]:
        """The best of `width` sentences kept at every place, for each row of `source` (B, S).

        A finished sentence of n tokens, END included, scores its log-probability divided by ((5 + n) / 6) **
        `length_penalty` (Wu et al. 2016, eq. 14); 0 does not correct for length. What `longest` tokens do not
        finish counts as it stands.
        """
        return [
            self._beam(row[None, : max(int((row != 0).sum()), 1)], longest, width, length_penalty) for row in source
        ]

    def _beam(self, source: Tensor, longest: int, width: int, length_penalty: float) -> list[int]:
        one = self.encode(source)
        states, scores = one.states, source.new_zeros(1, dtype=torch.float32)  # of the kept sentences
        kept = source.new_full((1, 1), BEGIN)  # (kept, tokens)
        best, best_score = [END], -math.inf
        for place in range(1, longest + 1):
            count = len(kept)
            encoded = Encoded(one.outputs.expand(count, -1, -1), one.real.expand(count, -1), states)
            steps, states = self.decode(encoded, kept[:, -1:], states)
            totals = scores[:, None] + F.log_softmax(steps[:, -1], -1)  # (kept, vocabulary)
            totals[:, [0, BEGIN]] = -math.inf
            penalty = ((5 + place) / 6) ** length_penalty
            ending = totals[:, END] / penalty
            if float(ending.max()) > best_score:
                best_score, best = float(ending.max()), kept[int(ending.argmax()), 1:].tolist()
            totals[:, END] = -math.inf
            scores, places = totals.flatten().topk(min(width, totals.numel()))
            rows, tokens = places // totals.shape[1], places % totals.shape[1]
            going_on = scores > -math.inf
            scores, rows, tokens = scores[going_on], rows[going_on], tokens[going_on]
            if not len(scores):
                break
            # log-probabilities only fall, so a kept sentence can at best be divided by the largest penalty
            if float(scores.max()) / ((5 + longest) / 6) ** max(length_penalty, 0) <= best_score:
                break
            kept = torch.cat([kept[rows], tokens[:, None]], 1)
            states = [tuple(part[rows] for part in state) for state in states]
        else:
            final = scores / penalty
            if float(final.max()) > best_score:
                best = kept[int(final.argmax()), 1:].tolist()
        return best

    @torch.no_grad()
    def attention_map(self, source: Tensor, target: Tensor) -> Tensor:
        """How much each target place looks at each source place, (B, T, S); each row sums to 1."""
        assert self.attention is not None
        encoded = self.encode(source)
        x, _ = self.decoder(self.target(target), encoded.states)
        weights: Tensor = self.attention(x, encoded.outputs, encoded.real)[1]
        return weights


class Attention(nn.Module):
    """Queries (B, T, hidden) look at keys (B, S, keys); gives contexts (B, T, keys) and weights (B, T, S)."""

    def __init__(self, kind: str, keys: int, hidden: int) -> None:
        super().__init__()
        self.kind = kind
        self.query = nn.Linear(hidden, keys if kind == "multiplicative" else hidden, bias=False)
        if kind == "additive":
            self.key = nn.Linear(keys, hidden)
            self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, queries: Tensor, keys: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind == "multiplicative":
            scores = self.query(queries) @ keys.transpose(1, 2)  # (B, T, S)
        else:
            sums = self.query(queries)[:, :, None] + self.key(keys)[:, None]  # (B, T, S, hidden)
            scores = self.score(sums.tanh()).squeeze(3)
        weights = scores.masked_fill(~real[:, None], -1e9).softmax(2)
        return weights @ keys, weights


def _until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END)] if END in tokens else tokens
