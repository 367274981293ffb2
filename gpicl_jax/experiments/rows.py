"""The rows of the comparison: which learners, and what each of them tries on validation tasks before it is measured."""

_ADAM_RATES = tuple((f"--optimizer.learning_rate={rate}",) for rate in ("1e-3", "3e-3", "1e-2"))
_MUON_RATES = tuple((f"--optimizer.learning_rate={rate}",) for rate in ("1e-2", "2e-2", "4e-2"))


def _inner_rates(*rates: str) -> tuple[tuple[str, ...], ...]:
    return tuple((f"--learner.inner_rate={rate}",) for rate in rates)


# Row: its trials, each a tuple of settings that replace those of its config; as many for every row.
ROWS: dict[str, tuple[tuple[str, ...], ...]] = {
    "transformer": _MUON_RATES,
    "transformer_paper": _ADAM_RATES,
    "sgd": _inner_rates("3e-3", "1e-2", "3e-2"),
    "maml_online": _inner_rates("3e-3", "1e-2", "3e-2"),
    "lstm": _ADAM_RATES,
    "vsml": _ADAM_RATES,
    "mlp": _ADAM_RATES,
    "context_query": _MUON_RATES,
    "outer_product_lstm": _ADAM_RATES,
    "fast_weights": _ADAM_RATES,
    "finetune": _inner_rates("1e-3", "3e-3", "1e-2"),
    "maml": _inner_rates("0.1", "0.3", "1.0"),
    "encoder_decoder": _MUON_RATES,
    "vsml_without_symmetries": _ADAM_RATES,
}
