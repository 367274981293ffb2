"""Reference solvers from scikit-learn, on the very episodes that the learner sees: what plain methods make of them."""

import itertools
from collections.abc import Callable

import jax
import numpy as np

from gpicl_jax.evaluation import EpisodeKeys, Scores, count_images, drawn_in_parts, last_rows
from gpicl_jax.tasks import Episode, TaskDistribution

# (inputs and labels seen, inputs to predict, number of classes) -> predicted labels
Solver = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]

_GAMMAS = (0.05, 0.15, 0.5)  # times 1/X: standardised inputs are about 2X apart, squared
_ALPHAS = (0.01, 0.1, 1.0)
_POSITIONS = (1, 2, 5, 10, 20, 50)


def nearest_neighbour(x_NX: np.ndarray, y_N: np.ndarray, query_QX: np.ndarray, num_classes: int) -> np.ndarray:
    """The label of the nearest example (Euclidean)."""
    from sklearn.neighbors import KNeighborsClassifier

    del num_classes
    return KNeighborsClassifier(n_neighbors=1, algorithm="brute").fit(x_NX, y_N).predict(query_QX)


def kernel_ridge(gamma: float, alpha: float) -> Solver:
    """Ridge regression onto one-hot labels with the kernel exp(−γ/X · |x − x'|²); the largest output wins."""

    def solve(x_NX: np.ndarray, y_N: np.ndarray, query_QX: np.ndarray, num_classes: int) -> np.ndarray:
        from sklearn.kernel_ridge import KernelRidge

        ridge = KernelRidge(kernel="rbf", gamma=gamma / x_NX.shape[1], alpha=alpha)
        return ridge.fit(x_NX, np.eye(num_classes)[y_N]).predict(query_QX).argmax(axis=1)

    return solve


def chosen_kernel_ridge(validation: TaskDistribution, keys: EpisodeKeys) -> Solver:
    """Kernel ridge with the γ and α that predict the last 10% of rows best on *validation* tasks and images."""
    episodes = _on_host(validation, keys)
    rows = last_rows(validation.length)
    num_classes = validation.dataset.num_classes

    def accuracy(setting: tuple[float, float]) -> float:
        solve = kernel_ridge(*setting)
        hits = [
            solve(x_LX[: rows.start], y_L[: rows.start], x_LX[rows], num_classes) == y_L[rows] for x_LX, y_L in _flat(episodes)
        ]
        return float(np.mean(hits))

    with _quick_sklearn():
        return kernel_ridge(*max(itertools.product(_GAMMAS, _ALPHAS), key=accuracy))


def score_solver(solve: Solver, tasks: TaskDistribution, keys: EpisodeKeys) -> Scores:
    """Prequential accuracy at a few positions and at the last 10%: row i is predicted from the rows before it."""
    episodes = _on_host(tasks, keys)
    length, num_classes = tasks.length, tasks.dataset.num_classes
    positions = sorted({i for i in _POSITIONS if i < length} | set(range(max(1, last_rows(length).start), length)))
    accuracy_BL = np.full((episodes.y_L.size // length, length), np.nan)
    with _quick_sklearn():
        for row_L, (x_LX, y_L) in zip(accuracy_BL, _flat(episodes), strict=True):
            for i in positions:
                row_L[i] = solve(x_LX[:i], y_L[:i], x_LX[i : i + 1], num_classes)[0] == y_L[i]
    accuracy_TSL = accuracy_BL.reshape(episodes.y_L.shape)
    return Scores(np.full_like(accuracy_TSL, np.nan), accuracy_TSL, count_images(tasks, keys))


def _on_host(tasks: TaskDistribution, keys: EpisodeKeys) -> Episode:
    parts = jax.device_get(list(drawn_in_parts(tasks, keys)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _flat(episodes: Episode):
    x_TSLX, y_TSL = episodes.x_LX, episodes.y_L
    return zip(x_TSLX.reshape(-1, *x_TSLX.shape[2:]), y_TSL.reshape(-1, y_TSL.shape[-1]), strict=True)


def _quick_sklearn():
    import sklearn

    return sklearn.config_context(assume_finite=True, skip_parameter_validation=True)
