"""Old configs, from when every model, learner and optimiser had all settings of all of them.

A setting that its class lacks is dropped, because it had no effect.
"""

import copy
from typing import Any

from gpicl_jax.registry import find, settings_of

_STUDY = ("num_queries", "squash", "unit_gradients")
_SETTINGS = {
    "model": (
        *("width", "num_layers", "num_heads", "head_size", "mlp_width", "layout", "label_scale", "smear_keys", "positions"),
        *("activation", "memory_size", "message_size", "micro_ticks", "padding", "grid_size", "dtype", "remat"),
    ),
    "learner": (
        *("inner_optimizer", "inner_rate", "inner_steps", "inner_batch", "first_order", "learn_rates", "head_only"),
        "remat",
        *_STUDY,
    ),
    "optimizer": ("b1", "b2", "eps", "eps_root", "weight_decay", "momentum"),
}


def renewed(layer: dict[str, Any]) -> dict[str, Any]:
    """Returns the config of a run of an older version in today's form, and any other layer unchanged."""
    sections = [layer.get(name) for name in ("train", *_SETTINGS)]
    if not all(isinstance(section, dict) for section in sections):
        return layer
    values = copy.deepcopy(layer) | {"learner": _of_study(layer["learner"])}
    if "remat" not in values["train"]:
        return values
    model, learner, train = values["model"], values["learner"], values["train"]
    remat, remat_blocks = train.pop("remat"), train.pop("remat_blocks", False)
    if model.get("layout") == "context_query":
        model["name"] = model.pop("layout")
    if model["name"] == "vsml":
        model["hidden"] = [model.pop("mlp_width", 0) or model["width"]] * (model.pop("num_layers", 1) - 1)
    if learner["name"] == "in_context":
        learner["name"] = find("model", model["name"]).learner
    model["remat"], learner["remat"] = remat if model["name"].startswith("vsml") else remat_blocks, remat
    for room, old in _SETTINGS.items():
        own = settings_of(find(room, values[room]["name"]))
        values[room] = {key: value for key, value in values[room].items() if key in own or key not in old}
    return values


def _of_study(learner: dict[str, Any]) -> dict[str, Any]:
    """Returns the section of a learner in today's form. `maml` of an old run had all settings of the study on Omniglot."""
    if learner.get("name") != "maml" or not set(_STUDY) <= set(learner):
        return learner
    if any(learner[key] for key in _STUDY):
        return learner | {"name": "study_maml"}
    return {key: value for key, value in learner.items() if key not in _STUDY}
