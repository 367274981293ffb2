"""One look for all figures: reads well in print, and for the colour-blind (Okabe and Ito's colours)."""

import functools
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SETTINGS = {
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.prop_cycle": matplotlib.cycler(color=COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "image.cmap": "viridis",
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws in this look, whatever the reader's own settings are."""

    @functools.wraps(draw)
    def within(*args, **options) -> Figure:
        with matplotlib.rc_context(_SETTINGS):
            return draw(*args, **options)

    return within
