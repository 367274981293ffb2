"""What `gpicl bench` measures: JAX beside plain PyTorch, in the same run on the same machine."""
