"""MAML's meta-gradient: against finite differences, of second order unless asked otherwise, nothing at K = 0."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from gpicl_jax.learners.instance import Instance
from gpicl_jax.learners.maml import Maml
from gpicl_jax.learners.online import OPTIMIZERS, SGD, Finetune, MamlOnline
from gpicl_jax.models.conv import FewShotConv
from gpicl_jax.models.mlp import MLP
from gpicl_jax.tasks import Episode

X, L, C = 3, 8, 4


def make_learner(dtype=jnp.float32, num_context=0, **inner):
    model = MLP(C, width=5, num_layers=1, dtype=dtype)
    return Maml(model, X, num_context, **({"inner_rate": 0.5, "inner_steps": 3} | inner))


def adapted(learner, params, episode):
    return jax.jit(lambda params, episode: learner.adapt(params, episode, jax.random.key(3))[0])(params, episode)


def initial(learner):
    return jax.jit(learner.init)(jax.random.key(0))


def predict(learner, params, episode, key=None):
    return jax.jit(functools.partial(learner.predict, key=key))(params, episode)


def meta_gradient(learner, params, episode):
    return jax.jit(jax.grad(functools.partial(meta_loss, learner)))(params, episode)


def loss_and_metrics(learner, params, episode):
    return jax.jit(functools.partial(learner.loss, key=jax.random.key(2)))(params, episode)


def make_episode(dtype=jnp.float32):
    x_LX = jax.random.normal(jax.random.key(1), (L, X), dtype)
    return Episode(x_LX, jnp.array([0, 1, 2, 3, 0, 1, 2, 3]), jnp.int32(5))


@pytest.fixture
def params():
    """Random biases too: at zero, ReLU units of a zero input would stand at their kink."""
    params = initial(make_learner())
    return jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)


def meta_loss(learner, params, episode):
    return loss_and_metrics(learner, params, episode)[0]


def context_loss(model, weights, episode):
    logits_LC = model.apply({"params": weights}, episode.x_LX[:5])
    return optax.softmax_cross_entropy_with_integer_labels(logits_LC, episode.y_L[:5]).mean()


def test_adaptation_is_gradient_descent_on_the_context_alone(params):
    learner, episode, weights = make_learner(), make_episode(), params
    slopes = jax.jit(jax.grad(context_loss, argnums=1), static_argnums=0)
    for _ in range(3):
        gradient = slopes(learner.model, weights, episode)
        weights = jax.tree.map(lambda weight, slope: weight - 0.5 * slope, weights, gradient)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), adapted(learner, params, episode), weights
    )


@pytest.mark.parametrize("remat", [True, False])
def test_gradients_through_the_inner_loop_agree_with_finite_differences(params, remat):
    """In float64 and to second order: the inner gradient's own derivative, which first-order MAML leaves out, is there."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        loss = jax.jit(functools.partial(meta_loss, make_learner(jnp.float64, remat=remat), episode=make_episode(jnp.float64)))
        check_grads(loss, (params,), order=2, modes=("rev",), atol=1e-5, rtol=1e-5)
        gradient, step = jax.jit(jax.grad(loss))(params), 1e-6
        for path, slope in jax.tree_util.tree_leaves_with_path(gradient):
            ahead, behind = (loss(nudged(params, path, sign * step)) for sign in (1, -1))
            np.testing.assert_allclose(slope.flatten()[0], (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-8)


def nudged(params, path, amount):
    """`params` with the first number of one leaf moved."""

    def move(each, leaf):
        return leaf.flatten().at[0].add(amount).reshape(leaf.shape) if each == path else leaf

    return jax.tree_util.tree_map_with_path(move, params)


def test_first_order_is_the_gradient_at_the_adapted_weights(params):
    """Finn et al., section 5.2: the queries' gradient, taken at θ′ and applied to θ."""
    episode, learner = make_episode(), make_learner(first_order=True)
    start = adapted(learner, params, episode)
    expected = meta_gradient(make_learner(inner_steps=0), start, episode)
    gradient = meta_gradient(learner, params, episode)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), gradient, expected)
    second = meta_gradient(make_learner(), params, episode)
    difference, size = optax.tree.norm(jax.tree.map(jnp.subtract, second, gradient)), optax.tree.norm(second)
    assert difference > 0.05 * size


def test_no_inner_steps_are_no_adaptation(params):
    episode, learner = make_episode(), make_learner(inner_steps=0)
    instance = Instance(learner.model, X)
    logits_LC = predict(learner, params, episode)
    np.testing.assert_array_equal(logits_LC, predict(instance, params, episode))


def test_an_empty_context_is_no_adaptation(params):
    episode, learner = make_episode()._replace(num_context=jnp.int32(0)), make_learner()
    jax.tree.map(np.testing.assert_array_equal, adapted(learner, params, episode), params)


@pytest.mark.parametrize("remat", [True, False])
def test_the_online_pass_is_a_loop_of_prediction_and_update(params, remat):
    episode, model = make_episode(), make_learner().model
    optimizer = optax.adam(0.05, eps_root=1e-8)
    learner = MamlOnline(model, X, inner_rate=0.05, remat=remat)

    def loop_logits(weights):
        state, logits = optimizer.init(weights), []
        for i in range(L):
            logits.append(model.apply({"params": weights}, episode.x_LX[i : i + 1])[0])
            if i < 5:  # the context

                def loss(weights, i=i):
                    logits_1C = model.apply({"params": weights}, episode.x_LX[i : i + 1])
                    return optax.softmax_cross_entropy_with_integer_labels(logits_1C, episode.y_L[i : i + 1])[0]

                updates, state = optimizer.update(jax.grad(loss)(weights), state, weights)
                weights = optax.apply_updates(weights, updates)
        return jnp.stack(logits)

    def loop_loss(weights):
        return optax.softmax_cross_entropy_with_integer_labels(loop_logits(weights), episode.y_L).mean()

    np.testing.assert_allclose(predict(learner, params, episode), jax.jit(loop_logits)(params), atol=1e-5)
    gradient, expected = meta_gradient(learner, params, episode), jax.jit(jax.grad(loop_loss))(params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), gradient, expected)


def test_where_the_online_pass_starts():
    episode, model = make_episode(), make_learner().model
    fresh, pretrained = (kind(model, X, inner_optimizer="sgd", inner_rate=0.1) for kind in (SGD, Finetune))
    assert initial(fresh) == {}
    one, other = (predict(fresh, {}, episode, jax.random.key(seed)) for seed in (0, 1))
    assert abs(one - other).max() > 0.01  # another network for another key
    params = initial(pretrained)
    np.testing.assert_array_equal(predict(fresh, {}, episode, jax.random.key(0)), predict(pretrained, params, episode))
    instance_loss = Instance(model, X).loss(params, episode, key=None)[0]
    np.testing.assert_allclose(pretrained.loss(params, episode, key=None)[0], instance_loss, rtol=1e-6)


def test_sgd_may_start_from_zeros():
    """The first prediction is none, and the others do not depend on the key: nothing is drawn."""
    episode, model = make_episode(), MLP(num_classes=C, num_layers=0)
    first, second = (predict(SGD(model, X, zeros=zeros), {}, episode, jax.random.key(0)) for zeros in (True, False))
    np.testing.assert_array_equal(first[0], 0)
    assert abs(first[-1]).max() > 0 and abs(second[0]).max() > 0
    np.testing.assert_array_equal(first, predict(SGD(model, X, zeros=True), {}, episode, jax.random.key(9)))


def test_gradients_flow_through_adam_where_an_inner_gradient_is_zero(monkeypatch):
    """The root's derivative at 0 is infinite: eps_root keeps it finite, as in the learners that a config makes."""
    episode = make_episode()._replace(x_LX=jnp.zeros((L, X)))  # first-layer weights get no gradient
    for finite in (True, False):
        learner = MamlOnline(make_learner().model, X, inner_rate=0.01 if finite else 0.02)
        if not finite:
            monkeypatch.setitem(OPTIMIZERS, "adam", optax.adam)
        gradient = meta_gradient(learner, initial(learner), episode)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)) == finite


def test_batches_pass_over_the_context_in_new_orders(params):
    """Five examples in batches of two: two steps a pass, one example left out; seven steps are three passes and a half."""
    learner = make_learner(num_context=5, inner_batch=2, inner_steps=7)
    rows_Kb = np.asarray(learner.batches(jax.random.key(3)))
    assert rows_Kb.shape == (7, 2)
    for start in range(0, 6, 2):
        assert len(set(rows_Kb[start : start + 2].flatten())) == 4
    assert len({tuple(rows_Kb[start : start + 2].flatten()) for start in range(0, 6, 2)}) == 3
    weights, episode = params, make_episode()
    for rows_b in rows_Kb:

        def batch_loss(weights, rows_b=rows_b):
            logits_bC = learner.model.apply({"params": weights}, episode.x_LX[rows_b])
            return optax.softmax_cross_entropy_with_integer_labels(logits_bC, episode.y_L[rows_b]).mean()

        weights = jax.tree.map(lambda weight, slope: weight - 0.5 * slope, weights, jax.jit(jax.grad(batch_loss))(weights))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), adapted(learner, params, episode), weights
    )


def test_each_inner_step_is_watched_with_the_loss_before_it_and_the_weights_after_it(params):
    learner, episode = make_learner(num_context=5), make_episode()
    _, (loss_K, bias_KC) = learner.adapt(params, episode, None, lambda loss, weights: (loss, weights["head"]["bias"]))
    for steps in range(3):
        weights = adapted(make_learner(num_context=5, inner_steps=steps), params, episode)
        np.testing.assert_allclose(loss_K[steps], context_loss(learner.model, weights, episode), rtol=1e-5)
        if steps:
            np.testing.assert_allclose(bias_KC[steps - 1], weights["head"]["bias"], rtol=1e-5)


def test_a_fixed_context_is_a_cut_like_another(params):
    fixed, free, episode = make_learner(num_context=5), make_learner(), make_episode()
    np.testing.assert_allclose(predict(fixed, params, episode)[5:], predict(free, params, episode)[5:], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(meta_loss(fixed, params, episode), meta_loss(free, params, episode), rtol=1e-5)
    assert fixed.cuts(L) == () and free.cuts(L)


@pytest.mark.parametrize("first_order", [False, True])
def test_anil_moves_the_head_alone_and_meta_learns_all(params, first_order):
    learner, episode = make_learner(head_only=True, first_order=first_order), make_episode()
    weights = adapted(learner, params, episode)
    jax.tree.map(np.testing.assert_array_equal, weights["hidden_0"], params["hidden_0"])
    assert abs(weights["head"]["kernel"] - params["head"]["kernel"]).max() > 0.01
    gradient = meta_gradient(learner, params, episode)
    assert all(abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("inner", [{}, {"first_order": True}, {"learn_rates": True}])
def test_offsets_of_batch_normalisation_are_meta_learned_and_do_not_adapt(inner):
    model = FewShotConv(num_classes=3, width=4, num_layers=1)
    learner = Maml(model, 16, num_context=3, inner_rate=0.5, inner_steps=2, **inner)
    x_LX = jax.random.normal(jax.random.key(1), (6, 16))
    episode, params = Episode(x_LX, jnp.array([0, 1, 2, 0, 1, 2]), jnp.int32(3)), initial(learner)
    weights = params["weights"] if learner.learn_rates else params
    moved = jax.tree.map(lambda new, old: float(abs(new - old).max()), adapted(learner, params, episode), weights)
    assert moved.pop("batch_norm_0") == {"bias": 0.0} and min(jax.tree.leaves(moved)) > 1e-3
    gradient = meta_gradient(learner, params, episode)
    assert abs((gradient["weights"] if learner.learn_rates else gradient)["batch_norm_0"]["bias"]).max() > 1e-4


def test_learned_rates_are_one_for_each_array_and_begin_as_the_rate_that_is_given(params):
    learner, episode = make_learner(learn_rates=True), make_episode()
    rates = initial(learner)["log_rates"]
    assert jax.tree.map(jnp.shape, rates) == jax.tree.map(lambda _: (), params)
    learned = {"weights": params, "log_rates": rates}
    plain = predict(make_learner(), params, episode)
    np.testing.assert_allclose(predict(learner, learned, episode), plain, rtol=1e-5)
    gradient = meta_gradient(learner, learned, episode)["log_rates"]
    for name, leaf in (("hidden_0", "kernel"), ("head", "bias")):  # by central differences
        ahead, behind = (
            meta_loss(
                learner,
                {"weights": params, "log_rates": rates | {name: rates[name] | {leaf: jnp.float32(sign * 0.01)}}},
                episode,
            )
            for sign in (1, -1)
        )
        np.testing.assert_allclose(gradient[name][leaf], (ahead - behind) / 0.02, rtol=0.02, atol=1e-4)


def test_a_query_sees_the_context_and_other_images_but_no_label_of_a_query():
    """Finn's network is transductive: its batch statistics are of all queries, and of the context alone while it adapts."""
    learner = Maml(FewShotConv(num_classes=3, width=4, num_layers=1), 16, num_context=3, inner_rate=0.5, inner_steps=2)
    x_LX = jax.random.normal(jax.random.key(1), (6, 16))
    episode = Episode(x_LX, jnp.array([0, 1, 2, 0, 1, 2]), jnp.int32(3))
    params = initial(learner)
    logits_LC = predict(learner, params, episode)
    assert learner.transductive and not make_learner().transductive
    relabelled = predict(learner, params, episode._replace(y_L=episode.y_L.at[5].set(0)))
    np.testing.assert_array_equal(relabelled, logits_LC)
    others = {
        "a label of the context": episode._replace(y_L=episode.y_L.at[0].set(1)),
        "an image of the context": episode._replace(x_LX=x_LX.at[0].add(1.0)),
        "an image of another query": episode._replace(x_LX=x_LX.at[5].add(1.0)),
    }
    for other in others.values():
        assert abs(predict(learner, params, other)[3] - logits_LC[3]).max() > 1e-4
    adapts = [adapted(learner, params, each) for each in (episode, others["an image of another query"])]
    jax.tree.map(np.testing.assert_array_equal, *adapts)
