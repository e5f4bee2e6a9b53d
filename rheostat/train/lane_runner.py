"""Runs the trials of a task as lanes: which train together, and when each is saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rheostat.errors import CheckpointError
from rheostat.train import checkpoint
from rheostat.train.base import Send
from rheostat.train.lanes import Lanes, LanesError, lane_key, refusal
from rheostat.train.loop import Training, failure, is_out_of_memory, outcome, take_up
from rheostat.train.program import Program
from rheostat.train.task import Task
from rheostat.types import Event, Job, Notice, Outcome, Report

LANES = 16  # of one program; beyond that a processor cache holds no more of them

PROGRAMS = 64  # that are kept with their recordings; a search of structures may make any number


class LaneRunner:
    """Trains up to `lanes` trials at once, an epoch at a time, with a checkpoint of each after every epoch.

    Trials whose networks are the same program (`lane_key`) train together; the rest wait for their turn. A trial may
    begin, pause, end or fail at any epoch without the others noticing; one that is left alone goes on as a single lane,
    because its sums would come out differently in the plain loop. What cannot be trained as lanes is trained
    by the plain loop, and the reason told once. When memory runs out, half as many are tried.
    """

    def __init__(self, task: Task, root: Path, lanes: int) -> None:
        self.task, self.root, self.lanes = task, root, lanes
        self._at_once = lanes
        self._live: dict[int, tuple[Job, Training, str]] = {}  # by trial; the text is its lane_key
        self._together: Lanes | None = None
        self._programs: dict[str, Program] = {}  # by key; each was compared with the plain loop
        self._plain: set[str] = set()  # keys of programs that lanes refused
        self._told: set[str] = set()
        self._refusal = refusal(task)

    def run(self, jobs: Sequence[Job], send: Send) -> list[Event]:
        events: list[Event] = []
        if self._refusal:
            self._tell(self._refusal, events)
            jobs = jobs[:1]  # the others need not be in memory
        begun = [job for job in jobs if self._begin(job, send, events)]
        if begun:
            key = self._live[begun[0].trial][2]
            if self._refusal or key in self._plain:
                self._train_plain(begun[0], send, events)
            else:
                group = [job for job in begun if self._live[job.trial][2] == key]
                self._train_lanes(key, group[: self._at_once], send, events)
        return events

    def _begin(self, job: Job, send: Send, events: list[Event]) -> bool:
        """Have the trial of a job in memory; False where that failed."""
        if job.trial in self._live:
            return True
        try:
            training = take_up(self.task, job, checkpoint.trial_folder(self.root, job.trial), send)
            if training.run.epoch >= job.until_epoch or training.ended:  # trained before a crash, but not concluded
                events.append(outcome(job, training))
                return False
            key = "" if self._refusal else lane_key(training)
        except CheckpointError:
            raise
        except Exception as error:  # the user's model may raise anything
            events.append(failure(job, None, error, send))
            return False
        self._live[job.trial] = job, training, key
        return True

    def _train_plain(self, job: Job, send: Send, events: list[Event]) -> None:
        self._release()
        training = self._live[job.trial][1]
        try:
            result: list[Report] | Exception = training.train_epoch()
        except Exception as error:  # the user's code may raise anything
            result = error
        self._conclude(job, result, send, events)

    def _train_lanes(self, key: str, group: list[Job], send: Send, events: list[Event]) -> None:
        trainings = [self._live[job.trial][1] for job in group]
        try:
            if self._together is None or self._together.trainings != trainings:
                self._release()
                self._together = Lanes(trainings, self._programs.get(key))
            if key not in self._programs:
                self._together.spot_check()
                self._programs[key] = self._together.program
                for oldest in list(self._programs)[:-PROGRAMS]:
                    del self._programs[oldest]
        except Exception as why:  # a network may refuse to be copied, and more
            self._plain.add(key)
            self._tell(str(why) if isinstance(why, LanesError) else f"{type(why).__name__}: {why}", events)
            return
        try:
            results = self._together.train_epoch()
        except Exception as error:  # not of one lane: all of them go back to their checkpoints
            self._give_up(key, group, error, send, events)
            return
        for job, result in zip(group, results, strict=True):
            self._conclude(job, result, send, events)

    def _give_up(self, key: str, group: list[Job], error: Exception, send: Send, events: list[Event]) -> None:
        """What the lanes trained in this epoch is lost: they will be trained again from their checkpoints."""
        self._together = None
        if is_out_of_memory(error) and len(group) == 1:
            self._conclude(group[0], error, send, events)
            return
        for job in group:
            del self._live[job.trial]
        if is_out_of_memory(error):
            self._at_once = len(group) // 2
            self._tell(f"{len(group)} at once do not fit into memory; from now on {self._at_once}", events)
            return
        self._plain.add(key)
        self._tell(f"{type(error).__name__}: {error}", events)

    def _conclude(self, job: Job, result: list[Report] | Exception, send: Send, events: list[Event]) -> None:
        """Save and report an epoch, and say whether the job has ended."""
        training = self._live[job.trial][1]
        event: Outcome | None = None
        if isinstance(result, Exception):
            event = failure(job, training, result, send)
        else:
            training.save(checkpoint.trial_folder(self.root, job.trial))
            for report in result:
                send(report)
            if training.run.epoch >= job.until_epoch or training.ended:
                event = outcome(job, training)
        if event is not None:
            events.append(event)
            del self._live[job.trial]

    def _release(self) -> None:
        if self._together is not None:
            self._together.release()
            self._together = None

    def _tell(self, why: str, events: list[Event]) -> None:
        if why not in self._told:
            self._told.add(why)
            events.append(Notice("lanes", f"some trials train one by one, not as lanes: {why}"))
