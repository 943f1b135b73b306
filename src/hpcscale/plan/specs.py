"""The parameters of each kind of task. The fields that decide its result are in its key.

A field that a later version adds is OPTIONAL, so that keys of finished work do not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from hpcscale.config.data import CorpusConfig, Role
from hpcscale.config.influence import ProjectionConfig
from hpcscale.config.model import Shape
from hpcscale.config.sweep import MethodConfig
from hpcscale.config.train import TrainConfig
from hpcscale.rundir.spec import FLAT, OPTIONAL, RUNTIME, Mark, Part, Spec

Packing = Literal["concat", "isolate"]
Precision = Literal["fp32", "bf16", "fp16"]
Json = dict[str, object]
_T = TypeVar("_T", bound="TokenizerSpec")
#: The index of a shard, from 0, and the number of shards.
Shard = tuple[int, int]

#: Fields of the train section that change speed and memory, but no result beyond rounding.
_FREE = frozenset(
    "micro_batch engine zero offload activation_checkpointing compile checkpoint epochs lr_scaling "
    "lr_reference_batch sinks spike_deviations max_skipped precision".split()
)
#: Fields of the train section that only change how a run ends.
DECAY = ("decay", "decay_shape")
_ENDING = frozenset(("schedule", "min_lr_ratio", *DECAY))


# --- parts


class Sequences(Part):
    """How tokens become sequences, and the resolved precision that they are computed in."""

    sequence_length: int
    packing: Packing
    precision: Precision


class Training(Part):
    """The train section. A branch of a trunk has the key of the same run without a trunk."""

    train: Annotated[TrainConfig, RUNTIME]

    def decides(self) -> Json:
        train = self.train
        values = train.deciding() | {"lr": train.scaled_lr}
        left_out = set(_FREE)
        if train.schedule in ("wsd", "wsd-branch"):
            values["schedule"] = "wsd"
        else:
            left_out |= set(DECAY)
        return {name: value for name, value in values.items() if name not in left_out}


class TrunkTraining(Training):
    """The train section of a run up to a branch point, where fields on its end have no effect."""

    def decides(self) -> Json:
        return {k: value for k, value in super().decides().items() if k not in _ENDING}


class Origin(Part):
    """Where a model or tokenizer comes from: the files of a directory by SHA-256, or the hub."""

    content: Annotated[dict[str, str] | None, OPTIONAL] = None
    hub: Annotated[str | None, OPTIONAL] = None
    revision: str | None = None

    def decides(self) -> Json:
        found = super().decides()
        return found if self.content is None else {"content": found["content"]}


class TokenIds(Part):
    """Settings besides the vocabulary that decide the token ids of a fetched tokenizer."""

    reading: Annotated[Literal["file", "transformers"] | None, OPTIONAL] = None
    settings: Annotated[dict[str, str] | None, OPTIONAL] = None
    end_of_text: Annotated[str | None, OPTIONAL] = None
    add_prefix_space: Annotated[bool | None, OPTIONAL] = None


class Documents(Part):
    """The documents of a corpus that belong to a role. fingerprint: of the corpus's content. range:
    [low, high) within [0, 1); the hash of a document's text lies in it."""

    fingerprint: Annotated[object, Mark(name="corpus")]
    domains: tuple[str, ...] | None
    domain_field: str | None
    range: tuple[float, float]
    seed: int
    shuffle_buffer: int | None
    tokens: int | None


class Measure(Sequences):
    """How gradients of examples are computed. projection, dtype: only where they are stored."""

    unit: Literal["document", "sequence"]
    seed: int
    projection: Annotated[ProjectionConfig | None, OPTIONAL] = None
    dtype: Annotated[Literal["fp16", "bf16", "fp32"] | None, OPTIONAL] = None


class InfluenceRequest(Part):
    """The scores to compute from gradients; ``selection/tracin.py`` describes the fields."""

    way: Literal["dump", "direct", "capture"]
    preconditioner: Literal["none", "adam"]
    normalise: Literal["none", "cosine"]
    aggregate: Literal["mean", "domain", "max", "self"]
    query_weights: dict[str, float]


class CellLabel(Part):
    """The values that name a cell in tables."""

    method: str
    budget: int
    seed: int


# --- data and models


class TokenizerSpec(Spec):
    """A fetched tokenizer (``origin`` to ``revision``) or a trained one (``vocabulary`` to
    ``corpus``)."""

    origin: Origin | None = None
    token_ids: Annotated[TokenIds, FLAT] = TokenIds()
    source: Annotated[str | None, Mark(runtime=True, optional=True)] = None
    revision: Annotated[str | None, RUNTIME] = None
    vocabulary: Annotated[int | None, OPTIONAL] = None
    documents: Documents | None = None
    corpus: Annotated[CorpusConfig | None, Mark(runtime=True, optional=True)] = None

    def decides(self) -> Json:
        found = super().decides()
        part = found.pop("documents") or found.pop("origin")
        assert isinstance(part, dict)
        return {k: value for k, value in found.items() if k != "origin"} | part

    @classmethod
    def read(cls: type[_T], decides: Mapping[str, object], runtime: Mapping[str, object]) -> _T:
        spec = super().read(decides, runtime)  # type: ignore[misc]
        trained = "vocabulary" in decides
        part = Documents.read(decides, runtime) if trained else Origin.read(decides, runtime)
        return spec.model_copy(update={"documents" if trained else "origin": part})


class StoreSpec(Spec):
    """cut: whether the last document ends at the token cap."""

    documents: Annotated[Documents, FLAT]
    role: Role
    max_broken: float
    corpus: Annotated[CorpusConfig, RUNTIME]
    cut: Annotated[bool, RUNTIME]


class FilterSpec(Spec):
    """A filter of another package, with its version and parameters."""

    filter: str
    filter_version: int
    filter_params: Json
    role: Annotated[Role, RUNTIME] = "pool"


class FetchSpec(Spec):
    origin: Annotated[Origin, FLAT]
    source: Annotated[str, RUNTIME]
    revision: Annotated[str | None, RUNTIME] = None


class PretrainSpec(Spec):
    """tokens: None for all of the base corpus."""

    shape: Shape
    tokens: int | None
    seed: int
    sequences: Annotated[Sequences, FLAT]
    training: Annotated[Training, FLAT]


# --- scores


class PerplexitySpec(Spec):
    sequences: Annotated[Sequences, FLAT]
    shard: Shard


class MergePerplexitySpec(Spec):
    """scored: the version of the scoring step."""

    sequences: Annotated[Sequences, FLAT]
    scored: Annotated[int, Mark(name="version")]


class ScorerSpec(Spec):
    """The name, version and parameters of a scorer of another package."""

    scorer: str
    scorer_version: int
    scorer_params: Json
    shard: Shard


class MergeScoresSpec(Spec):
    scorer: str
    scorer_version: int
    scorer_params: Json


class ProxySpec(Spec):
    sequences: Annotated[Sequences, FLAT]
    training: Annotated[Training, FLAT]
    tokens: int
    seed: int
    checkpoints: int
    capture: Measure | None


class GradientsSpec(Spec):
    """The gradients of a shard of a store at a checkpoint, times P^power; P is Adam's metric."""

    measure: Annotated[Measure, FLAT]
    checkpoint: int
    power: float
    epsilon: float | None
    shard: Shard
    batch_tokens: Annotated[int, RUNTIME]


class BlockSpec(Spec):
    """One score block. ``DirectSpec`` has the same fields; its task does not store gradients."""

    measure: Annotated[Measure, FLAT]
    request: Annotated[InfluenceRequest, FLAT]
    epsilon: float | None
    checkpoint: int
    shard: Shard
    batch_tokens: Annotated[int, RUNTIME]


class DirectSpec(BlockSpec):
    pass


class MergeInfluenceSpec(Spec):
    measure: Annotated[Measure, FLAT]
    request: Annotated[InfluenceRequest, FLAT]
    epsilon: float | None
    checkpoints: int
    pool_shards: Annotated[int, RUNTIME]
    query_shards: Annotated[int, RUNTIME]


# --- cells


class SelectSpec(Spec):
    method: str
    method_params: Annotated[Json, Mark(name="params")]
    method_version: int
    budget: int
    seed: int
    epochs: int
    cell: Annotated[str, RUNTIME]
    config: Annotated[MethodConfig, RUNTIME]


class TrainSpec(Spec):
    """starts_at: tokens of the trunk that the cell continues from."""

    sequences: Annotated[Sequences, FLAT]
    training: Annotated[Training, FLAT]
    budget: int
    seed: int
    cell: Annotated[str, RUNTIME]
    starts_at: Annotated[int | None, Mark(runtime=True, optional=True)] = None


class TrunkSpec(Spec):
    """A segment. tokens, starts_at: the tokens trained at its end and at its start."""

    sequences: Annotated[Sequences, FLAT]
    training: Annotated[TrunkTraining, FLAT]
    tokens: int
    seed: int
    starts_at: Annotated[int, RUNTIME]


class EvaluateSpec(Spec):
    """cell: None for the base model. tokenizer: the id of its task, which is then probed too."""

    sequences: Annotated[Sequences, FLAT]
    cell: Annotated[CellLabel | None, RUNTIME]
    tokenizer: Annotated[str | None, Mark(runtime=True, optional=True)] = None
    micro_batch: Annotated[int, RUNTIME]


#: A task by its id and key.
Address = tuple[str, str]


class CellRow(CellLabel):
    """A cell of the analysis, with its two tasks."""

    evaluation: Address
    train: Address


class AnalyseSpec(Spec):
    """cells: each cell's evaluation and training; ``base``: the base model's evaluation."""

    name: Annotated[str, RUNTIME]
    cells: Annotated[tuple[CellRow, ...], RUNTIME] = Field(default=())
    base: Annotated[Address, RUNTIME]

    def decides(self) -> Json:
        return {"cells": [row.evaluation[1] for row in self.cells], "base": self.base[1]}
