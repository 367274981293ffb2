"""What a run says when its numbers are no longer finite."""

from gpicl_jax.sections import IN_CONTEXT, Config, learner_name


class Diverged(Exception):
    """A loss, a parameter or an inner loop is no longer finite."""


def inner_loop_advice(config: Config) -> str:
    """Which learner's inner loop ran at which rate, and what to try; empty for learners without one."""
    if config.learner.name in (IN_CONTEXT, "instance"):
        return ""
    rate = config.learner.inner_rate
    return f"the inner loop of {learner_name(config)} ran with learner.inner_rate = {rate:g}; try a smaller one"
