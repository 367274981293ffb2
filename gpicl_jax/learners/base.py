"""The base class of learners, which predict the rows of an episode. One trainer and one evaluator serve all."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpicl_jax.data.resize import device_memory
from gpicl_jax.models.base import Model
from gpicl_jax.registry import alternatives, find
from gpicl_jax.sections import GRAM
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import TaskDistribution
from gpicl_jax.tasks.episode import Episode

Params = Any
Metrics = dict[str, jax.Array]
FIRST_POSITIONS = (0, 1, 2, 5, 10, 20, 50)  # where a learning curve is steep: rows of tables, and cuts


class Learner:
    """A learning algorithm over episodes. All methods are for one episode. `vmap` outside adds the batch.

    Attributes:
      takes: the kind of models that it uses.
      queries: whether it can predict queries from a context of a fixed size.
      transductive: whether queries may also see each other's x.
    """

    room, needs, given = "learner", ("init", "predict", "state_size"), ("model", "num_features", "length", "num_context")
    takes: type = Model
    queries = False
    transductive = False

    @classmethod
    def check(cls, config: Any) -> None:
        """Raises UserError where the settings do not fit the rest of `config`."""
        given, model = f"learner.name = {config.learner.name!r}", find("model", config.model.name)
        if not issubclass(model, cls.takes):
            raise UserError(
                f"{given} cannot use model.name = {config.model.name!r}; give learner.name = "
                f"{alternatives('learner', lambda each: issubclass(model, each.takes))}, or model.name = "
                f"{alternatives('model', lambda each: issubclass(each, cls.takes))}"
            )
        if config.tasks.num_context and not cls.queries:
            raise UserError(
                f"tasks.num_context = {config.tasks.num_context} makes queries, which learn from the context alone; "
                f"{given} has none: give {alternatives('learner', lambda each: each.queries)}"
            )

    def init(self, key: jax.Array) -> Params:
        """Returns meta-parameters, {} where nothing is meta-learned."""
        ...

    def predict(self, params: Params, episode: Episode, *, key: jax.Array) -> jax.Array:
        """Returns logits, float32 [L, C]. `Episode` says what a row may depend on."""
        ...

    def scored_rows(self, episode: Episode) -> jax.Array:
        """Returns bool [L], the rows that this learner predicts."""
        return jnp.ones(episode.y_L.shape, bool)

    def loss(self, params: Params, episode: Episode, *, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """Returns the meta-objective of one episode, a scalar, and metrics: `scored_loss` of the predictions."""
        return scored_loss(self.predict(params, episode, key=key), episode.y_L, self.scored_rows(episode))

    def cuts(self, length: int) -> tuple[int, ...]:
        """Returns the context sizes at which a learning curve is measured, or () where one prediction gives all rows."""
        return ()

    def state_size(self, length: int) -> int:
        """Returns how many numbers it carries from example to example, at the end of an episode of `length`."""
        ...


@dataclasses.dataclass(frozen=True)
class OnePass(Learner):
    """A learner whose prediction is one forward pass of its model. `inputs` are the model's arguments.

    Attributes:
      num_features: X.
      length: L of the episode that `init` traces with.
    """

    model: Model
    num_features: int
    length: int = 1

    def inputs(self, episode: Episode) -> tuple[jax.Array, ...]:
        """Returns the model's arguments for an episode."""
        raise NotImplementedError

    def init(self, key: jax.Array) -> Params:
        x_LX, y_L = jnp.zeros((self.length, self.num_features)), jnp.zeros(self.length, jnp.int32)
        return self.model.init(key, *self.inputs(Episode(x_LX, y_L, jnp.int32(self.length))))["params"]

    def predict(self, params: Params, episode: Episode, *, key: jax.Array) -> jax.Array:
        """Returns the model's logits [L, C].

        Raises:
          UserError: the model returned another shape.
        """
        logits_LC = self.model.apply({"params": params}, *self.inputs(episode))
        found, expected = list(logits_LC.shape), [len(episode.y_L), self.model.num_classes]
        if found != expected:
            raise UserError(f"{type(self.model).__name__} returned logits of shape {found}; expected [L, C] = {expected}")
        return logits_LC

    def state_size(self, length: int) -> int:
        return self.model.state_size(self.num_features, length)


def score_rows(logits_LC: jax.Array, y_L: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns cross-entropy (nats) and 0/1 accuracy of every row, float32 [L] each.

    Example:
      >>> loss_L, accuracy_L = score_rows(jnp.zeros((3, 10)), jnp.array([0, 1, 2]))
      >>> round(float(loss_L[0]), 3), accuracy_L.tolist()
      (2.303, [1.0, 0.0, 0.0])
    """
    loss_L = optax.softmax_cross_entropy_with_integer_labels(logits_LC, y_L)
    return loss_L, (logits_LC.argmax(axis=-1) == y_L).astype(jnp.float32)


def scored_loss(logits_LC: jax.Array, y_L: jax.Array, scored_L: jax.Array) -> tuple[jax.Array, Metrics]:
    """Returns the mean cross-entropy of the rows that `scored_L` names, and metrics for the accuracy.

    The metrics are `correct_L` and `scored_L`, float32 [L], 0 or 1. They may be averaged over any batch, and the accuracy
    of row i is then correct_i / scored_i.
    """
    loss_L, accuracy_L = score_rows(logits_LC, y_L)
    scored_L = scored_L.astype(jnp.float32)
    loss = (loss_L * scored_L).sum() / jnp.maximum(scored_L.sum(), 1.0)
    return loss, {"correct_L": accuracy_L * scored_L, "scored_L": scored_L}


def final_rows(length: int, num_context: int | None = None) -> slice:
    """Returns the rows whose accuracy stands for an episode: all queries, or without queries the last 10%, at least one row.

    Example:
      >>> final_rows(100), final_rows(10, num_context=5), final_rows(10, num_context=10)
      (slice(90, 100, None), slice(5, 10, None), slice(9, 10, None))
    """
    if num_context is None or num_context == length:
        return slice(length - max(1, round(0.1 * length)), length)
    return slice(num_context, length)


def check_memory(learner: Any, length: int, episodes: int) -> None:
    """Checks that a step over `episodes` episodes at once fits into the device's memory. Most learners give no size.

    Raises:
      UserError: it does not. The error gives both sizes and the settings that help.
    """
    needed, (free, device) = episodes * learner.model.training_bytes(length), device_memory()
    if needed > free:
        raise UserError(
            f"a step over {episodes} episodes of tasks.length = {length:,} needs {needed / 1e9:,.3g} GB for attention, but "
            f"{device} has {free / 1e9:.3g} GB; lower tasks.length, raise train.accumulate, or set model.remat = true"
        )


def check_fits(learner: Any, tasks: TaskDistribution) -> None:
    """Checks that inputs, classes and lengths of these tasks fit a learner.

    Raises:
      UserError: they do not.
    """
    model = getattr(learner, "model", None)
    if model is None:  # a reference solver fits any inputs
        return
    kind, source = type(model).__name__, tasks.source
    if tasks.entries == GRAM and not model.any_features:
        raise UserError(f"tasks.entries = {GRAM!r} draws no inputs, which this {kind} needs; give 'normal' or 'integer'")
    if source.num_features != learner.num_features and not model.any_features:
        raise UserError(
            f"this {kind} takes inputs of {learner.num_features} numbers, but '{source.name}' has {source.num_features}; "
            "load it with the size and channels that the learner was trained with"
        )
    if tasks.classes_per_task != model.num_classes:
        raise UserError(
            f"this {kind} tells {model.num_classes} classes apart, but these tasks have classes_per_task = "
            f"{tasks.classes_per_task}; give tasks with the number that it was trained with"
        )
    most = model.max_length
    if most is not None and tasks.length > most:
        raise UserError(
            f"this {kind} has positions for {most} examples, but an episode has length = {tasks.length}; shorten it, or use a "
            "learner without positions"
        )
