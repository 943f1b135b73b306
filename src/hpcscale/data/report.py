"""What was read from a corpus, and what was wrong with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hpcscale.errors import DataError

_PLACES_KEPT = 20
_PLACES_SHOWN = 3


@dataclass(slots=True)
class ReadReport:
    """Counts of records; ``first_broken`` keeps the places and reasons of the first 20 broken.

    ``documents`` were read whole. Of these, ``empty`` hold white space only, ``wrong_domain`` are
    of a domain that was not asked for, ``duplicates`` repeat a text already taken, ``other_split``
    belong to another role by their hash and ``excluded`` are in another role's store. Where a store
    stops at a token count, records that it did not read are not counted.
    """

    documents: int = 0
    broken: int = 0
    empty: int = 0
    duplicates: int = 0
    wrong_domain: int = 0
    other_split: int = 0
    excluded: int = 0
    first_broken: list[dict[str, str]] = field(default_factory=list)

    def add_broken(self, place: str, reason: str) -> None:
        self.broken += 1
        if len(self.first_broken) < _PLACES_KEPT:
            self.first_broken.append({"place": place, "reason": reason})

    @property
    def broken_share(self) -> float:
        """Broken records over all records."""
        return self.broken / max(1, self.broken + self.documents)

    def check(self, max_broken: float) -> None:
        """Raises DataError where more than the share ``max_broken`` of all records is broken."""
        if self.broken_share <= max_broken:
            return
        shown = [f"{b['place']}: {b['reason']}" for b in self.first_broken[:_PLACES_SHOWN]]
        more = f"; and {self.broken - len(shown)} more" if self.broken > len(shown) else ""
        raise DataError(
            f"{self.broken} of {self.broken + self.documents} records are broken "
            f"({self.broken_share:.2%}, the limit data.max_broken is {max_broken:.2%}): "
            f"{'; '.join(shown)}{more}. Repair the files, or raise data.max_broken"
        )

    def plain(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return asdict(self)
