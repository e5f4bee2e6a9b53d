"""Rheostat finds the hyperparameters with which a deep network trains best, and says why."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rheostat.errors import Infeasible as Infeasible
    from rheostat.errors import RheostatError as RheostatError
    from rheostat.hyperparameters import explain as explain
    from rheostat.models.mlp import MLP as MLP
    from rheostat.schedule.asha import ASHA as ASHA
    from rheostat.schedule.fifo import FIFO as FIFO
    from rheostat.schedule.hyperband import Hyperband as Hyperband
    from rheostat.schedule.median import Median as Median
    from rheostat.search.grid import Grid as Grid
    from rheostat.search.random import Random as Random
    from rheostat.search.sobol import Sobol as Sobol
    from rheostat.space import Choice as Choice
    from rheostat.space import Float as Float
    from rheostat.space import Int as Int
    from rheostat.space import Prior as Prior
    from rheostat.space import Space as Space
    from rheostat.study import Study as Study
    from rheostat.train.batches import TensorBatches as TensorBatches
    from rheostat.train.early_stopping import EarlyStopping as EarlyStopping
    from rheostat.train.objective import Trial as Trial
    from rheostat.train.task import Task as Task
    from rheostat.tuning import tune as tune
    from rheostat.types import Config as Config

# Where each public name lives; it is imported when it is first used, so that `import rheostat` stays quick.
_HOMES = {
    "errors": ("Infeasible", "RheostatError"),
    "hyperparameters": ("explain",),
    "models.mlp": ("MLP",),
    "schedule.asha": ("ASHA",),
    "schedule.fifo": ("FIFO",),
    "schedule.hyperband": ("Hyperband",),
    "schedule.median": ("Median",),
    "search.grid": ("Grid",),
    "search.random": ("Random",),
    "search.sobol": ("Sobol",),
    "space": ("Choice", "Float", "Int", "Prior", "Space"),
    "study": ("Study",),
    "train.batches": ("TensorBatches",),
    "train.hooks": ("ClipGradients", "Hook", "Run", "StopAtStep", "StopOnNaN", "WeightAverage"),
    "train.objective": ("Trial",),
    "train.task": ("Task",),
    "tuning": ("tune",),
    "types": ("Config", "Status"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "load"])


def load(name: str, storage: str | None = None) -> Study:
    """An existing study, by name. Raises StudyError, naming the studies there are."""
    from rheostat.study import Study

    return Study.load(name, storage)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"rheostat.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'rheostat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
