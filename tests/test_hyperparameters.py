from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.errors import SpaceError
from rheostat.hyperparameters import (
    EVIDENCE,
    GROUPS,
    LATER,
    MODELS,
    WIDTH,
    default_space,
    explain,
    get,
    index,
    informed,
    names,
    space,
)
from rheostat.space import Choice, Float, Int, Prior, Space
from rheostat.train import optimizers, rates
from tests.spaces import choices, floats, ints

ALL = names()
USUAL = [alias for name in ALL for alias in (name, *get(name).aliases)]
MLP = ("layers", "units", "activation", "dropout", "norm", "init", "residual")

# The names that configurations are read by elsewhere; renaming one breaks them.
# fmt: off
CANONICAL = [
    "optimizer", "lr", "momentum", "beta1", "beta2", "eps", "rho", "accumulator", "weight_decay",
    "batch_size", "accumulate", "schedule", "warmup", "decay_rate", "decay_every", "final_lr_fraction",
    "cooldown", "clip_norm", "ema", "label_smoothing", "epochs", "patience", "seed", "layers", "units",
    "activation", "dropout", "norm", "init", "residual", "channels", "kernel_size", "pooling",
    "embedding", "cell", "hidden", "recurrent_layers", "bidirectional", "attention", "beam",
    "length_penalty", "teacher_forcing", "vocabulary", "sequence_length", "augmentation",
    "validation_fraction",
]
# fmt: on


def parts(name: str) -> list[Any]:
    entry = get(name)
    return [entry.range, *(case.range for case in entry.cases)]


@pytest.mark.parametrize("name", CANONICAL)
def test_every_name_that_is_read_elsewhere_is_canonical(name: str) -> None:
    assert name in ALL


@pytest.mark.parametrize("name", ALL)
def test_entry_is_complete(name: str) -> None:
    entry = get(name)
    assert entry.name == name
    assert entry.group in GROUPS
    assert entry.title and entry.what and entry.next and entry.aliases and entry.interactions
    assert bool(entry.too_low) == bool(entry.too_high) != bool(entry.mismatch)
    assert entry.sources
    for source in entry.sources:
        assert source.work and source.evidence in EVIDENCE
    for text in (entry.what, entry.too_low, entry.too_high, entry.mismatch, entry.next, *entry.corrections):
        assert len(text) < 340  # short and useful


@pytest.mark.parametrize("name", ALL)
def test_ranges_are_parts_of_a_space(name: str) -> None:
    for part in parts(name):
        assert isinstance(part, Float | Int | Choice)
        assert Space(x=part).sample(np.random.default_rng(0), 20)
        if part.prior is not None:
            part.check(name, part.prior.value)
            part.check(name, part.decode(part.encode(part.prior.value)))
            assert 0.25 < part.prior.sure < 0.95  # a belief: weaker ones bend nothing, stronger ones exclude


def test_names_and_aliases_are_unique() -> None:
    count = Counter([*ALL, *(alias for name in ALL for alias in get(name).aliases)])
    assert [word for word, n in count.items() if n > 1] == []


@pytest.mark.parametrize("name", ALL)
def test_mentioned_names_exist(name: str) -> None:
    entry = get(name)
    assert set(entry.interactions) <= set(ALL) - {name}
    for when in (entry.when, *(case.when for case in entry.cases)):
        for parent, allowed in when.items():
            for value in allowed:  # raises for a name or value that cannot be
                get("lr").part(**{parent: value})


@pytest.mark.parametrize("name", [name for name in ALL if isinstance(get(name).range, Choice)])
def test_choices_offer_only_values_that_are_known(name: str) -> None:
    values = get(name).values
    for part in parts(name):
        if values and all(isinstance(value, str) for value in part.values):
            assert set(part.values) <= set(values)


def test_article_candidates_lie_in_the_ranges() -> None:
    seen = 0
    for name in ALL:
        article = get(name).article
        for value in article.candidates if article is not None else ():
            get(name).range.check(name, value)
            seen += 1
    assert seen > 20


# By hand: what the article names, and the defaults of TensorFlow 1 that it links.
ARTICLE = {
    "lr": (0.1, 0.01, 0.001, 0.0001, 0.00001),
    "batch_size": (32, 64, 128, 256),
    "embedding": (200,),
    "recurrent_layers": (2, 3),
    "optimizer": ("adam", "adagrad"),
    "beta1": (0.9,),
    "beta2": (0.999,),
    "eps": (1e-8,),
    "accumulator": (0.1,),
    "decay_rate": (0.96,),
}


@pytest.mark.parametrize(("name", "candidates"), ARTICLE.items())
def test_article_candidates(name: str, candidates: tuple[Any, ...]) -> None:
    article = get(name).article
    assert article is not None
    assert set(candidates) == set(article.candidates)


# By hand, from the notes on each hyperparameter: low, high, log, likely (None: not checked).
FACTS: list[tuple[str, dict[str, Any], float, float, bool, float | None]] = [
    ("lr", {"optimizer": "sgd"}, 1e-6, 1, True, None),
    ("lr", {"optimizer": "nesterov", "model": "cnn"}, 1e-6, 1, True, 0.1),
    ("lr", {"optimizer": "adam"}, 1e-5, 0.1, True, 1e-3),
    ("lr", {"optimizer": "adamw"}, 1e-5, 0.1, True, 1e-3),
    ("lr", {"optimizer": "adagrad"}, 1e-3, 1, True, None),
    ("lr", {"optimizer": "adamw", "fine_tuning": True}, 1e-6, 1e-3, True, None),
    ("lr_range_test", {}, 50, 500, True, 100),
    ("momentum", {}, 0.5, 0.99, False, 0.9),
    ("beta2", {}, 0.9, 0.9999, False, 0.999),
    ("beta2", {"optimizer": "lion"}, 0.9, 0.999, False, 0.99),
    ("eps", {}, 1e-10, 1, True, 1e-8),
    ("weight_decay", {"optimizer": "sgd", "model": "cnn"}, 1e-6, 0.1, True, 5e-4),
    ("weight_decay", {"optimizer": "adamw"}, 1e-3, 1, True, None),
    ("decay_rate", {"schedule": "exponential"}, 0.5, 0.99, False, 0.96),
    ("warmup", {}, 0, 0.1, False, None),
    ("clip_norm", {}, 0.1, 10, True, 1),
    ("clip_norm", {"model": "rnn"}, 0.1, 10, True, 5),
    ("patience", {}, 3, 50, True, 10),
    ("units", {}, 16, 2048, True, None),
    ("layers", {}, 1, 5, False, 2),
    ("layers", {"model": "cnn"}, 4, 50, True, 10),
    ("dropout", {}, 0, 0.8, False, None),
    ("init", {}, 0.5, 2, True, 1),
    ("recurrent_layers", {}, 1, 4, False, 2),
    ("length_penalty", {}, 0, 1.5, False, 1),
]


@pytest.mark.parametrize(("name", "given", "low", "high", "log", "likely"), FACTS)
def test_facts(name: str, given: dict[str, Any], low: float, high: float, log: bool, likely: float | None) -> None:
    part = get(name).part(**given)
    assert isinstance(part, Float | Int)
    assert (part.low, part.high, part.log) == (low, high, log)
    if likely is not None:
        assert part.prior.value == likely


@pytest.mark.parametrize(
    ("name", "given", "low", "high"),
    [
        ("lr", {"optimizer": "adagrad"}, 0.01, 0.1),
        ("lr", {"fine_tuning": True}, 2e-5, 1e-4),
        ("weight_decay", {"optimizer": "adamw"}, 0.01, 0.1),
        ("warmup", {"model": "transformer"}, 0.01, 0.1),
        ("units", {}, 100, 1000),
        ("embedding", {}, 100, 300),
        ("cooldown", {}, 0.1, 0.2),
        ("beam", {}, 5, 10),
        ("dropout", {}, 0, 0.5),
    ],
)
def test_priors_lie_where_the_notes_say(name: str, given: dict[str, Any], low: float, high: float) -> None:
    assert low <= get(name).part(**given).prior.value <= high


# Each statement of the article, the entry that holds it, and a word that must be there.
ROWS = [
    ("A4 most important", "lr", "most important"),
    ("A5 also with a pre-trained model", "lr", "fine-tuning"),
    ("A6 candidates", "lr", "0.1, 0.01, 0.001, 0.0001, 0.00001"),
    ("A7 too large, too small, good", "lr", "Too high"),
    ("A8 too large overshoots", "lr", "overshoot"),
    ("A9 too small is slow", "lr", "fall steadily"),
    ("A10 optimal falls continuously", "lr", "keeps falling"),
    ("A11 decay after some epochs", "decay_every", "epochs"),
    ("A12 figure of decay", "schedule", "cs231n"),
    ("A13 adaptive", "schedule", "plateau"),
    ("A14 exponential decay", "decay_rate", "decay_rate ^ (t / decay_every)"),
    ("A15 Adam", "optimizer", "AdamOptimizer"),
    ("A16 Adagrad", "accumulator", "AdagradOptimizer"),
    ("A17 1000 records", "batch_size", "1,000"),
    ("A18 one record", "batch_size", "stochastic gradient descent"),
    ("A19 all records", "batch_size", "batch gradient descent"),
    ("A20 between", "batch_size", "mini-batch gradient descent"),
    ("A21 figure of batch sizes", "batch_size", "noise"),
    ("A22 usual sizes", "batch_size", "32, 64, 128, 256"),
    ("A23 above 256", "batch_size", "Above 256"),
    ("A27 decided by validation error", "epochs", "validation error"),
    ("A35 mysterious", "layers", "mysterious"),
    ("A43 embedding of 200", "embedding", "200"),
    ("A44 gates", "cell", "Gated"),
    ("A45 LSTM or GRU is open", "cell", "Chung"),
    ("A46 GRU but for language modelling", "cell", "Jozefowicz"),
    ("A47 two or three layers", "recurrent_layers", "Karpathy et al. 2015"),
    ("A48 LSTM in translation", "cell", "softmax"),
]


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(("row", "name", "word"), ROWS)
def test_the_article_is_covered(row: str, name: str, word: str) -> None:
    assert word in flat(explain(name))


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("lr", "2/λmax"),
        ("lr", "global minimum"),
        ("batch_size", "0.465"),
        ("units", "as big a net"),
        ("units", "square of the width"),
        ("embedding", "21.36"),
        ("cell", "contradict"),
        ("patience", "test set"),
        ("validation_fraction", "test set"),
        ("patience", "1150"),
        ("schedule", "local minimum"),
    ],
)
def test_errors_of_the_article_are_stated(name: str, word: str) -> None:
    assert any(word in correction for correction in get(name).corrections)


@pytest.mark.parametrize("name", ALL)
def test_explain(name: str) -> None:
    text = explain(name)
    assert all(len(line) <= WIDTH and line == line.rstrip() for line in text.splitlines())
    words, entry = flat(text), get(name)
    assert words.startswith(f"{name} · {entry.title} {entry.group}")
    shown = re.findall("Range (.*?) Likely", words)[0]
    if isinstance(entry.range, Choice):
        assert shown == f"one of {', '.join(map(str, entry.range.values))}"
    else:
        assert [float(n) for n in re.findall(r"\d\S*", shown.replace(",", ""))] == [
            entry.range.low,
            entry.range.high,
        ]
        assert ("log scale" in shown) == entry.range.log
    for source in entry.sources:
        assert source.work in words and f"({source.evidence})" in words and EVIDENCE[source.evidence] in words
    for correction in entry.corrections:
        assert correction in words
    assert ("Does not mention it." in words) == (entry.article is None)


def test_explain_says_what_sure_means() -> None:
    part = get("lr").range
    low, high = re.findall(r"between (\S+) and (\S+)\)", explain("lr"))[0]
    mass = part.prior.sure
    draws = [config.lr for config in Space(lr=part).sample(np.random.default_rng(0), 4000)]
    assert np.mean([float(low) <= lr <= float(high) for lr in draws]) == pytest.approx(mass, abs=0.04)


@pytest.mark.parametrize(("alias", "name"), [("Learning-Rate", "lr"), ("WD", "weight_decay"), ("bs", "batch_size")])
def test_other_names_explain_the_same(alias: str, name: str) -> None:
    assert get(alias) is get(name)
    assert explain(alias) == explain(name)


def test_index_lists_every_name_once() -> None:
    text = index()
    assert all(len(line) <= WIDTH for line in text.splitlines())
    firsts = [line.split()[0] for line in text.splitlines() if line]
    assert [word for word in firsts if word in ALL] == ALL
    assert all(f"{group}: " in text for group in GROUPS)


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        ("lerning_rate", "learning_rate"),
        ("momentun", "momentum"),
        ("drop_out", "dropout"),
        ("optimzer", "optimizer"),
    ],
)
def test_mistyped_names_get_a_suggestion(given: str, suggested: str) -> None:
    for call in (get, explain, space, lambda name: default_space([name])):
        with pytest.raises(SpaceError, match=f"Did you mean '{suggested}'") as caught:
            call(given)
        assert all(name in str(caught.value) for name in ALL)


@given(st.text(max_size=12))
def test_any_text_is_found_or_refused_in_words(text: str) -> None:
    try:
        assert get(text).name in ALL
    except SpaceError as error:
        assert "Unknown hyperparameter" in str(error)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": "adamv"}, "Did you mean 'adam"),
        ({"optimiser": "adam"}, "Did you mean 'optimizer'"),
        ({"model": "cnm"}, "Did you mean 'cnn'"),
    ],
)
def test_mistyped_conditions_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        get("lr").part(**given)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("model", MODELS)
def test_every_entry_has_a_part_for_every_model_and_optimiser(name: str, model: str) -> None:
    for optimizer in get("optimizer").values:
        assert get(name).part(model=model, optimizer=optimizer) in parts(name)


def test_conditions_hold_in_a_space() -> None:
    chosen = (
        "optimizer",
        "lr",
        "momentum",
        "beta1",
        "eps",
        "accumulator",
        "schedule",
        "decay_rate",
        "final_lr_fraction",
    )
    found: Counter[str] = Counter()
    for config in Space(space(*chosen)).sample(np.random.default_rng(1), 200):
        found.update(list(config))
        assert ("momentum" in config) == (config.optimizer in ("momentum", "nesterov"))
        assert ("beta1" in config) == (config.optimizer in ("adam", "adamw"))
        assert ("accumulator" in config) == (config.optimizer == "adagrad")
        assert ("decay_rate" in config) == (config.schedule in ("step", "exponential"))
        assert ("final_lr_fraction" in config) == (config.schedule in ("cosine", "linear"))
    assert found["lr"] == 200
    assert all(0 < found[name] < 200 for name in chosen if get(name).when)


def test_conditions_are_dropped_without_their_parent() -> None:
    assert space("lr", "momentum")["momentum"].when == {}
    assert space("momentum", optimizer="nesterov")["momentum"].when == {}


@pytest.mark.parametrize(
    "call",
    [lambda: space("momentum", optimizer="adamw"), lambda: space("optimizer", "rho")],
)
def test_what_could_never_exist_is_refused(call: Any) -> None:
    with pytest.raises(SpaceError, match="exists only when optimizer is"):
        call()


def test_aliases_give_canonical_parts_with_what_is_given() -> None:
    chosen = space("learning_rate", "bs", optimizer="adamw")
    assert list(chosen) == ["lr", "batch_size"]
    assert chosen["lr"] == Float(1e-5, 1e-1, log=True, prior=Prior(1e-3, 0.5))


def test_default_space() -> None:
    chosen = default_space(MLP)
    assert "lr" in chosen and chosen["lr"].log
    assert len(chosen) <= 10
    assert set(MLP) - LATER <= set(chosen)
    assert not LATER & set(chosen)
    assert chosen.fixed["optimizer"] == "adamw"
    config = chosen.sample(np.random.default_rng(0))[0]
    assert {"lr", "batch_size", "optimizer", "schedule"} <= set(config)
    assert Space.from_description(chosen.describe()) == chosen


def test_default_space_draws_likely_configurations() -> None:
    configs = default_space(MLP).sample(np.random.default_rng(2), 500)
    assert 1e-3 < float(np.median([config.lr for config in configs])) < 1e-2
    assert np.mean([config.schedule == "cosine" for config in configs]) == pytest.approx(0.75, abs=0.06)
    assert np.mean([config.dropout > 0.4 for config in configs]) < 0.2
    assert math.log10(max(c.lr for c in configs) / min(c.lr for c in configs)) > 2  # nothing is excluded


@given(st.integers(1, 5000))
def test_default_space_fits_the_number_of_examples(examples: int) -> None:
    chosen = default_space(MLP, examples)
    for config in chosen.sample(np.random.default_rng(0), 5):
        assert 1 <= config.batch_size <= examples
        assert examples / config.batch_size >= 8 or config.batch_size == min(32, examples)


# What is written here must be what training reads.


def test_optimisers_and_schedules_are_those_of_training() -> None:
    assert set(get("optimizer").values) == set(optimizers.OPTIMIZERS)
    assert set(get("schedule").values) == set(rates.SCHEDULES)


@pytest.mark.parametrize("name", [name for name in ALL if get(name).when])
def test_conditions_are_those_of_training(name: str) -> None:
    for parent, reads, options in (
        ("optimizer", optimizers.reads, optimizers.OPTIMIZERS),
        ("schedule", rates.reads, rates.SCHEDULES),
    ):
        if parent in get(name).when:
            readers = {option for option in options if name in reads(option)}
            if name == "momentum":  # sgd and rmsprop take one too, and are used without
                readers -= {"sgd", "rmsprop"}
            assert set(get(name).when[parent]) == readers


@pytest.mark.parametrize("optimizer", list(optimizers.OPTIMIZERS))
def test_defaults_of_training_lie_in_the_ranges(optimizer: str) -> None:
    for name, value in optimizers.OPTIMIZERS[optimizer].defaults.items():
        if value != 0:  # zero switches it off
            get(name).part(optimizer=optimizer).check(name, value)


# -- what is known of a space of the user's ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part", "value"),
    [
        ("learning_rate", Float(1e-5, 1.0, log=True), 0.01),
        ("optimizer.lr", Float(1e-5, 1.0, log=True), 0.01),
        ("maxUnits", Int(16, 1024, log=True), 256),
        ("n_units_2", Int(16, 1024, log=True), 256),
        ("train_batch_size", Choice([16, 32, 64]), 32),
        ("cls_drop_out", Float(0.0, 0.3), 0.1),
        ("beta1", Float(0.5, 0.99), 0.9),
        ("one_minus_beta1", Float(1e-4, 1.0, log=True), 0.1),
        ("optimizer", Choice(["SGD", "AdamW"]), "AdamW"),
    ],
)
def test_a_name_that_says_what_it_is_brings_the_prior_of_the_catalogue(name, part, value):
    prior = informed(Space({name: part}))[name].prior
    assert prior.value == value and type(prior.value) is type(value)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("x", Float(0.0, 1.0)),
        ("learning_rate", Int(0, 5)),  # codes
        ("lr", Float(-5.0, -1.0)),  # exponents
        ("lr", Float(1e-6, 1e-4, log=True)),  # the likely value is not in it
        ("lr_init", Float(1e-5, 2.0, log=True)),  # not the gain of initial weights
        ("bias_decay", Float(1e-5, 1e-2, log=True)),  # decay alone may be anything
        ("optimizer", Choice(["rmsprop", "lion"])),
        ("bidirectional", Choice([0, 1])),  # numbers, no truth values
        ("epochs", Int(5, 300)),  # nothing is known of it
    ],
)
def test_a_name_that_may_mean_something_else_brings_none(name, part):
    assert informed(Space({name: part}))[name].prior is None


def test_what_the_user_believes_is_kept_and_so_is_all_else():
    space = Space(
        optimizer=Choice(["sgd", "adam"]),
        lr=Float(1e-5, 1.0, log=True, prior=Prior(0.3, 0.9)),
        momentum=Float(0.0, 0.99, when={"optimizer": "sgd"}),
        layers=2,
    )
    found = informed(space)
    assert found["lr"] == space["lr"] and found.fixed == space.fixed and list(found) == list(space)
    assert found["momentum"] == Float(0.0, 0.99, prior=Prior(0.9, 0.6), when={"optimizer": "sgd"})


@given(st.dictionaries(st.sampled_from(USUAL), floats() | ints() | choices(), min_size=1, max_size=6).map(Space))
def test_priors_of_the_catalogue_change_no_range(space):
    found = informed(space)
    assert {n: replace(p, prior=None) for n, p in found.tuned.items()} == {
        n: replace(p, prior=None) for n, p in space.tuned.items()
    }
