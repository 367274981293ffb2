"""The error and the advice for numbers that are no longer finite."""

from gpicl_jax.sections import Config, learner_name


class Diverged(Exception):
    """A loss, a parameter or an inner loop is no longer finite."""


def advice(config: Config) -> str:
    """Returns what to try. For a learner with an inner loop it also names the learner and its rate."""
    outer = "a smaller optimizer.learning_rate or optimizer.clip=1.0"
    rate = getattr(config.learner, "inner_rate", None)
    if rate is None:
        return f"try {outer}"
    inner = f"the inner loop of {learner_name(config)} ran with learner.inner_rate = {rate:g}; try a smaller one"
    return inner if config.learner.name == "sgd" else f"{inner}, or {outer}"  # sgd is not meta-trained
