"""The rows of the comparison: which learners, and what each of them tries on validation tasks before it is measured."""


def _rates(setting: str, *rates: str) -> tuple[tuple[str, ...], ...]:
    return tuple((f"--{setting}={rate}",) for rate in rates)


_ADAM = _rates("optimizer.learning_rate", "1e-3", "3e-3", "1e-2")
_MUON = _rates("optimizer.learning_rate", "2e-2", "1e-2", "4e-2")
_ONLINE = _rates("learner.inner_rate", "1e-2", "3e-2", "1e-1")

# Row: its trials, each a tuple of settings that replace those of its config; as many for every row, and the first changes
# nothing.
ROWS: dict[str, tuple[tuple[str, ...], ...]] = {
    "transformer": _MUON,
    "transformer_paper": _ADAM,
    "sgd": _ONLINE,
    "maml_online": _ONLINE,
    "lstm": _ADAM,
    "vsml": _rates("optimizer.learning_rate", "1e-2", "3e-3", "3e-2"),
    "mlp": _ADAM,
    "context_query": _MUON,
    "outer_product_lstm": _ADAM,
    "fast_weights": _ADAM,
    "finetune": _ONLINE,
    "maml": _rates("learner.inner_rate", "0.3", "0.1", "1.0"),
    "encoder_decoder": _MUON,
    "vsml_without_symmetries": _ADAM,
}
