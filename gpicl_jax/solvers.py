"""The reference solvers of a meta-test. Validation tasks choose their hyper-parameters, as they choose the learner's."""

import itertools

from gpicl_jax.evaluation import Evaluator, drawn_in_parts, score_together
from gpicl_jax.learners.reference import KernelRidge, NearestNeighbour
from gpicl_jax.tasks import EpisodeKeys, TaskDistribution

CHOICE_EPISODES = 256  # of validation tasks
# Kernels are scaled by 1/X: standardised inputs have norms of about X, and are about 2X apart, squared.
_ALPHAS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
_GAMMAS = (0.15, 0.3, 0.7, 1.5, 3.0)
_GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "1-NN": {},
    "ridge": {"alpha": _ALPHAS},
    "kernel ridge": {"alpha": _ALPHAS, "gamma": _GAMMAS},
}
Params = dict[str, float]


def make_solvers(num_classes: int) -> dict[str, Evaluator]:
    """Returns 1-NN, ridge and RBF kernel ridge, by name."""
    return {
        "1-NN": Evaluator(NearestNeighbour(num_classes)),
        "ridge": Evaluator(KernelRidge(num_classes, "linear")),
        "kernel ridge": Evaluator(KernelRidge(num_classes, "rbf")),
    }


def choose_params(solvers: dict[str, Evaluator], validation: TaskDistribution, keys: EpisodeKeys) -> dict[str, Params]:
    """Returns for each solver the setting of its grid that predicts the last 10% of rows of *validation* tasks best."""
    settings = [
        (name, dict(zip(_GRIDS[name], values, strict=True)))
        for name in solvers
        for values in itertools.product(*_GRIDS[name].values())
    ]
    entrants = {str(number): (solvers[name], params) for number, (name, params) in enumerate(settings)}
    scores = score_together(entrants, drawn_in_parts(validation, keys), keys)
    ranked = sorted(entrants, key=lambda number: scores[number].last()[0])  # the best of each solver comes last
    return {name: params for name, params in (settings[int(number)] for number in ranked)}
