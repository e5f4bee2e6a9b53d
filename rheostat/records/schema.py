"""The tables, and how an older file becomes a newer one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    inspect,
    text,
)

from rheostat.errors import StorageError

VERSION = 4

metadata = MetaData()

versions = Table("rheostat_version", metadata, Column("version", Integer, nullable=False))

studies = Table(
    "studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("uid", String(16), nullable=False),
    Column("created", Float, nullable=False),
    Column("space", Text, nullable=False),  # JSON, Space.describe()
    Column("metric", Text, nullable=False),
    Column("direction", String(8), nullable=False),
    Column("seed", Integer, nullable=False),
    Column("settings", Text, nullable=False),  # JSON
    Column("target", Text, nullable=False),  # JSON: how the command line made the task; {} from Python
    Column("environment", Text, nullable=False),  # JSON
    Column("coordinator", Text, nullable=False, server_default="{}"),  # JSON: the process that runs it
    Column("goals", Text, nullable=False, server_default="{}"),  # JSON: objectives beside the metric, and limits
)

trials = Table(
    "trials",
    metadata,
    Column("study", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("config", Text, nullable=False),  # JSON
    Column("status", String(12), nullable=False),
    Column("source", String(8), nullable=False),  # search, enqueue, ask or probe
    Column("reason", Text, nullable=False, server_default=""),
    Column("detail", Text, nullable=False, server_default=""),
    Column("created", Float, nullable=False),
    Column("ended", Float),
    Column("parent", Integer),  # the trial as whose copy it began, after so many epochs
    Column("born", Integer, nullable=False, server_default=text("0")),
    Column("arm", Text, nullable=False, server_default=""),  # of a probe: which counterfactual of its parent
    PrimaryKeyConstraint("study", "number"),
)

assignments = Table(
    "assignments",
    metadata,
    Column("study", Integer, nullable=False),
    Column("number", Integer, nullable=False),  # the order of decisions
    Column("trial", Integer, nullable=False),
    Column("from_epoch", Integer, nullable=False),
    Column("until_epoch", Integer, nullable=False),
    Column("clock", Integer, nullable=False),  # logical time at which it began
    Column("outcome", String(12)),  # a Status; NULL while it is open
    Column("end_epoch", Integer),
    Column("settled", Boolean, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("study", "number"),
    Index("assignments_by_trial", "study", "trial"),
)

reports = Table(
    "reports",
    metadata,
    Column("study", Integer, nullable=False),
    Column("trial", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("epoch_end", Boolean, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("metrics", Text, nullable=False),  # JSON
    PrimaryKeyConstraint("study", "trial", "epoch", "step", "epoch_end"),
    sqlite_with_rowid=False,
)

queue = Table(
    "queue",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", Integer, nullable=False),
    Column("config", Text, nullable=False),  # JSON
    Column("trial", Integer),  # NULL until it becomes a trial
)

commands = Table(
    "commands",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", Integer, nullable=False),
    Column("command", String(12), nullable=False),
    Column("sent", Float, nullable=False),
    Column("taken", Boolean, nullable=False, server_default=text("0")),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", Integer, nullable=False),
    Column("time", Float, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("trial", Integer),
    Column("message", Text, nullable=False),
)


def _add_parents(connection: Connection) -> None:
    """From 1 to 2: trials that begin as copies of others (population based training)."""
    connection.execute(text("ALTER TABLE trials ADD COLUMN parent INTEGER"))
    connection.execute(text("ALTER TABLE trials ADD COLUMN born INTEGER DEFAULT 0 NOT NULL"))


def _add_goals(connection: Connection) -> None:
    """From 2 to 3: studies with several objectives and with limits."""
    connection.execute(text("ALTER TABLE studies ADD COLUMN goals TEXT DEFAULT '{}' NOT NULL"))


def _add_arms(connection: Connection) -> None:
    """From 3 to 4: trials that probe what would have become of others."""
    connection.execute(text("ALTER TABLE trials ADD COLUMN arm TEXT DEFAULT '' NOT NULL"))


# How a file of this version becomes one of the next; every change of the tables above adds one here.
MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {1: _add_parents, 2: _add_goals, 3: _add_arms}


def prepare(
    connection: Connection,
    migrations: Mapping[int, Callable[[Connection], None]] = MIGRATIONS,
    version: int = VERSION,
) -> None:
    """Create the tables in an empty database, or bring an older one up to `version`, in one transaction.

    Raises StorageError for a database of a newer Rheostat, or of another program.
    """
    existing = set(inspect(connection).get_table_names())
    if versions.name not in existing:
        if existing & set(metadata.tables):
            raise StorageError("This database has tables of another program under Rheostat's names: choose another.")
        metadata.create_all(connection)
        connection.execute(versions.insert().values(version=version))
        return
    found = connection.execute(versions.select()).scalar_one()
    if found > version:
        raise StorageError(
            f"This database was written by a newer Rheostat (schema {found}; this one reads up to {version}). "
            "Install the newer Rheostat, or choose another place with --storage."
        )
    for step in range(found, version):
        migrations[step](connection)
    if found < version:
        connection.execute(versions.update().values(version=version))
