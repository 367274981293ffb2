"""Tasks made on the fly from PRNG keys: a random projection and a label permutation of a base dataset."""

from gpicl_jax.tasks.augmented import Task, TaskDistribution, draw_episode, draw_episodes, draw_task
from gpicl_jax.tasks.episode import Episode

__all__ = ["Episode", "Task", "TaskDistribution", "draw_episode", "draw_episodes", "draw_task"]
