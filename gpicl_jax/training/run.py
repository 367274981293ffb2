"""A whole run: folder, training, meta-test, and the words at its end."""

import dataclasses
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax

from gpicl_jax.config import FREE_ON_RESUME, Config, UserError, changed_settings, config_from_dict
from gpicl_jax.runs.folder import RunFolder, describe_run
from gpicl_jax.training.loop import Diverged, Trainer, train
from gpicl_jax.training.meta_test import load_params, meta_test, table, write_report
from gpicl_jax.training.signals import Interrupted


def train_run(config: Config, run_dir: Path, *, resume: bool, parallel: str, command: list[str], started: float) -> int:
    """Trains, meta-tests and reports; returns the exit code (0, 1 after divergence, 128 + signal).

    Args:
      config: checked settings.
      run_dir: absent or empty, or with `resume` the folder of the run to continue.
      resume: continue from the latest checkpoint, bit for bit.
      parallel: `pmap` or `jit`, for several devices.
      command: for the record.
      started: `time.monotonic()` when the command began.

    Raises:
      UserError: see `RunFolder`; or the run there was made with other settings.
    """
    if resume:
        _check_resumable(RunFolder.open(run_dir), config)
    trainer = Trainer(config, parallel=parallel, devices=jax.devices())
    folder = RunFolder.open(run_dir) if resume else RunFolder.create(run_dir, config)
    path = shlex.quote(str(run_dir.absolute()))
    with folder.lock():
        _say_start(trainer, folder)
        try:
            trained = train(trainer, folder, describe_run(command, parallel))
        except Interrupted as interrupted:
            again = f"train {path}/config.toml --run-dir {path} --parallel={parallel} --resume"
            print(f"{interrupted}; resume with: {_executable()} {again}", flush=True)
            return interrupted.exit_code
        except Diverged as diverged:
            print(f"gpicl: stopped: {diverged}", file=sys.stderr)
            return 1
        params = jax.device_put(trained.state.params, jax.devices()[0])
        result = meta_test(config, params, trained.evaluator)
        total = trained.seconds_before + time.monotonic() - started
        write_report(folder, result, params, step=int(trained.state.step), checkpoint="latest", total_seconds=total)
    print(table(result))
    print(f"run: {run_dir}   (learning_curves.png, learning_curves.csv, summary.json, metrics.jsonl, checkpoints/)")
    print(f"evaluate it again: {_executable()} evaluate {path} --episodes 4096")
    return 0


def evaluate_run(run_dir: Path, *, episodes: int | None, checkpoint: str) -> int:
    """Meta-tests a run's `latest` or `best` checkpoint and writes its report anew; returns the exit code.

    Raises:
      UserError: no run, no checkpoint, or a number of episodes that does not fit.
    """
    folder = RunFolder.open(run_dir)
    config = folder.config()
    if episodes is not None:
        config = config_from_dict(
            {**dataclasses.asdict(config), "eval": {**dataclasses.asdict(config.eval), "episodes": episodes}}
        )
    with folder.lock():
        params, step = load_params(folder, config, checkpoint)
        result = meta_test(config, params)
        before: dict[str, Any] = folder.read_json("summary.json") or {}
        total = before.get("total_seconds")
        write_report(folder, result, params, step=step, checkpoint=checkpoint, total_seconds=total)
    print(f"{run_dir}, {checkpoint} checkpoint: step {step}")
    print(table(result))
    return 0


def _check_resumable(folder: RunFolder, config: Config) -> None:
    old = folder.config()
    free = set(FREE_ON_RESUME)
    if old.optimizer.schedule == config.optimizer.schedule == "constant":
        free.add("train.steps")  # a schedule that decays depends on it
    changed = [change for change in changed_settings(old, config) if change.split(" ")[0] not in free]
    if changed:
        raise UserError(
            f"cannot resume {folder.path} with other settings: {'; '.join(changed)}; only {', '.join(sorted(free))} may change"
        )


def _executable() -> str:
    """How this process was called, so that a command that is printed can be run as it stands."""
    name = Path(sys.argv[0])
    if name.name != "gpicl":
        return "python -m gpicl_jax"
    return "gpicl" if shutil.which("gpicl") == str(name.absolute()) else shlex.quote(str(name.absolute()))


def _say_start(trainer: Trainer, folder: RunFolder) -> None:
    config, dataset = trainer.config, trainer.tasks.dataset
    devices = jax.devices()
    print(
        f"{config.model.name} on {dataset.name} ({dataset.num_images:,} training images of {dataset.num_features} pixels), "
        f"num_tasks {config.tasks.num_tasks}, {len(devices)} × {devices[0].device_kind}, run folder {folder.path}",
        flush=True,
    )
