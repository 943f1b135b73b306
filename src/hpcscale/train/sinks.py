"""Copies of the metrics for optional packages that plot them, on rank 0 alone.

A sink never stops a training: one that fails is reported once and then left out. All write under
the run's directory and need no network, unless the package's own environment variables are set.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from hpcscale.atomic import read_json, write_json
from hpcscale.config.train import SinkName

_log = logging.getLogger(__name__)
PROJECT = "hpcscale"
#: Names under which the packages know a run, the same in all its attempts.
_NAMES = "sinks.json"


@dataclass(frozen=True)
class Attempt:
    """``out``: the run's directory. ``step``: after which this attempt starts. ``seen``: the last
    step that an earlier attempt wrote."""

    out: Path
    step: int
    seen: int
    settings: dict[str, Any]

    def known(self, sink: str, make: Callable[[], str]) -> str:
        """The sink's name for this run: that of earlier attempts, or else ``make()``."""
        path = self.out / _NAMES
        names = read_json(path) if path.exists() else {}
        if sink not in names:
            names[sink] = make()
            write_json(path, names)
        return str(names[sink])


class Sink(Protocol):
    #: The first step that it does not have yet.
    first: int

    def write(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``tensorboard/``; those of steps that are done again are purged."""

    def __init__(self, attempt: Attempt) -> None:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self.first = attempt.step + 1
        purge = self.first if attempt.seen else None
        self.writer = writer(str(attempt.out / "tensorboard"), purge_step=purge, flush_secs=10)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Offline under ``wandb/``, for `wandb sync`, unless WANDB_MODE is set."""

    def __init__(self, attempt: Attempt) -> None:
        wandb = importlib.import_module("wandb")
        self.first = attempt.seen + 1
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=attempt.out.name,
            id=attempt.known("wandb", _new_name),
            resume="allow",
            dir=str(attempt.out),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=attempt.settings,
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    """A file store in ``mlruns/``, unless MLFLOW_TRACKING_URI is set."""

    def __init__(self, attempt: Attempt) -> None:
        mlflow = importlib.import_module("mlflow")
        self.first = attempt.seen + 1
        # Newer releases ask for consent to the file store.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        store = (attempt.out / "mlruns").absolute().as_uri()
        self.client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", store))
        self.run = attempt.known("mlflow", lambda: self._new_run(attempt))

    def _new_run(self, attempt: Attempt) -> str:
        found = self.client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self.client.create_experiment(PROJECT)
        run = self.client.create_run(experiment, run_name=attempt.out.name).info.run_id
        for name, value in attempt.settings.items():
            self.client.log_param(run, name, json.dumps(value)[:500])
        return str(run)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run, name, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.run)


class Trackio:
    """A local database in ``trackio/``, unless TRACKIO_DIR is set."""

    def __init__(self, attempt: Attempt) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(attempt.out / "trackio"))
        self.trackio = importlib.import_module("trackio")
        self.first = attempt.seen + 1
        self.trackio.init(
            project=PROJECT,
            name=attempt.known("trackio", lambda: attempt.out.name),
            resume="allow",
            config=attempt.settings,
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        self.trackio.log(values, step=step)

    def close(self) -> None:
        self.trackio.finish()


_SINKS: dict[SinkName, Callable[[Attempt], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}


class Sinks:
    """The sinks of an attempt as one, which catches their errors. A context manager."""

    def __init__(self, names: Literal["auto"] | Sequence[SinkName], attempt: Attempt) -> None:
        self.open: dict[str, Sink] = {}
        for name in installed() if names == "auto" else names:
            self._guarded(name, partial(self._start, name, attempt))

    def _start(self, name: SinkName, attempt: Attempt) -> None:
        self.open[name] = _SINKS[name](attempt)

    def write(self, line: dict[str, Any]) -> None:
        """Pass on the numbers in a line of metrics.jsonl."""
        step = line["step"]
        numbers = {k: float(v) for k, v in line.items() if k != "step" and _number(v)}
        for name, sink in list(self.open.items()):
            if step >= sink.first:
                self._guarded(name, partial(sink.write, step, numbers))

    def __enter__(self) -> Sinks:
        return self

    def __exit__(self, *error: object) -> None:
        for name, sink in list(self.open.items()):
            self._guarded(name, sink.close)

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self.open.pop(name, None)
            what = f"{type(error).__name__}: {error}"
            _log.warning("sink %s is given up (%s); metrics.jsonl has every step", name, what)


def installed() -> list[SinkName]:
    """The sinks of `sinks: auto`."""
    return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []


def _new_name() -> str:
    return uuid.uuid4().hex[:12]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
