"""Small things that several tests need."""

from gpicl_jax.config import load_config
from gpicl_jax.sections import Config

TINY = (
    "--model.width=16",
    "--model.num_layers=1",
    "--model.num_heads=2",
    "--model.head_size=8",
    "--tasks.length=12",
    "--tasks.tasks_per_step=4",
    "--tasks.sequences_per_task=2",
    "--train.chunk=5",
    "--train.steps=40",
    "--train.validate_every=10",
    "--eval.episodes=16",
    "--optimizer.name=adam",
    "--optimizer.learning_rate=1e-2",
    "--optimizer.schedule=constant",
    "--optimizer.warmup_steps=0",
)


def tiny_config(*overrides: str) -> Config:
    """The config `digits_transformer` at a size where a step takes a millisecond."""
    return load_config("digits_transformer", (*TINY, *overrides))
