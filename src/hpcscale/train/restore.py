"""Loading checkpoints: the newest one that verifies, on any engine, stage and number of ranks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hpcscale.atomic import read_json
from hpcscale.errors import CheckpointError, HpcscaleError
from hpcscale.train.checkpoint import Origin, Position
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine import Engine
from hpcscale.train.staging import RNG, restore_rng
from hpcscale.train.state import LossScale
from hpcscale.train.state_reader import StateReader
from hpcscale.train.state_writer import rank_file
from hpcscale.train.tag_files import MANIFEST, broken_file, read_manifest, step_of, tag_of, tags_in

_BROKEN_ELSEWHERE = "another rank found it broken"


def restore(engine: Engine, folder: Path, origin: Origin, ranks: Ranks) -> Position | None:
    """Load the newest tag in ``folder`` that verifies; None where there is no tag. Collective.

    Raises CheckpointError where no tag verifies or is of this run.
    """
    steps = ranks.broadcast([step_of(tag) for tag in tags_in(folder)])
    problems: list[str] = []
    for step in reversed(steps.tolist()):
        tag = folder / tag_of(step)
        problem = _problem(tag, origin, ranks)
        if not ranks.any_true(problem is not None):
            if problems and ranks.rank == 0:
                _report_fallback(tag, problems)
            return _load(engine, tag, ranks)
        problems.append(f"{tag.name}: {problem or _BROKEN_ELSEWHERE}")
    if problems:
        raise CheckpointError(
            f"no checkpoint in {folder} can be used: {'; '.join(problems)}; delete the folder to "
            "start over"
        )
    return None


def restore_from(engine: Engine, tag: Path, origin: Origin, ranks: Ranks) -> Position:
    """Load ``tag`` of another task, whose run up to there must be this one's too. Collective.

    Raises CheckpointError where it is broken, or of other data or another seed.
    """
    problem = _problem(tag, origin, ranks, any_task=True)
    if ranks.any_true(problem is not None):
        raise CheckpointError(
            f"training cannot start from {tag}: {problem or _BROKEN_ELSEWHERE}; delete it and run "
            "the task that wrote it again"
        )
    return _load(engine, tag, ranks)


def _report_fallback(tag: Path, problems: Sequence[str]) -> None:
    text = f"hpcscale: going on from {tag}, since {'; '.join(problems)}"
    print(text, file=sys.stderr, flush=True)


def _load(engine: Engine, tag: Path, ranks: Ranks) -> Position:
    record = read_json(tag / MANIFEST)
    with StateReader(tag, record["files"]) as reader:
        engine.load(reader, int(record["updates"]), LossScale(**record["loss_scale"]))
        if record["world_size"] == ranks.world_size:
            states = [reader.tensor(rank_file(ranks.rank), name) for name in RNG]
            restore_rng(states, ranks.device)
    return Position(int(record["step"]), int(record["tokens"]), float(record["seconds"]))


def _problem(tag: Path, origin: Origin, ranks: Ranks, any_task: bool = False) -> str | None:
    """Why a tag cannot be used; each rank verifies its part of the files."""
    try:
        record = read_manifest(tag)
    except HpcscaleError as error:
        return str(error)
    if record["key"] != origin.key and not any_task:
        return f"it belongs to another task ({record['key']}, this is {origin.key})"
    if record["seed"] != origin.seed:
        return f"its run has the seed {record['seed']}, this one {origin.seed}"
    if record["data"] != origin.fingerprint(record["tokens"]):
        return f"its {record['tokens']} tokens are not the first of this run's data"
    names = sorted(record["files"])[ranks.rank :: ranks.world_size]
    return broken_file(tag, record, names)
