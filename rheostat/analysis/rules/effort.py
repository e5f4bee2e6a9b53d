"""Whether going on is worth it."""

from __future__ import annotations

from rheostat.analysis.rules.base import FEW_TRIALS, Advice, Evidence

SMALL = 0.01  # of the best value: a gain that is not worth going on for
HARDLY, LIKELY = 0.05, 0.5  # chances


def going_on(seen: Evidence) -> list[Advice]:
    """What as many epochs again would gain, where that is clearly worth it, or clearly not.

    The forecast comes from how records fall (docs/search.md says how far it holds); this only puts it into words. An
    accuracy is taken as an error.
    """
    forecast = seen.forecast
    if forecast is None or not seen.best or len(seen.usable) < FEW_TRIALS:
        return []
    best = seen.best[0].best + (1.0 if seen.is_rate and seen.sign < 0 else 0.0)
    small = SMALL * abs(best)
    chance = forecast.chance(small)
    if HARDLY <= chance < LIKELY:
        return []
    words = f"{forecast.epochs} more epochs would improve {seen.metric} by {forecast.expected:.2g} on average"
    if chance < HARDLY:
        text = f"It may end here: {words}, and by more than {small:.2g} with a chance of {chance:.1%}."
        return [Advice("enough", text)]
    text = f"Go on: {words} ({forecast.low:.2g} to {forecast.high:.2g})."
    return [Advice("go on", text, None, {"epochs_more": forecast.epochs})]
