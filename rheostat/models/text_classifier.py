"""Classes of texts: an embedding, recurrent layers, and what is made of all words together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rheostat.errors import TaskError
from rheostat.models.layers import Recurrent, check_dropout, check_known, check_whole

HYPERPARAMETERS = ("embedding", "cell", "hidden", "recurrent_layers", "bidirectional", "sequence_pooling", "dropout")

POOLINGS = ("last", "max", "average")


class TextClassifier(nn.Module):
    """Takes tokens (B, L), padded with 0 at the end, and gives (B, outputs).

    Padding changes nothing: the backward direction reads each row from its own last token. `vectors`
    (vocabulary, embedding) are pretrained embeddings, which are trained on. `sequence_pooling` makes one vector of
    a text: the last state, or the maximum or the average over its tokens. Dropout acts on embeddings, between
    layers, and before the output.

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
        check_whole(1, vocabulary=vocabulary, outputs=outputs, embedding=embedding)
        check_known("sequence_pooling", sequence_pooling, POOLINGS)
        check_dropout(dropout)
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=0)
        if vectors is not None:
            if vectors.shape != self.embedding.weight.shape:
                raise TaskError(f"vectors have the shape {tuple(vectors.shape)}; give ({vocabulary}, {embedding}).")
            self.embedding.weight.data.copy_(vectors)
        else:
            nn.init.normal_(self.embedding.weight, std=0.1)
            self.embedding.weight.data[0] = 0
        self.pooling, directions = sequence_pooling, 2 if bidirectional else 1
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                Recurrent(cell, directions * hidden if layer else embedding, hidden, forget_bias=forget_bias)
                for _ in range(directions)
            )
            for layer in range(recurrent_layers)
        )
        self.output = nn.Linear(directions * hidden, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        real = tokens != 0  # (B, L)
        lengths = real.sum(1).clamp(min=1)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        turned = (lengths[:, None] - 1 - places).remainder(tokens.shape[1])  # (B, L): each row's tokens backwards
        x = self.embedding(tokens)  # (B, L, embedding)
        for directions in self.layers:
            x = self.dropout(x)
            outputs = [directions[0](x)[0]]  # type: ignore[index]
            if len(directions) == 2:  # type: ignore[arg-type]
                backward = directions[1](_taken(x, turned))[0]  # type: ignore[index]
                outputs.append(_taken(backward, turned))
            x = torch.cat(outputs, 2)  # (B, L, directions * hidden)
        return self.output(self.dropout(self._pooled(x, real, lengths)))  # type: ignore[no-any-return]

    def _pooled(self, x: Tensor, real: Tensor, lengths: Tensor) -> Tensor:
        if self.pooling == "max":
            return x.masked_fill(~real[..., None], -torch.inf).amax(1).clamp(min=-1e4)  # a text without tokens
        if self.pooling == "average":
            return (x * real[..., None]).sum(1) / lengths[:, None]
        forward, *backward = x.chunk(len(self.layers[0]), 2)  # type: ignore[arg-type]
        last = forward[torch.arange(len(x), device=x.device), lengths - 1]
        return torch.cat([last, *(part[:, 0] for part in backward)], 1)  # the backward direction ends at the first


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """x (B, L, D) with the rows of each example at `places` (B, L)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
