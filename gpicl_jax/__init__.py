"""General-purpose in-context learning (arXiv 2212.04458) in JAX and Flax: meta-train networks that learn to learn."""

import importlib

__version__ = "0.1.0"

# Public names and the rooms they live in, imported on first use: `gpicl --help` need not wait for JAX.
_ROOMS = {
    "Config": "sections",
    "Episode": "tasks",
    "Evaluator": "evaluation",
    "Hyper": "hyper",
    "ImageDataset": "tasks.sources.images",
    "InContext": "learners.in_context",
    "InContextClassifier": "estimator",
    "Learner": "learners.base",
    "Mixture": "tasks",
    "RandomPoints": "tasks",
    "TaskDistribution": "tasks",
    "Trainer": "training.trainer",
    "Transformer": "models.transformer",
    "UserError": "settings",
    "draw_episode": "tasks",
    "draw_episodes": "tasks",
    "load": "tasks.sources.images",
    "load_config": "config",
    "open_run": "training.opening",
}
__all__ = sorted(_ROOMS)


def __getattr__(name: str):
    if name not in _ROOMS:
        raise AttributeError(f"module 'gpicl_jax' has no attribute '{name}'")
    return getattr(importlib.import_module(f"gpicl_jax.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
