"""`rheostat compare` and `rheostat grow`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rheostat.cli import app
from rheostat.errors import SettingError

QUICK = ["--trials", "2", "--seeds", "2", "--epochs", "1", "--workers", "1"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RHEOSTAT_STORAGE", str(tmp_path / "studies.db"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_values_are_compared_and_trained_once(tmp_path: Path) -> None:
    command = ("compare", "breast_cancer", "--vary", "layers=1,2", "--set", "units=16", *QUICK)
    first = run(*command, "--out", "plot.html").stdout
    assert "layers=2" in first and "reference" in first and "Paired t test" in first
    assert "layers" in (tmp_path / "plot.html").read_text()
    (again,) = json.loads(run(*command, "--json").stdout)
    assert [arm["value"] for arm in again["arms"]] == [1, 2]
    studies = json.loads(run("studies", "--json").stdout)
    trained = sum(len(json.loads(run("trials", study["study"], "--json").stdout)) for study in studies)
    run(*command)
    assert sum(len(json.loads(run("trials", s["study"], "--json").stdout)) for s in studies) == trained


def test_a_question_is_answered_beside_what_the_article_says() -> None:
    shown = run("compare", "breast_cancer", "--question", "activation", "--set", "units=8", *QUICK).stdout
    assert "The article:" in shown and "activation=" in shown


def test_a_network_grows_and_says_each_step() -> None:
    shown = run("grow", "breast_cancer", "--most", "32", *QUICK).stdout
    assert "units=32" in shown and ("Use units=" in shown or "largest that was allowed" in shown)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "breast_cancer"], "either --vary NAME=VALUE,VALUE or --question NAME"),
        (["compare", "breast_cancer", "--question", "dept"], "Did you mean 'depth'"),
        (["compare", "breast_cancer", "--question", "cell"], "These do:"),
        (["compare", "breast_cancer", "--vary", "layers=1"], "two or more different values"),
        (["compare", "breast_cancer", "--vary", "layers=1,2", "--equal", "money"], "Unknown equal 'money'"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(arguments: list[str], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        run(*arguments, *QUICK)
