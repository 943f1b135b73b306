"""What influence costs beside a plain forward and backward, and beside other ways to it.

python benchmarks/influence.py [--rounds 7] [--threads 2] [--clock wall|cpu] [--only PART ...]
python benchmarks/influence.py --quick            a minute, to see that it runs
python benchmarks/influence.py --device cuda      on a GPU: GPT-2 124M, 1,024 tokens, bf16

Parts: small and large (a dump, an exact direct score and an Adam-aware dump beside training's
forward and backward), libraries (captum and dattri; `pip install captum dattri`, each is left out
where it is absent), practice (one backward a document, every pair dotted), memory.

What is compared takes turns, and every figure is the median over rounds of the ratio to its own
round. `--clock cpu` counts processor seconds, for a machine that others use too; it wants
--threads 1, since threads that wait spin.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from pathlib import Path

# Bars of other libraries would fill the tables; they look when they are imported.
os.environ.setdefault("TQDM_DISABLE", "1")
import influence_parts as parts
import torch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--only", nargs="*", choices=sorted(parts.PARTS), default=None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--documents", type=int, default=None, help="of libraries and practice")
    parser.add_argument("--queries", type=int, nargs="*", default=None, help="of practice")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    chosen = asked.only or (["gpu"] if asked.device != "cpu" else parts.ON_CPU)
    print(f"{asked.threads} threads, {asked.clock} clock, {asked.rounds} rounds\n")
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            parts.PARTS[name](Path(folder), asked)


if __name__ == "__main__":
    main()
