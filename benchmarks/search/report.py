"""What the rows of a replay say: python -m benchmarks.search.report FILE [--plot FOLDER] [--methods a,b,...]

For each number of trials in flight and each budget, in full trainings: the mean regret over the tables of each
folder and over all tables, each table's the mean over its seeds; the same with every regret capped at 1, since one
table whose losses explode outweighs all others in a plain mean; the mean rank over tables with its critical
difference (Nemenyi's test at 5 %: Demsar 2006, JMLR 7, section 3.2.2); and the median over runs of the processor
seconds that all decisions of a run took. random-2x spends twice the budget, so it has no rank.

Only tables where every method has rows count, and there only seeds that every method has.

Then, of `default`: its mean regret over that of the best peer; and, for each table, the one-sided Wilcoxon
signed-rank test over seeds against random-2x: on how many tables is it worse, at 5 %, and on how many better.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, studentized_range, wilcoxon

from benchmarks.search.peers.registry import PEERS
from benchmarks.search.runs import TWICE, read_rows

DEFAULT = "default"
LEVEL = 0.05

Array = NDArray[np.float64]
Name = tuple[str, str]  # folder and table


@dataclass(frozen=True)
class Cell:
    """All runs with the same number of trials in flight, at one budget."""

    in_flight: int
    budget: float
    methods: tuple[str, ...]
    tables: tuple[Name, ...]
    regrets: tuple[Array, ...]  # of each table: (methods, seeds)
    left_out: int  # tables that lack a method
    seconds: Mapping[str, float]  # of deciding, by method

    def means(self, cap: float = math.inf) -> Array:
        """The mean over seeds, each regret at most `cap`. Shape (tables, methods)."""
        return np.array([np.minimum(regrets, cap).mean(axis=1) for regrets in self.regrets])

    def of_folder(self, folder: str) -> Array:
        """Which tables are of this folder. Shape (tables,)."""
        return np.array([found == folder for found, _ in self.tables])

    @property
    def folders(self) -> list[str]:
        return sorted({folder for folder, _ in self.tables})


def cells(rows: Iterable[Mapping[str, str | float]], only: Sequence[str] = ()) -> list[Cell]:
    """The rows, sorted into cells. Of rows that say the same run and budget the last counts."""
    found: dict[tuple[int, float], dict[Name, dict[str, dict[int, float]]]] = {}
    seconds: dict[tuple[int, float], dict[str, list[float]]] = {}
    for row in rows:
        method = str(row["method"])
        if only and method not in only:
            continue
        place = int(row["in_flight"]), float(row["budget"])
        name = str(row["benchmark"]), str(row["table"])
        seeds = found.setdefault(place, {}).setdefault(name, {}).setdefault(method, {})
        seeds[int(row["seed"])] = float(row["regret"])
        seconds.setdefault(place, {}).setdefault(method, []).append(float(row["decision_seconds"]))
    return [
        _cell(*place, tables, {method: float(np.median(took)) for method, took in seconds[place].items()})
        for place, tables in sorted(found.items())
    ]


def _cell(
    in_flight: int, budget: float, tables: Mapping[Name, Mapping[str, Mapping[int, float]]], seconds: dict[str, float]
) -> Cell:
    methods = tuple(sorted(seconds, key=lambda method: (method != DEFAULT, method)))
    names, regrets = [], []
    for name, by_method in sorted(tables.items()):
        seeds = sorted(set.intersection(*(set(by_method.get(method, ())) for method in methods)))
        if seeds:
            names.append(name)
            regrets.append(np.array([[by_method[method][seed] for seed in seeds] for method in methods]))
    return Cell(in_flight, budget, methods, tuple(names), tuple(regrets), len(tables) - len(names), seconds)


def mean_ranks(means: Array) -> Array:
    """The mean rank of each method over tables, 1 for the lowest; equal ones share. `means`: (tables, methods)."""
    ranks: Array = rankdata(means, axis=1).mean(axis=0)
    return ranks


def critical_difference(methods: int, tables: int) -> float:
    """Mean ranks that differ by as much differ at 5 % (Demsar 2006, section 3.2.2, with table 5a computed)."""
    q = studentized_range.ppf(1 - LEVEL, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * tables)))


def worse_and_better(ours: Array, theirs: Array) -> tuple[bool, bool]:
    """Whether paired regrets are higher, or lower, by one-sided Wilcoxon signed-rank tests at 5 %."""
    if np.array_equal(ours, theirs):
        return False, False
    worse, better = (wilcoxon(ours, theirs, alternative=side).pvalue < LEVEL for side in ("greater", "less"))
    return bool(worse), bool(better)


def lines_of(cell: Cell) -> list[str]:
    """The cell as Markdown."""
    left_out = f", {cell.left_out} more lack a method" if cell.left_out else ""
    head = f"## {cell.in_flight} in flight, {cell.budget:g} full trainings ({len(cell.tables)} tables{left_out})"
    if not cell.tables:
        return [head, ""]
    means, capped = cell.means(), cell.means(cap=1)
    ranked = [i for i, method in enumerate(cell.methods) if method != TWICE]
    ranks = dict(zip(ranked, mean_ranks(means[:, ranked]), strict=True))
    columns = ["method", *cell.folders, "all", "all, capped", "rank", "deciding, s"]
    lines = [head, "", _row(columns), _row(["---"] * len(columns))]
    for i in sorted(range(len(cell.methods)), key=lambda i: capped[:, i].mean()):
        by_folder = [means[cell.of_folder(folder), i].mean() for folder in cell.folders]
        figures = [*by_folder, means[:, i].mean(), capped[:, i].mean()]
        rank = f"{ranks[i]:.2f}" if i in ranks else "-"
        seconds = f"{cell.seconds[cell.methods[i]]:.2g}"
        lines.append(_row([cell.methods[i], *(f"{figure:.3g}" for figure in figures), rank, seconds]))
    if len(ranked) > 1:
        lines += ["", f"Ranks differ from {critical_difference(len(ranked), len(cell.tables)):.2f} on."]
    return [*lines, *_of_default(cell), ""]


def _of_default(cell: Cell) -> list[str]:
    if DEFAULT not in cell.methods:
        return []
    lines = []
    ours = cell.methods.index(DEFAULT)
    peers = [i for i, method in enumerate(cell.methods) if method in PEERS]
    if peers:
        ratios = []
        for cap, word in ((math.inf, ""), (1.0, " (capped)")):
            means = cell.means(cap).mean(axis=0)
            best = min(peers, key=lambda i: means[i])
            ratio = means[ours] / means[best] if means[best] else math.inf
            ratios.append(f"{ratio:.2f} of {cell.methods[best]}'s{word}")
        lines += ["", f"The default's mean regret is {', '.join(ratios)}."]
    if TWICE in cell.methods:
        theirs = cell.methods.index(TWICE)
        found = [worse_and_better(regrets[ours], regrets[theirs]) for regrets in cell.regrets]
        worse = [table for (_, table), (is_worse, _) in zip(cell.tables, found, strict=True) if is_worse]
        named = f" ({', '.join(worse)})" if worse else ""
        seeds = min(regrets.shape[1] for regrets in cell.regrets)
        lines += [
            "",
            f"Against random search at twice the budget ({seeds} seeds): worse on {len(worse)} tables{named}, "
            f"better on {sum(is_better for _, is_better in found)} of {len(found)}.",
        ]
    return lines


def _row(parts: Iterable[str]) -> str:
    return f"| {' | '.join(parts)} |"


def plot(found: Sequence[Cell], folder: Path) -> None:
    """A figure for each number of trials in flight, as SVG and PNG: a panel for each folder of tables, and for all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for in_flight in sorted({cell.in_flight for cell in found}):
        part = [cell for cell in found if cell.in_flight == in_flight and cell.tables]
        panels = [*sorted({name for cell in part for name in cell.folders}), "all"]
        methods = list(dict.fromkeys(method for cell in part for method in cell.methods))
        budgets = [cell.budget for cell in part]
        figure, axes = pyplot.subplots(-(-len(panels) // 4), min(len(panels), 4), figsize=(16, 4.5), squeeze=False)
        figure.set_size_inches(4 * axes.shape[1], 3.4 * axes.shape[0] + 1.2)
        for panel, axis in zip(panels, axes.flat, strict=False):
            for n, method in enumerate(methods):
                points = [
                    (cell.budget, np.maximum(regrets[:, cell.methods.index(method)].mean(), 1e-4))
                    for cell in part
                    if method in cell.methods
                    if len(regrets := cell.means(cap=1)[cell.of_folder(panel) if panel != "all" else slice(None)])
                ]
                style = {"color": "black", "linewidth": 2.5} if method == DEFAULT else {"color": f"C{n % 10}"}
                axis.plot(*zip(*points, strict=True), "-o" if n < 10 else "--s", markersize=3, label=method, **style)
            axis.set(xscale="log", yscale="log", title=panel, xlabel="full trainings", ylabel="regret, capped at 1")
            axis.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
            axis.set_xticks([], minor=True)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.suptitle(f"{in_flight} in flight")
        figure.legend(handles, labels, loc="lower center", ncols=2 * axes.shape[1])
        figure.tight_layout(rect=(0, 0.12, 1, 1))
        for suffix in ("svg", "png"):
            figure.savefig(folder / f"anytime-{in_flight}.{suffix}", dpi=120)
        pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        "benchmarks.search.report", None, __doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what `python -m benchmarks.search` wrote")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw regret against budget into it")
    parser.add_argument("--methods", default="", metavar="A,B", help="compare these only")
    given = parser.parse_args()
    found = cells(read_rows(given.file), [name for name in given.methods.split(",") if name])
    for cell in found:
        print("\n".join(lines_of(cell)))
    if given.plot:
        plot(found, given.plot)


if __name__ == "__main__":
    main()
