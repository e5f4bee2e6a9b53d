"""From files of every form to a tuned network and its held-out score."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import rheostat
from rheostat.cli import app
from rheostat.data.base import Form
from rheostat.errors import SettingError
from rheostat.families import FAMILIES, choose, form_of
from rheostat.targets import load_target

WORDS = [
    "red",
    "green",
    "blue",
    "old",
    "new",
    "small",
    "large",
    "quick",
    "slow",
    "warm",
    "cold",
    "bright",
    "dark",
    "loud",
    "calm",
]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RHEOSTAT_STORAGE", str(tmp_path / "studies.db"))


def sentences(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 9))) + "." for _ in range(n)]


def images(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 10)):
        for kind, brightness in (("day", 180), ("night", 60)):
            (folder / "pictures" / part / kind).mkdir(parents=True)
            for n in range(count):
                pixels = rng.normal(brightness, 30, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "pictures" / part / kind / f"{n}.png")
    return folder / "pictures"


def texts(folder: Path) -> Path:
    (folder / "reviews").mkdir()
    for part, count in (("train", 200), ("test", 60)):
        lines = [f"{text}\t{'warm' in text or 'bright' in text:d}" for text in sentences(count, count)]
        (folder / "reviews" / f"{part}.tsv").write_text("\n".join(lines))
    return folder / "reviews"


def stream(folder: Path) -> Path:
    (folder / "story.txt").write_text(" ".join(sentences(1200, 0)))
    return folder / "story.txt"


def pairs(folder: Path) -> Path:
    for part, count in (("train", 200), ("val", 30), ("test", 30)):
        source = sentences(count, count)
        (folder / f"{part}.en").write_text("\n".join(source))
        (folder / f"{part}.xx").write_text("\n".join(" ".join(text.split()[::-1]) for text in source))
    return folder / "train.en"


MADE: dict[str, Callable[[Path], Path]] = {"cnn": images, "rnn": texts, "lm": stream, "seq2seq": pairs}
SMALL = {
    "cnn": ["--set", "channels=4", "--set", "layers=2"],
    "rnn": ["--set", "hidden=16", "--set", "embedding=8"],
    "lm": ["--set", "hidden=16", "--set", "embedding=8", "--set", "batch_size=16"],
    "seq2seq": ["--set", "hidden=16", "--set", "embedding=16"],
}
METRICS = {"cnn": "val_error", "rnn": "val_error", "lm": "val_loss", "seq2seq": "val_bleu"}


@pytest.mark.parametrize("family", MADE)
def test_one_command_from_files_to_a_held_out_score(family: str, tmp_path: Path) -> None:
    target = MADE[family](tmp_path)
    options = ["--trials", "3", "--epochs", "2", "--workers", "1", "--json", *SMALL[family]]
    result = CliRunner().invoke(app, ["tune", str(target), *options], catch_exceptions=False)
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["metric"] == METRICS[family]
    assert found["direction"] == ("maximize" if family == "seq2seq" else "minimize")
    assert np.isfinite(found["best"]["value"]) and np.isfinite(found["test"])
    assert f"(model {family})" in result.stderr  # what was chosen is said
    network = rheostat.load(found["study"]).best.load()  # rebuilt from the target that was recorded
    assert sum(p.numel() for p in network.parameters()) > 0


def test_the_likeliest_configuration_is_tried_first(tmp_path: Path) -> None:
    target = load_target(str(texts(tmp_path)))
    study = rheostat.tune(str(tmp_path / "reviews"), trials=2, epochs=1, workers=1, progress="none")
    assert study.trials[0].config == target.space.likely()
    again = rheostat.tune(str(tmp_path / "reviews"), trials=3, epochs=1, workers=1, progress="none")
    assert [t.config == target.space.likely() for t in again.trials] == [True, False, False]


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.name != "mlp"], ids=lambda f: f.name)
def test_every_configuration_of_a_default_space_makes_a_network(family, tmp_path: Path) -> None:
    makers = {Form.IMAGES: images, Form.TEXTS: texts, Form.STREAM: stream, Form.PAIRS: pairs}
    target = load_target(str(makers[family.forms[0]](tmp_path)), model=family.name)
    assert len(target.space.tuned) <= 10
    for config in [target.space.likely(), *target.space.sample(np.random.default_rng(0), 5)]:
        target.task.model(config)


def test_a_transformer_can_be_asked_for(tmp_path: Path) -> None:
    target = load_target(str(stream(tmp_path)), model="transformer")
    assert type(target.task.model(target.space.likely())).__name__ == "Transformer"


def test_models_that_do_not_fit_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Did you mean 'transformer'"):
        form_of("transfomer")
    target = images(tmp_path)
    with pytest.raises(SettingError, match="Known: cnn"):
        load_target(str(target), model="mlp")
    assert choose(_dataset(target)).name == "cnn"


def _dataset(path: Path):
    from rheostat.data.read import read

    return read(path)
