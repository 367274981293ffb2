"""Reference solvers from scikit-learn, on the very episodes that the learner sees: what plain methods make of them."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from gpicl_jax.evaluation import EpisodeKeys, Scores, drawn_in_parts, last_rows
from gpicl_jax.tasks import TaskDistribution

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


@dataclasses.dataclass(frozen=True)
class KernelRidge:
    """Ridge regression onto one-hot labels with the kernel exp(−γ/X · |x − x'|²); the largest output wins."""

    gamma: float
    alpha: float

    def __call__(self, x_NX: np.ndarray, y_N: np.ndarray, query_QX: np.ndarray, num_classes: int) -> np.ndarray:
        from sklearn import kernel_ridge

        ridge = kernel_ridge.KernelRidge(kernel="rbf", gamma=self.gamma / x_NX.shape[1], alpha=self.alpha)
        return ridge.fit(x_NX, np.eye(num_classes)[y_N]).predict(query_QX).argmax(axis=1)


def chosen_kernel_ridge(validation: TaskDistribution, keys: EpisodeKeys) -> KernelRidge:
    """Kernel ridge with the γ and α that predict the last 10% of rows best on *validation* tasks and images."""
    episodes = list(_on_host(validation, keys, 1.0))
    rows = last_rows(validation.length)

    def accuracy(solve: KernelRidge) -> float:
        num_classes = validation.dataset.num_classes
        hits = [solve(x_LX[: rows.start], y_L[: rows.start], x_LX[rows], num_classes) == y_L[rows] for x_LX, y_L in episodes]
        return float(np.mean(hits))

    with _quick_sklearn():
        return max((KernelRidge(*setting) for setting in itertools.product(_GAMMAS, _ALPHAS)), key=accuracy)


def score_solvers(
    solvers: dict[str, Solver], tasks: TaskDistribution, keys: EpisodeKeys, permute_labels_prob: float = 1.0
) -> dict[str, Scores]:
    """Prequential accuracy at a few positions and at the last 10%: row i is predicted from the rows before it."""
    length, num_classes = tasks.length, tasks.dataset.num_classes
    positions = sorted({i for i in _POSITIONS if i < length} | set(range(max(1, last_rows(length).start), length)))
    shape = keys.sequence_TS.shape
    accuracy = {name: np.full((*shape, length), np.nan) for name in solvers}
    with _quick_sklearn():
        for index, (x_LX, y_L) in enumerate(_on_host(tasks, keys, permute_labels_prob)):
            for i, (name, solve) in itertools.product(positions, solvers.items()):
                right = solve(x_LX[:i], y_L[:i], x_LX[i : i + 1], num_classes)[0] == y_L[i]
                accuracy[name][(*np.unravel_index(index, shape), i)] = right
    return {name: Scores(np.full_like(each, np.nan), each) for name, each in accuracy.items()}


def _on_host(tasks: TaskDistribution, keys: EpisodeKeys, permute_labels_prob: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(x_LX, y_L) of each episode, in the order of `keys.sequence_TS`."""
    for episodes_RS, _ in drawn_in_parts(tasks, keys, permute_labels_prob):
        x_RSLX, y_RSL = jax.device_get((episodes_RS.x_LX, episodes_RS.y_L))
        yield from zip(x_RSLX.reshape(-1, *x_RSLX.shape[2:]), y_RSL.reshape(-1, y_RSL.shape[-1]), strict=True)


@contextlib.contextmanager
def _quick_sklearn():
    """For thousands of tiny problems: no checks of inputs, and one thread, since threads would wait for each other."""
    import sklearn
    from threadpoolctl import threadpool_limits

    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True), threadpool_limits(limits=1):
        yield
