"""The paper's "random" set: ten random points for every task, a test of pure recall.

It follows the authors' code (google/learned_optimization, research/data_driven, commit 32186aa): x uniform in [0, 1], a
class for each point, drawn *with* replacement. The points of a task are a function of its key and are not stored.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.registry import register
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.randomness import random_uniform, random_words
from gpicl_jax.tasks.sources.base import Drawing, Examples, Source

NUM_POINTS = 10


@register("random")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RandomPoints(Source):
    """Ten random points, fresh for every task.

    Example:
      >>> from gpicl_jax.tasks import TaskDistribution, draw_episodes
      >>> tasks = TaskDistribution(RandomPoints(64), length=20)
      >>> draw_episodes(tasks, jax.random.split(jax.random.key(0), 3), jax.random.split(jax.random.key(1), (3, 2))).x_LX.shape
      (3, 2, 20, 64)
    """

    num_features: int = dataclasses.field(metadata={"static": True})

    name = "random"
    num_classes = NUM_POINTS

    def draw(self, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> Examples:
        points_PX = random_uniform(task_key, (NUM_POINTS, self.num_features))
        if drawing.balanced:
            order_L = jnp.argsort(random_words(key, (drawing.length,)), stable=True)
            labels_L = order_L % NUM_POINTS
        else:
            labels_L = jax.random.randint(key, (drawing.length,), 0, NUM_POINTS)
        # of a uniform law on [0, 1]: mean 1/2, variance 1/12
        return Examples(points_PX[labels_L], labels_L.astype(jnp.int32), jnp.float32(0.5), jnp.float32(1 / np.sqrt(12)))

    def check(self, drawing: Drawing) -> None:
        if drawing.classes_per_task < NUM_POINTS:
            raise UserError(
                f"'random' has {NUM_POINTS} classes; tasks.classes_per_task = {drawing.classes_per_task} is too few for it"
            )
        if drawing.balanced and drawing.length % NUM_POINTS:
            raise UserError(
                f"tasks.length = {drawing.length} is not a multiple of {NUM_POINTS}, as tasks.balanced = true needs; change it"
            )

    def shown(self, task_keys_T: jax.Array, sequence_keys_TS: jax.Array, drawing: Drawing) -> np.ndarray:
        labels = jax.vmap(lambda task_key, key: self.draw(task_key, key, drawing).labels_L, in_axes=(None, 0))
        labels_TSL = np.asarray(jax.jit(jax.vmap(labels))(task_keys_T, sequence_keys_TS))
        return labels_TSL + NUM_POINTS * np.arange(len(labels_TSL))[:, None, None]

    def about(self) -> str:
        return f"{NUM_POINTS} fresh points a task"
