from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from rheostat.errors import StorageError, StudyError
from rheostat.records import schema
from rheostat.records.store import AssignmentRow, NewTrial, Records, StudyRecord, TrialRow
from rheostat.space import Choice, Float, Space
from rheostat.types import Config, Environment, Goals, Limit, Notice, Outcome, Report, Status, fingerprint

SPACE = Space(lr=Float(1e-5, 1e-1, log=True), opt=Choice(["adam", "sgd"]), m=Float(0, 1, when={"opt": "sgd"}))


def make(records: Records, name: str = "s") -> StudyRecord:
    return records.create_study(
        name,
        space=SPACE,
        metric="val_error",
        direction="minimize",
        seed=3,
        settings={"trials": 5},
        target={"target": "digits"},
        environment=Environment(versions={"torch": "2"}, data_fingerprint="abc"),
    )


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'folder' / 'studies.db'}"


def test_everything_written_is_read_back_by_another_connection(url: str) -> None:
    reports = [
        Report(0, 0, 0, {"train_loss": 2.3}, 0.1, epoch_end=False),
        Report(0, 1, 45, {"val_error": 0.1, "grad_norm": float("nan"), "lr": 1e-3}, 0.5),
        Report(0, 2, 90, {"val_error": float("inf")}, 0.9),
    ]
    config = Config(lr=0.1 + 0.2, opt="sgd", m=0.9)
    with Records(url) as records:
        study = make(records)
        records.assign(study, [AssignmentRow(0, 0, 0, 2, 0)], [NewTrial(0, config)])
        records.append(study, reports)
        records.conclude(study, [Outcome(0, Status.INFEASIBLE, 2, "val_error = inf", "trace")])
        records.log(study, [Notice("disk", "nearly full", 0)])
    with Records(url) as records:
        assert records.study("s") == study and study.space == SPACE and study.seed == 3
        (row,) = records.trials(study)
        assert (row.config, row.status, row.reason, row.detail) == (
            config,
            Status.INFEASIBLE,
            "val_error = inf",
            "trace",
        )
        assert row.ended is not None and row.ended >= row.created
        assert repr(records.reports(study)) == repr(reports)  # repr, since NaN is not equal to itself
        assert records.assignments(study) == [AssignmentRow(0, 0, 0, 2, 0, Status.INFEASIBLE, 2, False)]
        assert [notice for _, notice in records.events(study)] == [Notice("disk", "nearly full", 0)]


def test_a_report_that_comes_twice_is_kept_once_and_as_it_was(url: str) -> None:
    with Records(url) as records:
        study = make(records)
        records.append(study, [Report(0, 1, 45, {"val_error": 0.1})])
        records.append(study, [Report(0, 1, 45, {"val_error": 0.9}), Report(0, 2, 90, {"val_error": 0.2})])
        assert [r.metrics["val_error"] for r in records.reports(study)] == [0.1, 0.2]


def test_an_unknown_study_names_those_there_are(url: str) -> None:
    with Records(url) as records:
        make(records, "digits")
        with pytest.raises(StudyError, match="Did you mean 'digits'"):
            records.study("digit")
        with pytest.raises(StudyError, match="made in"):
            make(records, "digits")


def test_a_study_is_run_by_one_process_at_a_time(url: str) -> None:
    with Records(url) as records:
        study = make(records)
        other = subprocess.Popen(
            [sys.executable, "-c", CLAIM, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdout is not None and other.stdout.readline() == "claimed\n"
        with pytest.raises(StudyError, match=f"process {other.pid}"):
            records.claim(study)
        living = records.coordinator(study)
        assert living is not None and living.pid == other.pid
        other.kill()
        other.communicate()
        assert records.coordinator(study) is None
        records.claim(study)  # the dead one holds nothing
        records.release(study)


CLAIM = """
import sys
from rheostat.records.store import Records
records = Records(sys.argv[1])
records.claim(records.study("s"))
print("claimed", flush=True)
sys.stdin.read()
"""


def append_many(url: str, trial: int, start: object) -> None:
    with Records(url) as records:
        study = records.study("s")
        for epoch in range(1, 101):
            records.append(study, [Report(trial, epoch, epoch, {"v": float(epoch)})])


def test_several_processes_write_at_once(url: str) -> None:
    with Records(url) as records:
        study = make(records)
        context = multiprocessing.get_context("spawn")
        writers = [context.Process(target=append_many, args=(url, trial, None)) for trial in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert [writer.exitcode for writer in writers] == [0, 0, 0]
        assert len(records.reports(study)) == 300


COUNT = """
import sys
from rheostat.records.store import Records
from rheostat.types import Report
records = Records(sys.argv[1])
study = records.study("s")
for epoch in range(1, 10**6):
    records.append(study, [Report(0, epoch, epoch, {"v": float(epoch)})])
    print(epoch, flush=True)
"""


@pytest.mark.parametrize("moment", range(3))
def test_what_was_appended_survives_kill_9(url: str, moment: int) -> None:
    with Records(url) as records:
        study = make(records)
        writer = subprocess.Popen([sys.executable, "-c", COUNT, url], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.05 * moment)
        os.kill(writer.pid, signal.SIGKILL)
        told = [1, *(int(line) for line in writer.communicate()[0].splitlines() if line)]
        epochs = [report.epoch for report in records.reports(study)]
        assert epochs == list(range(1, len(epochs) + 1))
        assert len(epochs) - told[-1] in (0, 1)  # nothing that was acknowledged is missing


def test_commands_and_the_queue_reach_the_other_process(url: str) -> None:
    with Records(url) as here, Records(url) as there:
        study = make(here)
        there.send(study, "pause")
        there.enqueue(study, [Config(lr=0.1, opt="adam"), Config(lr=0.2, opt="adam")])
        assert here.take_commands(study) == ["pause"] and here.take_commands(study) == []
        entries = here.queued(study)
        assert [config.lr for config in entries.values()] == [0.1, 0.2]
        here.assign(study, [AssignmentRow(0, 0, 0, 1, 0)], [NewTrial(0, entries[1])], queued={0: 1})
        assert list(there.queued(study)) == [2]
        with pytest.raises(StudyError, match="Unknown command 'halt'"):
            there.send(study, "halt")


# -- faults --------------------------------------------------------------------------------------------------


def test_a_locked_database_is_told_in_words(url: str) -> None:
    with Records(url, busy_seconds=0.1) as records:
        study = make(records)
        other = sqlite3.connect(Path(url.removeprefix("sqlite:///")), isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="Another process holds it"):
            records.append(study, [Report(0, 1, 1, {})])
        other.execute("ROLLBACK")
        other.close()
        records.append(study, [Report(0, 1, 1, {})])  # and works again


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    path.write_text("these are my notes, not a database " * 100)
    with pytest.raises(StorageError, match="It is no database"):
        Records(f"sqlite:///{path}")
    assert path.read_text().startswith("these are my notes")


def test_a_damaged_database(url: str) -> None:
    with Records(url) as records:
        study = make(records)
        records.append(study, [Report(t, e, e, {"v": 1.0}) for t in range(50) for e in range(50)])
    path = Path(url.removeprefix("sqlite:///"))
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content), 4096):
        content[start : start + 2000] = os.urandom(2000)
    path.write_bytes(content)
    with pytest.raises(StorageError, match="damaged|no database"), Records(url) as records:
        records.reports(records.study("s"))


@pytest.mark.parametrize("given", ["mysql-ish", "nosuch://x", "sqlite:////proc/none/studies.db"])
def test_a_storage_that_cannot_be(given: str) -> None:
    with pytest.raises(StorageError, match="storage=|cannot be used"):
        Records(given)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(StorageError, match="Permission denied|unable to open"):
        Records(f"sqlite:///{tmp_path / 'x' / 'studies.db'}")


def test_a_full_disk_is_told_in_words_and_loses_nothing(url: str) -> None:
    with Records(url) as records:
        study = make(records)
        records.append(study, [Report(0, 1, 1, {"v": 1.0})])
        records._connection.exec_driver_sql("PRAGMA max_page_count = 1")  # SQLite's own stand-in for a full disk
        with pytest.raises(StorageError, match="disk is full"):
            for epoch in range(2, 2000):
                records.append(study, [Report(0, epoch, epoch, {"v": 1.0})])
        written = len(records.reports(study))
        assert written >= 1
    with Records(url) as records:
        assert len(records.reports(records.study("s"))) == written


# -- versions ------------------------------------------------------------------------------------------------


def test_a_database_of_a_newer_rheostat_is_refused(url: str) -> None:
    with Records(url) as records, records._write() as connection:
        connection.execute(schema.versions.update().values(version=schema.VERSION + 1))
    with pytest.raises(StorageError, match="newer Rheostat"):
        Records(url)


def test_an_older_database_is_migrated_in_one_transaction(url: str) -> None:
    with Records(url) as records:
        study = make(records)

    def add_column(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE trials ADD COLUMN cost FLOAT"))

    def fail(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE trials ADD COLUMN other FLOAT"))
        raise ZeroDivisionError

    with Records(url) as records:
        two_steps = {schema.VERSION: add_column, schema.VERSION + 1: fail}
        with pytest.raises(ZeroDivisionError), records._write() as connection:
            schema.prepare(connection, two_steps, schema.VERSION + 2)
        with records._write() as connection:
            assert connection.execute(schema.versions.select()).scalar_one() == schema.VERSION
            schema.prepare(connection, {schema.VERSION: add_column}, schema.VERSION + 1)
            assert connection.execute(schema.versions.select()).scalar_one() == schema.VERSION + 1
            columns = [row[1] for row in connection.execute(text("PRAGMA table_info(trials)"))]
            assert "cost" in columns
        assert records.study("s") == study


VERSION_1_TRIALS = """
CREATE TABLE trials (study INTEGER NOT NULL, number INTEGER NOT NULL, config TEXT NOT NULL, status VARCHAR(12) NOT NULL,
source VARCHAR(8) NOT NULL, reason TEXT DEFAULT '' NOT NULL, detail TEXT DEFAULT '' NOT NULL, created FLOAT NOT NULL,
ended FLOAT, PRIMARY KEY (study, number))
"""


def test_a_file_of_version_1_gets_parents(url: str) -> None:
    with Records(url) as records:
        study = make(records)
        with records._write() as connection:
            connection.execute(text("DROP TABLE trials"))
            connection.execute(text(VERSION_1_TRIALS))
            connection.execute(text("ALTER TABLE studies DROP COLUMN goals"))
            old = {"study": study.id, "config": '{"lr": 0.01}', "status": "paused", "source": "search", "now": 1.5}
            connection.execute(
                text("INSERT INTO trials VALUES (:study, 0, :config, :status, :source, 'r', 'd', :now, NULL)"), old
            )
            connection.execute(schema.versions.update().values(version=1))
    with Records(url) as records:
        (row,) = records.trials(study)
        assert row == TrialRow(0, Config(lr=0.01), Status.PAUSED, "search", "r", "d", 1.5, None, None, 0)
        records.assign(study, [AssignmentRow(0, 1, 4, 6, 0)], [NewTrial(1, Config(lr=0.02), parent=0, born=4)])
        assert [(t.parent, t.born) for t in records.trials(study)] == [(None, 0), (0, 4)]
    with Records(url) as records:  # it is not migrated twice
        assert [(t.parent, t.born) for t in records.trials(study)] == [(None, 0), (0, 4)]


def test_a_file_of_version_2_gets_goals(url: str) -> None:
    with Records(url) as records:
        study = make(records)
        with records._write() as connection:
            connection.execute(text("ALTER TABLE studies DROP COLUMN goals"))
            connection.execute(text("ALTER TABLE trials DROP COLUMN arm"))
            connection.execute(schema.versions.update().values(version=2))
    goals = Goals((("latency_ms", "minimize"), ("recall", "maximize")), (Limit("size", 0.1 + 0.2, at_least=True),))
    with Records(url) as records:
        assert records.study("s") == study and not study.goals
        records.change_study(study, space=SPACE, settings=study.settings, goals=goals)
    with Records(url) as records:
        assert records.study("s").goals == goals
        assert records.change_study(records.study("s"), space=SPACE, settings={}).goals == goals


def test_a_file_of_version_3_gets_probes(url: str) -> None:
    with Records(url) as records:
        study = make(records)
        records.assign(study, [], [NewTrial(0, Config(lr=0.01))])
        with records._write() as connection:
            connection.execute(text("ALTER TABLE trials DROP COLUMN arm"))
            connection.execute(schema.versions.update().values(version=3))
    with Records(url) as records:
        records.assign(study, [], [NewTrial(1, Config(lr=0.03), "probe", 0, 4, "lr_up")])
        assert [(t.source, t.arm) for t in records.trials(study)] == [("search", ""), ("probe", "lr_up")]


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE trials (trial_id INTEGER)")
    other.close()
    with pytest.raises(StorageError, match="another program"):
        Records(f"sqlite:///{path}")


def test_the_schema_is_the_one_of_its_version() -> None:
    """Whoever changes a table must raise VERSION and add a migration; then this fingerprint may change."""
    described = "\n".join(
        f"{table.name}.{column.name} {column.type} {column.nullable}"
        for table in schema.metadata.sorted_tables
        for column in table.columns
    )
    assert (schema.VERSION, fingerprint(described)) == (4, "d15cb035754e")
