"""Measurements behind `gpicl bench`: JAX beside plain PyTorch, in the same run on the same machine."""
