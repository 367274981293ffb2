"""Meta-optimisers, one class for each name: Optax's, after a schedule, a warm-up and clipping."""

import dataclasses
from typing import Any

import optax

from gpicl_jax.registry import register
from gpicl_jax.settings import UserError, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """A function from the traced settings to an Optax optimiser. It is called inside the traced step.

    Attributes:
      steps: steps of meta-training, which the schedule spans.
    """

    steps: int
    learning_rate: float = setting(1e-3, "step size (its peak, under a schedule)", above=0.0, traced=True)
    schedule: str = setting("constant", "schedule of the step size after the warm-up", choices=("constant", "cosine"))
    warmup_steps: int = setting(0, "steps of linear warm-up", minimum=0)
    clip: float = setting(0.0, "largest global norm of the gradient; 0 is no clipping", minimum=0.0)

    room, needs, given = "optimizer", ("update",), ("steps",)

    @classmethod
    def check(cls, config: Any) -> None:
        """Raises UserError where the settings do not fit the rest of `config`."""
        optimizer, steps = config.optimizer, config.train.steps
        if optimizer.schedule == "cosine" and optimizer.warmup_steps >= steps:
            raise UserError(
                f"optimizer.warmup_steps = {optimizer.warmup_steps} leaves nothing of train.steps = {steps}; lower it"
            )

    def update(self, rate: optax.Schedule, hyper: Any) -> optax.GradientTransformation:
        """Returns the optimiser. `rate` maps the number of steps taken to the step size. `hyper` holds the traced settings."""
        raise NotImplementedError

    def __call__(self, hyper: Any) -> optax.GradientTransformation:
        """Returns the optimiser with clipping before it."""
        course = self.course()
        update = self.update(lambda count: hyper.learning_rate * course(count), hyper)
        if not isinstance(update, optax.GradientTransformation):
            raise UserError(f"update of {type(self).__name__} returns {type(update).__name__}; expected an Optax optimiser")
        clip = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        return optax.chain(*clip, update)

    def course(self) -> optax.Schedule:
        """Returns the learning rate as a fraction of its peak, against the number of steps taken."""
        if self.schedule == "cosine":
            after = optax.cosine_decay_schedule(1.0, self.steps - self.warmup_steps)
        else:
            after = optax.constant_schedule(1.0)
        if not self.warmup_steps:
            return after
        # the first step already moves: (count + 1) / warmup_steps
        rise = optax.linear_schedule(1 / self.warmup_steps, 1.0, self.warmup_steps - 1)
        return optax.join_schedules([rise, after], [self.warmup_steps])


@register("adam")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980)."""

    b1: float = setting(0.9, "decay of the mean of the gradients", minimum=0.0, below=1.0)
    b2: float = setting(0.999, "decay of the mean of the squared gradients", minimum=0.0, below=1.0)
    eps: float = setting(1e-8, "eps, outside the root", minimum=0.0, traced=True)
    eps_root: float = setting(1e-8, "eps, inside the root", minimum=0.0)

    def update(self, rate: optax.Schedule, hyper: Any) -> optax.GradientTransformation:
        return optax.adam(rate, b1=self.b1, b2=self.b2, eps=hyper.eps, eps_root=self.eps_root)


@register("adamw")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101)."""

    weight_decay: float = setting(0.0, "decoupled weight decay", minimum=0.0)

    def update(self, rate: optax.Schedule, hyper: Any) -> optax.GradientTransformation:
        decay = self.weight_decay
        return optax.adamw(rate, b1=self.b1, b2=self.b2, eps=hyper.eps, eps_root=self.eps_root, weight_decay=decay)


@register("muon")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon(AdamW):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for matrices, Adam for the other parameters."""

    momentum: float = setting(0.95, "momentum for matrices", minimum=0.0, below=1.0)

    def update(self, rate: optax.Schedule, hyper: Any) -> optax.GradientTransformation:
        return optax.contrib.muon(
            rate,
            beta=self.momentum,
            eps=hyper.eps,
            weight_decay=self.weight_decay,
            adam_b1=self.b1,
            adam_b2=self.b2,
            adam_eps_root=self.eps_root,
        )


@register("sgd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Gradient descent with momentum."""

    momentum: float = setting(0.95, "momentum", minimum=0.0, below=1.0)

    def update(self, rate: optax.Schedule, hyper: Any) -> optax.GradientTransformation:
        return optax.sgd(rate, momentum=self.momentum)


@register("sign")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sign(Optimizer):
    """Steps by the sign of the mean gradient (Bernstein et al. 2018, arXiv 1802.04434), the paper's remedy for its plateau."""

    b1: float = setting(0.9, "decay of the mean of the gradients", minimum=0.0, below=1.0)

    def update(self, rate: optax.Schedule, hyper: Any) -> optax.GradientTransformation:
        return optax.signum(rate, self.b1)
