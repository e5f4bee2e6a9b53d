"""The commands. Each is thin: it reads its arguments, calls one thing, and prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rheostat.errors import RheostatError, SettingError, StudyError, WorkerError

if TYPE_CHECKING:
    from rheostat.study import Study

app = typer.Typer(
    help="Find the hyperparameters with which a deep network trains best.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

probe = typer.Typer(help="Measure before tuning: lr, batch, init.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(probe, name="probe")

Storage = Annotated[str | None, typer.Option(help="Database URL or file [default: .rheostat/studies.db]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md).")]
TargetName = Annotated[
    str, typer.Argument(help="digits; a table; a folder of images; texts; pairs of sentences; FILE.py:TASK")
]
Label = Annotated[
    str | None, typer.Option("--target", help="The column to predict (name, number or 'last'), or the language.")
]
TestData = Annotated[str | None, typer.Option(help="Held-out rows, judged once, at the end.")]
KindOf = Annotated[str | None, typer.Option(help="classification or regression [default: what the column looks like]")]
Model = Annotated[str | None, typer.Option(help="mlp, cnn, rnn, lm, transformer or seq2seq [default: by the data]")]
Tokens = Annotated[str | None, typer.Option(help="Of texts: word, character or bpe [default: what is usual]")]
Vectors = Annotated[str | None, typer.Option(help="A file of pretrained word vectors (GloVe, word2vec)")]
Arguments = Annotated[list[str] | None, typer.Option(help="For a function in FILE.py: data=PATH")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda ...")]
Fixed = Annotated[list[str] | None, typer.Option("--set", help="Fix a hyperparameter: lr=0.01")]
Threads = Annotated[int, typer.Option(help="Processor threads for one trial.")]
StudyName = Annotated[str, typer.Argument(help="The name of a study.")]


def main() -> None:
    """Run a command; a fault that Rheostat knows is told in a paragraph, with exit code 1."""
    try:
        app(standalone_mode=True)
    except RheostatError as error:
        print(f"rheostat: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@app.command()
def tune(
    target: TargetName,
    label: Label = None,
    name: Annotated[str | None, typer.Option(help="Of the study [default: that of the target]")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials in all, also after a continuation [default: what suits the data]")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="The most that a trial may train [default: what suits the data]")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this time; run again to go on.")] = None,
    min_gain: Annotated[
        float | None, typer.Option(help="End when going on would hardly improve the metric by more.")
    ] = None,
    widen: Annotated[bool, typer.Option("--widen", help="Widen ranges at whose edge the best trials lie.")] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Then train the best again with other seeds: was it luck?")
    ] = False,
    confirm_share: Annotated[float, typer.Option(help="How much that may take, of the epochs of the study.")] = 0.25,
    diagnose: Annotated[
        float | None, typer.Option(help="Spend up to this share of the epochs on finding out what would be better: 0.1")
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="Another objective: parameters, or examples_per_second=maximize")
    ] = None,
    limit: Annotated[list[str] | None, typer.Option(help="What a trial must keep: 'parameters <= 50000'")] = None,
    earlier: Annotated[
        list[str] | None, typer.Option(help="A study to learn from: what to try first, and what is likely; repeatable")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes configurations, weights and batches [default: 0]")] = None,
    space: Annotated[Path | None, typer.Option(help="A TOML file with the space to search.")] = None,
    set_: Fixed = None,
    vary: Annotated[list[str] | None, typer.Option(help="Search one: units=16..512 or optimizer=adam,sgd")] = None,
    search: Annotated[
        str, typer.Option(help="auto, tpe, gp, bohb, cma-es, de, sobol, random, grid, or optuna:NAME")
    ] = "auto",
    schedule: Annotated[
        str, typer.Option(help="auto (freeze-thaw), asha, pasha, hyperband, median, fifo, pbt or pb2")
    ] = "auto",
    workers: Annotated[int | None, typer.Option(help="Processes that train [default: what fits]")] = None,
    threads: Threads = 1,
    engine: Annotated[str, typer.Option(help="auto; loop; lanes: like trials as one program")] = "auto",
    device: Device = "auto",
    test: TestData = None,
    kind: KindOf = None,
    model: Model = None,
    tokens: Tokens = None,
    vectors: Vectors = None,
    arg: Arguments = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Tune a network on your data, and say what to use."""
    from rheostat import commands

    commands.tune(
        target=_target(target, label, test, kind, model, tokens, vectors, device, arg),
        changes=commands.SpaceChanges(space, _pairs("--set", set_), dict(_pair("--vary", v) for v in vary or [])),
        name=name,
        trials=trials,
        epochs=epochs,
        minutes=minutes,
        min_gain=min_gain,
        widen=widen,
        confirm=confirm_share if confirm else None,
        diagnose=diagnose,
        also=None if also is None else dict(commands.objective(words) for words in also),
        limits=limit,
        earlier=earlier or (),
        seed=seed,
        search=search,
        schedule=schedule,
        workers=workers,
        threads=threads,
        engine=engine,
        storage=storage,
        as_json=as_json,
    )


@app.command()
def compare(
    target: TargetName,
    label: Label = None,
    vary: Annotated[list[str] | None, typer.Option(help="What to compare: layers=1,2,3,4")] = None,
    question: Annotated[
        str | None, typer.Option(help="Or a ready-made one: depth, width, cell, embedding, batch, optimizer ...")
    ] = None,
    trials: Annotated[int, typer.Option(help="For each value, to tune the others.")] = 8,
    epochs: Annotated[int | None, typer.Option(help="Of every trial [default: what suits the data]")] = None,
    seeds: Annotated[int, typer.Option(help="Repeats of the two best configurations of each value.")] = 5,
    equal: Annotated[str, typer.Option(help="What values have equal: epochs, seconds or parameters")] = "epochs",
    nuisance: Annotated[str | None, typer.Option(help="What to tune for each value: lr,weight_decay")] = None,
    lr: Annotated[str | None, typer.Option(help="tuned, fixed, linear, sqrt or default [default: tuned]")] = None,
    reference: Annotated[str | None, typer.Option(help="The value that others are compared with.")] = None,
    level: Annotated[float, typer.Option(help="How often chance alone may call one better.")] = 0.05,
    set_: Fixed = None,
    name: Annotated[str | None, typer.Option(help="Of its studies [default: by target and what varies]")] = None,
    seed: Annotated[int, typer.Option(help="Fixes everything.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes that train [default: what fits]")] = None,
    threads: Threads = 1,
    engine: Annotated[str, typer.Option(help="auto, loop or lanes")] = "auto",
    device: Device = "auto",
    test: TestData = None,
    kind: KindOf = None,
    model: Model = None,
    tokens: Tokens = None,
    vectors: Vectors = None,
    arg: Arguments = None,
    out: Annotated[Path | None, typer.Option(help="An HTML file for the plot.")] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Which value is better, when the others are tuned for each? With error bars."""
    from rheostat import asking

    asking.compare(
        target=_target(target, label, test, kind, model, tokens, vectors, device, arg),
        fixed=_pairs("--set", set_),
        vary=dict(_pair("--vary", v) for v in vary or []),
        nuisance=nuisance,
        question=question,
        reference=reference,
        out=out,
        as_json=as_json,
        trials=trials,
        epochs=epochs,
        seeds=seeds,
        equal=equal,
        lr=lr,
        level=level,
        name=name,
        seed=seed,
        storage=storage,
        workers=workers,
        threads=threads,
        engine=engine,
    )


@app.command()
def grow(
    target: TargetName,
    label: Label = None,
    width: Annotated[str | None, typer.Option(help="units, channels or hidden [default: the first there is]")] = None,
    start: Annotated[int, typer.Option(help="The narrowest.")] = 16,
    factor: Annotated[int, typer.Option(help="How many times as wide each is.")] = 2,
    most: Annotated[int, typer.Option(help="The widest allowed.")] = 1024,
    trials: Annotated[int, typer.Option(help="For each width, to tune the others.")] = 8,
    epochs: Annotated[int | None, typer.Option(help="Of every trial [default: what suits the data]")] = None,
    seeds: Annotated[int, typer.Option(help="Repeats of the two best configurations of each width.")] = 5,
    set_: Fixed = None,
    name: Annotated[str | None, typer.Option(help="Of its studies [default: by target]")] = None,
    seed: Annotated[int, typer.Option(help="Fixes everything.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes that train [default: what fits]")] = None,
    threads: Threads = 1,
    device: Device = "auto",
    model: Model = None,
    tokens: Tokens = None,
    arg: Arguments = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Widen a network until validation stops improving beyond noise; then regularise before shrinking."""
    from rheostat import asking

    asking.grow(
        target=_target(target, label, None, None, model, tokens, None, device, arg),
        fixed=_pairs("--set", set_),
        hyperparameter=width,
        as_json=as_json,
        start=start,
        factor=factor,
        most=most,
        trials=trials,
        epochs=epochs,
        seeds=seeds,
        name=name,
        seed=seed,
        storage=storage,
        workers=workers,
        threads=threads,
    )


@probe.command("lr")
def probe_lr(
    target: TargetName,
    label: Label = None,
    set_: Fixed = None,
    steps: Annotated[int, typer.Option(help="Updates of the ramp.")] = 100,
    seed: Annotated[int, typer.Option(help="Fixes weights and batches.")] = 0,
    model: Model = None,
    tokens: Tokens = None,
    device: Device = "auto",
    arg: Arguments = None,
    as_json: AsJson = False,
) -> None:
    """A range test of learning rates: a prior for tuning, never the answer."""
    from rheostat import probing

    place = _target(target, label, None, None, model, tokens, None, device, arg)
    probing.lr(place, _pairs("--set", set_), seed, steps, as_json)


@probe.command("batch")
def probe_batch(
    target: TargetName,
    label: Label = None,
    set_: Fixed = None,
    memory: Annotated[str | None, typer.Option(help="The memory there is: 2GB [default: what is free]")] = None,
    threads: Threads = 1,
    seed: Annotated[int, typer.Option(help="Fixes weights and batches.")] = 0,
    model: Model = None,
    tokens: Tokens = None,
    device: Device = "auto",
    arg: Arguments = None,
    as_json: AsJson = False,
) -> None:
    """Time and memory of batch sizes, the largest that fits, and the noise of gradients."""
    from rheostat import probing

    place = _target(target, label, None, None, model, tokens, None, device, arg)
    probing.batch(place, _pairs("--set", set_), seed, memory, threads, as_json)


@probe.command("init")
def probe_init(
    target: TargetName,
    label: Label = None,
    set_: Fixed = None,
    seed: Annotated[int, typer.Option(help="Fixes weights and batches.")] = 0,
    model: Model = None,
    tokens: Tokens = None,
    device: Device = "auto",
    arg: Arguments = None,
    as_json: AsJson = False,
) -> None:
    """The network before training: its loss, its layers, and whether it can learn 20 examples by heart."""
    from rheostat import probing

    place = _target(target, label, None, None, model, tokens, None, device, arg)
    probing.init(place, _pairs("--set", set_), seed, as_json)


@app.command()
def best(study: StudyName, storage: Storage = None, as_json: AsJson = False) -> None:
    """The best configuration of a study, and code to use it."""
    from rheostat import commands

    commands.show_best(_load(study, storage), as_json, storage)


@app.command()
def trials(study: StudyName, storage: Storage = None, as_json: AsJson = False) -> None:
    """Every trial of a study."""
    from rheostat import commands

    commands.list_trials(_load(study, storage), as_json)


@app.command()
def show(
    study: StudyName,
    trial: Annotated[int | None, typer.Argument(help="The number of a trial.")] = None,
    network: Annotated[bool, typer.Option("--network", help="Its layers: sizes, costs, memory.")] = False,
    replay: Annotated[
        int | None, typer.Option(min=1, help="Train it again for so many epochs, and watch them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for figures of the network.")] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """A study, or one of its trials with every report; or its network."""
    from rheostat import commands

    if network or replay is not None or out is not None:
        if trial is None:
            raise SettingError("--network, --replay and --out are of one trial: give its number behind the study.")
        commands.show_network(_load(study, storage), trial, replay, out, as_json)
    elif trial is None:
        commands.show_study(_load(study, storage), as_json)
    else:
        commands.show_trial(_load(study, storage), trial, as_json)


@app.command()
def diagnose(
    study: StudyName,
    trial: Annotated[int | None, typer.Argument(help="The number of a trial [default: all]")] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Train it on in other ways for a little, to decide [default: the best trial]"),
    ] = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Why trials went as they did, how sure that is, and what to do."""
    from rheostat import diagnosing

    diagnosing.show(study, trial, probe, storage, as_json)


@app.command()
def studies(storage: Storage = None, as_json: AsJson = False) -> None:
    """All studies of a storage."""
    from rheostat import commands

    commands.list_studies(storage, as_json)


@app.command()
def explain(
    hyperparameter: Annotated[str | None, typer.Argument(help="Its name [default: an index of all]")] = None,
) -> None:
    """What a hyperparameter does, how to choose it, and what too low or too high looks like."""
    from rheostat import hyperparameters

    print(hyperparameters.explain(hyperparameter) if hyperparameter else hyperparameters.index())


@app.command()
def enqueue(
    study: StudyName,
    values: Annotated[list[str], typer.Argument(help="Hyperparameters: lr=0.01 layers=2 ...")],
    storage: Storage = None,
) -> None:
    """Try a configuration next; what is not given is taken from the best trial."""
    from rheostat import commands

    commands.enqueue(_load(study, storage), _pairs("enqueue", values))


@app.command()
def pause(study: StudyName, storage: Storage = None) -> None:
    """Pause a running study at the end of the epochs in training."""
    _command(study, storage, "pause")


@app.command()
def resume(study: StudyName, storage: Storage = None) -> None:
    """Go on with a paused study; if no process runs it, in this one."""
    from rheostat import commands

    found = _load(study, storage)
    if found.records.coordinator(found.record) is not None:
        _command(study, storage, "resume")
    else:
        commands.resume(found)


@app.command()
def stop(study: StudyName, storage: Storage = None) -> None:
    """End a running study when the trials in training have finished."""
    _command(study, storage, "stop")


@app.command()
def cancel(study: StudyName, storage: Storage = None) -> None:
    """End a running study now; trials keep what they trained and can be continued."""
    _command(study, storage, "cancel")


@app.command()
def worker(study: StudyName, storage: Storage = None) -> None:
    """Help a study that runs in another terminal, until it ends."""
    from rheostat.execute.worker import join

    found = _load(study, storage)
    coordinator = found.records.coordinator(found.record)
    if coordinator is None:
        raise WorkerError(
            f"Study {study!r} is not running: start it with `rheostat tune`, or `rheostat resume {study}`."
        )
    if not coordinator.address:
        raise WorkerError(
            f"Study {study!r} trains in one process: start it with --workers 2 or more to let others help."
        )
    folder = Path(coordinator.address)
    try:
        key = bytes.fromhex((folder / "key").read_text())
    except OSError as cause:
        raise WorkerError(
            f"This process may not join study {study!r}: {cause}. Be the same user on the same machine."
        ) from None
    print(f"Training for study {study} (process {coordinator.pid}).", flush=True)
    join(str(folder / "socket"), key)


def _target(
    target: str,
    label: str | None,
    test: str | None,
    kind: str | None,
    model: str | None,
    tokens: str | None,
    vectors: str | None,
    device: str,
    arg: list[str] | None,
) -> dict[str, Any]:
    """What `load_target` takes."""
    return {
        "target": target,
        "label": label,
        "test": test,
        "kind": kind,
        "model": model,
        "tokens": tokens,
        "vectors": vectors,
        "device": device,
        "arguments": dict(_pair("--arg", a) for a in arg or []),
    }


def _load(name: str, storage: str | None) -> Study:
    from rheostat.study import Study

    return Study.load(name, storage)


def _command(name: str, storage: str | None, command: str) -> None:
    found = _load(name, storage)
    if found.records.coordinator(found.record) is None:
        raise StudyError(f"Study {name!r} is not running, so there is nothing to {command}.")
    found.records.send(found.record, command)
    print(f"Told {name} to {command}.")


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise SettingError(f"{option} {text!r}: write NAME=VALUE, such as lr=0.01.")
    return name, value


def _pairs(option: str, texts: list[str] | None) -> dict[str, Any]:
    from rheostat.commands import parse_value

    return {name: parse_value(value) for name, value in (_pair(option, text) for text in texts or [])}
