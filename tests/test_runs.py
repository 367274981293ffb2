import gc
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.runs.checkpoint import Checkpoints
from gpicl_jax.runs.folder import RunFolder, describe_run
from gpicl_jax.runs.metrics import MetricsLog, read_metrics
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "run", Config())
    folder.write_text("note.txt", "one")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError):
        folder.write_text("note.txt", "two")
    assert (folder.path / "note.txt").read_text() == "one"
    assert {item.name for item in folder.path.iterdir()} == {".lock", "config.toml", "note.txt"}


def test_a_folder_holds_one_run(tmp_path):
    RunFolder.create(tmp_path / "run", Config())
    with pytest.raises(UserError, match="already holds a run; continue it with --resume"):
        RunFolder.create(tmp_path / "run", Config())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        RunFolder.create(tmp_path / "other", Config())
    with pytest.raises(UserError, match="no run in"):
        RunFolder.open(tmp_path / "nothing")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to run folder"):
        RunFolder.create(tmp_path / "file" / "run", Config())


def test_a_second_process_is_kept_out_and_a_dead_one_is_not_in_the_way(tmp_path):
    folder = RunFolder.create(tmp_path / "run", Config())
    code = (
        "import sys, pathlib\nfrom gpicl_jax.runs.folder import RunFolder\n"
        "with RunFolder(pathlib.Path(sys.argv[1])).lock():\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="in use by another process"), folder.lock():
            pass
        holder.kill()
    with folder.lock():
        pass


def test_metrics_after_the_resumed_step_are_dropped(tmp_path):
    folder = RunFolder.create(tmp_path / "run", Config())
    log = MetricsLog(folder)
    for step in (10, 20, 30):
        log.append({"step": step, "seconds": float(step)})
    with open(folder.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')  # a process killed in the middle of a line
    assert [record["step"] for record in read_metrics(folder.path)] == [10, 20, 30]
    resumed = MetricsLog(folder, step=20)
    assert resumed.seconds == 20.0
    resumed.append({"step": 30})
    assert [record["step"] for record in read_metrics(folder.path)] == [10, 20, 30]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax leaves a coroutine when a load fails
def test_latest_and_best_checkpoints_are_kept(tmp_path):
    states = {step: {"w": jnp.full((2, 2), step)} for step in (10, 20, 30, 35)}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step is None
        for step, loss in ((10, 2.0), (20, 1.0), (30, 1.5), (35, None)):
            checkpoints.save(step, states[step], loss)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert (checkpoints.latest_step, checkpoints.best_step) == (35, 20)
        for step in (20, 35):
            loaded = checkpoints.load(step, states[10])
            np.testing.assert_array_equal(loaded["w"], states[step]["w"])
        with pytest.raises(UserError, match=r"checkpoint 35 in .* cannot be read") as error:
            checkpoints.load(35, {f"layer_{number}": jnp.zeros((3, 3)) for number in range(30)})
        assert len(str(error.value)) < 600 and "\n" not in str(error.value)  # Orbax tells of every array
    gc.collect()
    assert {int(item.name) for item in (tmp_path / "checkpoints").iterdir() if item.name.isdigit()} == {20, 35}


def test_a_saved_state_survives_the_donation_of_its_memory(tmp_path):
    """What `save` relies on Orbax for."""
    state = {"w": jnp.arange(1e6)}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state, 1.0)
        jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 0 - 1, state), donate_argnums=0)(state)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        loaded = checkpoints.load(1, {"w": jnp.zeros(1_000_000)})
    np.testing.assert_array_equal(loaded["w"], np.arange(1e6, dtype=np.float32))


def test_a_run_is_described_for_those_who_repeat_it():
    record = json.loads(json.dumps(describe_run(["gpicl", "train", "digits"], "pmap")))
    assert record["packages"]["jax"] == jax.__version__
    assert record["command"] == ["gpicl", "train", "digits"] and record["devices"]
