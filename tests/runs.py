"""Several training runs, one after the other on the same ranks: starting ranks takes longest.

python -m runs OUT cases=FILE     FILE: a JSON list of settings, each with the folder of its run
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from training import prepare, run_ranks, settings_of


def run_all(folder: Path, world: int, cases: list[tuple[str, dict[str, Any]]]) -> None:
    """``cases``: folders beside the store, and settings; one that has ``stop_at`` is stopped."""
    listed = [{"folder": name, **settings_of(**settings)} for name, settings in cases]
    file = folder / f"cases-{len(list(folder.glob('cases-*.json')))}.json"
    file.write_text(json.dumps(listed))
    run_ranks(folder / "launch", world, module="runs", timeout=3000, cases=file)


def main() -> None:
    import torch

    from hpcscale.errors import Preempted
    from hpcscale.train.distributed import Ranks, close_group
    from hpcscale.train.loop import train
    from hpcscale.train.options import Hooks, RunSetup

    torch.set_num_threads(1)
    out, file = Path(sys.argv[1]), Path(sys.argv[2].removeprefix("cases="))
    ranks = Ranks.from_environment()
    for case in json.loads(file.read_text()):
        own = out.parent / case["folder"]
        own.mkdir(exist_ok=True)
        model, stream, config = prepare(own, case)
        seen: list[int] = []

        def stop(limit: int = case["stop_at"], seen: list[int] = seen) -> bool:
            seen.append(1)
            return 0 < limit < len(seen)

        try:
            setup = RunSetup(case["engine"], case["precision"], 0, ranks, own, case["key"])
            train(model, stream, config, setup, Hooks(stop=stop))
        except Preempted:
            assert case["stop_at"]
    close_group()


if __name__ == "__main__":
    main()
