"""Every learner that a config can name: what it may see, it uses; what it may not see, it cannot.

`GPICL_IMPORT=FILE.py` adds those of a file: see CONTRIBUTING.md.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.build import make_learner, make_tasks
from gpicl_jax.evaluation import Evaluator, unseen_episode_keys
from gpicl_jax.hyper import hyper_from
from gpicl_jax.learners.base import score_rows
from gpicl_jax.learners.context_query import FromContext
from gpicl_jax.learners.instance import Instance
from gpicl_jax.learners.online import Online
from gpicl_jax.registry import find, names, settings_of
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Episode, draw_episode, draw_episodes
from gpicl_jax.training.step import num_params
from tests.helpers import tiny_config

FEW_SHOT = ("few_shot_conv", "study_conv")  # see few-shot problems alone: test_maml
MODELS = [name for name in names("model") if find("model", name).learner]
LEARNERS = [name for name in names("learner") if name not in {find("model", model).learner for model in MODELS}]
OF_FILES = [name for name in names("model") if not find("model", name).__module__.startswith("gpicl_jax.")]
ROW_MODELS = [name for name in OF_FILES if name not in MODELS]
# Sizes that a model does not take from tiny.toml, and what else it can be.
OF_MODELS = {
    "vsml": ("--model.width=6", "--model.message_size=4"),
    "vsml_without_symmetries": ("--model.width=6", "--model.grid_size=3"),
    "fast_weights": ("--model.memory_size=4",),
}
VARIANTS = {
    "transformer-paired": ("--model.layout=paired", "--model.smear_keys=false"),
    "transformer-paired-smeared": ("--model.layout=paired",),
    "transformer-plain": ("--model.smear_keys=false",),
    "transformer-rope": ("--model.positions=rope", "--model.smear_keys=false"),
    "transformer-alibi": ("--model.positions=alibi", "--model.smear_keys=false"),
    "encoder_decoder-plain": ("--model.name=encoder_decoder", "--model.smear_keys=false"),
    "lstm-paired": ("--model.name=lstm", "--model.layout=paired"),
    "fast_weights-bounded": ("--model.name=fast_weights", *OF_MODELS["fast_weights"], "--model.bounded=true"),
    "vsml-paired": ("--model.name=vsml", *OF_MODELS["vsml"], "--model.layout=paired"),
    "vsml_without_symmetries-paired": (
        *("--model.name=vsml_without_symmetries", *OF_MODELS["vsml_without_symmetries"], "--model.layout=paired"),
    ),
    "vsml-deep": ("--model.name=vsml", *OF_MODELS["vsml"], "--model.hidden=[5]"),
    "maml-first_order": ("--model.name=mlp", "--learner.name=maml", "--learner.first_order=true", "--learner.inner_rate=0.02"),
}


def model_for(learner):
    kinds = {name: find("model", name) for name in ("mlp", "transformer", "context_query")}
    return next(name for name, kind in kinds.items() if issubclass(kind, find("learner", learner).takes))


REGISTRY = {
    **{name: (f"--model.name={name}", *OF_MODELS.get(name, ())) for name in MODELS},
    **{name: (f"--model.name={model_for(name)}", f"--learner.name={name}") for name in LEARNERS},
    **{name: (f"--model.name={name}", "--learner.name=instance") for name in ROW_MODELS},
    **VARIANTS,
}
for _name in ("sgd", "finetune", "maml_online", "maml", "study_maml"):
    REGISTRY[_name] += ("--learner.inner_rate=0.02",)
SIZES = ("--data.size=4", "--tasks.length=10", "--model.num_layers=2")
L = 10
KEY = jax.random.key(3)  # of predictions


def case_config(name, *overrides):
    sizes = SIZES if "num_layers" in dir(find("model", tiny_config(*REGISTRY[name]).model.name)) else SIZES[:2]
    return tiny_config(*sizes, *REGISTRY[name], *overrides)


@pytest.mark.parametrize("room", ["model", "learner"])
def test_every_name_is_an_object_of_its_own_class(room):
    configs = [case_config(name) for name in REGISTRY]
    few_shot = tiny_config(
        "--model.name=few_shot_conv", "--learner.name=maml", "--tasks.num_context=5", "--tasks.classes_per_task=2"
    )
    study = tiny_config(
        "--model.name=study_conv", "--model.padding=SAME", "--learner.name=maml", "--data.size=16", "--tasks.classes_per_task=2"
    )
    kinds = {}
    for config in (*configs, few_shot, study):
        learner = make_learner(config)
        made = learner.model if room == "model" else learner
        kinds.setdefault(getattr(config, room).name, set()).add(type(made))
    assert kinds == {name: {find(room, name)} for name in names(room)}
    assert len({kind for of_name in kinds.values() for kind in of_name}) == len(kinds)


@functools.cache
def make_case(name, *overrides):
    """A learner with random weights everywhere (biases and gates too), an episode with a context and queries."""
    config = case_config(name, *overrides)
    tasks = make_tasks(config, "train")
    learner = make_learner(config)
    leaves, structure = jax.tree.flatten(jax.jit(learner.init)(jax.random.key(0)))
    rng = np.random.default_rng(1)
    noisy = [leaf + np.float32(0.1) * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    episode = jax.jit(draw_episode)(tasks, jax.random.key(2), hyper_from(config))
    if isinstance(learner, FromContext | Online):
        episode = episode._replace(num_context=jnp.int32(7))
    return learner, jax.tree.unflatten(structure, noisy), episode


class Seen(NamedTuple):
    """What one compiled program finds of a learner: all that the tests of the registry ask."""

    logits_LC: np.ndarray
    moved_by_x_LL: np.ndarray  # [example, row]
    moved_by_y_LL: np.ndarray
    batched_LC: np.ndarray
    scanned_LC: np.ndarray
    loss: np.ndarray
    metrics: dict
    gradient: dict
    fresh_gradient: dict


def exchanges(predict, episode: Episode):
    """Logits [L, C], and how far those of each row move when an example gets another x, or another label: [example, row]."""
    others_LX = np.random.default_rng(5).standard_normal(episode.x_LX.shape, np.float32)

    def change(number):  # example `number` gets another x, example `number` − L another label, and no example for 2 L
        x_LX = jnp.where((jnp.arange(L) == number)[:, None], others_LX, episode.x_LX)
        y_L = jnp.where(jnp.arange(L) == number - L, (episode.y_L + 1) % 10, episode.y_L)
        return predict(episode._replace(x_LX=x_LX, y_L=y_L))

    changed = jax.lax.map(change, jnp.arange(2 * L + 1))
    moved = abs(changed[:-1] - changed[-1:]).max(axis=2)
    return changed[-1], moved[:L], moved[L:]


@functools.cache
def seen(name) -> Seen:
    learner, params, episode = make_case(name)

    def everything(params, fresh, episode: Episode):
        def predict(episode):
            return learner.predict(params, episode, key=KEY)

        batch = jax.tree.map(lambda leaf: jnp.stack([leaf[::-1] if leaf.ndim else leaf, leaf]), episode)

        def descend(is_fresh):  # traced once for both weights
            weights = jax.tree.map(lambda leaf, other: jnp.where(is_fresh, other, leaf), params, fresh)
            return jax.value_and_grad(lambda params: learner.loss(params, episode, key=KEY), has_aux=True)(weights)

        (loss, metrics), gradient = jax.lax.map(descend, jnp.array([False, True]))
        scanned_LC, moved_by_x_LL, moved_by_y_LL = exchanges(predict, episode)
        return Seen(
            logits_LC=predict(episode),
            moved_by_x_LL=moved_by_x_LL,
            moved_by_y_LL=moved_by_y_LL,
            batched_LC=jax.vmap(predict)(batch)[1],
            scanned_LC=scanned_LC,
            loss=loss[0],
            metrics=jax.tree.map(lambda leaf: leaf[0], metrics),
            gradient=jax.tree.map(lambda leaf: leaf[0], gradient),
            fresh_gradient=jax.tree.map(lambda leaf: leaf[1], gradient),
        )

    fresh = jax.jit(learner.init)(jax.random.key(4))
    return jax.tree.map(np.asarray, jax.jit(everything)(params, fresh, episode))


every_learner = pytest.mark.parametrize("name", REGISTRY)


def may_see(learner, episode):
    """may_see[i, j]: whether row i may use example j; x_i itself is always visible to row i."""
    length, context = len(episode.y_L), int(episode.num_context)
    row, example = np.indices((length, length))
    if isinstance(learner, Instance):
        return np.zeros((length, length), bool)
    return np.where(row < context, example < row, example < context)


@every_learner
def test_inputs_are_seen_by_the_rows_that_may_and_by_no_other(name):
    learner, _, episode = make_case(name)
    moved_LL = seen(name).moved_by_x_LL.T
    allowed_LL = may_see(learner, episode) | np.eye(L, dtype=bool)
    rows = np.asarray(learner.scored_rows(episode))
    assert rows.any() and (moved_LL[rows][~allowed_LL[rows]] == 0).all()
    assert (moved_LL[rows][allowed_LL[rows]] > 0).all()


@every_learner
def test_labels_are_seen_by_the_rows_that_may_and_by_no_other(name):
    learner, _, episode = make_case(name)
    moved_LL = seen(name).moved_by_y_LL.T
    allowed_LL = may_see(learner, episode)
    rows = np.asarray(learner.scored_rows(episode))
    assert (moved_LL[rows][~allowed_LL[rows]] == 0).all()
    assert (moved_LL[rows][allowed_LL[rows]] > 0).all()


@every_learner
def test_same_result_alone_batched_and_scanned(name):
    found = seen(name)
    assert found.logits_LC.dtype == jnp.float32 and found.logits_LC.shape == (L, 10)
    np.testing.assert_allclose(found.batched_LC, found.logits_LC, atol=1e-5)
    np.testing.assert_allclose(found.scanned_LC, found.logits_LC, atol=1e-5)


@every_learner
def test_loss_has_finite_gradients_for_every_weight(name):
    found = seen(name)
    if not found.gradient:  # a fresh network in every episode
        assert name == "sgd"
    assert np.isfinite(found.loss)
    for path, leaf in jax.tree_util.tree_leaves_with_path((found.gradient, found.fresh_gradient)):
        assert np.isfinite(leaf).all() and (path[0].idx == 1 or abs(leaf).max() > 0), jax.tree_util.keystr(path)


def cross_entropy(name, logits_LC) -> float:
    learner, _, episode = make_case(name)
    logits_LC = logits_LC.astype(np.float64)
    log_prob_LC = logits_LC - np.log(np.exp(logits_LC).sum(axis=1, keepdims=True))
    return -log_prob_LC[np.arange(L), episode.y_L][np.asarray(learner.scored_rows(episode))].mean()


@every_learner
def test_loss_is_the_mean_cross_entropy_of_the_scored_rows(name):
    learner, params, episode = make_case(name)
    found, logits_LC = seen(name), seen(name).logits_LC
    if name == "finetune":  # is pre-trained without the online pass
        logits_LC = np.asarray(jax.jit(learner.model.apply)({"params": params}, episode.x_LX))
    np.testing.assert_allclose(found.loss, cross_entropy(name, logits_LC), rtol=1e-4)
    rows = np.asarray(learner.scored_rows(episode))
    np.testing.assert_array_equal(found.metrics["scored_L"], rows)
    np.testing.assert_array_equal(found.metrics["correct_L"], rows & (logits_LC.argmax(axis=1) == episode.y_L))


@pytest.mark.parametrize(
    "name", [name for name in REGISTRY if name not in OF_FILES or "dtype" in settings_of(find("model", name))]
)
def test_bfloat16_is_near_and_as_blind_as_float32_and_its_loss_is_float32(name):
    _, params, episode = make_case(name)
    learner = make_case(name, "--model.dtype=bfloat16")[0]

    def everything(params, episode):
        found = exchanges(lambda episode: learner.predict(params, episode, key=KEY), episode)
        return *found, learner.loss(params, episode, key=KEY)[0]

    logits_LC, moved_by_x_LL, moved_by_y_LL, loss = jax.jit(everything)(params, episode)
    assert logits_LC.dtype == loss.dtype == jnp.float32 and abs(logits_LC - seen(name).logits_LC).max() > 0
    np.testing.assert_allclose(loss, seen(name).loss, rtol=0.05)
    rows, labels_LL = np.asarray(learner.scored_rows(episode)), may_see(learner, episode)
    inputs_LL = labels_LL | np.eye(L, dtype=bool)
    for moved_LL, allowed_LL in ((moved_by_x_LL.T, inputs_LL), (moved_by_y_LL.T, labels_LL)):
        assert (moved_LL[rows][~allowed_LL[rows]] == 0).all() and (moved_LL[rows][allowed_LL[rows]] > 0).all()


# X = 16, C = 10, L = 10; width 16, 2 heads of 8, 2 layers, unless the registry says otherwise.
_BLOCK = 4 * (16 * 16 + 16) + 2 * 16 * 64 + 64 + 16 + 2 * 2 * 16
_CROSS = 4 * (16 * 16 + 16) + 2 * 16
_MLP = 16 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
_ENDS = 2 * 16 + 16 * 10 + 10  # last LayerNorm, head
# embedding of 6 numbers; query, key and bandwidths from 2 × 16; gates; value, out; MLP of 32 with the mean over classes; norms
_EQUIVARIANT_BLOCK = 32 * 16 + 16 + 32 * 16 + 32 * 2 + 2 + 3 * 2 + 2 * (16 * 16 + 16) + 2 * 16 * 32 + 32 + 32 * 16 + 16 + 4 * 16
_EQUIVARIANT = 6 * 16 + 16 + 2 * _EQUIVARIANT_BLOCK + 2 * 16 + 16
DOCUMENTED = {  # parameters, state size
    "transformer-plain": (26 * 16 + 16 + 10 * 16 + 2 * _BLOCK + _ENDS, 2 * 2 * 16 * 10),
    "transformer-paired-smeared": (42 * 16 + 16 + 10 * 16 + 2 * (_BLOCK + 2) + _ENDS, 2 * 2 * 16 * 10),
    "equivariant_transformer": (_EQUIVARIANT, 10 * (16 + 2 * 16 * 11)),
    "equivariant_without_label_permutations": (_EQUIVARIANT + 18 * 16 + 9 * 16 + 10, 10 * (16 + 2 * 16 * 2)),
    "equivariant_without_context_permutations": (_EQUIVARIANT + 10 * 16, 10 * (16 + 2 * 16 * 11)),
    "context_query": (26 * 16 + 16 + 2 * _BLOCK + _ENDS, 2 * 2 * 16 * 10),
    "encoder_decoder-plain": (
        16 * 16 + 16 + 10 * 16 + 2 * _BLOCK + 2 * 16 + 10 * 16 + 16 + 10 * 16 + 2 * (_BLOCK + _CROSS) + _ENDS,
        3 * 2 * 2 * 16 * 10,
    ),
    "lstm": (26 * 16 + 16 + 16 * 16 + 16 + 4 * 16 * 32 + 4 * 16 + 170, 2 * 16),
    "instance": (_MLP, 0),
    "sgd": (0, 3 * _MLP + 1),
    "finetune": (_MLP, 3 * _MLP + 1),
    "maml_online": (_MLP, 3 * _MLP + 1),
    "maml": (_MLP, 10 * 17),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_number_of_parameters_and_state_size_are_as_documented(name):
    learner, params, _ = make_case(name)
    assert (num_params(params), learner.state_size(10)) == DOCUMENTED[name]


@pytest.mark.parametrize("name", ["context_query", "equivariant_transformer"])
def test_the_order_of_a_context_changes_nothing(name):
    learner, params, episode = make_case(name)
    order_L = jnp.array([4, 2, 6, 0, 1, 5, 3, 7, 8, 9])
    shuffled = episode._replace(x_LX=episode.x_LX[order_L], y_L=episode.y_L[order_L])
    predict = jax.jit(lambda episode: learner.predict(params, episode, key=jax.random.key(3))[7:])
    np.testing.assert_allclose(predict(shuffled), predict(episode), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "length", "cuts"),
    # maml leaves at least 20 queries, of 10 examples all but the one that it learns from
    [
        ("context_query", 10, range(10)),
        ("equivariant_transformer", 10, range(10)),
        ("maml", 30, range(1, 11)),
        ("maml", 10, [1]),
    ],
)
def test_a_cut_is_drawn_for_every_episode_that_has_none(name, length, cuts):
    learner, params, episode = make_case(name, f"--tasks.length={length}")
    episode = episode._replace(num_context=jnp.int32(length))
    loss = jax.jit(jax.vmap(lambda key: learner.loss(params, episode, key=key)[1]["scored_L"]))
    scored_BL = np.asarray(loss(jax.random.split(jax.random.key(0), 400)))
    assert (np.diff(scored_BL, axis=1) >= 0).all()
    assert np.unique((1 - scored_BL).sum(axis=1)).tolist() == list(cuts)


@pytest.mark.parametrize("name", ["context_query", "equivariant_transformer", "maml"])
def test_a_learning_curve_has_row_i_predicted_from_i_examples(name):
    learner, params, _ = make_case(name)
    tasks = make_tasks(tiny_config("--data.size=4", "--tasks.length=30"), "test")
    keys = unseen_episode_keys(0, "test", 3, 2)
    scores = Evaluator(learner)(params, tasks, keys)
    assert np.flatnonzero(~np.isnan(scores.accuracy_TSL).any(axis=(0, 1))).tolist() == [0, 1, 2, 5, 10, 20, 27, 28, 29]
    episodes_TS = jax.jit(draw_episodes)(tasks, keys.task_T, keys.sequence_TS)
    episode, predict = jax.tree.map(lambda leaf: leaf[1, 1], episodes_TS), jax.jit(learner.predict)
    for cut in (0, 1, 2, 5, 10, 20, 27, 29):
        whole = episode._replace(num_context=jnp.int32(cut))
        loss_L, _ = score_rows(predict(params, whole, key=keys.learner_TS[1, 1]), episode.y_L)
        np.testing.assert_allclose(scores.loss_TSL[1, 1, cut], loss_L[cut], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("lstm", ("--data.size=8",), "this LSTM takes inputs of 16 numbers, but 'digits' has 64"),
        ("instance", ("--tasks.classes_per_task=5",), "tells 10 classes apart, but these tasks have classes_per_task = 5"),
        ("transformer-plain", ("--tasks.length=11",), "has positions for 10 examples, but an episode has length = 11"),
    ],
)
def test_a_learner_that_does_not_fit_a_dataset_is_refused(name, overrides, message):
    learner, params, _ = make_case(name)
    tasks = make_tasks(tiny_config(*SIZES, *overrides), "test")
    with pytest.raises(UserError, match=message):
        Evaluator(learner)(params, tasks, unseen_episode_keys(0, "test", 2, 1))


def test_untrained_loss_of_equal_logits_is_log_C():
    loss_L, _ = score_rows(jnp.zeros((4, 10)), jnp.arange(4))
    np.testing.assert_allclose(loss_L, np.log(10), rtol=1e-6)
