"""Flax modules, each for one episode without a batch axis."""

from gpicl_jax.models.conv import FewShotConv, StudyConv
from gpicl_jax.models.encoder_decoder import EncoderDecoder
from gpicl_jax.models.equivariant_ablations import (
    WithoutContextPermutations,
    WithoutLabelPermutations,
    WithoutRotations,
)
from gpicl_jax.models.equivariant_transformer import EquivariantTransformer
from gpicl_jax.models.fast_weights import FastWeights
from gpicl_jax.models.lstm import LSTM
from gpicl_jax.models.mlp import MLP
from gpicl_jax.models.outer_product_lstm import OuterProductLSTM
from gpicl_jax.models.transformer import ContextQueryTransformer, Transformer
from gpicl_jax.models.vsml import VSML
from gpicl_jax.models.vsml_without_symmetries import VSMLWithoutSymmetries

__all__ = [
    "LSTM",
    "MLP",
    "VSML",
    "ContextQueryTransformer",
    "EncoderDecoder",
    "EquivariantTransformer",
    "FastWeights",
    "FewShotConv",
    "OuterProductLSTM",
    "StudyConv",
    "Transformer",
    "VSMLWithoutSymmetries",
    "WithoutContextPermutations",
    "WithoutLabelPermutations",
    "WithoutRotations",
]
