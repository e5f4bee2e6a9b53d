"""How a tool tells what it measures: lines in a file, each written at once, whichever process writes it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Notes:
    """Appends to a file. A note says when it was written, in seconds of the system's clock."""

    def __init__(self, file: Path | str) -> None:
        self.file = str(file)

    def write(self, **what: Any) -> None:
        line = json.dumps({"at": time.time(), **what}) + "\n"
        descriptor = os.open(self.file, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, line.encode())
        os.close(descriptor)

    def value(self, value: float) -> None:
        """What an epoch of some trial came to."""
        self.write(value=value)

    def ready(self) -> None:
        """Everything is imported, and the search begins."""
        self.write(ready=True)


def new_notes(file: Path, since: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines behind this place of the file, and the place behind them."""
    if not file.exists():
        return [], since
    with file.open("rb") as stream:
        stream.seek(since)
        whole = stream.read().rpartition(b"\n")[0]
    return list(_parsed(whole)), since + (len(whole) + 1 if whole else 0)


def _parsed(text: bytes) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        yield json.loads(line)
