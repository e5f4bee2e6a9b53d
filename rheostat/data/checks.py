"""What may be wrong with data that can be read: a line for each, with numbers, where there is something to say.

The rules are those of the project's table of pathologies: rows that are in two parts, and inputs that give the answer
away ("leak", C25); too few examples to rank trials by (C26); classes out of balance (C31); an order in the file
(C23); inputs far from standard units (C33). Thresholds that were chosen here are said to be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rheostat.data.base import Dataset, Form, Padded, Part, TokenStream
from rheostat.data.columns import CategoryColumn
from rheostat.data.tabular import TabularEncoder

Rows = NDArray[np.int64]

CHUNK_BYTES = 2**24  # hashed at a time
SAMPLED_VALUES, MOST_SAMPLED = 2**21, 4000  # of the training inputs, when they are searched for leaks
LEAK = 0.05  # of the changes of class that chance would make: an area under the ROC curve of about 0.999
LEAK_OF_NUMBERS = 0.001  # of the variance of the target, likewise: an R² of 0.999
FEWEST_CHANGES = 10  # by chance, below which that cannot be said
SEEN_SHARE = 0.01  # of a table's rows in the training part too, from which it is said: few different cells repeat
IMBALANCE = 10  # times as many rows: C31, after SageMaker Debugger's rule ClassImbalance
BATCH, ORDERED = 32, 0.5  # C23: the entropy of the classes in a batch is below half of what it could be
ALIKE = 0.5  # correlation of neighbours' targets, C23 likewise
ASSUMED_ERROR, LARGEST_SE = 0.1, 0.01  # C26: sqrt(p (1 - p) / n)
SCALE_RATIO, OFFSET = 100, 10  # of standard deviations; of a mean to its standard deviation: C33


@dataclass(frozen=True)
class _Columns:
    """Inputs `start` to `stop` that come from the column `name`; all but `levels` stand for themselves."""

    name: str
    start: int
    stop: int
    levels: int = 0  # of a category, one input each, at the beginning


def examine(dataset: Dataset) -> tuple[str, ...]:
    """Notes on a data set, for the user, a line each; none where nothing is wrong.

    Takes less than a second for 60,000 images of Fashion-MNIST.
    """
    columns: list[_Columns] = []
    if isinstance(dataset.encoder, TabularEncoder):
        start = 0
        for part in dataset.encoder.parts:
            levels = len(part.levels) + part.other if isinstance(part, CategoryColumn) else 0
            columns.append(_Columns(part.name, start, start := start + len(part.features), levels))
    parts = {"train": dataset.train, "validation": dataset.validation}
    if dataset.test is not None:
        parts["test"] = dataset.test
    return tuple(_notes(parts, dataset.form, dataset.classes, columns))


def examine_tensors(
    train: tuple[Tensor, ...], validation: tuple[Tensor, ...], test: tuple[Tensor, ...] | None = None
) -> tuple[str, ...]:
    """Notes on tensors (N, ...) that a user made, targets last; besides those of `examine`, on their scale.

    Targets are classes (N,) int64, or numbers; of others, and of tensors of several dimensions, less is said.
    """
    parts: dict[str, Part] = {"train": train, "validation": validation}
    if test is not None:
        parts["test"] = test
    inputs, targets = train[0], train[-1]
    rows = len(train) == 2 and inputs.dim() == 2 and inputs.is_floating_point()
    of_classes = targets.dim() == 1 and not targets.is_floating_point() and int(targets.min()) >= 0
    classes = tuple(map(str, range(int(targets.max()) + 1))) if of_classes else ()
    notes = _notes(parts, Form.ROWS if rows else Form.IMAGES, classes, [])
    return (*notes, *(_scales(_flat(inputs)) if rows else ()))


def _notes(parts: dict[str, Part], form: Form, classes: Sequence[str], columns: Sequence[_Columns]) -> Iterator[str]:
    tensors = {
        name: part.tensors if isinstance(part, Padded) else part
        for name, part in parts.items()
        if not isinstance(part, TokenStream)
    }
    if not tensors:
        return
    targets = {name: each[-1].cpu().numpy() for name, each in tensors.items()}
    hashes = {name: _hashes(each[:-1], form in (Form.TEXTS, Form.PAIRS)) for name, each in tensors.items()}
    known = bool(classes) or targets["train"].dtype.kind == "f"  # what the targets mean
    if form is Form.ROWS and known:
        yield from _leaks(_flat(tensors["train"][0]), targets["train"], columns, bool(classes))
    yield from _seen(hashes, form)
    if classes:
        yield from _contradictions(hashes["train"], targets["train"])
        yield from _small(len(targets["validation"]))
        yield from _imbalance(targets, classes)
    if form is Form.ROWS:
        yield from _constant(_flat(tensors["train"][0]), columns)
    if known:
        yield from _order(targets["train"], len(classes))


def _flat(inputs: Tensor) -> NDArray[Any]:
    flat: NDArray[Any] = inputs.detach().cpu().reshape(len(inputs), -1).numpy()
    return flat


# -- the same example twice --------------------------------------------------------------------------------------


def _hashes(tensors: Sequence[Tensor], padded: bool) -> NDArray[np.uint64]:
    """A number for each example, (N,), the same for the same bytes; of sequences without their padding, which is 0."""
    combined = np.zeros(len(tensors[0]), np.uint64)
    for tensor in tensors:
        rows = np.ascontiguousarray(_flat(tensor))
        width = rows.shape[1] * rows.itemsize
        whole = rows.view(np.dtype((np.void, width)))[:, 0]
        step = max(CHUNK_BYTES // width, 1)
        chunks = (whole[start : start + step].tolist() for start in range(0, len(whole), step))
        each = (hash(row.rstrip(b"\0") if padded else row) & 0xFFFFFFFFFFFFFFFF for chunk in chunks for row in chunk)
        combined = combined * np.uint64(1_000_003) ^ np.fromiter(each, np.uint64, len(whole))
    return combined


def _seen(hashes: dict[str, NDArray[np.uint64]], form: Form) -> Iterator[str]:
    """Examples of other parts that are in the training part (C25)."""
    known = np.unique(hashes["train"])
    for part, words in (("validation", "validated on"), ("test", "held out as a test")):
        if part not in hashes:
            continue
        seen, size = int(np.isin(hashes[part], known).sum()), len(hashes[part])
        if seen and (form is not Form.ROWS or seen >= SEEN_SHARE * size):
            yield (
                f"Duplicates: {seen:,} of the {size:,} examples {words} ({100 * seen / size:.1f} %) are in the "
                "training part too, so a network that only remembers them looks better than it is."
            )


def _contradictions(hashes: NDArray[np.uint64], targets: Rows) -> Iterator[str]:
    """Training examples with the same inputs and different classes."""
    groups = np.unique(hashes, return_inverse=True)[1]
    pairs, counts = np.unique(np.column_stack([groups, targets]), axis=0, return_counts=True)
    most = np.zeros(groups.max() + 1, np.int64)
    np.maximum.at(most, pairs[:, 0], counts)
    kinds = np.bincount(pairs[:, 0])
    if contradict := int((kinds > 1)[groups].sum()):
        least = (len(targets) - int(most.sum())) / len(targets)
        yield (
            f"Contradictions: {contradict:,} training examples ({100 * contradict / len(targets):.1f} %) have the "
            "inputs of one that is of another class; no network gets below an error of "
            f"{100 * least:.2g} % on the training part."
        )


# -- classes ------------------------------------------------------------------------------------------------------


def _small(size: int) -> Iterator[str]:
    """Too few examples to rank trials by (C26)."""
    error = math.sqrt(ASSUMED_ERROR * (1 - ASSUMED_ERROR) / size)
    if error > LARGEST_SE:
        apart = 2 * math.sqrt(2) * error  # two standard errors of the difference of two independent trials
        yield (
            f"Few examples to validate on: {size:,}. At an error of {100 * ASSUMED_ERROR:.0f} % its standard error is "
            f"{100 * error:.1f} points, so two trials may have to differ by {100 * apart:.1f} points to be told apart."
        )


def _imbalance(targets: dict[str, NDArray[Any]], classes: Sequence[str]) -> Iterator[str]:
    """Classes of very different sizes (C31), and classes that a part lacks."""
    counts = {part: np.bincount(each, minlength=len(classes)) for part, each in targets.items()}
    train = counts["train"]
    rare, common = int(np.where(train > 0, train, train.max() + 1).argmin()), int(train.argmax())
    if (ratio := train[common] / train[rare]) > IMBALANCE:
        yield (
            f"Imbalance: {classes[common]!r} has {train[common]:,} training examples, {ratio:.0f} times as many as "
            f"{classes[rare]!r}, the rarest class, with {train[rare]:,}; errors on rare classes hardly count."
        )
    for part, words in (("train", "to train on"), ("validation", "to validate on"), ("test", "held out as a test")):
        if part in counts and (absent := np.flatnonzero(counts[part] == 0)).size:
            names = ", ".join(repr(classes[place]) for place in absent[:6]) + ", ..." * (len(absent) > 6)
            yield f"Absent classes: the part {words} has none of {len(absent)} of the {len(classes)} classes ({names})."


def _order(targets: NDArray[Any], classes: int) -> Iterator[str]:
    """An order in the file (C23). `targets` are classes (N,), or numbers (N, T)."""
    if classes:
        shuffled = np.random.default_rng(0).permutation(targets)
        within, usual = _entropy(targets, classes), _entropy(shuffled, classes)
        if len(targets) >= 2 * BATCH and within < ORDERED * usual:
            yield (
                f"Order: the file is ordered by class ({BATCH} examples in a row hold {within:.2f} nats of it, "
                f"shuffled ones {usual:.2f}). Every epoch shuffles them; a part cut from the end would lack classes."
            )
        return
    first = targets.reshape(len(targets), -1)[:, 0].astype(np.float64)
    if len(first) >= 2 * BATCH and first[:-1].std() > 0 < first[1:].std():
        alike = float(np.corrcoef(first[:-1], first[1:])[0, 1])
        if alike > ALIKE:
            yield (
                f"Order: neighbours in the file have like targets (correlation {alike:.2f}). Every epoch shuffles "
                "them; but if the order is that of time, hold out the latest rows: a random part flatters."
            )


def _entropy(targets: Rows, classes: int) -> float:
    """Of the classes in a batch of consecutive rows, on average, in nats."""
    batches = len(targets) // BATCH
    places = np.arange(batches * BATCH) // BATCH * classes + targets[: batches * BATCH]
    shares = np.bincount(places, minlength=batches * classes).reshape(batches, classes) / BATCH
    return float(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(1).mean()) if batches else 0.0


# -- inputs -------------------------------------------------------------------------------------------------------


def _leaks(inputs: NDArray[Any], targets: NDArray[Any], columns: Sequence[_Columns], of_classes: bool) -> Iterator[str]:
    """Single columns that give the target away (C25).

    A sample of the rows is put in the order of each column. Where the target then hardly ever changes from one row to
    the next, the column alone tells it, whatever the shape of the dependence. For classes the changes are counted
    (the runs of Wald and Wolfowitz, 1940), for numbers their squares are summed (the ratio of von Neumann, 1941).
    """
    sample = _sample(targets, min(max(SAMPLED_VALUES // inputs.shape[1], 200), MOST_SAMPLED), of_classes)
    x, y = inputs[sample], targets[sample].reshape(len(sample), -1)
    for name, changes, by_chance, limit in _candidates(x, y, columns, of_classes):
        if by_chance >= FEWEST_CHANGES and changes <= limit:
            told = (
                f"the class of {len(x):,} training rows changes {changes:.0f} times (by chance {by_chance:.0f})"
                if of_classes
                else f"the squared steps of the target over {len(x):,} training rows are "
                f"{100 * changes / by_chance:.2g} % of those by chance"
            )
            yield (
                f"Leak: {name} alone gives the target away: sorted by it, {told}. Leave it out unless it is known "
                "before the target is."
            )


def _sample(targets: NDArray[Any], most: int, of_classes: bool) -> Rows:
    """Some of the rows in a random order; of each class as many as there are, up to an equal share."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(targets))
    if not of_classes:
        return rows[:most]
    by_class = rows[np.argsort(targets[rows], kind="stable")]
    classes = targets[by_class]
    places = np.arange(len(rows)) - np.searchsorted(classes, classes)  # of each row within its class
    return rng.permutation(by_class[places < most / len(np.unique(targets))])


def _candidates(
    x: NDArray[Any], y: NDArray[Any], columns: Sequence[_Columns], of_classes: bool
) -> Iterator[tuple[str, float, float, float]]:
    """The name of each column, the changes of the target in its order, those by chance, and a leak's most.

    `x` (S, F), `y` (S, T). Levels of a category have no order, so that only changes within a level count.
    """
    names = [f"input {place}" for place in range(x.shape[1])]
    single = np.ones(x.shape[1], bool)
    for column in columns:
        names[column.start : column.stop] = [f"the column {column.name!r}"] * (column.stop - column.start)
        single[column.start : column.start + column.levels] = False
    pairs = len(y) - 1
    order = np.argsort(x[:, single], axis=0, kind="stable")  # (S, singles); ties stay in the random order of rows
    for target in y.T:
        if of_classes:
            different, chance = _unlike, 1 - float(np.square(np.unique(target, return_counts=True)[1] / len(y)).sum())
            share, free = LEAK, len(np.unique(target)) - 1.0
        else:
            different, chance = _square, 1.0
            share, free = LEAK_OF_NUMBERS, 0.0
            target = target / (math.sqrt(2) * (target.std() or 1))
        changes = different(target[order[1:]], target[order[:-1]]).sum(0)
        for place, amount in zip(np.flatnonzero(single), changes, strict=True):
            yield names[place], float(amount), chance * pairs, free + share * chance * pairs
        for column in columns:
            if column.levels:
                level = x[:, column.start : column.start + column.levels] @ np.arange(1, column.levels + 1)
                sorted_rows = np.argsort(level, kind="stable")
                same = np.diff(level[sorted_rows]) == 0
                amount = different(target[sorted_rows[1:]], target[sorted_rows[:-1]])[same].sum()
                by_chance = chance * int(same.sum())
                yield names[column.start], float(amount), by_chance, share * by_chance


def _unlike(after: NDArray[Any], before: NDArray[Any]) -> NDArray[Any]:
    unlike: NDArray[Any] = after != before
    return unlike


def _square(after: NDArray[Any], before: NDArray[Any]) -> NDArray[Any]:
    squares: NDArray[Any] = np.square(after - before)
    return squares


def _constant(inputs: NDArray[Any], columns: Sequence[_Columns]) -> Iterator[str]:
    constant = np.flatnonzero(inputs.min(0) == inputs.max(0))
    if constant.size:
        of = {place: column.name for column in columns for place in range(column.start, column.stop)}
        names = ", ".join(str(of.get(place, place)) for place in constant[:6].tolist())
        yield (
            f"Constant inputs: {len(constant)} of {inputs.shape[1]} do not vary in the training part "
            f"({names}{', ...' * (len(constant) > 6)}), so they tell nothing."
        )


def _scales(inputs: NDArray[Any]) -> Iterator[str]:
    """Inputs far from standard units (C33)."""
    mean, sd = inputs.mean(0, dtype=np.float64), inputs.std(0, dtype=np.float64)
    varies = np.flatnonzero(sd > 0)
    if not varies.size:
        return
    small, large = varies[sd[varies].argmin()], varies[sd[varies].argmax()]
    if sd[large] > SCALE_RATIO * sd[small]:
        yield (
            f"Scales: the standard deviations of the inputs range from {sd[small]:.3g} (input {small}) to "
            f"{sd[large]:.3g} (input {large}). One learning rate cannot suit all of them: standardise the inputs."
        )
    shifted = varies[np.abs(mean[varies]) > OFFSET * sd[varies]]
    if shifted.size:
        first = shifted[0]
        yield (
            f"Offsets: {len(shifted)} of {len(sd)} inputs lie far from 0 for their spread (input {first}: mean "
            f"{mean[first]:.3g}, standard deviation {sd[first]:.3g}). Standardise the inputs."
        )
