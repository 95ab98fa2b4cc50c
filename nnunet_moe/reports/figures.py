"""Colors and figures for the pictures of all reports."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")  # Okabe and Ito
MAX_INCHES = 24


def new_figure(width: float, height: float) -> Figure:
    """Make a figure that needs no display, at most `MAX_INCHES` wide."""
    figure = Figure(figsize=(min(width, MAX_INCHES), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def colour(number: int) -> str:
    """Return the color of a trainer, given by its number. Colors repeat."""
    return COLOURS[number % len(COLOURS)]
