"""One HTML file that shows an analysis and needs nothing else."""

from __future__ import annotations

from scalinglaws.page.content import Figure, Page, Section, Sentence
from scalinglaws.page.render import render

__all__ = ["Figure", "Page", "Section", "Sentence", "render"]
