"""Tasks made on the fly from PRNG keys: a random projection and a label permutation of a source of images."""

from gpicl_jax.tasks.augmented import TaskDistribution, draw_episode, draw_episodes, draw_task
from gpicl_jax.tasks.episode import Episode, EpisodeKeys
from gpicl_jax.tasks.sources.mixture import Mixture
from gpicl_jax.tasks.sources.random_points import RandomPoints

__all__ = [
    "Episode",
    "EpisodeKeys",
    "Mixture",
    "RandomPoints",
    "TaskDistribution",
    "draw_episode",
    "draw_episodes",
    "draw_task",
]
