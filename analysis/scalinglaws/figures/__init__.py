"""Figures of a paper, drawn from a study and the tables of a comparison."""

from scalinglaws.figures.catalogue import NAMES, Drawing, Drawn, draw_all
from scalinglaws.figures.style import save, svg

__all__ = ["NAMES", "Drawing", "Drawn", "draw_all", "save", "svg"]
