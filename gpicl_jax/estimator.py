"""Meta-trained learners as a scikit-learn classifier. Its `fit` takes no gradient step: the rows become the context."""

import dataclasses
import functools
import numbers
import os
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import log_softmax, logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from gpicl_jax.data.resize import device_memory
from gpicl_jax.learners.base import Learner
from gpicl_jax.learners.context_query import ContextQuery
from gpicl_jax.learners.fixed_context import answer_queries, encodes, padded_size, read_context, takes_any_classes
from gpicl_jax.learners.in_context import InContext
from gpicl_jax.sections import IDENTITY, learner_name
from gpicl_jax.settings import UserError
from gpicl_jax.training.opening import DEFAULT, OpenedRun, open_run

_FARTHEST = 1e15  # standard deviations: the squares of such numbers are float32 numbers
_BYTES = 32  # of a pair of rows and a head, in the compiled program: about 20 at 1,024 rows, 35 at 512


class _Member(NamedTuple):
    """One of the predictors that an ensemble averages.

    Attributes:
      projection_XF: A of the F features, or None where the learner takes any.
      label_C: the learner's label for each class.
      context: an encoded `Context`, or inputs, labels and number of rows, as NumPy arrays.
    """

    projection_XF: np.ndarray | None
    label_C: np.ndarray
    context: Any


class InContextClassifier(ClassifierMixin, BaseEstimator):
    """A classifier that was meta-trained: it learns from the rows of `fit` as a context, with nothing to tune.

    Features are standardised by the rows of `fit`. Features that are equal there are left out.

    The equivariant Transformer takes any numbers of features, classes and rows. Orders of rows, names of classes, and rotations
    of the standardised features change no probability. Queries see the context and themselves alone, so `fit` encodes the
    context once, and `predict` compares batches of queries with it. This is in float64: a row's probabilities do not depend on
    the rows beside it. Time and memory of `fit` grow with the square of the number of rows.

    Other learners have a fixed number of features X and of classes. Their features are projected to X by a random matrix, as in
    meta-training, their labels and the order of the rows are random too, and each batch of queries reads the context again,
    because a causal model has no code of a context without its order.

    Args:
      weights: `default`, a file of `gpicl export`, or a run's folder.
      n_ensemble: projections, labels and orders over which probabilities are averaged. The equivariant Transformer takes 1
        alone, since its symmetries leave nothing to average.
      batch_size: queries that are predicted at once.
      device: `cpu`, `gpu` or `tpu`. None is JAX's default.
      random_state: of the random matrices, labels and orders.

    Attributes:
      classes_: the classes [C], sorted.
      n_features_in_: number of features.
      feature_names_in_: names of the features, where `fit` got a frame with names.

    Raises:
      UserError: a ValueError of one line, by `fit` and the predictions.

    Example:
      >>> from sklearn.datasets import load_wine
      >>> x_NF, y_N = load_wine(return_X_y=True)
      >>> classifier = InContextClassifier().fit(x_NF[::2], y_N[::2])
      >>> classifier.predict_proba(x_NF[1::2]).shape, classifier.score(x_NF[1::2], y_N[1::2]) > 0.9
      ((89, 3), True)
    """

    def __init__(self, weights="default", n_ensemble=1, batch_size=256, device=None, random_state=None):
        self.weights = weights
        self.n_ensemble = n_ensemble
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "InContextClassifier":
        """Reads rows X [N, F] with classes y [N]."""
        for name in ("n_ensemble", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or value < 1:
                raise UserError(f"{name} = {value!r}; expected a whole number of 1 or more")
        x_NF, y = self._checked(X, y)
        check_classification_targets(y)
        self.classes_, class_N = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError(f"y has one class, {self.classes_[0]!r}; give rows of 2 classes or more")
        run = _opened(self.weights)
        self._learner = self._made_for(run, *x_NF.shape)
        self._params = jax.tree.map(np.asarray, run.params)
        self._largest_F = np.abs(x_NF).max(axis=0)
        self._largest_F[self._largest_F == 0] = 1.0  # whose squares might not be numbers
        scaled_NF = x_NF / self._largest_F
        self._mean_F = scaled_NF.mean(axis=0)
        self._std_F = np.where(np.ptp(x_NF, axis=0) > 0, scaled_NF.std(axis=0), np.inf)
        projects = not run.learner.model.any_features and run.config.tasks.entries != IDENTITY
        random, z_NF = check_random_state(self.random_state), self._standardised(x_NF)
        with jax.default_device(self._jax_device()):
            self._members = [self._member(z_NF, class_N, projects, random) for _ in range(self.n_ensemble)]
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Returns the most probable class of each row, [Q]."""
        best_Q = self._log_proba(X).argmax(axis=1)
        return self.classes_[best_Q]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the probabilities of `classes_`, [Q, C]."""
        return np.exp(self._log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Returns the logarithms of `predict_proba`, [Q, C]."""
        return self._log_proba(X)

    def _checked(self, X: Any, y: Any = "no_validation", **how: Any) -> Any:
        """Returns numbers, float64, in place of X, and y as an array where it is given."""
        try:
            found = validate_data(self, X, y, dtype=np.float64, ensure_all_finite=False, **how)
        except ValueError as error:
            if "could not convert string" not in str(error):
                raise
            text = str(error).partition("float: ")[2]
            raise UserError(f"X has text ({text}); make numbers of it, e.g. by sklearn.preprocessing.OneHotEncoder") from None
        x_NF = found[0] if isinstance(found, tuple) else found
        if bad := np.argwhere(~np.isfinite(x_NF)).tolist():
            row, column = bad[0]
            raise UserError(
                f"X has {len(bad)} NaN or inf, the first in row {row} and column {column}; fill them in, e.g. by "
                "make_pipeline(SimpleImputer(), InContextClassifier())"
            )
        return found

    def _made_for(self, run: OpenedRun, num_rows: int, num_features: int) -> Learner:
        """Returns the learner for these rows, or raises UserError where it cannot take them."""
        learner, model, classes = run.learner, run.learner.model, len(self.classes_)
        if takes_any_classes(learner):
            model = model.clone(num_classes=classes)
        elif classes > model.num_classes:
            raise UserError(
                f"y has {classes} classes, but these weights tell {model.num_classes} apart; give fewer, or weights='default'"
            )
        if model.max_length is not None and num_rows >= model.max_length:
            raise UserError(
                f"fit got {num_rows} rows, but these weights have positions for {model.max_length} with a query; give at most "
                f"{model.max_length - 1}, or weights='default'"
            )
        if run.config.tasks.entries == IDENTITY and not model.any_features and num_features != learner.num_features:
            raise UserError(
                f"X has {num_features} features, but these weights take {learner.num_features} as they are; give as many, or "
                "weights='default'"
            )
        if encodes(model):
            if self.n_ensemble > 1 and model.any_features and takes_any_classes(learner):
                raise UserError(
                    f"n_ensemble = {self.n_ensemble}; rotations, names of classes and orders of rows make no difference to "
                    "these weights, so that there is nothing to average: leave it 1"
                )
            _check_memory(num_rows, model.num_heads, self._jax_device())
        return dataclasses.replace(learner, model=model)

    def _standardised(self, x_QF: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.clip((x_QF / self._largest_F - self._mean_F) / self._std_F, -_FARTHEST, _FARTHEST)

    def _member(self, z_NF: np.ndarray, class_N: np.ndarray, projects: bool, random: np.random.RandomState) -> _Member:
        learner, (num_rows, num_features) = self._learner, z_NF.shape
        projection_XF, label_C, order_N = None, np.arange(len(self.classes_)), np.arange(num_rows)
        if projects:
            used = max(1, np.isfinite(self._std_F).sum())
            projection_XF = random.standard_normal((learner.num_features, num_features)) / used**0.5
        if not takes_any_classes(learner):
            label_C = random.permutation(learner.model.num_classes)[: len(self.classes_)]
        if not encodes(learner.model):
            order_N = random.permutation(num_rows)
        x_NX = z_NF[order_N] if projection_XF is None else z_NF[order_N] @ projection_XF.T
        return _Member(projection_XF, label_C, read_context(learner, self._params, x_NX, label_C[class_N[order_N]]))

    def _log_proba(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        z_QF, each_EQC = self._standardised(self._checked(X, reset=False)), []
        with jax.default_device(self._jax_device()):
            for projection_XF, label_C, context in self._members:
                x_QX = z_QF if projection_XF is None else z_QF @ projection_XF.T
                logits_QC = answer_queries(self._learner, self._params, context, x_QX, self.batch_size)
                each_EQC.append(log_softmax(logits_QC[:, label_C], axis=1))
        return logsumexp(each_EQC, axis=0) - np.log(len(each_EQC))

    def _jax_device(self) -> jax.Device:
        try:
            return jax.local_devices(backend=self.device)[0]
        except RuntimeError:
            raise UserError(f"device = {self.device!r}; JAX sees {jax.default_backend()!r} here, give it or None") from None


def _opened(weights: Any) -> OpenedRun:
    if not isinstance(weights, str | os.PathLike):
        raise UserError(f"weights = {weights!r}; expected '{DEFAULT}', a file of 'gpicl export', or a run's folder")
    run = _default() if weights == DEFAULT else open_run(weights)
    if not isinstance(run.learner, InContext | ContextQuery):
        raise UserError(
            f"weights = {os.fspath(weights)!r} are of {learner_name(run.config)}, which does not learn in one pass over a "
            "context; give those of learner.name = 'in_context' or 'context_query'"
        )
    return run


@functools.cache
def _default() -> OpenedRun:
    return open_run(DEFAULT)


def _check_memory(num_rows: int, num_heads: int, device: jax.Device) -> None:
    (free, name), of_pair = device_memory(device), num_heads * _BYTES
    needed = padded_size(num_rows) ** 2 * of_pair
    if needed > free:
        most = 1 << int(np.log2(free / of_pair) / 2)
        raise UserError(
            f"fit got {num_rows:,} rows, which need {needed / 1e9:,.3g} GB for attention, but {name} has {free / 1e9:.3g} GB; "
            f"give at most {most:,}, e.g. by train_test_split(X, y, train_size={most}, stratify=y)"
        )
