"""One cell of an experiment: a run that is trained once, whatever happens, and what it scored."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpicl_jax.build import make_learner, make_tasks
from gpicl_jax.config import changed_settings
from gpicl_jax.evaluation import Evaluator, Scores, drawn_in_parts, unseen_episode_keys
from gpicl_jax.runs.folder import RunFolder, describe_run
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.sections import Config, learner_name
from gpicl_jax.settings import UserError
from gpicl_jax.training.divergence import Diverged, advice
from gpicl_jax.training.loop import train
from gpicl_jax.training.meta_test import held_out_tasks, load_params
from gpicl_jax.training.step import num_params
from gpicl_jax.training.trainer import Trainer

_RESULT = "cell.json"
_TIMED_EPISODES = 64
_TIMINGS = 3  # of which the fastest counts
Result = dict[str, Any]


def clock() -> float:
    """Seconds of the processor on a CPU, where other work on the machine changes them less than the wall's; else the wall's."""
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def fastest(run: Callable[[], Any]) -> float:
    """Seconds of one call by `clock`, the fastest of a few, after one that compiles."""
    times = []
    for _ in range(1 + _TIMINGS):
        begun = clock()
        jax.block_until_ready(run())
        times.append(clock() - begun)
    return min(times[1:])


def seconds_per_step(config: Config) -> float:
    """Of one meta-training step, after compilation; 0 where nothing is meta-trained."""
    trainer = Trainer(config)
    state = trainer.state()
    if not jax.tree.leaves(state.params):
        return 0.0

    def chunk() -> Any:
        nonlocal state
        state, metrics = trainer.chunk(state)
        return metrics

    return fastest(chunk) / config.train.chunk


def with_budget(config: Config, seconds: float, per_step: float) -> Config:
    """`config` with as many steps as fit into so many seconds, at least one chunk, validated once, at the end.

    The warm-up takes no more than a fifth of them.
    """
    chunk = config.train.chunk
    steps = max(1, int(seconds / per_step / chunk)) * chunk if per_step else chunk
    warmup = min(config.optimizer.warmup_steps, steps // 5)
    return _with_steps(config, steps, steps, warmup)


def _with_steps(config: Config, steps: int, validate_every: int, warmup: int) -> Config:
    train_settings = dataclasses.replace(config.train, steps=steps, validate_every=validate_every)
    optimizer = dataclasses.replace(config.optimizer, warmup_steps=warmup)
    return dataclasses.replace(config, train=train_settings, optimizer=optimizer)


class Cell:
    """A run in a folder of its own. Other processes keep out while it works, and what is done is not done again.

    Args:
      path: of the folder.
      command: for the record.
    """

    def __init__(self, path: Path, command: list[str]) -> None:
        self.path, self._command = path, command

    def result(self) -> Result:
        """What it has scored so far."""
        file = self.path / _RESULT
        try:
            return json.loads(file.read_text()) if file.is_file() else {}
        except json.JSONDecodeError as error:
            raise UserError(f"{file} is damaged ({error}); delete the folder {self.path} to run the cell anew") from None

    def complete(
        self,
        config: Config,
        budget: float,
        begin: Callable[[Config], tuple[Config, Result]],
        score: Callable[["CellRun", Result], Result],
    ) -> Result:
        """Trains the run to its end, or goes on with it, and adds what `score` finds to its result.

        Args:
          config: of the run but for the number of steps.
          budget: seconds that it may train, which must not change; 0 where steps are given.
          begin: asked once, when the run begins: the config with its number of steps, and what to note about it.
          score: given the trained run and its result so far, what to add.

        Raises:
          UserError: the folder holds a run of other settings, or cannot be used.
          Diverged, Interrupted: see `training.loop.train`.
        """
        folder = RunFolder(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}; choose another --runs-dir") from None
        with folder.lock(wait=True):
            if (self.path / "config.toml").is_file():
                config = self._continued(folder.config(), config, budget)
            else:
                config, about = begin(config)
                folder.write_json(_RESULT, about)
                folder.write_config(config)
            result = self.result()
            if "training_seconds" not in result:
                result |= self._train(config, folder)
                folder.write_json(_RESULT, result)
            if added := score(CellRun(config, folder), result):
                result |= added
                folder.write_json(_RESULT, result)
            return result

    def note(self, added: Result) -> Result:
        """Adds to the result without training; returns it all."""
        result = self.result() | added
        RunFolder(self.path).write_json(_RESULT, result)
        return result

    def _train(self, config: Config, folder: RunFolder) -> Result:
        begun = clock()
        train(Trainer(config), folder, describe_run(self._command, "pmap"))
        return {"training_seconds": clock() - begun}  # of the last process, where several trained it

    def _continued(self, there: Config, wanted: Config, budget: float) -> Config:
        wanted = _with_steps(wanted, there.train.steps, there.train.validate_every, there.optimizer.warmup_steps)
        changed = [change for name, change in changed_settings(there, wanted).items() if name != "data.dir"]
        if budget != (begun_with := self.result().get("budget_seconds", 0)):
            changed.append(f"seconds ({begun_with:g} there, {budget:g} given)")
        if changed:
            raise UserError(
                f"{self.path} holds a run of other settings: {'; '.join(changed)}; "
                "delete that folder to run the cell anew, or choose another --runs-dir"
            )
        return wanted


class CellRun:
    """A trained run, and the ways to score it."""

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.config, self._folder = config, folder
        self.learner = make_learner(config)

    @functools.cached_property
    def _loaded(self) -> tuple[Any, int]:
        return load_params(self._folder, self.config, "latest")

    @functools.cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.learner)

    def scores(self, tasks: Any, split: str) -> Scores:
        """Of unseen tasks; `split` is `validation` or `test`, and says which tasks.

        Raises:
          Diverged: predictions are not finite.
        """
        settings = self.config.eval
        keys = unseen_episode_keys(
            settings.seed, split, settings.episodes // settings.sequences_per_task, settings.sequences_per_task
        )
        scores = self._evaluator(self._loaded[0], tasks, keys)
        if not scores.finite:
            name = learner_name(self.config)
            raise Diverged(f"predictions of {name} on {tasks.source.name} are not finite; {advice(self.config)}")
        return scores

    def validate(self) -> Result:
        """Accuracy over the last tenth, with its standard error, on validation tasks and images; loss at all scored rows."""
        scores = self.scores(make_tasks(self.config, "validation"), "validation")
        accuracy, error = scores.last()
        return {"validation_last": accuracy, "validation_standard_error": error, "validation_loss": scores.loss}

    def meta_test(self, datasets: tuple[str, ...]) -> dict[str, Result]:
        """Accuracy on unseen tasks and test images of each dataset: first row, last tenth, last row."""
        results = {}
        for dataset, (_, tasks) in held_out_tasks(self.config, datasets).items():
            scores = self.scores(tasks, "test")
            last, error = scores.last()
            results[dataset] = {
                "first": scores.first()[0],
                "last": last,
                "last_row": scores.accuracy(slice(tasks.length - 1, None))[0],
                "standard_error": error,
                "episodes": scores.episodes,
            }
        return results

    def costs(self, per_step: float) -> Result:
        """Training as it was, seconds per 1,000 episodes and per prediction, and the sizes of the learner.

        Args:
          per_step: seconds of a step, 0 to take them from the run itself, compilation and validations included.
        """
        tasks, (params, steps) = self.config.tasks, self._loaded
        episodes_per_step = tasks.tasks_per_step * tasks.sequences_per_task
        seconds = max((record["seconds"] for record in read_metrics(self._folder.path)), default=0.0)
        return {
            "wall_seconds": seconds,
            "steps": steps,
            "train_episodes": steps * episodes_per_step,
            "seconds_per_1000_episodes": 1000 * (per_step or seconds / max(steps, 1)) / episodes_per_step,
            "microseconds_per_episode": 1e6 * self._seconds_per_prediction(),
            "num_params": num_params(params),
            "state_size": self.learner.state_size(tasks.length),
        }

    def _seconds_per_prediction(self) -> float:
        """Of all rows of one episode; for a learner with cuts of all rows after the last cut."""
        tasks = make_tasks(self.config, "validation")
        episodes, learner_keys = next(iter(drawn_in_parts(tasks, unseen_episode_keys(0, "validation", _TIMED_EPISODES, 1))))
        if cuts := self.learner.cuts(tasks.length):
            episodes = episodes._replace(num_context=np.full_like(episodes.num_context, cuts[-1]))
        predict = jax.jit(jax.vmap(jax.vmap(lambda episode, key: self.learner.predict(self._loaded[0], episode, key=key))))
        return fastest(lambda: predict(episodes, learner_keys)) / _TIMED_EPISODES
