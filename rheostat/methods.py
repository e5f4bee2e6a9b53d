"""The searchers and schedulers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rheostat.errors import SettingError, unknown
from rheostat.schedule.asha import ASHA
from rheostat.schedule.base import Scheduler
from rheostat.schedule.fifo import FIFO
from rheostat.schedule.hyperband import Hyperband
from rheostat.schedule.median import Median
from rheostat.search.base import Searcher
from rheostat.search.grid import Grid
from rheostat.search.random import Random
from rheostat.search.sobol import Sobol
from rheostat.space import Space

DEFAULT_SEARCH = "sobol"
DEFAULT_SCHEDULE = "asha"
SEARCHERS: Mapping[str, Callable[[Space, int], Searcher]] = {
    "sobol": Sobol,
    "random": lambda space, seed: Random(space),
    "grid": lambda space, seed: Grid(space, seed=seed),
}
SCHEDULERS: Mapping[str, Callable[[Searcher, int | None, int], Scheduler]] = {
    "asha": ASHA,
    "hyperband": Hyperband,
    "median": Median,
    "fifo": FIFO,
}


def make_searcher(search: str, space: Space, seed: int) -> Searcher:
    """A searcher by name. Raises SettingError for one that is not known."""
    if search not in SEARCHERS:
        raise SettingError(unknown("search", search, SEARCHERS))
    return SEARCHERS[search](space, seed)


def make_scheduler(
    search: str, schedule: str, space: Space, seed: int, trials: int | None, max_epochs: int
) -> Scheduler:
    """A scheduler with its searcher. Raises SettingError for one that is not known."""
    if schedule not in SCHEDULERS:
        raise SettingError(unknown("schedule", schedule, SCHEDULERS))
    return SCHEDULERS[schedule](make_searcher(search, space, seed), trials, max_epochs)
