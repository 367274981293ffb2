"""Early stopping, and metrics that go to a dashboard as well: the same numbers, none twice."""

import importlib.util
import json

import pytest

from gpicl_jax.cli import main
from gpicl_jax.config import load_config
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.training import loop
from gpicl_jax.training.trainer import Trainer
from tests.helpers import TINY

STILL = ("--optimizer.name=sgd", "--optimizer.momentum=0", "--optimizer.learning_rate=1e-20", "--train.validate_every=5")


def train(run_dir, *options):
    return main(["train", TINY, *options, "--run-dir", str(run_dir)])


def events(folder):
    """(name, step, value) of all scalars that are not marked as void."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found = []
    for file in sorted(folder.glob("events*")):
        data = file.read_bytes()
        while data:  # a record: its length (8 bytes) and the length's checksum (4), content, checksum (4)
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            if event.session_log.status == SessionLog.START:
                found = [each for each in found if each[1] < event.step]
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


def test_a_run_that_does_not_improve_stops_early_and_says_so(tmp_path, capsys):
    assert train(tmp_path / "run", *STILL, "--train.steps=100", "--train.patience=3") == 0
    assert "step 20: stops early, no lower validation loss in 3 validations" in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stopped_early"] is True and summary["steps"] == 20
    folder = RunFolder.open(tmp_path / "run")
    trained = loop.train(Trainer(folder.config()), folder, {})
    assert trained.stopped_early and int(trained.state.step) == 20  # no further
    assert train(tmp_path / "run", *STILL, "--train.steps=100", "--resume", "--train.patience=5") == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 30  # as if it had never stopped


def test_a_run_that_improves_goes_on(tmp_path):
    """Through more validations than its patience."""
    config = load_config(TINY, ("--optimizer.learning_rate=3e-3", "--train.validate_every=5", "--train.patience=3"))
    folder = RunFolder.create(tmp_path / "run", config)
    trained = loop.train(Trainer(config), folder, {})
    losses = [record["validation_loss"] for record in read_metrics(folder.path) if "validation_loss" in record]
    assert len(losses) == 8 and min(losses[-3:]) < min(losses[:-3])
    assert not trained.stopped_early and int(trained.state.step) == 40


@pytest.mark.skipif(importlib.util.find_spec("tensorboardX") is None, reason="tensorboardX is not installed")
def test_event_files_hold_what_the_metrics_hold_also_after_a_resume(tmp_path):
    assert train(tmp_path / "run", "--train.steps=10", "--log.to=tensorboard") == 0
    assert train(tmp_path / "run", "--train.steps=20", "--log.to=tensorboard", "--resume") == 0
    expected = [
        (name, record["step"], value)
        for record in read_metrics(tmp_path / "run")
        for name, value in record.items()
        if name != "step" and value is not None
    ]
    found = events(tmp_path / "run" / "tensorboard")
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    assert [each[2] for each in found] == pytest.approx([each[2] for each in expected], rel=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_writes_its_own_file_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert train(tmp_path / "run", "--train.steps=10", "--log.to=wandb") == 0
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert b"validation_loss" in content and b"learning_rate" in content
    assert json.loads((tmp_path / "run" / "wandb.json").read_text())["id"] in file.name


@pytest.mark.parametrize(("to", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_one_line_before_training(to, package, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert train(tmp_path / "run", f"--log.to={to}") == 2
    assert capsys.readouterr().err == (
        f"gpicl: error: log.to = '{to}' needs the package {package}; install it with: pip install {package}\n"
    )
    assert not (tmp_path / "run").exists()
