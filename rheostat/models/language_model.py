"""Models of a text, which predict each token from those before it: recurrent, or a small transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rheostat.errors import TaskError
from rheostat.models.layers import Recurrent, State, check_dropout, check_whole, token_embedding


class RecurrentLanguageModel(nn.Module):
    """Embedding, recurrent layers, and a linear layer over the vocabulary.

    Takes tokens (B, T) and whether each row begins anew, (B,) bool; gives scores (B, T, vocabulary) for what
    follows each token. A row that does not begin anew goes on from the state after the last call, without gradients
    to it: truncated back-propagation through time (Mikolov et al. 2010). Every evaluation begins anew, and training
    goes on after it where it was. `tied` uses the embedding as the output layer's weights too (Press and Wolf 2017),
    through a linear layer where `hidden` differs from `embedding`. Dropout acts on embeddings, between layers, and
    before the output.

    Raises TaskError for a value that is not allowed.

    >>> tokens, anew = torch.zeros(3, 7, dtype=torch.long), torch.ones(3, dtype=torch.bool)
    >>> RecurrentLanguageModel(65, hidden=16)(tokens, anew).shape
    torch.Size([3, 7, 65])
    """

    def __init__(
        self,
        vocabulary: int,
        cell: str = "lstm",
        embedding: int = 64,
        hidden: int = 256,
        recurrent_layers: int = 1,
        dropout: float = 0.0,
        tied: bool = False,
        residual: bool = False,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__()
        check_whole(1, vocabulary=vocabulary, embedding=embedding, recurrent_layers=recurrent_layers)
        check_dropout(dropout)
        # At 0.1 an LSTM of characters begins slower: 2.29 instead of 1.90 nats after one epoch (docs/LOG.md).
        self.embedding = token_embedding(vocabulary, embedding, sd=0.1 if tied else 1.0)
        self.dropout = nn.Dropout(dropout)
        self.recurrent = Recurrent(cell, embedding, hidden, recurrent_layers, dropout, residual, forget_bias)
        self.narrow = nn.Linear(hidden, embedding) if tied and hidden != embedding else nn.Identity()
        self.output = nn.Linear(embedding if tied else hidden, vocabulary)
        nn.init.zeros_(self.output.bias)
        if tied:
            self.output.weight = self.embedding.weight
        self._states: dict[bool, list[State] | None] = {True: None, False: None}  # of training, of evaluation

    def forward(self, tokens: Tensor, anew: Tensor) -> Tensor:
        states = self._states[self.training]
        if states is not None and len(states[0][0]) != len(tokens):
            states = None  # another number of rows: they cannot be the same ones
        if states is not None:
            states = [tuple(part.masked_fill(anew[:, None], 0) for part in state) for state in states]
        x, after = self.recurrent(self.dropout(self.embedding(tokens)), states)  # (B, T, hidden)
        self._states[self.training] = [tuple(part.detach() for part in state) for state in after]
        return self.output(self.narrow(self.dropout(x)))  # type: ignore[no-any-return]  # (B, T, vocabulary)

    def train(self, mode: bool = True) -> RecurrentLanguageModel:
        if not mode:
            self._states[False] = None
        return super().train(mode)


class Transformer(nn.Module):
    """A decoder-only transformer: pre-norm blocks with rotary positions and normalised queries and keys.

    Takes tokens (B, T) and, for the likeness with the recurrent model, whether rows begin anew, which it has no
    use for; gives scores (B, T, vocabulary). Positions are rotations (Su et al. 2021), queries and keys are
    normalised before their product, which keeps high learning rates stable (Wortsman et al. 2023, 3.1).
    The output layer's weights are the embedding's where `tied`.

    Raises TaskError for a value that is not allowed.

    >>> Transformer(65, hidden=32, layers=2, heads=2)(torch.zeros(3, 7, dtype=torch.long)).shape
    torch.Size([3, 7, 65])
    """

    def __init__(
        self,
        vocabulary: int,
        hidden: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        check_whole(1, vocabulary=vocabulary, hidden=hidden, layers=layers, heads=heads)
        check_dropout(dropout)
        if hidden % (2 * heads):
            raise TaskError(f"hidden={hidden} must be a multiple of {2 * heads}, for {heads} heads of even size.")
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(hidden, heads, dropout) for _ in range(layers))
        self.norm = nn.RMSNorm(hidden)
        self.output = nn.Linear(hidden, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in self.blocks:  # so that the sum over layers keeps its size (Radford et al. 2019, 2.3)
            for last in (block.project, block.shrink):
                nn.init.normal_(last.weight, std=0.02 / (2 * layers) ** 0.5)  # type: ignore[arg-type, union-attr]
        if tied:
            self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor, anew: Tensor | None = None) -> Tensor:
        x = self.dropout(self.embedding(tokens))  # (B, T, hidden)
        turns = rotations(tokens.shape[1], self.blocks[0].size, x)  # type: ignore[arg-type]
        for block in self.blocks:
            x = block(x, turns)
        return self.output(self.norm(x))  # type: ignore[no-any-return]  # (B, T, vocabulary)


class TransformerBlock(nn.Module):
    """Attention to what came before, then two linear layers, each added to its input; (B, T, hidden) both ways."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.size = heads, hidden // heads
        self.before_attention = nn.RMSNorm(hidden)
        self.query_key_value = nn.Linear(hidden, 3 * hidden, bias=False)
        self.query_norm, self.key_norm = nn.RMSNorm(self.size), nn.RMSNorm(self.size)
        self.project = nn.Linear(hidden, hidden, bias=False)
        self.before_mlp = nn.RMSNorm(hidden)
        self.widen = nn.Linear(hidden, 4 * hidden)
        self.shrink = nn.Linear(4 * hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, hidden = x.shape
        parts = self.query_key_value(self.before_attention(x)).view(batch, length, 3, self.heads, self.size)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, T, size)
        query, key = rotated(self.query_norm(query), turns), rotated(self.key_norm(key), turns)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.dropout(self.project(attended.transpose(1, 2).reshape(batch, length, hidden)))
        return x + self.dropout(self.shrink(F.gelu(self.widen(self.before_mlp(x)))))  # type: ignore[no-any-return]


def rotations(length: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, size / 2) of the angles of RoPE (Su et al. 2021, eq. 15): place / 10000^(2i / size)."""
    frequencies = 10_000.0 ** (-torch.arange(0, size, 2, device=like.device, dtype=like.dtype) / size)
    angles = torch.outer(torch.arange(length, device=like.device, dtype=like.dtype), frequencies)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """x (B, heads, T, size) with the pairs (i, i + size / 2) turned by the angle of their place."""
    cos, sin = turns
    one, two = x.chunk(2, -1)
    return torch.cat([one * cos - two * sin, one * sin + two * cos], -1)
