"""The pipeline of a sweep: which tasks there are, what decides each, what each reads.

    tokenizer -> stores (eval, query, base, pool) -> base model -> scores -> selections
              -> cells (train, evaluate) -> analysis

The versions are raised when a step's results change, so that what older code made counts as stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcscale.config.data import CorpusConfig, Role
from hpcscale.config.sweep import Cell, SweepConfig
from hpcscale.config.train import TrainConfig
from hpcscale.errors import ConfigError
from hpcscale.plan.fingerprints import absolute_paths, absolute_source
from hpcscale.plan.graph import Graph, MergedTask, Task, TrainingTask
from hpcscale.plan.tracin import TracinTasks
from hpcscale.plan.trunk import DECAY, Trunks
from hpcscale.preview.separator import read_otherwise
from hpcscale.selection.method import ScoreRequest, SelectionMethod
from hpcscale.selection.registry import load_method

VERSION = {"tokenizer": 1, "store": 1, "pretrain": 2, "fetch": 1, "perplexity": 1,
           "merge": 1, "select": 1, "train": 2, "evaluate": 1}  # fmt: skip

#: What of the train section changes speed and memory, but no result beyond rounding.
_FREE = {"micro_batch", "engine", "zero", "offload", "activation_checkpointing", "compile",
         "checkpoint", "epochs", "lr_scaling", "lr_reference_batch",
         "sinks", "spike_deviations", "max_skipped"}  # fmt: skip


@dataclass
class Pipeline:
    """Builds the graph of one sweep.

    precision: resolved, fp32 or bf16 or fp16. shards: array tasks a scoring stage splits into.
    corpus_fingerprint: what decides a corpus' documents. directory_fingerprint: the same for a
    local model or tokenizer directory.
    """

    config: SweepConfig
    precision: str
    corpus_fingerprint: Callable[[CorpusConfig], Any]
    directory_fingerprint: Callable[[str], Any]
    score_shards: int = 1
    _scores: dict[str, Task] = field(default_factory=dict)
    _models: dict[str, Task] = field(default_factory=dict)

    def graph(self) -> Graph:
        self.tokenizer = self._tokenizer()
        self.stores: dict[Role, Task] = {}
        for role in self.config.data.roles():
            self.stores[role] = self._store(role)
        self.base = self._base()
        methods = {m.name: load_method(m) for m in self.config.selection}
        requests = [request for m in methods.values() if (request := m.score_request())]
        self.tracin = TracinTasks(self, any(r.params.get("way") == "capture" for r in requests))
        self.trunks = Trunks(self)
        evaluations = [
            self.evaluation(
                "base/evaluation", self.base, {"cell": None, "tokenizer": self.tokenizer.id}
            ),
            *(self._cell(cell, methods[cell.method]) for cell in self.config.cells()),
        ]
        return Graph([*self.data_targets(), *self.tracin.gradients_kept, *evaluations])

    def data_targets(self) -> list[Task]:
        """What `hpcscale data prepare` makes."""
        return [self.tokenizer, *self.stores.values()]

    # --- data

    def _origin(self, source: str, revision: str | None) -> dict[str, Any]:
        content = self.directory_fingerprint(source)
        return {"content": content} if content else {"hub": source, "revision": revision}

    def _tokenizer(self) -> Task:
        spec, data = self.config.tokenizer, self.config.data
        if spec.train is None:
            assert spec.source is not None
            decides: dict[str, Any] = self._origin(spec.source, spec.revision)
            decides |= read_otherwise(spec.source, spec.reading)
            params: dict[str, Any] = {
                "source": absolute_source(spec.source),
                "revision": spec.revision,
            }
        else:
            assert data.base is not None
            decides = {"vocabulary": spec.train, **self._corpus("base")}
            params = {"corpus": _placed(data.base)}
        decides["version"] = VERSION["tokenizer"]
        return Task("data/tokenizer", "tokenizer", "tokenizer", decides, params=params)

    def _corpus(self, role: Role) -> dict[str, Any]:
        spec = self.config.data.roles()[role]
        low, high = self.config.data.hash_ranges()[role]
        return {
            "corpus": self.corpus_fingerprint(spec),
            "domains": spec.domains,
            "domain_field": spec.domain if spec.corpus == "files" else None,
            "range": [low, high],
            "seed": spec.seed,
            "shuffle_buffer": spec.shuffle_buffer if spec.corpus == "c4" else None,
            "tokens": spec.tokens,
        }

    def _store(self, role: Role) -> Task:
        data = self.config.data
        spec = data.roles()[role]
        before = tuple(
            task for other, task in self.stores.items() if data.roles()[other].source != spec.source
        )
        return Task(
            f"data/{role}",
            "store",
            "data",
            {
                **self._corpus(role),
                "role": role,
                "max_broken": data.max_broken,
                "version": VERSION["store"],
            },
            {"tokenizer": (self.tokenizer,), "exclude": before},
            {"corpus": _placed(spec), "cut": role in ("eval", "query")},
        )

    # --- models

    def _base(self) -> Task:
        model = self.config.model
        if model.source is not None:
            return self.model(model.source, model.revision)
        assert model.scratch is not None
        train = self.pretraining()
        return Task(
            "base/model",
            "pretrain",
            "base",
            {
                "shape": model.scratch.deciding(),
                "tokens": model.pretrain.tokens,
                "seed": model.pretrain.seed,
                **self.sequences(),
                **self.training(train),
                "version": VERSION["pretrain"],
            },
            {"tokenizer": (self.tokenizer,), "store": (self.stores["base"],)},
            {"train": train.plain()},
        )

    def pretraining(self) -> TrainConfig:
        """The train section with the overrides of ``model.pretrain``."""
        pretrain = self.config.model.pretrain
        names = ("lr", "warmup", "schedule", "min_lr_ratio")
        return self.overridden({name: getattr(pretrain, name) for name in names})

    def overridden(self, given: dict[str, Any]) -> TrainConfig:
        """The train section with those of ``given`` that are set."""
        values = {key: value for key, value in given.items() if value is not None}
        if self.config.train.schedule == "wsd-branch":
            values = {"schedule": "wsd"} | values  # it has one budget
        if "lr" in values:
            values |= {"lr_scaling": "none", "lr_reference_batch": None}
        return self.config.train.model_copy(update=values)

    def model(self, source: str, revision: str | None = None) -> Task:
        """The task that brings a hub or local model into the run directory."""
        if source not in self._models:
            decides = {**self._origin(source, revision), "version": VERSION["fetch"]}
            params = {"source": absolute_source(source), "revision": revision}
            label = "base/model" if source == self.config.model.source else "models/scorer"
            self._models[source] = Task(label, "fetch", "data", decides, params=params)
        return self._models[source]

    def sequences(self) -> dict[str, Any]:
        data = self.config.data
        return {
            "sequence_length": data.sequence_length,
            "packing": data.packing,
            "precision": self.precision,
        }

    def training(self, train: TrainConfig) -> dict[str, Any]:
        """The part of the train section that decides a result; a branch's is that of a run by
        itself."""
        left_out = _FREE | {"precision"}
        values = train.deciding() | {"lr": train.scaled_lr}
        if train.schedule in ("wsd", "wsd-branch"):
            values["schedule"] = "wsd"
        else:
            left_out |= set(DECAY)
        return {name: value for name, value in values.items() if name not in left_out}

    # --- scores and selections

    def scores(self, request: ScoreRequest) -> Task:
        """The task that holds the merged scores of a request; equal requests share it."""
        if request.kind not in SCORERS:
            raise ConfigError(
                f"there is no scorer `{request.kind}`; a method may ask for: {', '.join(SCORERS)}"
            )
        label = f"{request.kind}:{sorted(request.params.items())}"
        if label not in self._scores:
            self._scores[label] = SCORERS[request.kind](self, request)
        return self._scores[label]

    def selection(self, cell: Cell, method: SelectionMethod) -> Task:
        config = self.config.method(cell.method)
        request = method.score_request()
        inputs = {"pool": (self.stores["pool"],)}
        if request is not None:
            inputs["scores"] = (self.scores(request),)
        return Task(
            f"selections/{cell.name}",
            "select",
            "select",
            {
                "method": config.method,
                "params": method.params.deciding(),
                "method_version": method.version,
                "budget": cell.budget,
                "seed": cell.seed,
                "epochs": self.config.train.epochs,
                "version": VERSION["select"],
            },
            {**inputs, "tokenizer": (self.tokenizer,)},
            {"cell": cell.name, "config": {"name": config.name, "method": config.method}
             | config.params},
        )  # fmt: skip

    # --- cells

    def _cell(self, cell: Cell, method: SelectionMethod) -> Task:
        selection = self.selection(cell, method)
        inputs = {
            "model": (self.base,),
            "selection": (selection,),
            "pool": (self.stores["pool"],),
            "tokenizer": (self.tokenizer,),
        }
        state, params = self.trunks.branch(cell, method)
        train = TrainingTask(
            f"cells/{cell.name}",
            "train",
            "train",
            {
                **self.sequences(),
                **self.training(self.config.train),
                "budget": cell.budget,
                "seed": cell.seed,
                "version": VERSION["train"],
            },
            inputs | state,
            {"cell": cell.name, "train": self.config.train.plain()} | params,
        )
        label = {"method": cell.method, "budget": cell.budget, "seed": cell.seed}
        return self.evaluation(f"evaluations/{cell.name}", train, {"cell": label})

    def evaluation(self, name: str, model: Task, params: dict[str, Any]) -> Task:
        """The loss of a model on the eval set, in the same process as its training."""
        return Task(
            name,
            "evaluate",
            "base" if params["cell"] is None else "train",
            {**self.sequences(), "version": VERSION["evaluate"]},
            {"model": (model,), "store": (self.stores["eval"],)},
            params | {"micro_batch": self.config.evaluate.micro_batch},
            follows=model if model.kind in ("train", "pretrain") else None,
        )


def _perplexity(pipeline: Pipeline, request: ScoreRequest) -> Task:
    source = request.params["model"]
    model = pipeline.base if source == "base" else pipeline.model(source)
    inputs: dict[str, tuple[Task, ...]] = {
        "model": (model,),
        "pool": (pipeline.stores["pool"],),
        "tokenizer": (pipeline.tokenizer,),
    }
    decides = {**pipeline.sequences(), "version": VERSION["perplexity"]}
    slug = "base" if source == "base" else Path(source).name
    shards = tuple(
        Task(
            f"scores/perplexity-{slug}/shard-{index:05d}",
            "perplexity",
            "score",
            {**decides, "shard": [index, pipeline.score_shards]},
            inputs,
        )
        for index in range(pipeline.score_shards)
    )
    return MergedTask(
        f"scores/perplexity-{slug}/merged",
        "merge",
        "select",
        {**decides, "merge": VERSION["merge"]},
        {"shards": shards, **inputs},
    )


def _tracin(pipeline: Pipeline, request: ScoreRequest) -> Task:
    return pipeline.tracin.scores(request)


SCORERS: dict[str, Callable[[Pipeline, ScoreRequest], Task]] = {
    "perplexity": _perplexity,
    "tracin": _tracin,
}


def _placed(spec: CorpusConfig) -> dict[str, Any]:
    return spec.plain() | {"path": absolute_paths(spec.path)}


def cell_tasks(graph: Iterable[Task]) -> list[Task]:
    """The evaluation of each cell, the base model's left out."""
    return [t for t in graph if t.kind == "evaluate" and t.params["cell"] is not None]
