"""Classes of texts: an embedding, recurrent layers, and one vector made of all their outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rheostat.errors import TaskError
from rheostat.models.layers import (
    PADDING,
    RecurrentEncoder,
    check_dropout,
    check_known,
    check_whole,
    token_embedding,
)

POOLINGS = ("last", "max", "average")


class TextClassifier(nn.Module):
    """Takes tokens (B, L), padded with PADDING at the end, and gives (B, outputs).

    Padding changes nothing; a text without any token counts as one of a single PADDING. `sequence_pooling` makes
    one vector of a text: the last state of each direction, or the maximum or the average over its places.
    `vectors` (vocabulary, embedding) are pretrained embeddings, which are trained on. Dropout acts on embeddings,
    between layers, and before the output.

    Raises TaskError for a value that is not allowed.

    >>> TextClassifier(vocabulary=50, outputs=2, embedding=8, hidden=16)(torch.tensor([[4, 5, 0], [7, 8, 9]])).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        embedding: int = 128,
        cell: str = "lstm",
        hidden: int = 128,
        recurrent_layers: int = 1,
        bidirectional: bool = True,
        sequence_pooling: str = "max",
        dropout: float = 0.0,
        forget_bias: float = 1.0,
        vectors: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_whole(1, vocabulary=vocabulary, outputs=outputs, embedding=embedding, recurrent_layers=recurrent_layers)
        check_known("sequence_pooling", sequence_pooling, POOLINGS)
        check_dropout(dropout)
        self.embedding = token_embedding(vocabulary, embedding, PADDING)
        if vectors is not None:
            if vectors.shape != self.embedding.weight.shape:
                raise TaskError(f"vectors have the shape {tuple(vectors.shape)}; give ({vocabulary}, {embedding}).")
            self.embedding.weight.data.copy_(vectors)
        self.dropout = nn.Dropout(dropout)
        self.encoder = RecurrentEncoder(
            cell, embedding, hidden, recurrent_layers, bidirectional, dropout, forget_bias=forget_bias
        )
        self.pooling = sequence_pooling
        self.output = nn.Linear(self.encoder.size, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        lengths = (tokens != PADDING).sum(1).clamp(min=1)  # (B,)
        x = self.encoder(self.dropout(self.embedding(tokens)), lengths)  # (B, L, size)
        return self.output(self.dropout(self._pooled(x, lengths)))  # type: ignore[no-any-return]

    def _pooled(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.pooling == "last":
            return self.encoder.ends(x, lengths)
        padding = torch.arange(x.shape[1], device=x.device)[:, None] >= lengths[:, None, None]  # (B, L, 1)
        if self.pooling == "max":
            return x.masked_fill(padding, -torch.inf).amax(1)
        return x.masked_fill(padding, 0).sum(1) / lengths[:, None]
