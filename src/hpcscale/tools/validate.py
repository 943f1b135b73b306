"""Validate influence on the data and base model of a run directory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpcscale.atomic import read_done, write_json
from hpcscale.errors import DataError
from hpcscale.opened import Sweep
from hpcscale.rundir.layout import MODEL, STORE, TOKENIZER
from hpcscale.sweep import reopen

if TYPE_CHECKING:
    from hpcscale.influence.validate.setting import Setting

Experiment = Literal["noise", "domains", "lds", "counterfactual"]


@dataclass(frozen=True)
class Request:
    """``options``: by the names of the experiment's options class; None keeps a default.
    ``lr``, ``global_batch``: replace the sweep's in the trainings. ``longest``: documents with
    more tokens are left out."""

    experiment: Experiment
    variants: Sequence[str]
    options: dict[str, Any]
    domain: str | None = None
    lr: float | None = None
    global_batch: int | None = None
    longest: int = 512


def validate(
    run_dir: Path,
    out: Path,
    request: Request,
    say: Callable[[str], None],
    progress: Callable[[str, int, int], None] | None = None,
) -> str:
    """Run one experiment; its tables as text. Writes them, their CSV and a figure into ``out``.

    ``progress(what, done, total)``. Raises HpcscaleError for a run directory without data or base
    model, an unknown variant, or too few documents.
    """
    from hpcscale.influence.validate.report import write_tables
    from hpcscale.influence.variants import Variant

    variants = [Variant.parse(name) for name in request.variants]
    setting, notes = open_setting(run_dir, request)
    for note in notes:
        say(f"note: {note}")
    out.mkdir(parents=True, exist_ok=True)
    run, draw, options = _experiment(request, setting, variants, out / request.experiment, progress)
    write_json(
        out / f"{request.experiment}-settings.json",
        {
            "run": str(run_dir),
            "variants": [variant.name for variant in variants],
            "domain": request.domain,
            "longest": request.longest,
            "train": setting.train.plain(),
            "options": {
                name: str(value) if isinstance(value, Path) else value
                for name, value in asdict(options).items()
            },
        },
    )
    result = run()
    left_out = getattr(result, "left_out", [])
    if left_out:
        notes.append(f"left out for too few queries or documents: {', '.join(left_out)}")
    text = write_tables(out, request.experiment, result.tables(), notes)
    draw(result, out / f"{request.experiment}.png")
    return text


def _experiment(
    request: Request, setting: Setting, variants: Sequence[Any], out: Path, progress: Any
) -> tuple[Callable[[], Any], Callable[[Any, Path], None], Any]:
    """Functions that run the experiment and draw its result, and its options."""
    from hpcscale.influence.validate import counterfactual, figures, lds, noise, retrieval

    report = progress or (lambda *_: None)
    kinds: dict[Experiment, tuple[Any, Any, Any]] = {
        "noise": (noise.NoiseOptions, noise.noise_check, figures.draw_noise),
        "domains": (retrieval.RetrievalOptions, retrieval.domain_retrieval, figures.draw_retrieval),
        "lds": (lds.LdsOptions, lds.lds, figures.draw_lds),
        "counterfactual": (
            counterfactual.CounterfactualOptions,
            counterfactual.counterfactual,
            figures.draw_counterfactual,
        ),
    }
    make, check, draw = kinds[request.experiment]
    given = {key: value for key, value in request.options.items() if value is not None}
    assert set(given) <= {field.name for field in fields(make)}, given
    options = make(**given)
    more: dict[str, Any] = {}
    if request.experiment in ("lds", "counterfactual"):
        more = {
            "domain": request.domain,
            "trained": lambda done, total: report("trainings", done, total),
        }

    def run() -> Any:
        return check(
            setting,
            options,
            variants,
            out,
            progress=lambda done, total: report("checkpoints scored", done, total),
            **more,
        )

    return run, draw, options


def open_setting(run_dir: Path, request: Request) -> tuple[Setting, list[str]]:
    """The base model, tokenizer and token stores of a run directory, and notes for the reader."""
    from hpcscale.data.store import TokenStore
    from hpcscale.data.tokenizer import load_tokenizer
    from hpcscale.influence.validate.setting import Setting
    from hpcscale.train.distributed import Ranks

    sweep = reopen(run_dir)
    stores, notes = sweep.tasks.shared.stores, []
    role: Literal["query", "eval"] = "query"
    if "query" not in stores:
        role = "eval"
        notes.append("the sweep has no query set (data.query); its eval set is used instead")
    folders = {
        "pool": _made(sweep, stores["pool"], "candidate pool") / STORE,
        "queries": _made(sweep, stores[role], f"{role} set") / STORE,
    }
    given: dict[str, Any] = {"lr": request.lr, "global_batch": request.global_batch}
    changed = {key: value for key, value in given.items() if value is not None}
    if "lr" in changed:
        changed |= {"lr_scaling": "none", "lr_reference_batch": None}
    config = sweep.config
    rows = changed.get("global_batch", config.train.global_batch) // config.data.sequence_length
    # The sweep's micro-batch may be for many ranks; any that divides the rows gives equal results.
    changed["micro_batch"] = math.gcd(rows, config.train.micro_batch) or 1
    setting = Setting(
        _made(sweep, sweep.tasks.shared.base, "base model") / MODEL,
        TokenStore.open(folders["pool"]),
        TokenStore.open(folders["queries"]),
        load_tokenizer(_made(sweep, sweep.tasks.shared.tokenizer, "tokenizer") / TOKENIZER),
        config.data.sequence_length,
        config.data.packing,
        config.train.model_copy(update=changed),
        request.longest,
        Ranks.from_environment(),
    )
    return setting, notes


def _made(sweep: Sweep, task: Any, what: str) -> Path:
    folder: Path = sweep.run_dir / task.id
    if read_done(folder, task.key) is None:
        raise DataError(
            f"the {what} of {sweep.config.name} is not in {sweep.run_dir} yet; make it with "
            f"`hpcscale sweep {sweep.path}`"
        )
    return folder
