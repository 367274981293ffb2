"""One look for all figures. It suits print and the colour-blind (Okabe and Ito's colours)."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpicl_jax.files import write_atomic

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
THIN = {"color": "grey", "linewidth": 0.8, "linestyle": (0, (1, 3))}  # a line of reference
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
styled = matplotlib.rc_context(_SETTINGS)  # a decorator: draws in this look, whatever the reader's own settings are


def write_png(path: Path, draw: Callable[..., Figure | None], *given: Any) -> Path | None:
    """Writes the figure that `draw(*given)` makes, in this look. Returns the path, or None where it makes none.

    Example:
      >>> import tempfile
      >>> write_png(Path(tempfile.mkdtemp()) / "empty.png", Figure).name
      'empty.png'
    """
    image, figure = io.BytesIO(), styled(draw)(*given)
    if figure is None:
        return None
    figure.savefig(image, format="png")
    return write_atomic(path, lambda file: file.write(image.getvalue()))


def panels(names: Sequence[str], width: float, height: float) -> tuple[Figure, dict[str, Axes]]:
    """Returns a figure of `width` × `height` inches with a row of panels, by name.

    Example:
      >>> list(panels(["mnist", "kmnist"], 8, 3)[1])
      ['mnist', 'kmnist']
    """
    figure = Figure(figsize=(width, height))
    return figure, dict(zip(names, figure.subplots(1, len(names), squeeze=False, sharey=True)[0], strict=True))


def marks(axes: Axes, frame: pd.DataFrame, x: str, y: str, by: str, label: str = "{}", *, line: bool = False) -> None:
    """Draws each row as a mark at its values of columns `x` and `y`, with a color for each value of column `by`.

    `label` names the colors. `line` joins the means of `y`. Columns of text are places of an axis, in the order of the rows.
    """
    for number, (value, rows) in enumerate(frame.groupby(by, sort=False)):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        axes.scatter(rows[x], rows[y], s=26, alpha=0.75, linewidths=0, color=color, marker=marker, label=label.format(value))
        if line:
            axes.plot(rows.groupby(x)[y].mean(), color=color, linewidth=1)


def top_down(figure: Figure) -> None:
    """Inverts the axis of places that all panels share, so that the first place is at the top."""
    figure.axes[0].set_ylim(len(figure.axes[0].get_yticks()) - 0.5, -0.5)


def finished(figure: Figure, ncols: int, title: str = "") -> Figure:
    """Returns the figure with a title above, and below one legend for all panels, in which each label is once."""
    entries = {label: mark for axes in figure.axes for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=ncols)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
