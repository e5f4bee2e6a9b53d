"""Everything that Rheostat raises on purpose.

    RheostatError
    ├── SpaceError        a hyperparameter, a space or a configuration that does not fit it
    ├── DataError         a file or an array that cannot be trained on
    ├── TaskError         a model, loss, metric or optimiser that cannot be built or trained
    ├── SettingError      an argument, option or setting with a value that is not allowed
    ├── StorageError      the records cannot be read or written
    ├── StudyError        no such study, or one that cannot be continued as asked
    ├── CheckpointError   a checkpoint that cannot be read or written
    ├── WorkerError       a worker process that cannot be started or reached
    └── Infeasible        training left the finite numbers or the memory; a result, not a crash

Each message says what was given, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RheostatError(Exception):
    """Base of every error that Rheostat raises on purpose."""


class SpaceError(RheostatError, ValueError):
    """A hyperparameter, a space or a configuration that does not fit it."""


class DataError(RheostatError, ValueError):
    """A file or an array that cannot be trained on."""


class TaskError(RheostatError, ValueError):
    """A model, loss, metric or optimiser that cannot be built or trained."""


class SettingError(RheostatError, ValueError):
    """An argument, option or setting with a value that is not allowed."""


class StorageError(RheostatError):
    """The records cannot be read or written."""


class StudyError(RheostatError):
    """No such study, or one that cannot be continued as asked."""


class CheckpointError(RheostatError):
    """A checkpoint that cannot be read or written."""


class WorkerError(RheostatError):
    """A worker process that cannot be started or reached."""


class Infeasible(RheostatError):  # noqa: N818 - it is a result
    """Training left the finite numbers or the memory: a result of the trial, not a crash.

    A user's own loop may raise it too; the trial then ends as infeasible with this reason.
    """


def unknown(what: str, given: object, known: Iterable[object]) -> str:
    """Words for a mistyped name: what was given, the nearest known name, and all known names."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {given!r}.{hint} Known: {', '.join(names) or 'none'}."
