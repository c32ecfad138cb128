"""Draws docs/images/algorithm.svg: two mini-batches, and the memories between them.

python tools/picture.py
"""

from __future__ import annotations

from pathlib import Path

OUT = Path(__file__).parents[1] / "docs" / "images" / "algorithm.svg"
WIDTH, HEIGHT = 600, 430
FORWARD, BACKWARD, MEMORY, INK = "#1d5fbf", "#c2410c", "#b7791f", "#1f2933"
TOP, MIDDLE, BOTTOM = 105, 225, 340
"""Heights of the previous mini-batch, the memories and the current one."""
SITES = {"0": 110, "1": 310}
"""Where each site's perturbation is added."""
LAYERS = {"layer 1": 210, "layer 2": 410}
LOSS, START = 530, 35


def box(x: int, y: int, text: str, fill: str, width: int = 86) -> str:
    """A box with a word in it."""
    return (
        f'<rect x="{x - width // 2}" y="{y - 21}" width="{width}" height="42" rx="8"'
        f' fill="{fill}" stroke="{INK}"/>' + label(x, y + 5, text)
    )


def label(
    x: int, y: int, text: str, color: str = INK, size: int = 16, anchor: str = "middle"
) -> str:
    """A line of text."""
    return (
        f'<text x="{x}" y="{y}" fill="{color}" font-size="{size}" text-anchor="{anchor}">'
        f"{text}</text>"
    )


def arrow(x: int, y: int, to_x: int, to_y: int, color: str) -> str:
    """A line with a head."""
    head = {FORWARD: "forward", BACKWARD: "backward", MEMORY: "memory"}[color]
    return (
        f'<line x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}" stroke="{color}" stroke-width="2"'
        f' marker-end="url(#{head})"/>'
    )


def plus(x: int, y: int) -> str:
    """Where something is added."""
    return f'<circle cx="{x}" cy="{y}" r="13" fill="#fff" stroke="{INK}"/>' + label(
        x, y + 6, "+", size=19
    )


def batch(y: int, index: str) -> list[str]:
    """A mini-batch's forward pass, from left to right."""
    stops = sorted([*SITES.values(), *LAYERS.values()])
    parts = [label(START, y + 5, f"x<tspan dy='4' font-size='12'>{index}</tspan>", size=18)]
    reached = START + 22
    for x in stops:
        half = 13 if x in SITES.values() else 43
        parts.append(arrow(reached, y, x - half - 2, y, FORWARD))
        reached = x + half
    parts.append(arrow(reached, y, LOSS - 45, y, FORWARD))
    parts += [plus(x, y) for x in SITES.values()]
    parts += [box(x, y, name, "#e8f0fb") for name, x in LAYERS.items()]
    parts.append(box(LOSS, y, "loss", "#fdece3", 86))
    return parts


def backward(y: int) -> list[str]:
    """The gradient's way back, and what it leaves in the memories."""
    low = y + 38
    parts = [
        f'<polyline points="{LOSS},{y + 21} {LOSS},{low} {SITES["0"]},{low}" fill="none"'
        f' stroke="{BACKWARD}" stroke-width="2"/>'
    ]
    for x in SITES.values():
        parts.append(arrow(x, low, x, MIDDLE - 24, BACKWARD))
        parts.append(label(x + 9, low + 27, "sign of gradient", BACKWARD, 15, "start"))
    return parts


def memories() -> list[str]:
    """The memories, and where they are added."""
    parts = []
    for index, x in SITES.items():
        name = f"S<tspan dy='4' font-size='12'>{index}</tspan>"
        parts.append(box(x, MIDDLE, name, "#fdf3d8", 62))
        parts.append(arrow(x, MIDDLE + 21, x, BOTTOM - 15, MEMORY))
        parts.append(label(x + 9, MIDDLE + 62, "times epsilon", MEMORY, 15, "start"))
    return parts


def draw() -> str:
    """The whole picture."""
    heads = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        f' orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{color}"/></marker>'
        for name, color in [("forward", FORWARD), ("backward", BACKWARD), ("memory", MEMORY)]
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        ' font-family="Helvetica, Arial, sans-serif">',
        "<title>Layerwise adversarial training over two mini-batches</title>",
        f"<defs>{heads}</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#fff"/>',
        label(20, 42, "Mini-batch t - 1: its one backward pass leaves S", size=18, anchor="start"),
        label(20, 405, "Mini-batch t: its one forward pass adds S", size=18, anchor="start"),
        *batch(TOP, "t-1"),
        *backward(TOP),
        *memories(),
        *batch(BOTTOM, "t"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    OUT.write_text(draw(), encoding="utf-8")
