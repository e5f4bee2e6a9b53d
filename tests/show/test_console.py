"""What a person sees in a terminal and in a pipe, and what showing costs."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import termios
import textwrap
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pexpect
import pytest
from rich.console import Console

from rheostat.errors import SettingError
from rheostat.show import console
from rheostat.show.console import LiveConsole, PlainConsole, Silent, make_console
from rheostat.types import Notice, Status
from tests.show.screen import screen
from tests.show.studies import example, snapshot, trial

LOST = Notice("worker lost", "worker 1 was lost; trial 3 goes on in another", 3)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """The console's clock, set by hand."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def live(width=130, height=40):
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=width, height=height, legacy_windows=False)
    return LiveConsole(stream, terminal), stream


# -- which one -----------------------------------------------------------------------------------------------


def test_make_console_knows_a_terminal_from_a_pipe(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_console("auto", Terminal()), LiveConsole)
    assert isinstance(make_console("auto", io.StringIO()), PlainConsole)
    assert isinstance(make_console("live", io.StringIO()), LiveConsole)
    assert isinstance(make_console("plain", Terminal()), PlainConsole)
    assert isinstance(make_console("none"), Silent)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_console("auto", Terminal()), PlainConsole)


def test_make_console_names_its_modes():
    with pytest.raises(SettingError, match=r"Did you mean 'live'.*auto, live, plain, none"):
        make_console("life")


def test_no_color_leaves_colours_out(monkeypatch):
    for value, coloured in (("", True), ("1", False)):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", value)
        stream = Terminal()
        watcher = make_console("auto", stream)
        watcher.update(example())
        watcher.close()
        assert ("\x1b[36m" in stream.getvalue()) == coloured


def test_silent_asks_for_nothing():
    silent = Silent()
    assert not silent.due()
    silent.update(example())
    silent.note(LOST)
    silent.close()


# -- what it costs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: live()[0], lambda: PlainConsole(io.StringIO()), Silent])
def test_an_update_costs_nothing_when_nothing_is_due(make):
    watcher, shown = make(), example()
    watcher.update(shown)
    best = min(_seconds_of_a_thousand(watcher, shown) for _ in range(10))
    watcher.close()
    assert best < 1000 * 5e-6


def _seconds_of_a_thousand(watcher, shown):
    started = time.perf_counter()
    for _ in range(1000):
        watcher.due()
        watcher.update(shown)
    return time.perf_counter() - started


def test_redraws_at_most_twice_a_second_and_at_once_when_the_state_changes(clock):
    watcher, stream = live()
    drawn = []
    for step in range(40):  # four seconds
        clock.seconds = 1000 + step / 10
        length = len(stream.getvalue())
        was_due = watcher.due()
        watcher.update(example())
        drawn.append(len(stream.getvalue()) > length)
        assert drawn[-1] == was_due
    assert sum(drawn) == 8
    length = len(stream.getvalue())
    watcher.update(replace(example(), state="stopping"))
    assert "Finishing the trials" in stream.getvalue()[length:]
    watcher.close()


# -- in a terminal -------------------------------------------------------------------------------------------


def test_live_leaves_the_final_state_once(clock):
    watcher, stream = live()
    for step in range(10):
        clock.seconds += 1
        if step == 4:
            watcher.note(LOST)
            watcher.note(LOST)
        watcher.update(replace(example(), epochs=step, trials=example().trials[: 4 + step]))
    watcher.update(replace(example(), state="finished", training=frozenset()))
    watcher.close()
    watcher.close()
    lines = screen(stream.getvalue())
    assert lines[0] == LOST.message
    assert lines[1].startswith("digits-mlp  minimise val_error   19/60 trials")
    assert lines[2].startswith("best  0.039  trial 2")
    assert [line.split()[0] for line in lines[3:12]] == ["trial", "2", "3", "0", "4", "7", "8", "9", "10"]
    assert lines[12:] in ([], [""])
    assert sum("digits-mlp" in line for line in lines) == 1
    assert not any("Ctrl-C" in line for line in lines)
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


def test_live_shows_nothing_of_a_study_that_never_began():
    watcher, stream = live()
    watcher.note(LOST)
    watcher.close()
    assert screen(stream.getvalue()) == [LOST.message, ""]


def test_live_keeps_within_a_low_terminal():
    watcher, stream = live(width=80, height=9)
    watcher.update(example())
    assert len(screen(stream.getvalue())) <= 9
    watcher.close()


def test_a_notice_from_within_the_drawing_waits_for_its_end():
    """As from a signal handler, which interrupts the main thread anywhere."""

    class Interrupted(io.StringIO):
        def write(self, text):
            if watcher is not None and "best" in text and not said:
                said.append(True)
                watcher.note(LOST)
            return super().write(text)

    for make in (PlainConsole, lambda s: LiveConsole(s, Console(file=s, force_terminal=True, width=100))):
        watcher, said, stream = None, [], Interrupted()
        watcher = make(stream)
        watcher.update(snapshot([trial(0, Status.TRAINING, 0.5)]))
        watcher.update(snapshot([trial(0, Status.DONE, 0.5)], state="stopping"))
        watcher.close()
        assert said
        assert sum(LOST.message in line for line in screen(stream.getvalue())) == 1


def test_a_notice_from_within_the_start_of_the_thread_starts_no_second_one(monkeypatch):
    class Interrupted(threading.Thread):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            made.append(self)
            watcher.note(LOST)

    made, stream = [], io.StringIO()
    watcher = PlainConsole(stream)
    monkeypatch.setattr(console.threading, "Thread", Interrupted)
    watcher.update(example())
    watcher.close()
    assert len(made) == 1 and not made[0].is_alive()
    assert LOST.message in stream.getvalue()


SCRIPT = """
    import signal, sys, time
    from dataclasses import replace
    from rheostat.show.console import make_console
    from rheostat.types import Notice
    from tests.show.studies import example

    watcher = make_console("auto")
    signal.signal(signal.SIGINT, lambda *_: watcher.note(Notice("interrupt", "finishing the trials")))
    for step in range(4):
        watcher.update(replace(example(), epochs=step))
        print("printed by the user's code", step)
        print("ready" if step == 1 else "and to stderr", step, file=sys.stderr)
        time.sleep(0.3)
    watcher.update(replace(example(), state="finished", training=frozenset()))
    watcher.close()
    print("after")
"""


STORM = """
    import signal, time
    from rheostat.show import console
    from rheostat.types import Notice
    from tests.show.studies import example

    console.REDRAW_SECONDS = 0.0
    watcher = console.make_console("{mode}")
    told = 0
    def tell(*_):
        global told
        told += 1
        watcher.note(Notice("interrupt", f"told {{told}}"))
    signal.signal(signal.SIGINT, tell)
    print("ready")
    end = time.monotonic() + 1
    while time.monotonic() < end:
        watcher.update(example())
        print("printed by the user's code")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watcher.close()
    print("handled", told)
"""


@pytest.mark.parametrize("mode", ["live", "plain"])
def test_signals_may_come_in_the_middle_of_a_writing(mode):
    child = spawn(STORM.format(mode=mode))
    child.expect("ready")
    deadline = time.monotonic() + 60  # it takes a second: one that hangs is closed, by force
    while child.isalive() and not child.eof() and time.monotonic() < deadline:
        child.kill(signal.SIGINT)
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            child.read_nonblocking(65536, timeout=0.001)
    child.close(force=True)
    output = child.logfile_read.getvalue().decode()
    assert child.exitstatus == 0, output[-2000:]
    assert int(output.split()[-1]) == output.count("told ") > 20


def spawn(code, width=80):
    env = {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", "PATH": "/usr/bin:/bin"}
    arguments = ["-c", textwrap.dedent(code)]
    child = pexpect.spawn(sys.executable, arguments, dimensions=(30, width), env=env, timeout=30)
    child.logfile_read = io.BytesIO()
    modes = termios.tcgetattr(child.child_fd)
    modes[3] |= termios.NOFLSH  # else Ctrl-C throws away what was written and not yet read here, half a block with it
    termios.tcsetattr(child.child_fd, termios.TCSANOW, modes)
    return child


@pytest.mark.parametrize("width", [40, 80])
def test_in_a_real_terminal_there_is_one_block_at_the_end(width):
    child = spawn(SCRIPT, width)
    child.expect("ready 1")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.logfile_read.getvalue().decode()
    lines = screen(child.logfile_read.getvalue().decode().replace("\r\n", "\n"))
    assert [line for line in lines if "user's code" in line] == [f"printed by the user's code {n}" for n in range(4)]
    assert sum("digits-mlp" in line for line in lines) == 1
    assert sum(line.startswith("best  0.039") for line in lines) == 1
    assert sum("finishing the trials" in line for line in lines) == 1
    assert not any("^C" in line or "Ctrl-C" in line for line in lines)
    assert lines[-2:] == ["after", ""]
    assert max(map(len, lines)) <= width


# -- in a pipe -----------------------------------------------------------------------------------------------


def test_plain_tells_each_end_and_each_new_best_once(clock):
    stream = io.StringIO()
    watcher = PlainConsole(stream)
    trials = [trial(n, Status.TRAINING) for n in range(3)]

    def step(number, status, *values, reason=""):
        clock.seconds += 0.6
        trials[number] = trial(number, status, *values, reason=reason)
        watcher.update(snapshot(trials))

    watcher.update(snapshot(trials))
    step(0, Status.TRAINING, 0.5)
    step(0, Status.TRAINING, 0.5, 0.4)  # the same one, better
    step(1, Status.CUT, 0.9, reason="worse than\nthe median")
    step(0, Status.DONE, 0.5, 0.4)
    step(2, Status.FAILED, reason="ValueError: \x1b[31mred")
    watcher.note(LOST)
    watcher.close()
    watcher.close()
    head, config = "digits-mlp  minimise val_error", "lr=0.009234  layers=3  units=89"
    assert stream.getvalue().splitlines() == [
        f"{head}   0/60 trials   ✓0 ✂0 ✗0   epochs 431   elapsed 4s   left ~6s   training 3",
        f"trial 0  ▸ training  epoch 1/20   val_error 0.5  best so far   {config}",
        f"trial 1  ✂ cut  epoch 1/20   val_error 0.9   {config}   (worse than the median)",
        f"trial 0  ✓ done  epoch 2/20   val_error 0.4  best so far   {config}",
        f"trial 2  ✗ failed  epoch 0/20   no value   {config}   (ValueError:  [31mred)",
        LOST.message,
        f"{head}   3/60 trials   ✓1 ✂1 ✗1   epochs 431   elapsed 4s",
        f"best  0.4  trial 0   {config}",
    ]


def test_plain_only_counts_what_an_earlier_session_did():
    stream = io.StringIO()
    watcher = PlainConsole(stream)
    watcher.update(example())
    watcher.close()
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == [
        "digits-mlp",
        "digits-mlp",
        "best",
    ]


def test_plain_beats_every_ten_seconds(clock):
    stream = io.StringIO()
    watcher = PlainConsole(stream)
    for second in range(35):
        clock.seconds = 1000.0 + second
        watcher.update(example())
    beats = stream.getvalue().splitlines()
    watcher.close()
    assert len(beats) == 4  # at 0, 10, 20 and 30 seconds


def test_the_clock_ticks_while_a_long_epoch_brings_no_news(monkeypatch):
    monkeypatch.setattr(console, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(console, "REDRAW_SECONDS", 0.02)
    watcher, stream = live()
    watcher.update(snapshot([], seconds=9.48, seconds_left=30.52))
    deadline = time.monotonic() + 10
    while "elapsed 10s   left ~30s" not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    watcher.close()
    assert "elapsed 9s   left ~31s" in stream.getvalue()
    assert "elapsed 10s   left ~30s" in stream.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("mode", ["plain", "live"])
def test_any_encoding_will_do(mode, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    watcher = make_console(mode, stream)
    watcher.update(replace(example(), study="größe-数"))
    watcher.note(Notice("disk", "größer… ✓"))
    watcher.close()
    stream.flush()
    stream.seek(0)
    shown = stream.read()
    assert ("✂13" if encoding == "utf-8" else "/13") in shown
    assert ("\x1b" in shown) == (mode == "live")
