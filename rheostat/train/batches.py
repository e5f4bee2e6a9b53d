"""The order in which a trial sees its data.

The order of an epoch depends on the trial's seed and the number of the epoch alone, so a trial that continues in
another process, or beside other trials, sees the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rheostat.data.base import Padded, TokenStream
from rheostat.errors import TaskError
from rheostat.train.task import Data, Tensors, lengths, side_by_side, trimmed
from rheostat.types import Config, derive_seed

GATHER_BYTES = 4 * 2**20  # rows gathered at once: many batches for small rows, and still in the cache


class TensorBatches:
    """Shuffled mini-batches of tensors in memory.

    `batch_size` 1 is stochastic, `"full"` (or the number of examples) is full-batch gradient descent, which
    needs no shuffling, and anything between is mini-batch. The last batch of an epoch holds what is left over; a
    single left-over example joins the batch before it, since BatchNorm cannot normalise one example.
    `last="drop"` leaves the rest out.
    """

    def __init__(self, data: Tensors, batch_size: int | str, seed: int, last: str = "keep") -> None:
        self.data = data
        self.examples = len(data[0])
        self.batch_size = _checked_size(batch_size, self.examples)
        self.seed = seed
        self.sizes = [self.batch_size] * (self.examples // self.batch_size)
        rest = self.examples % self.batch_size
        if rest == 1 and last == "keep":
            self.sizes[-1] += 1
        elif rest and last == "keep":
            self.sizes.append(rest)
        self.steps_per_epoch = len(self.sizes)

    def order(self, epoch: int) -> Tensor:
        """The rows (N,) in the order of this epoch (from 0), on the device of the data."""
        if self.batch_size == self.examples:
            order = torch.arange(self.examples)
        else:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            order = torch.randperm(self.examples, generator=generator)
        return order.to(self.data[0].device)

    def epoch(self, epoch: int) -> Iterator[Tensors]:
        """The batches of an epoch (from 0), each a tuple of tensors of shape (batch, ...)."""
        if self.batch_size == self.examples:
            yield self.data
            return
        order = self.order(epoch)
        row_bytes = sum(t[0].numel() * t.element_size() for t in self.data)
        batches_at_once = max(GATHER_BYTES // max(row_bytes * self.batch_size, 1), 1)
        start = 0
        for first in range(0, self.steps_per_epoch, batches_at_once):
            sizes = self.sizes[first : first + batches_at_once]
            rows = order[start : start + sum(sizes)]
            start += len(rows)
            yield from zip(*(tensor.index_select(0, rows).split(sizes) for tensor in self.data), strict=True)


class PaddedBatches:
    """Mini-batches of sequences of different lengths: rows of like length together, cut to the longest of them.

    Within pools of `POOL` batches of the shuffled rows, rows are sorted by length and batches then taken in random
    order, so that a batch has little padding and every epoch other batches.
    """

    POOL = 50

    def __init__(self, data: Padded, batch_size: int | str, seed: int) -> None:
        self.data = data
        self.lengths = lengths(data).cpu()
        self.batch_size = _checked_size(batch_size, len(data))
        self.seed = seed
        self.steps_per_epoch = -(-len(data) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Tensors]:
        """The batches of an epoch (from 0), each a tuple of tensors of shape (batch, ...)."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        order = torch.randperm(len(self.lengths), generator=generator)
        pools = order.split(self.POOL * self.batch_size)
        rows = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools])
        batches = rows.split(self.batch_size)
        for number in torch.randperm(len(batches), generator=generator).tolist():
            yield trimmed(self.data.tensors, batches[number].to(self.data.tensors[0].device))


class StreamBatches:
    """One long text as `batch_size` rows side by side, which go on from step to step within an epoch.

    Each epoch begins at another place of the first `length` tokens, so that the pieces differ.
    """

    def __init__(self, stream: TokenStream, batch_size: int | str, seed: int) -> None:
        room = len(stream) - 1 - (stream.length - 1)  # a start, and a token that follows the last one
        self.stream, self.seed = stream, seed
        most = max(room // stream.length, 1)
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or not 1 <= batch_size <= most:
            raise TaskError(
                f"batch_size={batch_size!r}: the text has {len(stream):,} tokens, so give a whole number from 1 to "
                f"{most:,} of rows, each with at least {stream.length} tokens."
            )
        self.batch_size = batch_size
        self.row_length = room // batch_size
        self.steps_per_epoch = max(-(-self.row_length // stream.length), 1)

    def epoch(self, epoch: int) -> Iterator[Tensors]:
        """The steps of an epoch (from 0): tokens (B, T), whether rows begin anew (B,), and what follows (B, T)."""
        start = derive_seed(self.seed, "order", epoch) % (len(self.stream) - self.batch_size * self.row_length)
        yield from side_by_side(self.stream, self.batch_size, start, self.row_length)


class LoaderBatches:
    """The batches of the user's DataLoader. Its random numbers come from torch's global generator, which the
    trial owns while it trains; a generator given to the loader is seeded by trial and epoch."""

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        self.loader = loader
        self.seed = seed
        self.batch_size = loader.batch_size or 0
        self.steps_per_epoch = len(loader)

    def epoch(self, epoch: int) -> Iterator[Tensors]:
        """The batches of an epoch (from 0)."""
        if self.loader.generator is not None:
            self.loader.generator.manual_seed(derive_seed(self.seed, "order", epoch))
        for batch in self.loader:
            if not isinstance(batch, tuple | list) or not all(isinstance(part, Tensor) for part in batch):
                raise TaskError(
                    f"The DataLoader gave a {type(batch).__name__}; it must give tuples of tensors, targets last."
                )
            yield tuple(batch)


Batches = TensorBatches | PaddedBatches | StreamBatches | LoaderBatches


def make_batches(
    data: Data | Callable[[Config], DataLoader[Any]], config: Config, seed: int, device: torch.device
) -> Batches:
    """The training batches of a configuration; tensors are moved to the device once."""
    if callable(data) and not isinstance(data, DataLoader):
        data = data(config)
    if isinstance(data, DataLoader):
        return LoaderBatches(data, seed)
    batch_size = config.get("batch_size", 32)
    if isinstance(data, Padded):
        return PaddedBatches(replace(data, tensors=tuple(t.to(device) for t in data.tensors)), batch_size, seed)
    if isinstance(data, TokenStream):
        length = config.get("sequence_length", data.length)
        return StreamBatches(replace(data, tokens=data.tokens.to(device), length=length), batch_size, seed)
    return TensorBatches(tuple(tensor.to(device) for tensor in data), batch_size, seed)


def _checked_size(batch_size: int | str, examples: int) -> int:
    if batch_size == "full":
        return examples
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise TaskError(f"batch_size={batch_size!r}: give a whole number from 1 to {examples}, or 'full'.")
    if batch_size > examples:
        raise TaskError(
            f"batch_size={batch_size} is more than the {examples} training examples: give at most {examples}, "
            "or 'full' for full-batch gradient descent."
        )
    return batch_size
