"""A whole run: folder, training, meta-test, and the last printed lines."""

import shlex
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import jax

from gpicl_jax.config import as_dict, changed_settings, config_from_dict, free_settings
from gpicl_jax.data.datasets import find_stored
from gpicl_jax.data.prepared import data_folder
from gpicl_jax.evaluation import Evaluator
from gpicl_jax.processes import agreement, first_alone
from gpicl_jax.registry import import_options, names
from gpicl_jax.runs.folder import CONFIG, RunFolder, describe_run
from gpicl_jax.runs.tracker import check_tracker
from gpicl_jax.sections import Config, absolute_name, learner_name, short_name
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Mixture
from gpicl_jax.tasks.sources.base import Source
from gpicl_jax.training.loop import Trained, train
from gpicl_jax.training.meta_test import held_out_tasks, load_params, meta_test
from gpicl_jax.training.parallel import own_copy
from gpicl_jax.training.report import table, write_report
from gpicl_jax.training.signals import Interrupted
from gpicl_jax.training.trainer import Trainer


def train_run(
    config: Config,
    run_dir: Path,
    *,
    resume: bool,
    parallel: str,
    command: list[str],
    started: float,
    profiled: range = range(0),
) -> int:
    """Trains, meta-tests and reports. Returns the exit code (0, or 128 + signal).

    Several processes call it with the same arguments. Each trains on its own devices. The first one writes, and meta-tests
    alone while the others wait.

    Args:
      run_dir: a missing or empty folder, or with `resume` the folder of the run to continue.
      resume: continue from the latest checkpoint, bit for bit.
      parallel: `pmap` or `jit`, for several devices.
      started: `time.monotonic()` when the command began.
      profiled: steps to trace into the run's folder.

    Raises:
      UserError: see `RunFolder`, or the run in the folder has other settings.
      Diverged: numbers are no longer finite. The last good checkpoint stays.
    """
    path = shlex.quote(str(run_dir.absolute()))
    with ExitStack() as stack:
        with agreement():
            if resume:
                _check_resumable(RunFolder.open(run_dir), config)
            check_tracker(config)
            trainer = Trainer(config, parallel=parallel)
            held_out_tasks(config, config.data.train)  # what the end would refuse is refused now
            folder = RunFolder.open(run_dir) if resume else RunFolder.create(run_dir, config)
            stack.enter_context(folder.lock())
        with agreement():
            if not (folder.path / CONFIG).is_file():
                raise UserError(
                    f"run folder {folder.path} is not on a file system that all processes share; choose another --run-dir"
                )
        _say_start(trainer, folder)
        try:
            trained = train(trainer, folder, describe_run(command, parallel), profiled)
        except Interrupted as interrupted:
            again = f"train {path}/config.toml --run-dir {path} --parallel={parallel} --resume{import_options()}"
            also = "" if jax.process_count() == 1 else "   (in every process, with its --distributed flags)"
            print(f"{interrupted}; resume with: {_executable()} {again}{also}", flush=True)
            return interrupted.exit_code
        evaluator = trainer.evaluator
        del trainer  # and its images on the devices
        with first_alone() as first:
            if first:
                _test(trained, evaluator, config, folder, started)
    return 0


def _test(trained: Trained, evaluator: Evaluator, config: Config, folder: RunFolder, started: float) -> None:
    done = "trained and saved" if jax.tree.leaves(trained.state.params) else "nothing to meta-learn"
    again = f"{_executable()} evaluate {shlex.quote(str(folder.path.absolute()))}{import_options()}"
    print(f"{done}; now the meta-test (again at any time: {again})", flush=True)
    params = own_copy(trained.state.params)
    result = meta_test(config, params, evaluator, say=_say_tested)
    seconds = trained.seconds_before + time.monotonic() - started
    about = {"steps": int(trained.state.step), "stopped_early": trained.stopped_early, "total_seconds": seconds}
    write_report(folder, result, params, **about, checkpoint="latest")
    print(table(result))
    print(f"run: {folder.path}   (learning_curves.png, learning_curves.csv, summary.json, metrics.jsonl, checkpoints/)")


def evaluate_run(run_dir: Path, episodes: int | None, checkpoint: str, datasets: tuple[str, ...], data_dir: str) -> None:
    """Meta-tests a run's `latest` or `best` checkpoint and replaces its report.

    Args:
      episodes: number for each kind of task. None is the config's.
      checkpoint: `latest` or `best` (on validation tasks).
      datasets: base datasets to test on. () is those of meta-training.
      data_dir: folder of prepared TFDS sets. '' is the config's.

    Raises:
      UserError: no run, no checkpoint, a dataset that cannot be used, or a number of episodes that does not fit.
    """
    folder = RunFolder.open(run_dir)
    settings = as_dict(folder.config())
    if episodes is not None:
        settings["eval"]["episodes"] = episodes
    if data_dir:
        settings["data"]["dir"] = data_dir
    config = config_from_dict(settings)
    with folder.lock():
        params, step = load_params(folder, config, checkpoint)
        print(f"{run_dir}, {checkpoint} checkpoint: step {step}", flush=True)
        result = meta_test(config, params, datasets=tuple(map(absolute_name, datasets)), say=_say_tested)
        before = {"stopped_early": False, "total_seconds": None} | (folder.read_json("summary.json") or {})
        about = {"steps": step} | {name: before[name] for name in ("stopped_early", "total_seconds")}
        write_report(folder, result, params, **about, checkpoint=checkpoint)
    print(table(result))
    print(f"written anew in {run_dir}: learning_curves.png, learning_curves.csv, summary.json")


def _check_resumable(folder: RunFolder, config: Config) -> None:
    old = folder.config()
    free = free_settings(config)
    if old.optimizer.schedule == config.optimizer.schedule == "constant":
        free.add("train.steps")  # a schedule that decays depends on it
    changed = [change for name, change in changed_settings(old, config).items() if name not in free]
    if changed:
        raise UserError(
            f"cannot resume {folder.path} with other settings: {'; '.join(changed)}; only {', '.join(sorted(free))} may change"
        )


def _executable() -> str:
    """Returns how this process was called, so that a printed command can be run as it stands."""
    name = Path(sys.argv[0])
    if name.name != "gpicl":
        return "python -m gpicl_jax"
    return "gpicl" if shutil.which("gpicl") == str(name.absolute()) else shlex.quote(str(name.absolute()))


def _say_start(trainer: Trainer, folder: RunFolder) -> None:
    config, source = trainer.config, trainer.tasks.source
    images = source.about() if isinstance(source, Mixture) else f"{source.name} ({source.about()})"
    devices = jax.devices()
    together = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    inputs = f"{source.num_features:,} features" if config.data.features else _shape(config)
    print(
        f"{learner_name(config)} on {images} of {inputs}, num_tasks {config.tasks.num_tasks}, "
        f"{len(devices)} × {devices[0].device_kind}{together}, run folder {folder.path}",
        flush=True,
    )
    for name, each in zip(config.data.train, source.sources if isinstance(source, Mixture) else [source], strict=True):
        _say_differences(name, each, config)


def _say_differences(name: str, source: Source, config: Config) -> None:
    """Prints where a stored set has other images or fewer classes than its tasks use."""
    called, used, labels = short_name(name), source.num_classes, config.tasks.classes_per_task
    if name not in names("source") or name in names("dataset"):
        shape = "×".join(str(each or "?") for each in find_stored(name, data_folder(config.data.dir)).shape)
        if not config.data.features and shape != _shape(config):
            print(f"{called}: images of {shape} are resized to {_shape(config)} (data.size, data.channels)")
    if used < labels:
        print(
            f"{called}: {used} classes, so a task uses {used} of its {labels} labels, and chance is 1/{labels} before its "
            f"first example; tasks.classes_per_task = {used} makes tasks without unused labels"
        )


def _shape(config: Config) -> str:
    return f"{config.data.size}×{config.data.size}×{config.data.channels}"


def _say_tested(dataset: str) -> None:
    print("tested on", dataset, file=sys.stderr, flush=True)
