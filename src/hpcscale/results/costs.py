"""The cost of selection: the tasks for each method's scores, their FLOPs and device-hours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hpcscale.atomic import read_done, read_json
from hpcscale.plan.kinds import Passes, kind_of
from hpcscale.plan.scores.plugin import scorer_flops
from hpcscale.plan.specs import AnalyseSpec, BlockSpec, ScorerSpec, Shard
from hpcscale.results.compute import base_rate, by_weights
from hpcscale.rundir.layout import ATTEMPTS, RECORD
from hpcscale.rundir.reading import Row, read_lines
from hpcscale.rundir.task_file import TaskFile, find_task_file, read_task_file

COLUMNS = ["method", "stage", "tasks", "flops", "device_hours", "device", "shared_with"]


def collect_costs(run_dir: Path, spec: AnalyseSpec) -> list[Row]:
    """A row for each method, stage and set of methods that share its tasks.

    A method without scores, such as random, has no row. What every method needs (data, the base
    model, filling budgets) has none either. flops: of passes through a model, without products of
    stored gradients, which cost far less; empty where those of a task are unknown. device_hours:
    ranks times hours of all attempts, failed ones too; empty where a task has no record of any.
    """
    scoring = {method: set(_scoring(run_dir, ids)) for method, ids in _scores(run_dir, spec)}
    rows = []
    for method, tasks in scoring.items():
        groups: dict[tuple[str, tuple[str, ...]], list[TaskFile]] = {}
        for task_id in sorted(tasks):
            file = read_task_file(run_dir, task_id)
            others = tuple(m for m in scoring if m != method and task_id in scoring[m])
            groups.setdefault((file.stage, others), []).append(file)
        for (stage, others), files in groups.items():
            rows.append(
                {
                    "method": method,
                    "stage": stage,
                    "tasks": len(files),
                    "flops": _sum(task_flops(run_dir, file) for file in files),
                    "device_hours": _sum(device_hours(run_dir / file.id) for file in files),
                    "device": ";".join(sorted({_device(run_dir, file) for file in files} - {""})),
                    "shared_with": ";".join(others),
                }
            )
    return rows


def _scores(run_dir: Path, spec: AnalyseSpec) -> Iterator[tuple[str, set[str]]]:
    """The score tasks of each method."""
    found: dict[str, set[str]] = {}
    for cell in spec.cells:
        train = find_task_file(run_dir, cell.train[0])
        for selection in train.input_ids("selection") if train else []:
            file = find_task_file(run_dir, selection)
            found.setdefault(cell.method, set()).update(file.input_ids("scores") if file else ())
    yield from found.items()


def _scoring(run_dir: Path, ids: set[str]) -> Iterator[str]:
    """The finished tasks of scoring that ``ids`` depend on, ``ids`` included; each once."""
    waiting, seen = sorted(ids), set(ids)
    while waiting:
        task_id = waiting.pop()
        file = find_task_file(run_dir, task_id)
        if file is None or not kind_of(file.kind).scoring:
            continue
        # The marker does not tell: gradients may be deleted once they are scored.
        if any(line["outcome"] == "done" for line in read_lines(run_dir / task_id / ATTEMPTS)):
            yield task_id
        above = {entry.id for entries in file.inputs.values() for entry in entries}
        waiting += sorted(above - seen)
        seen |= above


def task_flops(run_dir: Path, file: TaskFile) -> float | None:
    """Floating-point operations of a task of scoring; None where they are unknown."""
    return _FLOPS[kind_of(file.kind).passes](run_dir, file)


def _of_training(run_dir: Path, file: TaskFile) -> float | None:
    """The proxy run, without the projection of the gradients that it captures."""
    record = _record(run_dir, file.id)
    return None if record is None else _times(record["flops_per_token"], record["tokens"])


def _of_scoring(run_dir: Path, file: TaskFile) -> float | None:
    """A forward pass over a part of the pool: a third of training on it."""
    rate = base_rate(run_dir, file)
    return _times(rate, _shard_tokens(run_dir, file, "pool"), 1 / 3)


def _of_gradients(run_dir: Path, file: TaskFile) -> float | None:
    """Per-document gradients cost as much as training on the documents (preview/cost.py)."""
    return _times(_proxy_rate(run_dir, file), _shard_tokens(run_dir, file, "store"))


def _of_direct(run_dir: Path, file: TaskFile) -> float | None:
    """The gradient of all queries, and a pass over a part of the pool."""
    queries = [_tokens(run_dir, store) for store in file.input_ids("query")]
    if file.spec(BlockSpec).request.aggregate == "self":
        queries = []
    tokens = _sum([_shard_tokens(run_dir, file, "pool"), *queries])
    return _times(_proxy_rate(run_dir, file), tokens)


def _of_scorer(run_dir: Path, file: TaskFile) -> float | None:
    """What the scorer of another package reports for its part of the pool."""
    tokens = _shard_tokens(run_dir, file, "pool")
    return None if tokens is None else scorer_flops(file.spec(ScorerSpec), tokens)


def _of_none(run_dir: Path, file: TaskFile) -> float:
    return 0.0


def _of_evaluation(run_dir: Path, file: TaskFile) -> None:
    """Evaluations are not part of scoring."""
    return


_FLOPS: dict[Passes, Callable[[Path, TaskFile], float | None]] = {
    Passes.NONE: _of_none,
    Passes.TRAIN: _of_training,
    Passes.SCORE: _of_scoring,
    Passes.GRADIENTS: _of_gradients,
    Passes.DIRECT: _of_direct,
    Passes.SCORER: _of_scorer,
    Passes.EVALUATE: _of_evaluation,
}


def _proxy_rate(run_dir: Path, file: TaskFile) -> float | None:
    (proxy,) = file.input_ids("proxy")
    record = _record(run_dir, proxy)
    return None if record is None else record["flops_per_token"]


def _record(run_dir: Path, task_id: str) -> Row | None:
    path = run_dir / task_id / RECORD
    return by_weights(run_dir, task_id, read_json(path)) if path.exists() else None


def _shard_tokens(run_dir: Path, file: TaskFile, label: str) -> float | None:
    """An equal share of the tokens of a store: not exact for a shard, but exact over all."""
    (store,) = file.input_ids(label)
    _, count = _shard(file)
    return _times(_tokens(run_dir, store), 1 / count)


def _shard(file: TaskFile) -> Shard:
    shard: Shard = file.spec(kind_of(file.kind).spec).shard  # type: ignore[attr-defined]
    return shard


def _tokens(run_dir: Path, store: str) -> float | None:
    done = read_done(run_dir / store)
    return None if done is None else float(done["facts"]["counts"]["tokens"])


def device_hours(directory: Path) -> float | None:
    """Ranks times hours of all attempts at a task; None where no attempt is recorded."""
    spent = [line["seconds"] * line["world_size"] for line in read_lines(directory / ATTEMPTS)]
    return sum(spent) / 3600 if spent else None


def _device(run_dir: Path, file: TaskFile) -> str:
    """``cpu`` or ``cuda``; empty where an older run did not record it."""
    if kind_of(file.kind).passes is Passes.NONE:
        return "cpu"
    done = read_done(run_dir / file.id)
    return str(done["facts"].get("device", "")) if done else ""


def _times(*factors: float | None) -> float | None:
    product = 1.0
    for factor in factors:
        if factor is None:
            return None
        product *= factor
    return product


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    found = [value for value in known if value is not None]
    return sum(found) if len(found) == len(known) else None
