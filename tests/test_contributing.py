"""CONTRIBUTING.md does what it says: each example is written to a file, and its command is run at a small size."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from gpicl_jax import registry
from gpicl_jax.cli import main
from gpicl_jax.config import load_config
from gpicl_jax.registry import ROOMS, names, section_class

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, flags=re.DOTALL))
COMMANDS = [command for command in re.findall(r"^gpicl (train .*)$", TEXT, flags=re.MULTILINE)]
EXPERIMENT = re.findall(r"^gpicl ((?:experiment|figure) .*)$", TEXT, flags=re.MULTILINE)
SMALL = ("--tasks.length=20", "--tasks.tasks_per_step=4", "--tasks.sequences_per_task=1", "--train.chunk=5", "--train.steps=10")
SMALL += ("--train.validate_every=10", "--eval.episodes=16", "--optimizer.warmup_steps=0")


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    for room in (*ROOMS, "experiment"):
        names(room)
        monkeypatch.setitem(registry._KNOWN, room, dict(registry._KNOWN[room]))
    monkeypatch.setattr(registry, "_IMPORTED", [])
    yield
    section_class.cache_clear()


def test_every_example_has_a_command():
    commands = [f"{each} " for each in (*COMMANDS, *EXPERIMENT)]
    assert len(FILES) == 5 == len(COMMANDS) + 1
    assert all(any(f"--import {name} " in each for each in commands) for name in FILES)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: re.search(r"--import (\w+)", command)[1])
def test_an_example_is_one_file_that_trains(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    assert main([*shlex.split(command), *SMALL, "--run-dir", "run"]) == 0
    given = dict(re.findall(r"--(\w+\.\w+)=(\S+)", command))
    config = load_config("run/config.toml")
    for setting, value in given.items():
        section, key = setting.split(".")
        found = getattr(config.sections[section], key)
        assert str(found) == value or found == (value,) or float(found) == float(value)


def test_an_experiment_is_one_file_that_compares_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    assert [main(shlex.split(command)) for command in EXPERIMENT] == [0, 0]
    assert "| 8 | unseen | digits | 0." in capsys.readouterr().out
    frame = pd.read_csv("results/gru_width/smoke.csv")
    assert frame.width.tolist() == [4, 8] and frame["last"].between(0, 1).all()
    assert Path("results/gru_width/smoke.png").is_file()


@pytest.mark.process
def test_a_model_of_a_file_that_sees_its_own_label_goes_red(tmp_path):
    """The command of CONTRIBUTING.md fails. The same model without the leak passes it."""
    command = re.findall(r"^GPICL_IMPORT=gru.py bin/test (.*)$", TEXT, flags=re.MULTILINE)
    leaky = FILES["gru.py"].replace("tokens(x_LX, y_L, self.num_classes)", "jax.numpy.hstack([x_LX, jax.nn.one_hot(y_L, 10)])")
    for name, text, failed in (("gru.py", FILES["gru.py"], set()), ("leaky.py", leaky, {"labels", "bfloat16"})):
        (tmp_path / name).write_text(text)
        found = subprocess.run(
            [sys.executable, "-m", "pytest", *shlex.split(*command), "-p", "no:xdist", "-o", "addopts=-q"],
            env=os.environ | {"GPICL_IMPORT": str(tmp_path / name)},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert " passed" in found.stdout
        assert failed == set(re.findall(r"^FAILED .*::test_(\w+?)_.*\[gru\]", found.stdout, flags=re.MULTILINE)), found.stdout
