"""What `rheostat probe lr`, `batch` and `init` do and print."""

from __future__ import annotations

import math
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress as Bar

from rheostat.commands import SpaceChanges
from rheostat.errors import SettingError, TaskError
from rheostat.probe.batch_size import batch_probe
from rheostat.probe.initialisation import init_probe
from rheostat.probe.learning_rate import RangeTest, lr_range_test
from rheostat.probe.noise_scale import noise_scale
from rheostat.probe.sandbox import Progress, nobody
from rheostat.probe.words import Rows
from rheostat.show import text
from rheostat.targets import Target, load_target
from rheostat.train.loop import check
from rheostat.types import Config, Scalar, Status

WIDTH = 88
COLUMNS = 65  # of a curve: eight for each of eight decades
BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def lr(target: Mapping[str, Any], given: Mapping[str, Scalar], seed: int, steps: int, as_json: bool) -> None:
    """Test learning rates on a target; `given` hyperparameters, others at their likeliest values."""
    loaded, config = _loaded(target, given, as_json)
    with _bar("three ramps") as progress:
        found = lr_range_test(loaded.task, config, steps=steps, seed=seed, progress=progress)
    if as_json:
        text.print_json({"target": loaded.name, "config": dict(config), **found.describe()})
        return
    text.show("\n".join(drawn(found)))
    _show(found.words, found.table)


def batch(
    target: Mapping[str, Any], given: Mapping[str, Scalar], seed: int, memory: str | None, threads: int, as_json: bool
) -> None:
    """Test batch sizes on a target: time, memory, and the noise of gradients."""
    loaded, config = _loaded(target, given, as_json)
    limit = None if memory is None else parse_bytes(memory)
    with _bar("time and memory") as progress:
        found = batch_probe(loaded.task, config, None, limit, threads, seed, progress)
    noise, unmeasured = None, ""
    try:
        with _bar("noise of gradients") as progress:
            noise = noise_scale(loaded.task, config, seed=seed, progress=progress)
    except TaskError as cause:  # too few examples; what was measured of them stands
        unmeasured = str(cause)
    if as_json:
        parts = {"costs": found.describe(), "noise": noise and noise.describe()}
        text.print_json({"target": loaded.name, "config": dict(config), **parts})
        return
    _show(found.words, found.table)
    text.show("")
    _show(noise.words if noise else unmeasured, noise.table if noise else None)


def init(target: Mapping[str, Any], given: Mapping[str, Scalar], seed: int, as_json: bool) -> None:
    """Look at a target's network before it is trained."""
    loaded, config = _loaded(target, given, as_json)
    with _bar("short trainings") as progress:
        found = init_probe(loaded.task, config, seed=seed, progress=progress)
    if as_json:
        text.print_json({"target": loaded.name, "config": dict(config), **found.describe()})
        return
    _show("", found.table)
    for finding in found.findings:
        mark = text.MARKS[Status.DONE if finding.good else Status.FAILED]
        text.show(textwrap.fill(finding.text, WIDTH, initial_indent=f"{mark} ", subsequent_indent="  "))


def parse_bytes(words: str) -> int:
    """
    >>> parse_bytes("2GB"), parse_bytes("512 MiB"), parse_bytes("1.5e9")
    (2000000000, 536870912, 1500000000)
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?i?)b?\s*", words.lower())
    try:
        assert found is not None
        size = int(float(found[1]) * BYTES[found[2]])
    except (AssertionError, KeyError, ValueError):
        size = 0
    if size < 1:
        raise SettingError(f"--memory {words!r}: give a size, such as 2GB or 512MiB.")
    return size


def drawn(found: RangeTest, columns: int = COLUMNS) -> list[str]:
    """The loss over the learning rates as a curve in blocks, with its decades and its answers below it.

    Losses above that of the start are drawn as it; × is where most ramps had ended.
    """
    values = found.curve(columns)
    finite = [value for value in values if math.isfinite(value)]
    top, bottom = found.ramps[0].start, min(finite)
    low, high = math.log10(found.low), math.log10(found.high)

    def column(lr: float) -> int:
        return round((math.log10(lr) - low) / (high - low) * (columns - 1))

    scale = [" "] * (columns + 6)
    for decade in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1):
        label = f"1e{decade}" if decade else "1"
        scale[column(10.0**decade) : column(10.0**decade) + len(label)] = label
    marks = [" "] * columns
    answers = {"f": found.falls_from, "s": found.steepest, "m": found.largest_stable}
    for sign, answer in answers.items():
        if answer is not None:
            marks[column(answer.median)] = sign
    if found.prior is not None:
        marks[min(max(column(float(str(found.prior.value))), 0), columns - 1)] = "p"
    lines = [
        f"loss  {text.sparkline(values, bottom, top, columns)}  {text.number(bottom)} to {text.number(top)}",
        f"lr    {''.join(scale).rstrip()}",
    ]
    if found.largest_stable is not None:
        lines += [f"      {''.join(marks).rstrip()}", "f falls from   s steepest   m largest stable   p prior"]
    return [*lines, ""]


def _loaded(target: Mapping[str, Any], given: Mapping[str, Scalar], as_json: bool) -> tuple[Target, Config]:
    """A target, and the configuration to probe. Raises TaskError for a hyperparameter that nobody reads."""
    loaded = load_target(**target)
    config = SpaceChanges(fixed=given).apply(loaded.space).likely()
    check(loaded.task, config)
    if not as_json:
        settings = textwrap.fill(text.settings(config), WIDTH, initial_indent="with  ", subsequent_indent="      ")
        text.show(f"{loaded.name}\n{settings}\n")
    return loaded, config


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    """A bar for somebody who waits at a terminal, gone when there are results."""
    if not sys.stderr.isatty():
        yield nobody
        return
    with Bar(console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task(title, total=1.0)
        yield lambda share: bar.update(line, completed=share)


def _show(words: str, table: Rows | None) -> None:
    if table is not None:
        text.show(text.Table(table.titles, table.rows, table.right))
        text.show("")
    for line in words.splitlines():
        text.show(textwrap.fill(line, WIDTH, subsequent_indent="  "))
