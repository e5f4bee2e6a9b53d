"""What is known about each hyperparameter: range, prior, signs of a wrong value, what to do, and who says so.

The facts stand in `hyperparameters.toml`, whose head explains the fields. Nothing in here looks at results.

>>> get("learning_rate").name
'lr'
>>> get("lr").part(optimizer="adamw")
Float(low=1e-05, high=0.1, log=True, step=None, prior=Prior(value=0.001, sure=0.5), when={})
"""

from __future__ import annotations

import difflib
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

from rheostat.errors import SpaceError, unknown
from rheostat.space import Choice, Conditions, Float, Hyperparameter, Int, Prior, Space
from rheostat.types import Scalar

GROUPS = {
    "optimiser": "how the network is trained",
    "model": "what the network is",
    "data": "what it is trained on",
}
MODELS = ("mlp", "cnn", "rnn", "seq2seq", "transformer")
EVIDENCE = {
    "verified": "read in the primary text or code",
    "notes": "read in notes on it or a copy",
    "recalled": "from memory, check before quoting",
    "heuristic": "a rule of thumb without a source",
    "pilot": "measured in a small pilot",
}
# Worth tuning only when the rest is, or not in training at all.
LATER = frozenset({"init", "residual", "pooling", "forget_bias", "beam", "length_penalty"})
WIDTH = 88  # columns of what is printed
LABEL = 14  # columns of the labels at its left


@dataclass(frozen=True)
class Source:
    """A work, how it was checked (a key of `EVIDENCE`), the place in it, and what it says in numbers."""

    work: str
    evidence: str
    section: str = ""
    says: str = ""

    def __str__(self) -> str:
        place = ", ".join(filter(None, (self.work, self.section)))
        return f"{': '.join(filter(None, (place, self.says)))} ({self.evidence})"


@dataclass(frozen=True)
class Case:
    """Another range, and the condition under which it holds."""

    when: Conditions
    range: Hyperparameter
    note: str = ""


@dataclass(frozen=True)
class Article:
    """What the article says that Rheostat grew from, and the values it names."""

    says: str
    candidates: tuple[Scalar, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One hyperparameter; `hyperparameters.toml` explains the fields.

    Aliases are for finding the entry: a value under another name may mean something else (keep_prob).
    """

    name: str
    title: str
    group: str
    range: Hyperparameter
    what: str
    next: str
    sources: tuple[Source, ...]
    too_low: str = ""
    too_high: str = ""
    mismatch: str = ""
    aliases: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    when: Conditions = field(default_factory=dict)
    cases: tuple[Case, ...] = ()
    interactions: Mapping[str, str] = field(default_factory=dict)
    article: Article | None = None
    corrections: tuple[str, ...] = ()

    def part(self, **given: Scalar) -> Hyperparameter:
        """The default part of a space, with its prior and without its condition.

        `given` is what is known beside it: other hyperparameters by canonical name, `model` (one of
        `MODELS`), or `fine_tuning`. Raises SpaceError for an unknown name, or an unknown text as value.
        """
        for name, value in given.items():
            _check_given(name, value)
        fitting = (c for c in self.cases if all(given.get(n) in allowed for n, allowed in c.when.items()))
        case = next(fitting, None)
        return self.range if case is None else case.range


def names() -> list[str]:
    """The canonical names, in the order of the groups."""
    return list(_catalogue())


def get(name: str) -> Entry:
    """The entry of a canonical name or an alias; dashes, blanks and capitals do not matter.

    Raises SpaceError for an unknown name, with the nearest known one.
    """
    key = name.strip().lower().replace("-", "_").replace(" ", "_")
    try:
        return _catalogue()[_lookup()[key]]
    except KeyError:
        near = difflib.get_close_matches(key, _lookup(), n=1)
        raise SpaceError(unknown("hyperparameter", name, dict.fromkeys([*near, *names()]))) from None


def space(*hyperparameters: str, **given: Scalar) -> dict[str, Hyperparameter]:
    """Default parts for these hyperparameters, ready for `Space`; more can be added or replaced.

    A condition is kept where its parent is among the names: momentum exists only when optimizer is momentum
    or nesterov. `given` is as for `Entry.part`. Raises SpaceError for an unknown name, and for one that could
    never exist beside the others.

    >>> parts = space("lr", "batch_size", optimizer="adamw")
    >>> parts["batch_size"].values
    (32, 64, 128, 256)
    """
    entries = [get(name) for name in hyperparameters]
    parts = {entry.name: entry.part(**given) for entry in entries}
    beside = {name: part.values for name, part in parts.items() if isinstance(part, Choice)}
    for entry in entries:
        when = {}
        for parent, allowed in entry.when.items():
            possible = beside.get(parent, (given[parent],) if parent in given else allowed)
            met = tuple(value for value in possible if value in allowed)
            if not met:
                raise SpaceError(
                    f"{entry.name} exists only when {parent} is {_or(allowed)}, here it is {_or(possible)}: "
                    f"leave {entry.name} out, or let {parent} be {allowed[0]}."
                )
            if parent in beside:
                when[parent] = met
        if when:
            parts[entry.name] = replace(parts[entry.name], when=when)
    return parts


def default_space(
    model_names: Iterable[str] = (),
    examples: int | None = None,
    model: str = "mlp",
    parts: Mapping[str, Hyperparameter | Scalar] | None = None,
) -> Space:
    """The space to tune a network in when the user gives none, for about 60 trials: at most ten dimensions.

    `model_names` are the hyperparameters that the model reads; some are left at the model's default. `model` is one
    of `MODELS`. `parts` replaces ranges of the catalogue and adds others. `examples` is the number of training
    examples: batches leave eight updates in an epoch, where that is possible. Raises SpaceError for an unknown name.

    >>> list(default_space(["layers", "units", "init"]))
    ['lr', 'weight_decay', 'batch_size', 'schedule', 'layers', 'units']
    """
    # Ten dimensions are what 60 trials can cover, and priors make most of them cheap. lr comes first. AdamW
    # alone: several untuned optimisers gain about what tuning one does (Schmidt et al. 2021), but a second
    # would halve the trials that speak for each, and has other best values of lr and weight_decay. Not tuned:
    # the betas and epsilon (Tuning Playbook: with 25 trials or more, for little), warmup (shallow nets do
    # without), epochs (fixed within a study), and what `LATER` names.
    chosen = [name for name in model_names if get(name).name not in LATER]
    known: dict[str, Any] = space(
        "lr", "weight_decay", "batch_size", "schedule", *chosen, optimizer="adamw", model=model
    )
    # Between the 0.001 of the paper and the 0.01 that small nets on little data wanted in the pilot.
    known["lr"] = Float(1e-4, 1e-1, log=True, prior=Prior(3e-3, 0.5))
    known["schedule"] = Choice(["cosine", "constant"], prior=Prior("cosine", 0.75))
    if "dropout" in known:
        known["dropout"] = Float(0.0, 0.5, prior=Prior(0.1, 0.4))
    if model == "mlp":
        narrower = {"layers": Int(1, 4, prior=Prior(2, 0.5)), "units": Int(16, 512, log=True, prior=Prior(128, 0.4))}
        known |= {name: part for name, part in narrower.items() if name in known}
    known |= parts or {}
    sizes = known["batch_size"]
    if examples is not None and isinstance(sizes, Choice):
        fitting = [size for size in sizes.values if 8 * size <= examples]
        known["batch_size"] = replace(sizes, values=fitting) if len(fitting) > 1 else min(32, examples)
    return Space({**known, "optimizer": "adamw"})


def informed(space: Space) -> Space:
    """The space, with the catalogue's prior on every part that has none and whose name says what it is.

    Names are read as people write them: `model.maxUnits`, `dropout_2`, `train_batch_size`, `one_minus_beta1`. A prior
    is only taken over where the catalogue's value is one of the part's, so not where a range holds codes or exponents.

    >>> informed(Space(learning_rate=Float(1e-5, 1.0, log=True), gate=Float(0.0, 1.0)))["learning_rate"].prior
    Prior(value=0.01, sure=0.35)
    """
    parts = {
        name: part if part.prior is not None else replace(part, prior=_expected(name, part))
        for name, part in space.tuned.items()
    }
    return Space({**parts, **space.fixed})


def _expected(name: str, part: Hyperparameter) -> Prior | None:
    """The catalogue's prior for a part under a name of the user's."""
    words = re.sub(r"\W+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)).lower()
    plain = words.removeprefix("one_minus_")
    entry = _recognised(plain)
    if entry is None or entry.range.prior is None:
        return None
    value = entry.range.prior.value
    if plain != words:
        value = round(1.0 - value, 12) if isinstance(value, float) else None
    if isinstance(part, Choice):
        value = next((v for v in part.values if type(v) is type(value) and str(v).lower() == str(value)), None)
        fits = value is not None
    else:
        same_kind = isinstance(part, Float) == isinstance(entry.range, Float)
        fits = same_kind and isinstance(value, int | float) and part.low <= value <= part.high
    return replace(entry.range.prior, value=value) if fits else None


def _recognised(words: str) -> Entry | None:
    """The entry that a name, or its end, stands for: `units` for `max_units_2`.

    Of ends only those count that can hardly mean something else: canonical names, and aliases of several words.
    """
    known, entries = _lookup(), _catalogue()
    for whole in (words, re.sub(r"_?\d+$", "", words)):
        if whole in known:
            return entries[known[whole]]
        parts = whole.split("_")
        for first in range(1, len(parts)):
            for end in ("_".join(parts[first:]), "".join(parts[first:])):
                if end in known and (end in entries or "_" in end) and known[end] not in LATER:
                    return entries[known[end]]
    return None


def explain(name: str) -> str:
    """All that is known about one hyperparameter, as text for a terminal of 88 columns.

    Raises SpaceError for an unknown name.
    """
    entry = get(name)
    head = f"{entry.name} · {entry.title}"
    used = {source.evidence for source in entry.sources}
    blocks = [
        [
            *_rows("Also called", [", ".join(entry.aliases)]),
            *_rows("Exists", [f"only when {_condition(entry.when)}"] if entry.when else []),
            *_rows("Range", [_range_words(entry.range)]),
            *_rows("Likely", [_prior_words(entry.range)]),
        ],
        _rows("By case", [_case_words(case) for case in entry.cases]),
        _pairs("Values", entry.values),
        _rows("What it does", [entry.what]),
        _rows("Too low", [entry.too_low]) + _rows("Too high", [entry.too_high]),
        _rows("When wrong", [entry.mismatch]),
        _rows("What to do", [entry.next]),
        _pairs("Together with", entry.interactions),
        _rows("The article", _article_words(entry.article)) + _rows("But", entry.corrections),
        _rows("Sources", [str(source) for source in entry.sources]),
        _rows("", ["; ".join(f"{tag}: {words}" for tag, words in EVIDENCE.items() if tag in used) + "."]),
    ]
    text = "\n\n".join("\n".join(block) for block in blocks if block)
    return f"{head}{entry.group:>{WIDTH - len(head)}}\n{'─' * WIDTH}\n{text}"


def index() -> str:
    """All hyperparameters by group, one to a line, as text for a terminal of 88 columns."""
    blocks = []
    for group, words in GROUPS.items():
        lines = [f"{group}: {words}", "─" * WIDTH]
        for entry in _catalogue().values():
            if entry.group == group:
                few = f"{len(entry.range.values)} choices" if isinstance(entry.range, Choice) else ""
                lines.append(f"{entry.name:<21}{entry.title:<47}{few or _range_words(entry.range, short=True)}")
        blocks.append("\n".join(lines))
    return "\n\n".join(
        [*blocks, "`rheostat explain NAME` tells more; other usual names (wd, bs, dropout_rate) work too."]
    )


def _rows(label: str, texts: Sequence[str]) -> list[str]:
    """Wrapped texts beside one label; where there are several, each hangs from a line of its own."""
    lines = []
    hang = LABEL + 2 * (len(texts) > 1)
    for text in filter(None, texts):
        lines += _wrap(f"{label:<{LABEL}}", text, hang)
        label = ""
    return lines


def _pairs(label: str, texts: Mapping[str, str]) -> list[str]:
    """Wrapped texts beside one label, each behind its own name, in two columns."""
    lines = []
    column = LABEL + 2 + max(map(len, texts), default=0)
    for name, text in texts.items():
        lines += _wrap(f"{label:<{LABEL}}{name}".ljust(column), text, column)
        label = ""
    return lines


def _wrap(first: str, text: str, hang: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * hang, break_on_hyphens=False)


def _number(value: Scalar, digits: int = 10) -> str:
    """
    >>> _number(1e-05), _number(0.9999), _number(0.0017782794, digits=2), _number(100000)
    ('1e-5', '0.9999', '0.0018', '100000')
    """
    return f"{value:.{digits}g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def _range_words(part: Hyperparameter, short: bool = False) -> str:
    if isinstance(part, Choice):
        return f"one of {', '.join(map(_number, part.values))}"
    whole = "whole numbers " if isinstance(part, Int) and not short else ""
    scale = (", log" if short else ", on a log scale") if part.log else ""
    return f"{whole}{_number(part.low)} to {_number(part.high)}{scale}"


def _prior_words(part: Hyperparameter) -> str:
    """The likely value, and the stretch that `Prior.sure` is about, in as few digits as stay in the range."""
    if part.prior is None:
        return "no value is preferred"
    likely = f"{_number(part.prior.value)} ({part.prior.sure:.0%} sure"
    if isinstance(part, Choice):
        return f"{likely})"
    unit = part.encode(part.prior.value)
    ends = [part.decode(min(max(unit + step, 0.0), 1.0)) for step in (-0.125, 0.125)]
    rounded = ([_number(end, digits) for end in ends] for digits in (2, 3, 4, 10))
    low, high = next(pair for pair in rounded if all(part.low <= float(end) <= part.high for end in pair))
    return f"{likely} that the best lies between {low} and {high})"


def _case_words(case: Case) -> str:
    prior = case.range.prior
    likely = f"; likely {_number(prior.value)} ({prior.sure:.0%} sure)" if prior is not None else ""
    return f"{_condition(case.when)}: {_range_words(case.range)}{likely}. {case.note}".strip()


def _article_words(article: Article | None) -> list[str]:
    if article is None:
        return ["Does not mention it."]
    values = ", ".join(
        f"{value:.10f}".rstrip("0") if isinstance(value, float) else str(value) for value in article.candidates
    )
    return [article.says, f"Values it names or links: {values}." if values else ""]


def _condition(when: Conditions) -> str:
    return " and ".join(
        "fine-tuning" if parent == "fine_tuning" else f"{parent} is {_or(allowed)}" for parent, allowed in when.items()
    )


def _or(values: Sequence[Scalar]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last


def _check_given(name: str, value: Scalar) -> None:
    """Raises SpaceError for a condition that no entry could have."""
    known = {"model": MODELS, "fine_tuning": (True, False)}.get(name)
    if known is None:
        if name not in _catalogue():
            raise SpaceError(unknown("condition", name, ["model", "fine_tuning", *names()]))
        entry = _catalogue()[name]
        if not isinstance(entry.range, Choice) or not all(isinstance(v, str) for v in entry.range.values):
            return
        known = tuple(entry.values) or entry.range.values
    if value not in known:
        raise SpaceError(unknown(name, value, known))


@cache
def _catalogue() -> Mapping[str, Entry]:
    text = resources.files("rheostat").joinpath("hyperparameters.toml").read_text(encoding="utf-8")
    entries = {name: _entry(name, table) for name, table in tomllib.loads(text).items()}
    return {name: entry for group in GROUPS for name, entry in entries.items() if entry.group == group}


@cache
def _lookup() -> Mapping[str, str]:
    """Every name and alias, with the canonical name of each."""
    entries = _catalogue().values()
    return {alias: entry.name for entry in entries for alias in (*entry.aliases, entry.name)}


def _entry(name: str, table: Mapping[str, Any]) -> Entry:
    fields = {key: _tidy(value) for key, value in table.items()}
    fields["range"] = _part(fields["range"])
    fields["sources"] = tuple(Source(**source) for source in fields["sources"])
    fields["cases"] = tuple(Case(**{**case, "range": _part(case["range"])}) for case in fields.get("cases", ()))
    if "article" in fields:
        fields["article"] = Article(**fields["article"])
    return Entry(name, **fields)


def _part(description: Mapping[str, Any]) -> Hyperparameter:
    return Space.from_description({"part": description})["part"]


def _tidy(value: Any) -> Any:
    """Lists as tuples, and texts on one line."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, list):
        return tuple(map(_tidy, value))
    return {key: _tidy(item) for key, item in value.items()} if isinstance(value, dict) else value
