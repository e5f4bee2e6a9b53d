"""What a coordinator and its workers say to each other: a name and a value, as MessagePack."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any, TypeVar

import msgspec

from rheostat.types import Config, Job, Notice, Outcome, Report

T = TypeVar("T")

# From worker to coordinator: hello and, once it has the task, ready (with its process id); report, outcome, notice.
# From coordinator to worker: setup, job.
KINDS: dict[str, Any] = {"hello": int, "ready": int, "report": Report, "outcome": Outcome, "notice": Notice, "job": Job}


class Setup(msgspec.Struct, frozen=True):
    """How a worker gets ready."""

    runner_path: str  # a pickled Runner, readable by this user alone
    module_paths: list[str]
    folder: str  # the working folder
    threads: int


KINDS["setup"] = Setup


def send(connection: Connection, kind: str, value: object) -> None:
    connection.send_bytes(msgspec.msgpack.encode((kind, value), enc_hook=_encode))


def receive(connection: Connection) -> tuple[str, Any]:
    """The next message. Raises EOFError or OSError when the other side is gone."""
    kind, value = msgspec.msgpack.decode(connection.recv_bytes(), type=tuple[str, Any])
    return kind, msgspec.convert(value, KINDS[kind], dec_hook=_decode)


def _encode(value: object) -> object:
    if isinstance(value, Config):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be sent to a worker")


def _decode(kind: type[T], value: Any) -> T:
    if kind is Config:
        return Config(value)  # type: ignore[return-value]
    raise TypeError(f"{kind.__name__} cannot be received from a worker")
