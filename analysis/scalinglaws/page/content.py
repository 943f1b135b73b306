"""What a page shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from scalinglaws.errors import AnalysisError
from scalinglaws.tables import Table, check_stem

#: What a sentence of the verdict is: a result, a caution about one, or an open question.
LEVELS = ("finding", "caution", "open")


@dataclass(frozen=True)
class Sentence:
    """A sentence of the verdict; raises AnalysisError where ``level`` is not one of LEVELS."""

    text: str
    level: str = "finding"

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise AnalysisError(f"no level `{self.level}`; the levels are {', '.join(LEVELS)}")


@dataclass(frozen=True)
class Figure:
    """A picture as SVG text or PNG bytes (SVG goes first); ``alt`` says what it shows.

    A ``wide`` figure takes the whole width of the page, others share it.

    Raises AnalysisError where there is no picture or nothing in ``alt``.
    """

    name: str
    caption: str
    alt: str
    svg: str | None = None
    png: bytes | None = None
    wide: bool = False

    def __post_init__(self) -> None:
        check_stem(self.name)
        if not self.svg and not self.png:
            raise AnalysisError(f"figure {self.name} has no picture; give svg or png")
        if not self.alt.strip():
            raise AnalysisError(f"figure {self.name} has no alt; describe in words what it shows")


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs (a blank line between them), and figures and tables in order."""

    title: str
    text: str = ""
    items: tuple[Figure | Table, ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole page; ``generated`` is the time that it shows.

    Raises AnalysisError where two figures, or two tables, have one name.
    """

    title: str
    subtitle: str
    verdict: tuple[Sentence, ...]
    generated: str
    warnings: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    provenance: Table | None = None
    checklist: Table | None = None

    def __post_init__(self) -> None:
        items = [item for section in self.all_sections() for item in section.items]
        for kind in (Figure, Table):
            counts = Counter(item.name for item in items if isinstance(item, kind))
            twice = [name for name, count in counts.items() if count > 1]
            if twice:
                raise AnalysisError(
                    f"two {kind.__name__.lower()}s have the name {twice[0]}; rename one"
                )

    def all_sections(self) -> tuple[Section, ...]:
        """The sections, and those of provenance and checklist where there are any."""
        last = (("Provenance", self.provenance), ("Checklist", self.checklist))
        return (*self.sections, *(Section(t, items=(table,)) for t, table in last if table))
