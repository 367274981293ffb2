"""Every learner that a config can name: what it may see, it uses; what it may not see, it cannot."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.config import hyper_from
from gpicl_jax.evaluation import Evaluator, unseen_episode_keys
from gpicl_jax.factory import make_learner, make_tasks
from gpicl_jax.learners import Instance, Online, score_rows
from gpicl_jax.learners.context_query import FromContext
from gpicl_jax.sections import CONV_MODELS, EQUIVARIANT_ABLATIONS, MLP_LEARNERS, SEQUENCE_MODELS, LearnerConfig, ModelConfig
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import draw_episode
from gpicl_jax.training.state import num_params
from tests.helpers import tiny_config

PLAIN = ("--model.smear_keys=false", "--model.num_layers=2")
UNUSED = ("--model.smear_keys=false", "--model.label_scale=1")
VSML = (*PLAIN, "--model.width=6", "--model.message_size=4", "--model.name=vsml")
EQUIVARIANT = ("--model.name=equivariant_transformer", "--model.num_layers=2", *UNUSED)
REGISTRY = {
    "equivariant": EQUIVARIANT,
    **{name: (*EQUIVARIANT, f"--model.name={name}") for name in EQUIVARIANT_ABLATIONS},
    **{
        f"transformer-{layout}{'-smeared' if smear == 'true' else ''}": (
            "--model.num_layers=2",
            f"--model.layout={layout}",
            f"--model.smear_keys={smear}",
        )
        for layout, smear in itertools.product(("shifted", "paired"), ("false", "true"))
    },
    **{f"transformer-{each}": (*PLAIN, f"--model.positions={each}") for each in ("rope", "alibi")},
    "context_query": (*PLAIN, "--model.layout=context_query"),
    "encoder_decoder": (*PLAIN, "--model.name=encoder_decoder"),
    "encoder_decoder-smeared": ("--model.name=encoder_decoder", "--model.num_layers=2"),
    "lstm": (*PLAIN, "--model.name=lstm"),
    "outer_product_lstm": (*PLAIN, "--model.name=outer_product_lstm"),
    "fast_weights": (*PLAIN, "--model.name=fast_weights", "--model.memory_size=4"),
    "vsml": (*VSML, "--model.num_layers=1"),
    "vsml-deep": (*VSML, "--model.mlp_width=5"),
    "vsml_without_symmetries": (*PLAIN, "--model.name=vsml_without_symmetries", "--model.grid_size=3"),
    **{name: (*PLAIN, "--model.name=mlp", f"--learner.name={name}", "--learner.inner_rate=0.02") for name in MLP_LEARNERS},
    "maml-first_order": (*PLAIN, "--model.name=mlp", "--learner.name=maml", "--learner.first_order=true"),
}
SIZES = ("--data.size=4", "--tasks.length=10")


def test_the_registry_names_every_learner_of_a_config():
    """But for convolutions, which see few-shot problems alone: test_maml."""
    configs = [tiny_config(*overrides) for overrides in REGISTRY.values()]
    assert (
        {config.model.name for config in configs}
        == {*SEQUENCE_MODELS, "mlp"}
        == {*_choices(ModelConfig, "name")} - {*CONV_MODELS}
    )
    assert {config.learner.name for config in configs} == {"in_context", *MLP_LEARNERS} == set(_choices(LearnerConfig, "name"))
    assert {config.model.layout for config in configs} == set(_choices(ModelConfig, "layout"))
    assert {config.model.positions for config in configs} == set(_choices(ModelConfig, "positions"))


def _choices(section, name):
    return section.__dataclass_fields__[name].metadata["choices"]


@functools.cache
def make_case(name, *overrides):
    """A learner with random weights everywhere (biases and gates too), an episode with a context and queries."""
    config = tiny_config(*SIZES, *REGISTRY[name], *overrides)
    tasks = make_tasks(config, "train")
    learner = make_learner(config)
    leaves, structure = jax.tree.flatten(jax.jit(learner.init)(jax.random.key(0)))
    rng = np.random.default_rng(1)
    noisy = [leaf + np.float32(0.1) * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    episode = draw_episode(tasks, jax.random.key(2), hyper_from(config))
    if isinstance(learner, FromContext | Online):
        episode = episode._replace(num_context=jnp.int32(7))
    return learner, jax.tree.unflatten(structure, noisy), episode


@functools.cache
def predictor(name, *overrides):
    """The case's learner and weights as a compiled function of an episode and a key."""
    learner, params, _ = make_case(name, *overrides)
    return jax.jit(functools.partial(learner.predict, params))


every_learner = pytest.mark.parametrize("name", REGISTRY)
every_precision = pytest.mark.parametrize("precision", [(), ("--model.dtype=bfloat16",)], ids=["float32", "bfloat16"])


def may_see(learner, episode):
    """may_see[i, j]: whether row i may use example j; x_i itself is always visible to row i."""
    length, context = len(episode.y_L), int(episode.num_context)
    row, example = np.indices((length, length))
    if isinstance(learner, Instance):
        return np.zeros((length, length), bool)
    return np.where(row < context, example < row, example < context)


@every_learner
@every_precision
def test_inputs_are_seen_by_the_rows_that_may_and_by_no_other(name, precision):
    learner, params, episode = make_case(name, *precision)
    predict = lambda x_LX: learner.predict(params, episode._replace(x_LX=x_LX), key=jax.random.key(3))  # noqa: E731
    if name == "maml-first_order":  # its inner gradient counts as a constant: exchange the examples instead
        length = len(episode.y_L)
        others = episode.x_LX[None] + 10 * jnp.eye(length)[..., None]  # [L, L, X]: one example moved in each
        moved_LL = np.abs(np.asarray(jax.vmap(predict)(others)) - np.asarray(predict(episode.x_LX))).sum(axis=2).T
    else:
        jacobian_LCLX = np.asarray(jax.jit(jax.jacrev(predict))(episode.x_LX))
        moved_LL = np.abs(jacobian_LCLX).sum(axis=(1, 3))
    allowed_LL = may_see(learner, episode) | np.eye(len(episode.y_L), dtype=bool)
    rows = np.asarray(learner.scored_rows(episode))
    assert rows.any() and (moved_LL[rows][~allowed_LL[rows]] == 0).all()
    assert (moved_LL[rows][allowed_LL[rows]] > 0).all()


@every_learner
def test_labels_are_seen_by_the_rows_that_may_and_by_no_other(name):
    learner, _, episode = make_case(name)
    predict = functools.partial(predictor(name), key=jax.random.key(3))
    before_LC = np.asarray(predict(episode))
    rows = np.asarray(learner.scored_rows(episode))
    for example in range(len(episode.y_L)):
        other = predict(episode._replace(y_L=episode.y_L.at[example].set((episode.y_L[example] + 1) % 10)))
        moved_L = np.abs(np.asarray(other) - before_LC).max(axis=1)
        allowed_L = may_see(learner, episode)[:, example]
        assert (moved_L[rows & ~allowed_L] == 0).all()
        assert (moved_L[rows & allowed_L] > 0).all()


@every_learner
def test_same_result_alone_batched_and_scanned(name):
    learner, params, episode = make_case(name)
    predict = lambda episode: learner.predict(params, episode, key=jax.random.key(3))  # noqa: E731
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jitted = predictor(name)(episode, key=jax.random.key(3))
    assert jitted.dtype == jnp.float32 and jitted.shape == (10, 10)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf[::-1] if leaf.ndim else leaf, leaf]), episode)
    close(jax.jit(jax.vmap(predict))(batch)[1], jitted)
    close(jax.jit(lambda batch: jax.lax.map(predict, batch))(batch)[1], jitted)


@every_learner
def test_loss_has_finite_gradients_for_every_weight(name):
    learner, params, episode = make_case(name)
    if not params:  # a fresh network in every episode
        assert name == "sgd"
        return
    value = jax.jit(jax.value_and_grad(lambda params: learner.loss(params, episode, key=jax.random.key(3))[0]))
    for weights in (params, jax.jit(learner.init)(jax.random.key(4))):
        loss, gradient = value(weights)
        assert np.isfinite(loss) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    for path, leaf in jax.tree_util.tree_leaves_with_path(value(params)[1]):
        assert jnp.abs(leaf).max() > 0, jax.tree_util.keystr(path)


@every_learner
@every_precision
def test_loss_is_the_mean_cross_entropy_of_the_scored_rows(name, precision):
    learner, params, episode = make_case(name, *precision)
    loss, metrics = jax.jit(learner.loss)(params, episode, key=jax.random.key(3))
    predict = predictor(name, *precision)
    if name == "finetune":  # is pre-trained without the online pass
        learner = Instance(learner.model, learner.num_features)
        predict = jax.jit(functools.partial(learner.predict, params))
    key = jax.random.split(jax.random.key(3))[1] if isinstance(learner, FromContext) else jax.random.key(3)
    logits_LC = np.asarray(predict(episode, key=key), np.float64)
    log_prob_LC = logits_LC - np.log(np.exp(logits_LC).sum(axis=1, keepdims=True))
    rows = np.asarray(learner.scored_rows(episode))
    np.testing.assert_allclose(loss, -log_prob_LC[np.arange(10), episode.y_L][rows].mean(), rtol=1e-4)
    np.testing.assert_array_equal(metrics["scored_L"], rows)
    np.testing.assert_array_equal(metrics["correct_L"], rows & (logits_LC.argmax(axis=1) == episode.y_L))


# X = 16, C = 10, L = 10; width 16, 2 heads of 8, 2 layers, unless the registry says otherwise.
_BLOCK = 4 * (16 * 16 + 16) + 2 * 16 * 64 + 64 + 16 + 2 * 2 * 16
_CROSS = 4 * (16 * 16 + 16) + 2 * 16
_MLP = 16 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
_ENDS = 2 * 16 + 16 * 10 + 10  # last LayerNorm, head
# embedding of 6 numbers; query, key and bandwidths from 2 × 16; gates; value, out; MLP of 32 with the mean over classes; norms
_EQUIVARIANT_BLOCK = 32 * 16 + 16 + 32 * 16 + 32 * 2 + 2 + 3 * 2 + 2 * (16 * 16 + 16) + 2 * 16 * 32 + 32 + 32 * 16 + 16 + 4 * 16
_EQUIVARIANT = 6 * 16 + 16 + 2 * _EQUIVARIANT_BLOCK + 2 * 16 + 17
DOCUMENTED = {  # parameters, state size
    "transformer-shifted": (26 * 16 + 16 + 10 * 16 + 2 * _BLOCK + _ENDS, 2 * 2 * 16 * 10),
    "transformer-paired-smeared": (42 * 16 + 16 + 10 * 16 + 2 * (_BLOCK + 2) + _ENDS, 2 * 2 * 16 * 10),
    "equivariant": (_EQUIVARIANT, 10 * (16 + 2 * 16 * 11)),
    "equivariant_without_label_permutations": (_EQUIVARIANT + 18 * 16 + 9 * 17, 10 * (16 + 2 * 16 * 2)),
    "equivariant_without_context_permutations": (_EQUIVARIANT + 10 * 16, 10 * (16 + 2 * 16 * 11)),
    "context_query": (26 * 16 + 16 + 2 * _BLOCK + _ENDS, 2 * 2 * 16 * 10),
    "encoder_decoder": (
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


@pytest.mark.parametrize("name", ["context_query", "equivariant"])
def test_the_order_of_a_context_changes_nothing(name):
    learner, params, episode = make_case(name)
    order_L = jnp.array([4, 2, 6, 0, 1, 5, 3, 7, 8, 9])
    shuffled = episode._replace(x_LX=episode.x_LX[order_L], y_L=episode.y_L[order_L])
    predict = jax.jit(lambda episode: learner.predict(params, episode, key=jax.random.key(3))[7:])
    np.testing.assert_allclose(predict(shuffled), predict(episode), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "length", "cuts"),
    # maml leaves at least 20 queries, of 10 examples all but the one that it learns from
    [("context_query", 10, range(10)), ("equivariant", 10, range(10)), ("maml", 30, range(1, 11)), ("maml", 10, [1])],
)
def test_a_cut_is_drawn_for_every_episode_that_has_none(name, length, cuts):
    learner, params, episode = make_case(name, f"--tasks.length={length}")
    episode = episode._replace(num_context=jnp.int32(length))
    loss = jax.jit(jax.vmap(lambda key: learner.loss(params, episode, key=key)[1]["scored_L"]))
    scored_BL = np.asarray(loss(jax.random.split(jax.random.key(0), 400)))
    assert (np.diff(scored_BL, axis=1) >= 0).all()
    assert np.unique((1 - scored_BL).sum(axis=1)).tolist() == list(cuts)


@pytest.mark.parametrize("name", ["context_query", "equivariant", "maml"])
def test_a_learning_curve_has_row_i_predicted_from_i_examples(name):
    learner, params, _ = make_case(name)
    tasks = make_tasks(tiny_config("--data.size=4", "--tasks.length=30"), "test")
    keys = unseen_episode_keys(0, "test", 3, 2)
    scores = Evaluator(learner)(params, tasks, keys)
    assert np.flatnonzero(~np.isnan(scores.accuracy_TSL).any(axis=(0, 1))).tolist() == [0, 1, 2, 5, 10, 20, 27, 28, 29]
    from gpicl_jax.tasks import draw_episodes

    episodes_TS = draw_episodes(tasks, keys.task_T, keys.sequence_TS)
    episode = jax.tree.map(lambda leaf: leaf[1, 1], episodes_TS)
    for cut in (0, 1, 2, 5, 10, 20, 27, 29):
        whole = episode._replace(num_context=jnp.int32(cut))
        loss_L, _ = score_rows(learner.predict(params, whole, key=keys.learner_TS[1, 1]), episode.y_L)
        np.testing.assert_allclose(scores.loss_TSL[1, 1, cut], loss_L[cut], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("lstm", ("--data.size=8",), "this LSTM takes inputs of 16 numbers, but 'digits' has 64"),
        ("instance", ("--tasks.classes_per_task=5",), "tells 10 classes apart, but these tasks have classes_per_task = 5"),
        ("transformer-shifted", ("--tasks.length=11",), "has positions for 10 examples, but an episode has length = 11"),
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
