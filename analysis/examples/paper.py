"""The figures and tables of a paper, from a run directory or a CSV of losses.

    python analysis/examples/paper.py runs/quickstart paper/

Copy it beside your paper and change what you need: everything here is the public interface.
"""

from __future__ import annotations

import sys
from pathlib import Path

from scalinglaws import Analysis, Options
from scalinglaws.api import sentences, write_fits, write_tables
from scalinglaws.figures import curves, save


def main(source: Path, out: Path) -> None:
    if (source / "analysis").is_dir():
        source = source / "analysis"
    analysis = Analysis(source, Options(holdout=1))
    for sentence in sentences(analysis):
        print(f"{sentence.level:8} {sentence.text}")

    write_fits(analysis, out)  # fits.csv, holdout.csv, loss-vs-tokens.{png,pdf,svg}
    write_tables(analysis, out / "tables")  # .tex with booktabs, .csv, .json

    # A figure to your own taste: any matplotlib figure can be changed before it is saved.
    figure = curves.loss_against_tokens(analysis.study)
    figure.axes[0].set_title("Continued pretraining")
    save(figure, out, "figure-1")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
