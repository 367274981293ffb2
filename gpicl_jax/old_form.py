"""Configs that runs wrote before each model, learner and optimiser had settings of its own: all had all of them.

A setting that its class lacks is dropped where it has the value of its old default.
"""

from typing import Any

from gpicl_jax.registry import find, settings_of

_DEFAULTS: dict[str, dict[str, Any]] = {
    "model": {
        "width": 256,
        "num_layers": 4,
        "num_heads": 8,
        "head_size": 32,
        "mlp_width": 0,
        "layout": "shifted",
        "label_scale": 1.0,
        "smear_keys": False,
        "positions": "learned",
        "activation": "gelu",
        "memory_size": 16,
        "message_size": 8,
        "micro_ticks": 2,
        "padding": "VALID",
        "grid_size": 8,
        "dtype": "float32",
    },
    "learner": {
        "inner_optimizer": "adam",
        "inner_rate": 1e-3,
        "inner_steps": 5,
        "inner_batch": 0,
        "first_order": False,
        "learn_rates": False,
        "head_only": False,
        "num_queries": 0,
        "squash": False,
        "unit_gradients": False,
    },
    "optimizer": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 1e-8, "weight_decay": 0.0, "momentum": 0.95},
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
    return values | {room: _without_others_defaults(room, values[room]) for room in _DEFAULTS}


def _without_others_defaults(room: str, entries: dict[str, Any]) -> dict[str, Any]:
    """A section without the settings that its class lacks, where they have their old default."""
    own, defaults = settings_of(find(room, entries["name"])), _DEFAULTS[room]
    return {key: value for key, value in entries.items() if key in own or key not in defaults or value != defaults[key]}
