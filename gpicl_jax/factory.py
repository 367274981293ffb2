"""From config to objects: the only place that maps names to classes."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import optax
from flax import linen as nn

from gpicl_jax.config import Hyper
from gpicl_jax.data import PAIRS, ImageDataset, load, pairs
from gpicl_jax.learners import ContextQuery, InContext, InnerLoop, Instance, Learner, Maml, Online
from gpicl_jax.models import (
    LSTM,
    MLP,
    VSML,
    ContextQueryTransformer,
    EncoderDecoder,
    EquivariantTransformer,
    FastWeights,
    FewShotConv,
    OuterProductLSTM,
    StudyConv,
    Transformer,
    VSMLWithoutSymmetries,
    WithoutContextPermutations,
    WithoutLabelPermutations,
    WithoutRotations,
)
from gpicl_jax.sections import CONTEXT_QUERY, EQUIVARIANT, IDENTITY, IN_CONTEXT, INFINITE, ONLINE_LEARNERS, Config, has_queries
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Mixture, Pairs, RandomPoints, TaskDistribution

_STARTS = {"sgd": "fresh", "finetune": "pretrained", "maml_online": "meta_learned"}
_INNER_EPS_ROOT = 1e-8  # the authors' Adam; without it no gradient flows through the root
MakeOptimizer = Callable[[Hyper], optax.GradientTransformation]


def make_source(config: Config, name: str, split: str) -> ImageDataset | Pairs | RandomPoints:
    """The base dataset `name` as `[data]` wants its images."""
    data = config.data
    if name == "random":
        return RandomPoints(data.num_features)
    if not data.features:
        source = load(name, split, size=data.size, channels=data.channels, data_dir=data.dir, standardize=data.standardize)
        return Pairs(source, jnp.asarray(pairs(split, data.dir))) if name == PAIRS else source
    source = load(name, split, data_dir=data.dir)
    if source.num_features != data.features:
        raise UserError(
            f"'{name}' has {source.num_features} numbers an example, but data.features = {data.features}; make them agree"
        )
    return source


def make_tasks(config: Config, split: str, name: str | None = None) -> TaskDistribution:
    """The tasks of one split of `data.train`, or of another base dataset.

    Only the training split draws from a finite task set, and has matrices of the law that the config names; all others are
    normal, so that learners of different laws are measured by the same tasks.
    """
    sources = [make_source(config, each, split) for each in ([name] if name else config.data.train)]
    settings = config.tasks
    try:
        return TaskDistribution(
            source=sources[0] if len(sources) == 1 else Mixture(tuple(sources), config.data.weights),
            length=settings.length,
            classes_per_task=settings.classes_per_task,
            num_context=settings.num_context,
            balanced=settings.balanced,
            clutter=settings.clutter if split == "train" else 0.0,
            feature_scales=settings.feature_scales if split == "train" else 0.0,
            infinite=split != "train" or settings.num_tasks == INFINITE,
            identity=settings.entries == IDENTITY,
            entries=settings.entries if split == "train" and settings.entries != IDENTITY else "normal",
        )
    except UserError as error:
        raise UserError(f"{split} images: {error}") from None


def make_learner(config: Config) -> Learner:
    """The learner that `[learner]` names, with the model that `[model]` names."""
    settings, num_features = config.learner, config.data.num_features
    model, remat = make_model(config), config.train.remat
    if settings.name == IN_CONTEXT:
        if has_queries(config.model):
            return ContextQuery(model, num_features, config.tasks.length, config.tasks.num_context)
        return InContext(model, num_features, config.tasks.length)
    if settings.name in ONLINE_LEARNERS:
        return Online(model, num_features, _inner_optimizer(config), start=_STARTS[settings.name], remat=remat)
    if settings.name == "maml":
        inner = InnerLoop(
            rate=settings.inner_rate,
            steps=settings.inner_steps,
            batch=settings.inner_batch,
            first_order=settings.first_order,
            learn_rates=settings.learn_rates,
            head_only=settings.head_only,
            remat=remat,
        )
        meta = {name: getattr(settings, name) for name in ("num_queries", "squash", "unit_gradients")}
        return Maml(model, num_features, inner, config.tasks.num_context, **meta)
    return Instance(model, num_features)


def make_model(config: Config) -> nn.Module:
    """The Flax module that `[model]` names."""
    model = config.model
    common = {"num_classes": config.tasks.classes_per_task, "dtype": jnp.dtype(model.dtype), "width": model.width}
    if model.name == "mlp":
        return MLP(**common, num_layers=model.num_layers)
    if model.name == "few_shot_conv":
        return FewShotConv(common["num_classes"], model.width, model.num_layers, config.data.channels)
    if model.name == "study_conv":
        return StudyConv(model.padding)
    heads = {"num_heads": model.num_heads, "head_size": model.head_size}
    pairs = {"message_size": model.message_size, "micro_ticks": model.micro_ticks, "remat": config.train.remat}
    blocks = {"num_layers": model.num_layers, "mlp_width": model.mlp_width, "activation": model.activation}
    blocks["remat"] = config.train.remat_blocks
    if model.name == EQUIVARIANT:
        return EquivariantTransformer(**common, **heads, **blocks)
    if model.name == "equivariant_without_rotations":
        return WithoutRotations(**common, **heads, **blocks)
    if model.name == "equivariant_without_label_permutations":
        return WithoutLabelPermutations(**common, **heads, **blocks)
    if model.name == "equivariant_without_context_permutations":
        return WithoutContextPermutations(**common, **heads, **blocks, max_length=config.tasks.length)
    common["label_scale"] = model.label_scale
    if model.name == "lstm":
        return LSTM(**common)
    if model.name == "outer_product_lstm":
        return OuterProductLSTM(**common, **heads)
    if model.name == "fast_weights":
        return FastWeights(**common, memory_size=model.memory_size)
    if model.name == "vsml":
        hidden = (model.mlp_width or model.width,) * (model.num_layers - 1)
        return VSML(**common, **pairs, hidden=hidden)
    if model.name == "vsml_without_symmetries":
        return VSMLWithoutSymmetries(**common, **pairs, grid_size=model.grid_size)
    blocks |= common | heads
    if model.layout == CONTEXT_QUERY:
        return ContextQueryTransformer(**blocks)
    in_order = {**blocks, "max_length": config.tasks.length, "smear_keys": model.smear_keys}
    if model.name == "encoder_decoder":
        return EncoderDecoder(**in_order)
    return Transformer(**in_order, layout=model.layout, positions=model.positions)


def _inner_optimizer(config: Config) -> optax.GradientTransformation:
    make = {
        "sgd": optax.sgd,
        "adam": functools.partial(optax.adam, eps_root=_INNER_EPS_ROOT),
        "adamw": functools.partial(optax.adamw, eps_root=_INNER_EPS_ROOT),
    }
    return make[config.learner.inner_optimizer](config.learner.inner_rate)


def make_optimizer(config: Config) -> MakeOptimizer:
    """A function from the traced `Hyper` to the Optax optimiser that `[optimizer]` names.

    It is called inside the traced step: a learning rate or eps that is traced goes straight into Optax.
    """
    settings = config.optimizer
    schedule = _schedule(config)

    def optimizer(hyper: Hyper) -> optax.GradientTransformation:
        def learning_rate(count):
            return hyper.learning_rate * schedule(count)

        adam = {"b1": settings.b1, "b2": settings.b2, "eps": hyper.eps, "eps_root": settings.eps_root}
        if settings.name == "adam":
            update = optax.adam(learning_rate, **adam)
        elif settings.name == "adamw":
            update = optax.adamw(learning_rate, **adam, weight_decay=settings.weight_decay)
        elif settings.name == "muon":
            update = optax.contrib.muon(
                learning_rate,
                beta=settings.momentum,
                eps=hyper.eps,
                weight_decay=settings.weight_decay,
                adam_b1=settings.b1,
                adam_b2=settings.b2,
                adam_eps_root=settings.eps_root,
            )
        elif settings.name == "sign":  # −rate · sign(mean of the gradients with decay b1), the paper's remedy for its plateau
            update = optax.chain(
                optax.ema(settings.b1, debias=False), optax.scale_by_sign(), optax.scale_by_learning_rate(learning_rate)
            )
        else:
            update = optax.sgd(learning_rate, momentum=settings.momentum)
        clip = [optax.clip_by_global_norm(settings.clip)] if settings.clip else []
        return optax.chain(*clip, update)

    return optimizer


def _schedule(config: Config) -> optax.Schedule:
    """The learning rate's course as a fraction of its peak."""
    settings = config.optimizer
    if settings.schedule == "cosine":
        after = optax.cosine_decay_schedule(1.0, config.train.steps - settings.warmup_steps)
    else:
        after = optax.constant_schedule(1.0)
    if not settings.warmup_steps:
        return after
    # the first step already moves: (count + 1) / warmup_steps
    rise = optax.linear_schedule(1 / settings.warmup_steps, 1.0, settings.warmup_steps - 1)
    return optax.join_schedules([rise, after], [settings.warmup_steps])
