"""From a run and the classifier's probabilities to its causes, in order, and one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rheostat.diagnose.base import HEALTHY, Cause, Diagnosis, Observations, Symptom
from rheostat.diagnose.catalogue import LEARNT, PATHOLOGIES
from rheostat.diagnose.shapes import best_epoch, lowest, measured
from rheostat.diagnose.wording import PROBES, curve_words, number, percent
from rheostat.errors import SettingError, unknown
from rheostat.types import Status

CONFIDENT = 0.75  # the least probability of an answer that is relied upon: held out, 2 % of healthy runs are wronged
LEAST, MOST = 0.05, 4  # probability of a cause, and number of causes, that are worth mention
# How likely, beside its symptom, a pathology must be in order to explain it: where two are nearly as likely, the one
# that came first is the cause; but a mere possibility explains nothing.
EXPLAINS = 0.8
WELL = "Trained well"
ALIKE = "Its curves look like those of such runs."  # where the classifier alone speaks

Symptoms = Mapping[str, Sequence[Symptom]]


def diagnose(run: Observations, probabilities: Mapping[str, float]) -> Diagnosis:
    """What is wrong with a run. `probabilities` are the classifier's, of "healthy" and of learnt pathologies; they
    sum to 1, and one left out is 0.

    A pathology that the classifier does not know takes its certainty's share of all answers, where its rule speaks,
    but for those pathologies that lead to it. Raises SettingError for an unknown name.
    """
    for name in probabilities:
        if name not in (HEALTHY, *LEARNT):
            raise SettingError("probabilities: " + unknown("pathology", name, (HEALTHY, *LEARNT)))
    chances, symptoms = _with_rules(run, probabilities)
    if not symptoms and not run.first and not any(len(measured(curve)[0]) for curve in run.curves.values()):
        chances = {}  # nothing is known yet
    healthy = chances.pop(HEALTHY, 0.0)
    likely = [name for name in sorted(chances, key=lambda n: -chances[n]) if chances[name] > LEAST]
    symptoms |= {name: PATHOLOGIES[name].detect(run) for name in likely if name not in symptoms}
    explained = _explained(run, likely, chances, symptoms)
    taken = {effect for effects in explained.values() for effect in effects}
    own = [name for name in likely if name not in taken][:MOST]
    causes = [_cause(run, name, chances[name], symptoms[name], explained.get(name, ())) for name in own]
    sure = max(healthy, causes[0].probability if causes else 0.0) >= CONFIDENT
    probe = "" if sure else _probe(healthy, causes)
    return Diagnosis(_verdict(run, healthy, causes, sure, probe), tuple(causes), healthy, sure, probe)


def _with_rules(run: Observations, given: Mapping[str, float]) -> tuple[dict[str, float], dict[str, Sequence[Symptom]]]:
    """The probabilities with those of the rules that speak, and the symptoms these found; they sum to 1 as before."""
    chances, symptoms = dict(given), {}
    for name, pathology in PATHOLOGIES.items():
        if pathology.learnt or not (found := pathology.detect(run)):
            continue
        symptoms[name] = found
        leading = {o for o in chances if o != HEALTHY and name in PATHOLOGIES[o].leads_to}
        others = sum(p for other, p in chances.items() if other not in leading)
        sure = pathology.certainty
        chances = {other: p if other in leading else p * (1 - sure) for other, p in chances.items()}
        chances[name] = sure * min(others, 1.0)
    return chances, symptoms


def _explained(
    run: Observations, likely: Sequence[str], chances: Mapping[str, float], symptoms: Symptoms
) -> dict[str, tuple[str, ...]]:
    """By cause: what it leads to, which came after it and is no cause of its own.

    Among the likely ones a cause must be almost as likely as what it explains, speak itself, and have come strictly
    before. A pathology that is unlikely as a cause is a symptom where its rule speaks, and did not speak before.
    """
    found: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    for name in sorted(likely, key=lambda n: _since(symptoms[n])):
        if name in taken or not symptoms[name]:
            continue
        began = _since(symptoms[name])
        effects = []
        for effect in PATHOLOGIES[name].leads_to:
            if effect in taken or effect in found:
                continue
            if effect in likely:
                enough = chances[name] >= EXPLAINS * chances[effect]
                explains = enough and bool(symptoms[effect]) and began < _since(symptoms[effect])
            else:
                seen = symptoms[effect] if effect in symptoms else PATHOLOGIES[effect].detect(run)
                explains = bool(seen) and began <= _since(seen)
            if explains:
                effects.append(effect)
        if effects:
            found[name] = tuple(effects)
            taken |= set(effects)
    return found


def _since(symptoms: Sequence[Symptom]) -> int:
    return min((symptom.since for symptom in symptoms), default=0)


def _cause(
    run: Observations, name: str, probability: float, symptoms: Sequence[Symptom], explains: tuple[str, ...]
) -> Cause:
    pathology = PATHOLOGIES[name]
    evidence = tuple(symptom.text for symptom in symptoms) or (ALIKE,)
    return Cause(name, pathology.title, probability, evidence, pathology.remedy(run), _since(symptoms), explains)


def _probe(healthy: float, causes: Sequence[Cause]) -> str:
    """The counterfactual that would decide between the two likeliest answers."""
    ranked = sorted([(healthy, ""), *((c.probability, PATHOLOGIES[c.name].probe) for c in causes)], key=lambda c: -c[0])
    return next((probe for _, probe in ranked[:2] if probe), "other_seed")


# -- words ---------------------------------------------------------------------------------------------------


def _verdict(run: Observations, healthy: float, causes: Sequence[Cause], sure: bool, probe: str) -> str:
    if run.status is Status.FAILED:
        return f"It ended in an error: {run.reason.rstrip('.')}."
    first = causes[0] if causes else None
    symptomatic = first is not None and first.evidence != (ALIKE,)
    if not any(len(measured(curve)[0]) for curve in run.curves.values()) and not symptomatic:
        return "Unsure: nothing was measured yet."
    well = WELL if run.status.ended else f"{WELL} so far"
    if not sure:
        answers = [(healthy, well), *((cause.probability, cause.title) for cause in causes)]
        two = [_clause(words) for _, words in sorted(answers, key=lambda answer: -answer[0])[:2]]
        return f"Unsure: {' or '.join(two)}? {_capital(PROBES[probe])} would tell."
    if first is None or healthy >= first.probability:
        return f"{well}: {_achieved(run)}."
    return f"{first.title}: {_clause(first.evidence[0])}; {_clause(first.advice.text)}."


def _achieved(run: Observations) -> str:
    """What a healthy run came to: "validation error 1.8%, lowest after epoch 14 of 20"."""
    for name in ("val_error", "val_loss", "train_loss"):
        curve = run.curve(name)
        if best := best_epoch(curve):
            low = lowest(curve)
            amount = percent(low) if name == "val_error" and 0 <= low <= 1 else number(low)
            return f"{curve_words(name)} {amount}, lowest after epoch {best} of {max(run.max_epochs, len(curve))}"
    return "nothing points to a fault"


def _clause(sentence: str) -> str:
    """The first sentence, to stand after a colon: without its full stop, and without a capital that it owes to it."""
    text = re.split(r"\.\s", sentence)[0].rstrip(".")
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
