"""What a figure shows, read off its artists."""

from collections import defaultdict

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Curve = list[tuple[float, float]]


def curves(panel: Axes) -> dict[str, Curve]:
    """Drawn series: name to its points, by rising x."""
    found: dict[str, Curve] = defaultdict(list)
    for container in panel.containers:
        xs, ys = container[0].get_data()
        found[str(container.get_label())] += zip(xs.tolist(), ys.tolist(), strict=True)
    return {name: sorted(line) for name, line in found.items()}


def texts(figure: Figure) -> str:
    """What stands in the panels and below them."""
    inside = [text.get_text() for panel in figure.axes for text in panel.texts]
    return "\n".join([*inside, figure.get_supxlabel()])
