"""The searchers and schedulers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rheostat.errors import SettingError, unknown
from rheostat.hyperparameters import informed
from rheostat.schedule.asha import ASHA
from rheostat.schedule.base import Scheduler
from rheostat.schedule.fifo import FIFO
from rheostat.schedule.freeze_thaw import FreezeThaw
from rheostat.schedule.hyperband import Hyperband
from rheostat.schedule.median import Median
from rheostat.schedule.pasha import PASHA
from rheostat.schedule.pb2 import Bandit
from rheostat.schedule.pbt import PBT
from rheostat.search.base import Searcher
from rheostat.search.bohb import BOHB
from rheostat.search.differential_evolution import DifferentialEvolution
from rheostat.search.gp import GP
from rheostat.search.grid import Grid
from rheostat.search.random import Random
from rheostat.search.sobol import Sobol
from rheostat.search.tpe import TPE
from rheostat.space import Space

AUTO = "auto"
BOTH = "freeze-thaw"  # decides what is trained, and how long
OPTUNA = "optuna:"


def _cma_es(space: Space, seed: int) -> Searcher:
    from rheostat.search.cma_es import CMAES  # a package that few need

    return CMAES(space, seed)


SEARCHERS: Mapping[str, Callable[[Space, int], Searcher]] = {
    BOTH: lambda space, seed: FreezeThaw(informed(space), None, 1, seed),
    "tpe": TPE,
    "gp": GP,
    "bohb": lambda space, seed: BOHB(space),
    "cma-es": _cma_es,
    "de": DifferentialEvolution,
    "sobol": Sobol,
    "random": lambda space, seed: Random(space),
    "grid": lambda space, seed: Grid(space, seed=seed),
}
SCHEDULERS: Mapping[str, Callable[[Space, Searcher, int | None, int], Scheduler]] = {
    "asha": lambda space, searcher, trials, max_epochs: ASHA(searcher, trials, max_epochs),
    "pasha": lambda space, searcher, trials, max_epochs: PASHA(ASHA(searcher, trials, max_epochs)),
    "hyperband": lambda space, searcher, trials, max_epochs: Hyperband(searcher, trials, max_epochs),
    "median": lambda space, searcher, trials, max_epochs: Median(searcher, trials, max_epochs),
    "fifo": lambda space, searcher, trials, max_epochs: FIFO(searcher, trials, max_epochs),
    "pbt": PBT,
    "pb2": lambda space, searcher, trials, max_epochs: PBT(space, searcher, trials, max_epochs, explore=Bandit(space)),
}


def choose(search: str, schedule: str, epochs_known: bool = True) -> tuple[str, str]:
    """The names that "auto" stands for.

    Where nothing is asked for, one method decides both; where it is not known how many epochs a trial may train, it
    chooses configurations alone.
    """
    if schedule == AUTO:
        search = BOTH if search == AUTO else search
        schedule = "fifo" if not epochs_known else BOTH if search == BOTH else "asha"
    if search == AUTO:
        search = BOTH if schedule == BOTH else "sobol"
    return search, schedule


def is_schedule(name: str) -> bool:
    """Whether a scheduler has this name."""
    return name == BOTH or name in SCHEDULERS


def make_searcher(search: str, space: Space, seed: int) -> Searcher:
    """A searcher by name; `optuna:NAME` is a sampler of Optuna. Raises SettingError for one that is not known."""
    if search.startswith(OPTUNA):
        return _optuna(search.removeprefix(OPTUNA), space, seed)
    if search not in SEARCHERS:
        raise SettingError(unknown("search", search, [AUTO, *SEARCHERS, OPTUNA + "NAME"]))
    return SEARCHERS[search](space, seed)


def make_scheduler(
    search: str, schedule: str, space: Space, seed: int, trials: int | None, max_epochs: int
) -> Scheduler:
    """A scheduler with its searcher. Raises SettingError for one that is not known."""
    search, schedule = choose(search, schedule)
    if schedule == BOTH:
        if search != BOTH:
            raise SettingError(
                f"search={search!r} is not allowed with schedule={BOTH!r}, which chooses configurations itself: "
                f"leave out one of them, or use schedule='asha'."
            )
        return FreezeThaw(informed(space), trials, max_epochs, seed)
    if schedule not in SCHEDULERS:
        raise SettingError(unknown("schedule", schedule, [AUTO, BOTH, *SCHEDULERS]))
    return SCHEDULERS[schedule](space, make_searcher(search, space, seed), trials, max_epochs)


def _optuna(name: str, space: Space, seed: int) -> Searcher:
    try:
        from rheostat.search.optuna import OptunaSearcher
    except ModuleNotFoundError as error:
        raise SettingError(
            f"search='{OPTUNA}{name}' needs Optuna, which is not installed: pip install 'rheostat[optuna]'."
        ) from error
    return OptunaSearcher(space, name, seed)
