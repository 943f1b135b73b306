"""Looking at scores: the highest and the lowest documents, their domains, a histogram; export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcscale.data.store import TokenStore
from hpcscale.data.tokenizer import Tokenizer
from hpcscale.errors import DataError
from hpcscale.influence.score_table import write_json_list

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN_TEXT = 240
_BATCH = 4096
_MOST_DOMAINS = 8


@dataclass(frozen=True)
class Scored:
    """A table of scores, and the texts that it is of, where they are known."""

    path: Path
    table: pa.Table
    store: TokenStore | None = None
    tokenizer: Tokenizer | None = None

    def text(self, row: int) -> str:
        """The text of one row. Raises DataError where store or tokenizer is not known."""
        if self.store is None or self.tokenizer is None:
            raise DataError(
                f"{self.path} alone does not hold texts; name the store and the tokenizer with "
                "--data DIR --tokenizer DIR"
            )
        (place,) = self.store.index_of([self.table["id"][row].as_py()])
        decoded: str = self.tokenizer.decode(self.store.tokens(int(place))[:-1].tolist())
        return decoded


def describe(scored: Scored, top: int) -> str:
    """Counts, a line a domain, and the ``top`` highest and lowest documents with their text."""
    table = scored.table
    scores = table["score"].to_numpy()
    known = np.flatnonzero(np.isfinite(scores))
    lines = [f"{scored.path}: {len(known)} of {len(scores)} documents have a score"]
    if not len(known):
        return lines[0]
    domains = np.array(table["domain"].to_pylist()) if "domain" in table.column_names else None
    if domains is not None:
        lines.append(f"  {'domain':<20} {'documents':>9}  {'mean':>11} {'median':>11}")
        for name in sorted(set(domains[known])):
            mine = scores[known][domains[known] == name]
            lines.append(
                f"  {name:<20} {len(mine):>9}  {mine.mean():>11.4g} {np.median(mine):>11.4g}"
            )
    if not top:
        return "\n".join(lines)
    ranked = known[np.lexsort((table["id"].to_numpy()[known], -scores[known]))]
    for title, rows in (("highest", ranked[:top]), ("lowest", ranked[::-1][:top])):
        lines += ["", f"{title} influence"]
        lines += [_document(scored, int(row)) for row in rows]
    return "\n".join(lines)


def _document(scored: Scored, row: int) -> str:
    values = scored.table.slice(row, 1).to_pylist()[0]
    facts = [f"{values['score']:+.4g}", f"{values['id']:016x}"]
    facts += [str(values["domain"])] if "domain" in values else []
    facts += [f"{values['tokens']} tokens"] if "tokens" in values else []
    head = "  " + "  ".join(facts)
    if scored.store is None or scored.tokenizer is None:
        return head
    text = " ".join(scored.text(row).split())
    return f"{head}\n    {text[:_SHOWN_TEXT]}{' ...' if len(text) > _SHOWN_TEXT else ''}"


def draw_histogram(scored: Scored, out: Path) -> None:
    """The scores' distribution, a line a domain, as PNG, PDF or SVG by the name of ``out``.

    Raises DataError where no document has a score.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    scores = scored.table["score"].to_numpy()
    names = np.array(scored.table["domain"].to_pylist())
    keep = np.isfinite(scores)
    scores, names = scores[keep], names[keep]
    if not len(scores):
        raise DataError(f"{scored.path} has no score to draw; give a table that has scores")
    low, high = np.quantile(scores, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, 41)
    figure, axes = plt.subplots(figsize=(6.0, 3.6), layout="constrained")
    common = [name for name, _ in Counter(names.tolist()).most_common(_MOST_DOMAINS)]
    for name, style in zip(common, ["-", "--", "-.", ":"] * 2, strict=False):
        mine = scores[names == name]
        axes.hist(
            np.clip(mine, edges[0], edges[-1]),
            edges,
            histtype="step",
            linestyle=style,
            linewidth=1.4,
            label=f"{name} ({len(mine)})",
        )
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_xlabel("influence on the queries (positive: training on it lowers their loss)")
    axes.set_ylabel("documents")
    axes.legend(frameon=False, fontsize="small", title="domain")
    axes.spines[["top", "right"]].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=160)
    plt.close(figure)


def export(scored: Scored, dataset: Path | None, json_list: Path | None) -> None:
    """The scores as a Hugging Face dataset with texts, as a JSON list, or both.

    Raises DataError for a dataset where the texts are not known.
    """
    from hpcscale.data.corpora import write_dataset

    if json_list is not None:
        write_json_list(json_list, scored.table)
    if dataset is not None:
        scored.text(0)
        write_dataset(_with_texts(scored), dataset)


def _with_texts(scored: Scored) -> Iterator[pa.Table]:
    """The table, some rows at a time, with a column of texts; the score is called influence."""
    names = ["influence" if name == "score" else name for name in scored.table.column_names]
    table = scored.table.rename_columns(names)
    for first in range(0, table.num_rows, _BATCH):
        part = table.slice(first, _BATCH)
        texts = [scored.text(first + row) for row in range(part.num_rows)]
        yield part.append_column("text", [texts])
