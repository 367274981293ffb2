"""Meta-training: a pure step, chunks of steps in one compiled call, and a loop that owns all input and output."""
