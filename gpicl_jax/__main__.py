"""`python -m gpicl_jax`: the same as the console script `gpicl`."""

import sys

from gpicl_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
