"""One cell of an experiment: a run that is trained once, whatever happens, and what it scored."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpicl_jax.config import changed_settings
from gpicl_jax.evaluation import Evaluator, Scores, drawn_in_parts, unseen_episode_keys
from gpicl_jax.factory import make_learner, make_tasks
from gpicl_jax.runs.folder import RunFolder, describe_run
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.training.divergence import Diverged, inner_loop_advice
from gpicl_jax.training.loop import Trainer, train
from gpicl_jax.training.meta_test import held_out_tasks, load_params
from gpicl_jax.training.state import num_params

_RESULT = "cell.json"
_TIMED_EPISODES = 64
_SETTLED = 3  # timings of a chunk, of which the fastest counts


def seconds_per_step(config: Config) -> float:
    """Processor seconds of one meta-training step, after compilation: other load on the machine does not change them."""
    trainer = Trainer(config)
    state = trainer.state()
    if not jax.tree.leaves(state.params):
        return 0.0
    times = []
    for _ in range(1 + _SETTLED):
        begun = time.process_time()
        state, metrics = trainer.chunk(state, trainer.tasks, trainer.hyper)
        jax.block_until_ready(metrics)
        times.append(time.process_time() - begun)
    return min(times[1:]) / config.train.chunk


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

    def result(self) -> dict[str, Any]:
        """What it has scored so far."""
        file = self.path / _RESULT
        try:
            return json.loads(file.read_text()) if file.is_file() else {}
        except json.JSONDecodeError:
            return {}  # half-written by other hands: scored again

    def complete(
        self, config: Config, make_steps: Callable[[Config], Config], score: Callable[["Trained"], dict[str, Any]]
    ) -> dict[str, Any]:
        """Trains the run to its end, or goes on with it, and adds what `score` returns to its result.

        Args:
          config: of the run but for the number of steps.
          make_steps: settles the number of steps; not asked again for a run that has begun.
          score: from the trained run to what the result shall hold.

        Raises:
          UserError: the folder holds a run of other settings.
          Diverged, Interrupted: see `training.loop.train`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with RunFolder(self.path).lock(wait=True):
            folder = RunFolder(self.path)
            if (self.path / "config.toml").is_file():
                config = self._continued(folder.config(), config)
            else:
                config = make_steps(config)
                folder.write_config(config)
            if not (result := self.result()):
                trainer = Trainer(config)
                if jax.tree.leaves(trainer.state().params):
                    train(trainer, folder, describe_run(self._command, "pmap"))
            result |= score(Trained(config, folder))
            folder.write_json(_RESULT, result)
            return result

    def _continued(self, there: Config, wanted: Config) -> Config:
        wanted = _with_steps(wanted, there.train.steps, there.train.validate_every, there.optimizer.warmup_steps)
        changed = [change for change in changed_settings(there, wanted) if not change.startswith("data.dir ")]
        if changed:
            raise UserError(
                f"{self.path} holds a run of other settings: {'; '.join(changed)}; "
                "delete that folder to run the cell anew, or choose another --runs-dir"
            )
        return wanted


class Trained:
    """A trained run, and the ways to score it."""

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.config, self._folder = config, folder
        self.learner = make_learner(config)
        self.params, self.step = load_params(folder, config, "latest")
        self._evaluator = Evaluator(self.learner)

    def scores(self, tasks: Any, split: str) -> Scores:
        """Of unseen tasks; `split` is `validation` or `test`, and says which tasks.

        Raises:
          Diverged: predictions are not finite.
        """
        settings = self.config.eval
        keys = unseen_episode_keys(
            settings.seed, split, settings.episodes // settings.sequences_per_task, settings.sequences_per_task
        )
        scores = self._evaluator(self.params, tasks, keys)
        if not scores.finite:
            raise Diverged(f"predictions on {tasks.source.name} are not finite; {inner_loop_advice(self.config)}")
        return scores

    def validate(self) -> dict[str, float]:
        """Loss at all scored positions and accuracy over the last tenth, on validation tasks and images."""
        scores = self.scores(make_tasks(self.config, "validation"), "validation")
        return {"validation_loss": float(np.nanmean(scores.loss_TSL)), "validation_last": scores.last()[0]}

    def meta_test(self, datasets: tuple[str, ...]) -> dict[str, dict[str, Any]]:
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
                "loss": float(np.nanmean(scores.loss_TSL)),
                "episodes": scores.episodes,
            }
        return results

    def costs(self, per_step: float) -> dict[str, float]:
        """Seconds of training as measured, per 1,000 episodes and per prediction, and the sizes of the learner.

        Args:
          per_step: seconds of a step, 0 to take them from the run itself.
        """
        tasks = self.config.tasks
        episodes_per_step = tasks.tasks_per_step * tasks.sequences_per_task
        seconds = max((record["seconds"] for record in read_metrics(self._folder.path)), default=0.0)
        return {
            "train_seconds": seconds,
            "steps": self.step,
            "train_episodes": self.step * episodes_per_step,
            "seconds_per_1000_episodes": 1000 * (per_step or seconds / max(self.step, 1)) / episodes_per_step,
            "microseconds_per_prediction": 1e6 * self._seconds_per_prediction(),
            "num_params": num_params(self.params),
            "state_size": self.learner.state_size(tasks.length),
        }

    def _seconds_per_prediction(self) -> float:
        """Processor seconds for all rows of one episode, or for the queries after one cut."""
        tasks = make_tasks(self.config, "validation")
        keys = unseen_episode_keys(0, "validation", _TIMED_EPISODES, 1)
        episodes, learner_keys = next(iter(drawn_in_parts(tasks, keys)))
        if cuts := self.learner.cuts(tasks.length):
            episodes = episodes._replace(num_context=np.full_like(episodes.num_context, cuts[-1]))
        predict = jax.jit(jax.vmap(jax.vmap(lambda episode, key: self.learner.predict(self.params, episode, key=key))))
        times = []
        for _ in range(1 + _SETTLED):
            begun = time.process_time()
            jax.block_until_ready(predict(episodes, learner_keys))
            times.append(time.process_time() - begun)
        return min(times[1:]) / _TIMED_EPISODES
