"""What selecting cost: the tasks behind each method's scores, their FLOPs and device-hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpcscale.atomic import read_done, read_json
from hpcscale.results.compute import base_rate, by_weights
from hpcscale.results.reading import Row, input_ids, read_lines, read_spec
from hpcscale.rundir.attempts import ATTEMPTS
from hpcscale.worker.steps.training import RECORD

COLUMNS = ["method", "stage", "tasks", "flops", "device_hours", "device", "shared_with"]


def collect_costs(run_dir: Path, params: dict[str, Any]) -> list[Row]:
    """A row for each method, stage and set of methods that share its tasks.

    A method that asks for no scores, as random, has no row; nor has what every method needs:
    data, the base model, and filling budgets. flops: of passes through a model; products of
    stored gradients, far below these, are not counted. Empty where a task's cannot be known.
    device_hours: of all attempts, failed ones too, times ranks; empty where a task left none.
    """
    behind = {method: set(_behind(run_dir, ids)) for method, ids in _scores(run_dir, params)}
    rows = []
    for method, tasks in behind.items():
        groups: dict[tuple[str, tuple[str, ...]], list[Row]] = {}
        for task_id in sorted(tasks):
            spec = read_spec(run_dir, task_id)
            assert spec is not None
            others = tuple(m for m in behind if m != method and task_id in behind[m])
            groups.setdefault((spec["stage"], others), []).append(spec)
        for (stage, others), specs in groups.items():
            rows.append(
                {
                    "method": method,
                    "stage": stage,
                    "tasks": len(specs),
                    "flops": _sum(task_flops(run_dir, spec) for spec in specs),
                    "device_hours": _sum(device_hours(run_dir / spec["id"]) for spec in specs),
                    "device": ";".join(sorted({_device(run_dir, spec) for spec in specs} - {""})),
                    "shared_with": ";".join(others),
                }
            )
    return rows


def _scores(run_dir: Path, params: dict[str, Any]) -> Iterator[tuple[str, set[str]]]:
    """The score tasks of each method."""
    found: dict[str, set[str]] = {}
    for cell in params["cells"]:
        train = read_spec(run_dir, cell["train"][0])
        for selection in input_ids(train, "selection") if train else []:
            spec = read_spec(run_dir, selection)
            found.setdefault(cell["method"], set()).update(
                input_ids(spec, "scores") if spec else ()
            )
    yield from found.items()


def _behind(run_dir: Path, ids: set[str]) -> Iterator[str]:
    """The tasks of scoring that are done and lead to ``ids``, themselves included; each once."""
    waiting, seen = sorted(ids), set(ids)
    while waiting:
        task_id = waiting.pop()
        spec = read_spec(run_dir, task_id)
        if spec is None or spec["kind"] not in _FLOPS:
            continue
        # Not by the marker: gradients may be deleted once they are scored.
        if any(line["outcome"] == "done" for line in read_lines(run_dir / task_id / ATTEMPTS)):
            yield task_id
        above = {entry["id"] for entries in spec["inputs"].values() for entry in entries}
        waiting += sorted(above - seen)
        seen |= above


def task_flops(run_dir: Path, spec: Row) -> float | None:
    """Floating-point operations of a task of scoring; None where they cannot be known."""
    return _FLOPS[spec["kind"]](run_dir, spec)


def _of_training(run_dir: Path, spec: Row) -> float | None:
    """Of the proxy run; projecting what it captures is not counted."""
    record = _record(run_dir, spec["id"])
    return None if record is None else _times(record["flops_per_token"], record["tokens"])


def _of_scoring(run_dir: Path, spec: Row) -> float | None:
    """A forward pass over a part of the pool: a third of training on it."""
    rate = base_rate(run_dir, spec)
    return _times(rate, _shard_tokens(run_dir, spec, "pool"), 1 / 3)


def _of_gradients(run_dir: Path, spec: Row) -> float | None:
    """Per-document gradients cost what training on the documents does (preview/cost.py)."""
    return _times(_proxy_rate(run_dir, spec), _shard_tokens(run_dir, spec, "store"))


def _of_direct(run_dir: Path, spec: Row) -> float | None:
    """The gradient of all queries, and a pass over a part of the pool."""
    queries = [_tokens(run_dir, store) for store in input_ids(spec, "query")]
    if spec["decides"]["aggregate"] == "self":
        queries = []
    tokens = _sum([_shard_tokens(run_dir, spec, "pool"), *queries])
    return _times(_proxy_rate(run_dir, spec), tokens)


def _of_none(run_dir: Path, spec: Row) -> float:
    return 0.0


#: The kinds of tasks that scores cost.
_FLOPS: dict[str, Callable[[Path, Row], float | None]] = {
    "perplexity": _of_scoring,
    "merge": _of_none,
    "proxy": _of_training,
    "gradients": _of_gradients,
    "direct": _of_direct,
    "block": _of_none,
    "influence": _of_none,
}


def _proxy_rate(run_dir: Path, spec: Row) -> float | None:
    (proxy,) = input_ids(spec, "proxy")
    record = _record(run_dir, proxy)
    return None if record is None else record["flops_per_token"]


def _record(run_dir: Path, task_id: str) -> Row | None:
    path = run_dir / task_id / RECORD
    return by_weights(run_dir, task_id, read_json(path)) if path.exists() else None


def _shard_tokens(run_dir: Path, spec: Row, label: str) -> float | None:
    """Tokens of a shard by documents: exact in the sum over all shards."""
    (store,) = input_ids(spec, label)
    return _times(_tokens(run_dir, store), 1 / spec["decides"]["shard"][1])


def _tokens(run_dir: Path, store: str) -> float | None:
    done = read_done(run_dir / store)
    return None if done is None else float(done["facts"]["counts"]["tokens"])


def device_hours(directory: Path) -> float | None:
    """Ranks times hours of all attempts at a task; None where it left no line of one."""
    spent = [line["seconds"] * line["world_size"] for line in read_lines(directory / ATTEMPTS)]
    return sum(spent) / 3600 if spent else None


def _device(run_dir: Path, spec: Row) -> str:
    """``cpu`` or ``cuda``; empty where an older run did not write it."""
    if _FLOPS[spec["kind"]] is _of_none:
        return "cpu"
    done = read_done(run_dir / spec["id"])
    return str(done["facts"].get("device", "")) if done else ""


def _times(*factors: float | None) -> float | None:
    product = 1.0
    for factor in factors:
        if factor is None:
            return None
        product *= factor
    return product


def _sum(values: Any) -> float | None:
    known = list(values)
    return None if None in known else sum(known)
