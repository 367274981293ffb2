"""What the sources of synthetic tables share: classes of unequal shares, columns, label noise, scales of features."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpicl_jax.settings import UserError, setting
from gpicl_jax.tasks.randomness import random_normal, random_uniform, random_words
from gpicl_jax.tasks.sources.base import Drawing, Examples, Source

DrawRows = Callable[
    [jax.Array, int], tuple[jax.Array, jax.Array]
]  # from a key and N to N iid rows [N, X], and N labels or values
REFERENCE_ROWS = 256  # of a task's law, from which its thresholds are taken
_FACTORS = 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tabular(Source):
    """The base class of sources of synthetic tables. A subclass says by `law` how labels and features depend on each other.

    A task has K classes, K uniform in 2 … C, and d active features, log d uniform in 0 … log X. The other features are 0.
    Labels depend on some of the active features alone. The scales of the active features are in proportion to exp(σ u z),
    z ~ N(0, 1) for each and u uniform in [0, 1], and their mean square is 1. A share of the rows, `label_noise`^(1/u) with
    another u, has labels that do not depend on x.
    """

    num_features: int = dataclasses.field(metadata={"static": True})
    num_classes: int = setting(20, "most classes of a task; the fewest are 2", minimum=2, maximum=1000, static=True)
    imbalance: float = setting(10.0, "largest ratio of the shares of two classes", minimum=1.0, maximum=1000.0, static=True)
    label_noise: float = setting(
        0.2,
        "largest share of rows with a label that does not depend on x; at 1 all tasks have it",
        minimum=0.0,
        maximum=1.0,
        static=True,
    )
    useless: float = setting(
        0.5, "largest share of active features that labels do not depend on", minimum=0.0, maximum=1.0, static=True
    )
    feature_scales: float = setting(
        1.0, "largest spread σ of random log-scales of the features; 0: one scale", minimum=0.0, maximum=3.0, static=True
    )

    def law(self, key: jax.Array, useful_X: jax.Array, shares_C: jax.Array) -> DrawRows:
        """Returns the function that draws rows of a task: features of mean 0 and deviation 1 in its law, and labels. Traced.

        Args:
          key: key of the law.
          useful_X: bool [X], features that the labels may depend on, at least one.
          shares_C: float32 [C], shares of the classes, 0 from class K on.
        """
        raise NotImplementedError

    def draw(self, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> Examples:
        shares_key, columns_key, law_key, scale_key, rate_key = jax.random.split(task_key, 5)
        rows_key, noise_key, label_key = jax.random.split(key, 3)
        shares_C = draw_shares(shares_key, min(self.num_classes, drawing.classes_per_task), self.imbalance)
        active_X, useful_X = draw_columns(columns_key, self.num_features, self.useless)
        x_LX, labels_L = self.law(law_key, useful_X, shares_C)(rows_key, drawing.length)
        rate = self.label_noise ** (1 / (1 - random_uniform(rate_key, ())))
        is_noise_L = random_uniform(noise_key, labels_L.shape) < rate
        labels_L = jnp.where(is_noise_L, draw_labels(label_key, shares_C, drawing.length), labels_L)
        spread_key, log_key = jax.random.split(scale_key)
        log_X = self.feature_scales * random_uniform(spread_key, ()) * random_normal(log_key, active_X.shape)
        scale_X = jnp.where(active_X, jnp.exp(log_X), 0)
        scale_X = rounded(scale_X * jnp.sqrt(active_X.sum() / (scale_X**2).sum()))
        return Examples(x_LX * scale_X[None], labels_L.astype(jnp.int32), mean=jnp.float32(0), std=jnp.float32(1))

    def check(self, drawing: Drawing) -> None:
        if drawing.balanced:
            raise UserError(f"'{self.name}' draws classes of unequal shares; set tasks.balanced = false")


def draw_shares(key: jax.Array, num_classes: int, imbalance: float) -> jax.Array:
    """Returns the shares of the K classes of a task, float32 [C], in no order, 0 from class K on. K is uniform in 2 … C.

    Shares are proportional to r^v, with v uniform in [0, 1] for each class, and log r uniform in 0 … log `imbalance`.

    Example:
      >>> shares_C = draw_shares(jax.random.key(0), 5, imbalance=10.0)
      >>> int((shares_C > 0).sum()), bool(jnp.isclose(shares_C.sum(), 1))
      (3, True)
    """
    number_key, ratio_key, share_key = jax.random.split(key, 3)
    number = 2 + random_words(number_key, ()) % jnp.uint32(num_classes - 1)
    log_ratio = jnp.log(jnp.float32(imbalance)) * random_uniform(ratio_key, ())
    share_C = jnp.exp(log_ratio * random_uniform(share_key, (num_classes,)))
    share_C = jnp.where(jnp.arange(num_classes) < number, share_C, 0)
    return share_C / share_C.sum()


def draw_columns(key: jax.Array, num_features: int, useless: float) -> tuple[jax.Array, jax.Array]:
    """Returns which features are active and which of these are useful, bool [X] each, at least one.

    Of d active features, log d uniform in 0 … log X, at most the share `useless` is not useful.

    Example:
      >>> active_X, useful_X = draw_columns(jax.random.key(0), 64, useless=0.5)
      >>> int(active_X.sum()), int(useful_X.sum())
      (33, 33)
    """
    active_key, useless_key, order_key = jax.random.split(key, 3)
    active = jnp.exp(random_uniform(active_key, ()) * jnp.log(jnp.float32(num_features + 1))).astype(jnp.int32)
    lost = random_uniform(useless_key, ()) * (jnp.floor(useless * active) + 1)
    useful = jnp.maximum(active - lost.astype(jnp.int32), 1)
    rank_X = jnp.argsort(jnp.argsort(random_words(order_key, (num_features,))))
    return rank_X < active, rank_X < useful


def draw_labels(key: jax.Array, shares_C: jax.Array, num: int) -> jax.Array:
    """Returns labels [N] of the first classes, which have shares above 0.

    Example:
      >>> draw_labels(jax.random.key(0), jnp.array([0.5, 0.5, 0.0]), 1000).max().item()
      1
    """
    bounds_C = jnp.cumsum(shares_C)
    reached_NC = random_uniform(key, (num,))[:, None] * bounds_C[-1] >= bounds_C[None]
    return jnp.minimum(reached_NC.sum(axis=1), (shares_C > 0).sum() - 1)


def rounded(numbers: jax.Array) -> jax.Array:
    """Returns numbers of a task's law to 12 bits, so that they are the same however a compiled program rounds float32.

    Example:
      >>> (rounded(jnp.float32(0.1)) == rounded(jnp.float32(0.1000001))).item()
      True
    """
    return jax.lax.reduce_precision(numbers, exponent_bits=8, mantissa_bits=11)


def correlated_normals(key: jax.Array, num_features: int) -> Callable[[jax.Array, int], jax.Array]:
    """Returns the function that draws rows [N, X] of standard normals, which half of the tasks mix.

    Mixed features are √(1 − c) z + √c Bᵀ f, with c uniform in [0, 1], and f the 4 common factors of a row. Columns of B have
    norm 1.
    """
    coin_key, share_key, loading_key = jax.random.split(key, 3)
    share = jnp.where(random_words(coin_key, ()) % 2 == 0, random_uniform(share_key, ()), 0)
    own, common = rounded(jnp.sqrt(1 - share)), jnp.sqrt(share)
    loading_FX = random_normal(loading_key, (_FACTORS, num_features))
    loading_FX = rounded(common * loading_FX * jax.lax.rsqrt((loading_FX**2).sum(axis=0, keepdims=True)))

    def draw(key: jax.Array, num: int) -> jax.Array:
        own_key, common_key = jax.random.split(key)
        common_NX = jnp.matmul(random_normal(common_key, (num, _FACTORS)), loading_FX, precision="highest")
        return own * random_normal(own_key, (num, num_features)) + common_NX

    return draw


def labelled_by_values(draw_values: DrawRows, key: jax.Array, shares_C: jax.Array) -> DrawRows:
    """Returns the function that draws rows with labels, from one that draws rows with values [N, C], one for each class.

    Labels follow a decision list (Rivest 1987): the label is the first class whose value reaches the threshold of the class.
    In half of the tasks all classes take the first value, so that labels are bins of it. Thresholds give the classes their
    shares of `REFERENCE_ROWS` rows.
    """
    coin_key, reference_key = jax.random.split(key)
    is_bins = random_words(coin_key, ()) % 2 == 0

    def draw_chosen(key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
        x_NX, values_NC = draw_values(key, num)
        return x_NX, jnp.where(is_bins, values_NC[:, :1], values_NC)

    thresholds_C = decision_list(draw_chosen(reference_key, REFERENCE_ROWS)[1], shares_C)

    def draw_rows(key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
        x_NX, values_NC = draw_chosen(key, num)
        return x_NX, (values_NC >= thresholds_C[None]).argmax(axis=1)

    return draw_rows


def decision_list(values_NC: jax.Array, shares_C: jax.Array) -> jax.Array:
    """Returns thresholds [C], by which each class gets its share of the rows. The last class takes all that remain.

    Example:
      >>> decision_list(jnp.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]]), jnp.array([0.25, 0.75])).tolist()
      [4.0, -inf]
    """
    num, num_classes = values_NC.shape

    def next_class(rest_N: jax.Array, each: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        values_N, share = each
        ranked_N = jnp.sort(jnp.where(rest_N, values_N, -jnp.inf), descending=True)
        threshold = ranked_N[jnp.maximum(jnp.round(share * num).astype(jnp.int32), 1) - 1]
        return rest_N & (values_N < threshold), threshold

    _, thresholds_C = jax.lax.scan(next_class, jnp.ones(num, bool), (values_NC.T, shares_C))
    return jnp.where(jnp.arange(num_classes) < (shares_C > 0).sum() - 1, thresholds_C, -jnp.inf)
