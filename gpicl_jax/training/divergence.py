"""What a run says when its numbers are no longer finite."""

from gpicl_jax.sections import Config, learner_name


class Diverged(Exception):
    """A loss, a parameter or an inner loop is no longer finite."""


def advice(config: Config) -> str:
    """What to try; of a learner with an inner loop also which it is and at which rate it ran."""
    outer = "a smaller optimizer.learning_rate or optimizer.clip=1.0"
    rate = getattr(config.learner, "inner_rate", None)
    if rate is None:
        return f"try {outer}"
    inner = f"the inner loop of {learner_name(config)} ran with learner.inner_rate = {rate:g}; try a smaller one"
    return inner if config.learner.name == "sgd" else f"{inner}, or {outer}"  # sgd is not meta-trained
