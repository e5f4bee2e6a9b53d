"""What happened: studies, trials, assignments, reports and events, durable before anyone acts on them.

SQLite by default, in WAL mode: a committed transaction survives the death of every process. One process at a time
runs a study (`claim`); any number may read it, enqueue to it and send it commands.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Connection, TextClause, create_engine, event, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from rheostat.errors import StorageError, StudyError, unknown
from rheostat.records import schema
from rheostat.space import Space
from rheostat.types import NO_GOALS, Config, Environment, Goals, Notice, Outcome, Report, Scalar, Status

DEFAULT_URL = "sqlite:///.rheostat/studies.db"
COMMANDS = ("pause", "resume", "stop", "cancel")


@dataclass(frozen=True)
class StudyRecord:
    """A study as it was asked for."""

    id: int
    name: str
    uid: str
    created: float  # seconds since 1970
    space: Space
    metric: str
    direction: str
    seed: int
    settings: Mapping[str, Any]
    target: Mapping[str, Any]
    environment: Environment
    goals: Goals = NO_GOALS


@dataclass(frozen=True)
class TrialRow:
    """A trial as it is stored."""

    number: int
    config: Config
    status: Status
    source: str
    reason: str
    detail: str
    created: float
    ended: float | None
    parent: int | None = None
    born: int = 0
    arm: str = ""  # of a probe: which counterfactual of its parent


@dataclass(frozen=True)
class AssignmentRow:
    """One decision of the scheduler: train this trial from an epoch until an epoch."""

    number: int
    trial: int
    from_epoch: int
    until_epoch: int
    clock: int
    outcome: Status | None = None
    end_epoch: int = 0
    settled: bool = False


@dataclass(frozen=True)
class NewTrial:
    number: int
    config: Config
    source: str = "search"
    parent: int | None = None
    born: int = 0
    arm: str = ""


@dataclass(frozen=True)
class Coordinator:
    """The process that runs a study now."""

    pid: int
    host: str
    started: float
    address: str = ""  # where workers may join
    beat: float = field(default=0.0, compare=False)

    @classmethod
    def here(cls, address: str = "") -> Coordinator:
        pid = os.getpid()
        return cls(pid, socket.gethostname(), psutil.Process(pid).create_time(), address, time.time())

    def alive(self) -> bool:
        """Whether it still runs; on another host, whether it gave a sign of life in the last minute."""
        if self.host != socket.gethostname():
            return time.time() - self.beat < 60
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.started) < 1)
        except psutil.Error:
            return False


class Records:
    """The one door to the database. Raises StorageError for every fault of it, in words.

    `url` is a database URL of SQLAlchemy, such as `sqlite:///folder/studies.db`.
    """

    def __init__(self, url: str = DEFAULT_URL, busy_seconds: float = 30.0) -> None:
        self.url = url
        try:
            parsed = make_url(url)
            self._sqlite = parsed.get_backend_name() == "sqlite"
            self.folder = Path(parsed.database or ".").parent if self._sqlite else Path(".rheostat")
            with self._explained():
                self.folder.mkdir(parents=True, exist_ok=True)
                options: dict[str, Any] = {"poolclass": NullPool, "isolation_level": "AUTOCOMMIT"}
                if self._sqlite:
                    options |= {"connect_args": {"timeout": busy_seconds}, "paramstyle": "named"}
                self._engine = create_engine(parsed, **options)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as cause:
            raise StorageError(
                f"storage={url!r} cannot be used: {cause}. Give a URL such as sqlite:///folder/studies.db."
            ) from None
        if self._sqlite:
            event.listen(self._engine, "connect", _set_up_sqlite)
        self._sql = {statement: str(statement.compile(dialect=self._engine.dialect)) for statement in HOT}
        with self._explained():
            self._connection = self._engine.connect()
        with self._write() as connection:
            schema.prepare(connection)

    def close(self) -> None:
        """Close the database; what was written is already safe."""
        self._connection.close()
        self._engine.dispose()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- studies ---------------------------------------------------------------------------------------------

    def create_study(
        self,
        name: str,
        *,
        space: Space,
        metric: str,
        direction: str,
        seed: int,
        settings: Mapping[str, Any],
        target: Mapping[str, Any],
        environment: Environment,
        goals: Goals = NO_GOALS,
    ) -> StudyRecord:
        """A new study. Raises StudyError where the name is taken."""
        values = {
            "name": name,
            "uid": uuid.uuid4().hex[:8],
            "created": time.time(),
            "space": json.dumps(space.describe()),
            "metric": metric,
            "direction": direction,
            "seed": seed,
            "settings": json.dumps(dict(settings)),
            "target": json.dumps(dict(target)),
            "environment": json.dumps(asdict(environment)),
            "goals": json.dumps(goals.describe()),
        }
        with self._write(f"A study named {name!r} was made") as connection:
            connection.execute(schema.studies.insert().values(values))
        study = self.find_study(name)
        assert study is not None
        return study

    def find_study(self, name: str) -> StudyRecord | None:
        rows = self._read(select(schema.studies).where(schema.studies.c.name == name))
        return _study(rows[0]) if rows else None

    def study(self, name: str) -> StudyRecord:
        """The study of this name. Raises StudyError, naming those there are."""
        if (study := self.find_study(name)) is None:
            raise StudyError(unknown("study", name, [s.name for s in self.studies()]) + f" In {self.url}.")
        return study

    def studies(self) -> list[StudyRecord]:
        """All studies, the newest first."""
        return [_study(row) for row in self._read(select(schema.studies).order_by(schema.studies.c.id.desc()))]

    def change_study(
        self, study: StudyRecord, *, space: Space, settings: Mapping[str, Any], goals: Goals | None = None
    ) -> StudyRecord:
        """Continue a study with another space, other settings or, where they are given, other goals."""
        with self._write() as connection:
            connection.execute(
                schema.studies.update()
                .where(schema.studies.c.id == study.id)
                .values(
                    space=json.dumps(space.describe()),
                    settings=json.dumps(dict(settings)),
                    goals=json.dumps((study.goals if goals is None else goals).describe()),
                )
            )
        return self.study(study.name)

    def claim(self, study: StudyRecord, address: str = "") -> None:
        """Become the process that runs this study. Raises StudyError while another one does."""
        with self._write() as connection:
            current = self._coordinator(connection, study)
            here = Coordinator.here(address)
            if current is not None and current != here and current.alive() and current.pid != here.pid:
                raise StudyError(
                    f"Study {study.name!r} is being run by process {current.pid} on {current.host}. Help it with "
                    f"`rheostat worker {study.name}`, end it with `rheostat stop {study.name}`, or use another name."
                )
            self._set_coordinator(connection, study, asdict(here))

    def release(self, study: StudyRecord) -> None:
        """No longer run this study."""
        with self._write() as connection:
            self._set_coordinator(connection, study, {})

    def coordinator(self, study: StudyRecord) -> Coordinator | None:
        """The living process that runs this study."""
        with self._explained():
            current = self._coordinator(self._connection, study)
        return current if current is not None and current.alive() else None

    def _coordinator(self, connection: Connection, study: StudyRecord) -> Coordinator | None:
        query = select(schema.studies.c.coordinator).where(schema.studies.c.id == study.id)
        stored = json.loads(connection.execute(query).scalar_one())
        return Coordinator(**stored) if stored else None

    def _set_coordinator(self, connection: Connection, study: StudyRecord, value: Mapping[str, Any]) -> None:
        where = schema.studies.c.id == study.id
        connection.execute(schema.studies.update().where(where).values(coordinator=json.dumps(value)))

    # -- what a study does -----------------------------------------------------------------------------------

    def assign(
        self,
        study: StudyRecord,
        assignments: Sequence[AssignmentRow],
        new_trials: Sequence[NewTrial] = (),
        settled: Sequence[int] = (),
        stopped: Mapping[int, str] | None = None,
        queued: Mapping[int, int] | None = None,
    ) -> None:
        """Record a decision in one transaction: its assignments, the trials that it starts, and what it saw.

        `settled` are the assignments whose results it took into account; `stopped` maps trials that it ends to
        the reason; `queued` maps trials to the entry of the queue they came from. Raises StudyError where
        another process has used the same numbers.
        """
        now = time.time()
        with self._write(f"Another process has written to study {study.name!r}") as connection:
            if new_trials:
                rows = [
                    {
                        "study": study.id,
                        "number": trial.number,
                        "config": trial.config.key(),
                        "status": Status.TRAINING,
                        "source": trial.source,
                        "created": now,
                        "parent": trial.parent,
                        "born": trial.born,
                        "arm": trial.arm,
                    }
                    for trial in new_trials
                ]
                self._run(_NEW_TRIAL, rows)
            if assignments:
                rows = [
                    {
                        "study": study.id,
                        "number": a.number,
                        "trial": a.trial,
                        "from_epoch": a.from_epoch,
                        "until_epoch": a.until_epoch,
                        "clock": a.clock,
                    }
                    for a in assignments
                ]
                self._run(_NEW_ASSIGNMENT, rows)
                fresh = {trial.number for trial in new_trials}
                continued = [{"study": study.id, "trial": a.trial} for a in assignments if a.trial not in fresh]
                if continued:
                    self._run(_CONTINUE_TRIAL, continued)
            if settled:
                self._run(_SETTLE, [{"study": study.id, "number": number} for number in settled])
            for trial, reason in (stopped or {}).items():
                self._end(study, trial, Status.CUT, reason, "", now)
            for trial, entry in (queued or {}).items():
                connection.execute(schema.queue.update().where(schema.queue.c.id == entry).values(trial=trial))

    def append(self, study: StudyRecord, reports: Sequence[Report]) -> None:
        """Record reports in one transaction; one that is recorded already is left as it is."""
        rows = [
            {
                "study": study.id,
                "trial": r.trial,
                "step": r.step,
                "epoch_end": r.epoch_end,
                "epoch": r.epoch,
                "seconds": r.seconds,
                "metrics": _encode_metrics(r.metrics),
            }
            for r in reports
        ]
        if len(rows) == 1:  # a statement of its own is a transaction
            with self._explained():
                self._run(_REPORT, rows)
            return
        with self._write():
            self._run(_REPORT, rows)

    def conclude(self, study: StudyRecord, outcomes: Sequence[Outcome]) -> None:
        """Record how open assignments ended, in one transaction."""
        now = time.time()
        with self._write():
            for outcome in outcomes:
                self._run(
                    _CONCLUDE,
                    {
                        "study": study.id,
                        "trial": outcome.trial,
                        "outcome": outcome.status,
                        "end_epoch": outcome.epoch,
                    },
                )
                self._end(study, outcome.trial, outcome.status, outcome.reason, outcome.detail, now)

    def _end(
        self,
        study: StudyRecord,
        trial: int,
        status: Status,
        reason: str,
        detail: str,
        now: float,
    ) -> None:
        self._run(
            _END_TRIAL,
            {
                "study": study.id,
                "trial": trial,
                "status": status,
                "reason": reason,
                "detail": detail,
                "ended": now if status.ended else None,
            },
        )

    def log(self, study: StudyRecord, notices: Sequence[Notice]) -> None:
        """Keep notices in the event log."""
        rows = [
            {"study": study.id, "time": time.time(), "kind": n.kind, "trial": n.trial, "message": n.message}
            for n in notices
        ]
        with self._write() as connection:
            connection.execute(schema.events.insert(), rows)

    # -- reading ---------------------------------------------------------------------------------------------

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """All that is read inside is of the same moment, whatever other processes write meanwhile."""
        with self._explained():
            self._connection.exec_driver_sql("BEGIN" if self._sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ")
            try:
                yield
            finally:
                self._connection.exec_driver_sql("COMMIT")

    def trials(self, study: StudyRecord) -> list[TrialRow]:
        """Every trial, in order of number."""
        columns = [c for c in schema.trials.c if c.name != "study"]
        query = select(*columns).where(schema.trials.c.study == study.id).order_by(schema.trials.c.number)
        return [
            TrialRow(number, Config(json.loads(config)), Status(status), *rest)
            for number, config, status, *rest in self._read(query)
        ]

    def assignments(self, study: StudyRecord) -> list[AssignmentRow]:
        """Every assignment, in order of decision."""
        columns = [c for c in schema.assignments.c if c.name != "study"]
        query = select(*columns).where(schema.assignments.c.study == study.id).order_by(schema.assignments.c.number)
        return [
            AssignmentRow(
                number, trial, start, until, clock, Status(outcome) if outcome else None, end or 0, bool(settled)
            )
            for number, trial, start, until, clock, outcome, end, settled in self._read(query)
        ]

    def reports(self, study: StudyRecord, trial: int | None = None) -> list[Report]:
        """Every report of a study, or of one trial, in the order of training."""
        t = schema.reports.c
        query = select(t.trial, t.epoch, t.step, t.metrics, t.seconds, t.epoch_end).where(t.study == study.id)
        query = query if trial is None else query.where(t.trial == trial)
        return [
            Report(number, epoch, step, _decode_metrics(metrics), seconds, bool(end))
            for number, epoch, step, metrics, seconds, end in self._read(query.order_by(t.trial, t.step, t.epoch_end))
        ]

    def events(self, study: StudyRecord) -> list[tuple[float, Notice]]:
        """The event log: time (seconds since 1970) and notice."""
        e = schema.events.c
        query = select(e.time, e.kind, e.message, e.trial).where(e.study == study.id).order_by(e.id)
        return [(at, Notice(kind, message, trial)) for at, kind, message, trial in self._read(query)]

    def last_activity(self, study: StudyRecord) -> float:
        """When a trial last began or ended, in seconds since 1970."""
        query = select(func.max(schema.trials.c.created), func.max(schema.trials.c.ended))
        begun, ended = self._read(query.where(schema.trials.c.study == study.id))[0]
        return max(begun or study.created, ended or 0.0)

    # -- from outside ----------------------------------------------------------------------------------------

    def enqueue(self, study: StudyRecord, configs: Sequence[Mapping[str, Scalar]]) -> None:
        """Ask for these configurations to be tried next."""
        rows = [{"study": study.id, "config": Config(config).key()} for config in configs]
        with self._write() as connection:
            connection.execute(schema.queue.insert(), rows)

    def queued(self, study: StudyRecord) -> dict[int, Config]:
        """The configurations waiting in the queue, oldest first, by entry."""
        q = schema.queue.c
        rows = self._read(select(q.id, q.config).where(q.study == study.id, q.trial.is_(None)).order_by(q.id))
        return {entry: Config(json.loads(config)) for entry, config in rows}

    def send(self, study: StudyRecord, command: str) -> None:
        """Tell the process that runs a study to pause, resume, stop or cancel."""
        if command not in COMMANDS:
            raise StudyError(unknown("command", command, COMMANDS))
        values = {"study": study.id, "command": command, "sent": time.time()}
        with self._write() as connection:
            connection.execute(schema.commands.insert().values(values))

    def take_commands(self, study: StudyRecord) -> list[str]:
        """The commands sent since the last call, oldest first."""
        c = schema.commands.c
        rows = self._read(select(c.id, c.command).where(c.study == study.id, c.taken.is_(False)).order_by(c.id))
        if rows:
            with self._write() as connection:
                taken = c.id.in_([row[0] for row in rows])
                connection.execute(schema.commands.update().where(taken).values(taken=True))
        return [row[1] for row in rows]

    # -- the database ----------------------------------------------------------------------------------------

    @contextmanager
    def _write(self, conflict: str = "") -> Iterator[Connection]:
        """One transaction. SQLite takes its write lock at the beginning, so that what was read stays true."""
        try:
            with self._explained():
                self._connection.exec_driver_sql("BEGIN IMMEDIATE" if self._sqlite else "BEGIN")
                try:
                    yield self._connection
                    self._connection.exec_driver_sql("COMMIT")
                except BaseException:
                    with suppress(DatabaseError):  # a full disk has rolled back already
                        self._connection.exec_driver_sql("ROLLBACK")
                    raise
        except IntegrityError:
            if not conflict:
                raise
            raise StudyError(f"{conflict} in {self.url} at the same time.") from None

    def _run(self, statement: TextClause, rows: Any) -> None:
        """A hot statement, compiled once."""
        self._connection.exec_driver_sql(self._sql[statement], rows)

    def _read(self, query: Any) -> list[Any]:
        with self._explained():
            return list(self._connection.execute(query).all())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DatabaseError as cause:
            raise StorageError(_explain(self.url, str(cause.orig))) from cause
        except OSError as cause:
            raise StorageError(_explain(self.url, str(cause))) from cause


def storage_url(storage: str | Path | None) -> str:
    """A database URL from a URL, a path, `$RHEOSTAT_STORAGE`, or the default."""
    storage = storage or os.environ.get("RHEOSTAT_STORAGE") or DEFAULT_URL
    return str(storage) if "://" in str(storage) else f"sqlite:///{storage}"


def existing(storage: str | Path | None) -> Records:
    """The records in a storage that is there. Raises StudyError for one that would be new."""
    url = storage_url(storage)
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        raise StudyError(f"No studies at {url}: run `rheostat tune` first, or give another --storage.")
    return Records(url)


_REPORT = text(
    "INSERT INTO reports (study, trial, step, epoch_end, epoch, seconds, metrics)"
    " VALUES (:study, :trial, :step, :epoch_end, :epoch, :seconds, :metrics) ON CONFLICT DO NOTHING"
)
_NEW_TRIAL = text(
    "INSERT INTO trials (study, number, config, status, source, created, parent, born, arm)"
    " VALUES (:study, :number, :config, :status, :source, :created, :parent, :born, :arm)"
)
_NEW_ASSIGNMENT = text(
    "INSERT INTO assignments (study, number, trial, from_epoch, until_epoch, clock)"
    " VALUES (:study, :number, :trial, :from_epoch, :until_epoch, :clock)"
)
_CONTINUE_TRIAL = text("UPDATE trials SET status = 'training' WHERE study = :study AND number = :trial")
_SETTLE = text("UPDATE assignments SET settled = 1 WHERE study = :study AND number = :number")
_CONCLUDE = text(
    "UPDATE assignments SET outcome = :outcome, end_epoch = :end_epoch"
    " WHERE study = :study AND trial = :trial AND outcome IS NULL"
)
_END_TRIAL = text(
    "UPDATE trials SET status = :status, reason = :reason, detail = :detail, ended = :ended"
    " WHERE study = :study AND number = :trial"
)
HOT = (_REPORT, _NEW_TRIAL, _NEW_ASSIGNMENT, _CONTINUE_TRIAL, _SETTLE, _CONCLUDE, _END_TRIAL)


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # with WAL: safe against every crash of processes


def _study(row: Any) -> StudyRecord:
    return StudyRecord(
        id=row.id,
        name=row.name,
        uid=row.uid,
        created=row.created,
        space=Space.from_description(json.loads(row.space)),
        metric=row.metric,
        direction=row.direction,
        seed=row.seed,
        settings=json.loads(row.settings),
        target=json.loads(row.target),
        environment=Environment(**json.loads(row.environment)),
        goals=Goals.from_description(json.loads(row.goals)),
    )


def _encode_metrics(metrics: Mapping[str, float]) -> str:
    return json.dumps(metrics)  # NaN and Infinity are written as such, and json reads them back


def _decode_metrics(metrics: str) -> dict[str, float]:
    result: dict[str, float] = json.loads(metrics)
    return result


def _explain(url: str, problem: str) -> str:
    remedies = {
        "locked": "Another process holds it: wait for that one to end, or end it, and run the same command again",
        "full": "The disk is full: free some space and run the same command again; nothing recorded is lost",
        "readonly": "It may not be written: change its permissions, or choose another place with --storage",
        "Permission denied": "It may not be written: change its permissions, or choose another place with --storage",
        "Read-only": "It may not be written: choose another place with --storage",
        "unable to open": "See that its folder exists and may be written, or choose another place with --storage",
        "disk I/O": "The disk refused to write or read: see that it is not full or damaged, then run the command again",
        "not a database": "It is no database: move the file away, or choose another place with --storage",
        "malformed": "The file is damaged: restore a copy, or rescue it with `sqlite3 FILE .recover`",
    }
    remedy = next((words for sign, words in remedies.items() if sign.lower() in problem.lower()), "")
    return f"The records in {url} cannot be used: {problem}. {remedy or 'Choose another place with --storage'}."
