"""Wrong results of earlier versions in a run directory, which a sweep must not continue from."""

from __future__ import annotations

import json
from typing import Any

from hpcscale.atomic import read_done, read_json
from hpcscale.errors import ConfigError, DataError
from hpcscale.opened import Sweep
from hpcscale.plan.graph import AnyTask
from hpcscale.plan.kinds import (
    EVALUATE,
    FETCH,
    MERGE_PERPLEXITY,
    PERPLEXITY,
    PROXY,
    TRAIN,
    TRUNK,
    Kind,
)
from hpcscale.preview.separator import separator_changed
from hpcscale.rundir.layout import MODEL, PROBED, STORE

Kinds = tuple[Kind[Any], ...]
_TRAINED: Kinds = (TRAIN, TRUNK, PROXY)
_DROPOUT_IN_MODULES = {"gpt2", "gpt_neo", "gptj", "codegen"}
_WINDOWS = ("sliding_window", "attention_chunk_size")
#: Types of models whose head does more than multiply by a matrix.
_OTHER_HEADS = {
    "bert",
    "big_bird",
    "electra",
    "ernie",
    "inkling_text",
    "llama4_text",
    "megatron-bert",
    "minicpm3",
    "modernbert-decoder",
    "rembert",
    "roformer",
    "xlstm",
}
#: First words of the reason that earlier versions recorded for the rest of a damaged file.
_DAMAGED = "the file is damaged or cut off"


def refuse_outdated(sweep: Sweep) -> None:
    """Raises HpcscaleError where a sweep would continue from wrong results."""
    _stores_of_damaged_files(sweep)
    _stores_of_another_separator(sweep)
    for task in sweep.tasks.graph:
        if task.kind is FETCH:
            _results_of_an_unprobed_model(sweep, task)


def _stores_of_another_separator(sweep: Sweep) -> None:
    if problem := separator_changed(sweep):
        raise DataError(problem)


def _results_of_an_unprobed_model(sweep: Sweep, model: AnyTask) -> None:
    """Raises ConfigError where an earlier version trained with dropout, ignored sliding windows,
    or scored with other logits than the model's own."""
    marker = read_done(sweep.run_dir / model.id, model.key)
    if marker is None or PROBED in marker:
        return
    config = read_json(sweep.run_dir / model.id / MODEL / "config.json")
    readers = [task for task in sweep.tasks.graph if model in task.inputs.get("model", ())]
    for wrong, kinds in _wrong_results(config, sweep):
        for task in readers:
            if task.kind in kinds and read_done(sweep.run_dir / task.id, task.key) is not None:
                raise ConfigError(
                    f"an earlier version of hpcscale made {task.id} in {sweep.run_dir} from a "
                    f"model of type `{config.get('model_type')}` {wrong}; start another run "
                    "directory with --set name=NAME"
                )


def _wrong_results(config: dict[str, Any], sweep: Sweep) -> list[tuple[str, Kinds]]:
    """The faults of earlier versions with a model of that config.json, and the kinds of tasks
    that each affects."""
    kind, data = config.get("model_type"), sweep.config.data
    found = []
    dropout = [k for k, v in config.items() if "drop" in k and isinstance(v, float) and v > 0]
    if dropout and kind not in _DROPOUT_IN_MODULES:
        found.append((f"with its dropout on ({dropout[0]} {config[dropout[0]]})", _TRAINED))
    windows = [w for w in _WINDOWS if isinstance(config.get(w), int)]
    narrow = [w for w in windows if config[w] < data.sequence_length]
    if narrow and data.packing == "isolate" and config.get("use_sliding_window") is not False:
        fault = f"without its {narrow[0]} of {config[narrow[0]]} tokens"
        found.append((fault, (*_TRAINED, EVALUATE)))
    if kind in _OTHER_HEADS or config.get("logits_scaling", 1) != 1:
        found.append(("by other logits than its own", (PERPLEXITY, MERGE_PERPLEXITY)))
    return found


def _stores_of_damaged_files(sweep: Sweep) -> None:
    """Raises DataError for damage among the first 20 broken records, which a manifest lists."""
    for role, task in sweep.tasks.corpora().items():
        folder = sweep.run_dir / task.id
        if read_done(folder, task.key) is None:
            continue
        manifest = json.loads((folder / STORE / "manifest.json").read_text(encoding="utf-8"))
        for broken in manifest.get("read", {}).get("first_broken", []):
            if broken["reason"].startswith(_DAMAGED):
                raise DataError(
                    f"data.{role} was read from a damaged file by an earlier version of hpcscale: "
                    f"{broken['place']}: {broken['reason']}. The documents after this place are "
                    f"missing in {folder}, and in all that was made from it. Fetch the file again, "
                    "and start another run directory with --set name=NAME"
                )
