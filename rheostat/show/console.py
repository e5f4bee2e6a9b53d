"""Shows a study in a terminal (a steady block), in a pipe (a line per event), or not at all."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TextIO, final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rheostat.errors import SettingError, unknown
from rheostat.show.base import Watcher
from rheostat.show.block import best_line, headline, study_lines
from rheostat.show.text import MARKS, best_trial, clean, encodable, number, settings, why
from rheostat.types import Notice, Snapshot, Status, TrialRecord

MODES = ("auto", "live", "plain", "none")
REDRAW_SECONDS = 0.5
TICK_SECONDS = 1.0  # without news
HEARTBEAT_SECONDS = 10.0
LARGEST_SHARE = 0.05  # of the time, spent on showing
STYLES = {
    "head": "bold",
    "best": "bold green",
    "titles": "dim",
    "hint": "dim italic",
    Status.TRAINING: "cyan",
    Status.CUT: "dim",
    Status.WAITING: "dim",
    Status.PAUSED: "dim",
}


def make_console(mode: str = "auto", stream: TextIO | None = None) -> Watcher:
    """The watcher for a stream (standard output). Raises SettingError for an unknown mode.

    "auto" is "live" in a terminal that can move its cursor, else "plain". NO_COLOR leaves the colours out.
    """
    stream = sys.stdout if stream is None else stream
    if mode not in MODES:
        raise SettingError(unknown("progress", mode, MODES))
    if mode == "auto":
        moves_cursor = stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
        mode = "live" if moves_cursor else "plain"
    if mode == "none":
        return Silent()
    return LiveConsole(stream) if mode == "live" else PlainConsole(stream)


@final
class Silent:
    """Shows nothing."""

    def due(self) -> bool:
        return False

    def update(self, snapshot: Snapshot) -> None: ...

    def note(self, notice: Notice) -> None: ...

    def close(self) -> None: ...


class _Paced(ABC):
    """Draws now and then, says notices at once, and draws the last state at the end.

    A thread of its own says the notices: `note` only puts them into a queue, because a signal handler may
    call it in the middle of a writing, where Python's streams raise a RuntimeError when written to again.
    The same thread lets the clock tick while a long epoch brings no news.
    """

    def __init__(self) -> None:
        self._latest: Snapshot | None = None
        self._received = 0.0  # the latest, by time.monotonic()
        self._next = 0.0  # drawing, by time.monotonic()
        self._writing = threading.Lock()
        self._inbox: SimpleQueue[Notice | None] = SimpleQueue()  # its put may interrupt a put
        self._thread: threading.Thread | None = None

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def update(self, snapshot: Snapshot) -> None:
        before, self._latest = self._latest, snapshot
        self._received = time.monotonic()
        if self._received >= self._next or before is None or before.state != snapshot.state:
            self._start()
            with self._writing:
                self._draw_timed(snapshot)

    def note(self, notice: Notice) -> None:
        self._inbox.put(notice)  # no more: a handler that interrupts `_start` must not start a second thread

    def close(self) -> None:
        self._start()  # it may never have been, and there may be notices
        assert self._thread is not None
        self._inbox.put(None)
        self._thread.join()
        self._thread = None
        self._end(self._latest)
        self._latest = None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._listen, name="rheostat-console", daemon=True)
            self._thread.start()

    def _listen(self) -> None:
        said = None
        while True:
            try:
                notice = self._inbox.get(timeout=TICK_SECONDS)
            except Empty:
                self._tick()
                continue
            if notice is None:
                return
            if notice != said:  # the same again tells nothing
                with self._writing:
                    self._say(notice)
            said = notice

    def _tick(self) -> None:
        with self._writing:
            passed = time.monotonic() - self._received
            if self._latest is not None and passed >= TICK_SECONDS and self.due():
                left = self._latest.seconds_left
                later = None if left is None else max(left - passed, 0.0)
                self._draw_timed(replace(self._latest, seconds=self._latest.seconds + passed, seconds_left=later))

    def _draw_timed(self, snapshot: Snapshot) -> None:
        started = time.monotonic()
        self._draw(snapshot)
        now = time.monotonic()
        self._next = now + max(REDRAW_SECONDS, (now - started) / LARGEST_SHARE)

    @abstractmethod
    def _draw(self, snapshot: Snapshot) -> None: ...

    @abstractmethod
    def _say(self, notice: Notice) -> None: ...

    @abstractmethod
    def _end(self, snapshot: Snapshot | None) -> None: ...


@final
class LiveConsole(_Paced):
    """One steady block at the end of the terminal; what the user's code prints scrolls by above it."""

    def __init__(self, stream: TextIO, console: Console | None = None) -> None:
        super().__init__()
        self._stream = stream
        self._console = console or Console(file=stream, force_terminal=True, highlight=False, emoji=False)
        self._live: Live | None = None

    def _draw(self, snapshot: Snapshot) -> None:
        if self._live is None:
            # What others print to the same terminal would tear the block: rich lifts it above.
            ours = self._stream in (sys.stdout, sys.stderr)
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                redirect_stdout=ours and sys.stdout.isatty(),
                redirect_stderr=ours and sys.stderr.isatty(),
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.update(self._block(snapshot, ended=False), refresh=True)

    def _say(self, notice: Notice) -> None:
        self._console.print(Text(self._text(notice.message), style="yellow"))

    def _end(self, snapshot: Snapshot | None) -> None:
        if self._live is not None and snapshot is not None:
            self._live.update(self._block(snapshot, ended=True))
            self._live.stop()  # draws it
            self._live = None

    def _block(self, snapshot: Snapshot, ended: bool) -> Group:
        width, height = self._console.size
        lines = study_lines(snapshot, width, rows=min(8, max(height - 6, 1)), ended=ended)
        return Group(
            *(
                Text(self._text(line.text), style=STYLES.get(line.role, ""), no_wrap=True, overflow="crop")
                for line in lines
            )
        )

    def _text(self, text: str) -> str:
        return encodable(clean(text), self._stream.encoding)


@final
class PlainConsole(_Paced):
    """A line when a trial ends or becomes the best, and one every ten seconds; no control codes."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._ended: set[int] | None = None  # None before the first snapshot
        self._best: int | None = None
        self._heartbeat = 0.0  # of time.monotonic()

    def _draw(self, snapshot: Snapshot) -> None:
        self._print_events(snapshot)
        if time.monotonic() >= self._heartbeat:
            self._heartbeat = time.monotonic() + HEARTBEAT_SECONDS
            self._print("   ".join(headline(snapshot)))

    def _print_events(self, snapshot: Snapshot) -> None:
        best = best_trial(snapshot.trials)
        ended = {t.number for t in snapshot.trials if t.status.ended}
        if self._ended is not None:  # what an earlier session did is only counted
            new_best = best if best is not None and best.number != self._best else None
            news = ended - self._ended
            for trial in snapshot.trials:
                if trial is new_best or trial.number in news:
                    self._print(_event(trial, snapshot, trial is best))
        self._ended, self._best = ended, best.number if best is not None else None

    def _say(self, notice: Notice) -> None:
        self._print(notice.message)

    def _end(self, snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            self._print_events(snapshot)
            self._print("   ".join(headline(snapshot, ended=True)))
            self._print(best_line(best_trial(snapshot.trials), snapshot.sign))

    def _print(self, line: str) -> None:
        print(encodable(clean(line), self._stream.encoding), file=self._stream, flush=True)


def _event(trial: TrialRecord, snapshot: Snapshot, is_best: bool) -> str:
    """What happened to a trial, on a line."""
    total = f"/{snapshot.max_epochs}" if snapshot.max_epochs else ""
    value = f"{snapshot.metric} {number(snapshot.sign * trial.best)}" if trial.best < math.inf else "no value"
    words = (
        f"trial {trial.number}  {MARKS[trial.status]} {trial.status}  epoch {trial.epochs}{total}",
        value + ("  best so far" if is_best else ""),
        settings(trial.config),
        why(trial, snapshot.goals),
    )
    return "   ".join(filter(None, words))
