"""Configs that runs wrote before each model, learner and optimiser had settings of its own: all had all of them.

A setting that its class lacks is dropped, whatever its value: it changed nothing.
"""

from typing import Any

from gpicl_jax.registry import find, settings_of

_SETTINGS = {
    "model": (
        *("width", "num_layers", "num_heads", "head_size", "mlp_width", "layout", "label_scale", "smear_keys", "positions"),
        *("activation", "memory_size", "message_size", "micro_ticks", "padding", "grid_size", "dtype"),
    ),
    "learner": (
        *("inner_optimizer", "inner_rate", "inner_steps", "inner_batch", "first_order", "learn_rates", "head_only"),
        *("num_queries", "squash", "unit_gradients"),
    ),
    "optimizer": ("b1", "b2", "eps", "eps_root", "weight_decay", "momentum"),
}


def renewed(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the sections of a config in today's form."""
    values = {section: dict(entries) for section, entries in values.items()}
    model, learner, train = values["model"], values["learner"], values["train"]
    remat, remat_blocks = train.pop("remat"), train.pop("remat_blocks", False)
    if model.get("layout") == "context_query":
        model["name"] = model.pop("layout")
    name = model["name"]
    if name == "vsml":
        model["hidden"] = [model.pop("mlp_width", 0) or model["width"]] * (model.pop("num_layers", 1) - 1)
    kind = find("model", name)
    if learner["name"] == "in_context":
        learner["name"] = kind.learner
    for section, there, value in (
        (model, kind, remat if name.startswith("vsml") else remat_blocks),
        (learner, find("learner", learner["name"]), remat),
    ):
        if "remat" in settings_of(there):
            section["remat"] = value
    return values | {room: _without_others(room, values[room]) for room in _SETTINGS}


def of_study(learner: dict[str, Any]) -> dict[str, Any]:
    """Returns the section of a learner in today's form: `maml` once had the settings of the study on Omniglot."""
    study = ("num_queries", "squash", "unit_gradients")
    if learner.get("name") != "maml":
        return learner
    if any(learner.get(key) for key in study):
        return learner | {"name": "study_maml"}
    return {key: value for key, value in learner.items() if key not in study}


def _without_others(room: str, entries: dict[str, Any]) -> dict[str, Any]:
    """A section without the settings that its class lacks."""
    own, old = settings_of(find(room, entries["name"])), _SETTINGS[room]
    return {key: value for key, value in entries.items() if key in own or key not in old}
