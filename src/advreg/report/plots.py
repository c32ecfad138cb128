"""How every plot looks, and its SVG text, which needs nothing from outside."""

from __future__ import annotations

import io
import re
from html import escape

from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish; each with its own marker.
BASELINE = {"color": "#000000", "linestyle": (0, (4, 2)), "marker": "o"}
OTHERS = [
    {"color": "#CC79A7", "marker": "v"},
    {"color": "#E69F00", "marker": "^"},
    {"color": "#009E73", "marker": "s"},
    {"color": "#0072B2", "marker": "D"},
    {"color": "#D55E00", "marker": "P"},
    {"color": "#56B4E9", "marker": "X"},
]
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "lines.markersize": 5,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.titlesize": 10,
    "svg.hashsalt": "advreg",  # the same results give the same file
}


def shown(label: str) -> str:
    """A label that matplotlib can draw, and neither hides nor reads as a formula."""
    text = label.encode("utf-8", "backslashreplace").decode()  # of what is no character
    return text.replace("$", r"\$").lstrip("_") or "unnamed"


def _shorter(number: re.Match[str]) -> str:
    """Coordinates to a tenth of a point; what is below one, such as a scale, to four digits."""
    value = float(number[0])
    return f"{value:.4g}" if abs(value) < 1 else f"{value:.1f}"


def finished_svg(canvas: Figure, title: str) -> str:
    """The figure as SVG text that needs nothing from outside and is the same each time."""
    file = io.StringIO()
    canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]  # without the declaration, which names an address
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # Several plots stand in one page: groups are never referred to, so they need no ids.
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    # A twentieth of a point is not seen; with what is blank, that is a third of the file.
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"(?<![\d.#\w])-?\d+\.\d{2,}(?=[^\d.\w])", _shorter, text)
    text = re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", text))
    label = escape(title)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
