"""What the stages of influence are asked for: frozen values that refuse what does not fit together.

``api.py`` runs them. A request names folders: of token stores, of written gradients and of written
score blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from hpcscale.data.packing import Packing
from hpcscale.errors import CheckpointError, ConfigError, DataError
from hpcscale.influence.aggregate import Kind
from hpcscale.influence.examples import BATCH_TOKENS
from hpcscale.influence.sketch import Projection
from hpcscale.influence.snapshots import Snapshot
from hpcscale.influence.spans import Unit

Dtype = Literal["fp16", "bf16", "fp32"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Measure:
    """How the gradients of examples are taken and stored."""

    #: What an example is: a document by itself, or a packed row.
    unit: Unit = "document"
    #: Tokens of a packed row; longer documents are cut into pieces of as many.
    sequence_length: int = 1024
    #: Whether the documents of a packed row see each other.
    packing: Packing = "concat"
    #: Of the forward and backward passes.
    precision: Precision = "fp32"
    #: Of the order in which documents are packed into rows.
    seed: int = 0
    #: Of stored gradients; direct scores are of whole gradients.
    projection: Projection = field(default_factory=Projection)
    #: Of stored gradients.
    dtype: Dtype = "fp16"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Measure:
        """From JSON with the fields' names, ``projection`` an object; other names are ignored."""
        given = _known(cls, values)
        if "projection" in given:
            given["projection"] = Projection(**given["projection"])
        return cls(**given)


@dataclass(frozen=True)
class CheckpointChoice:
    """The model that gradients are taken at, and Adam's metric P where they are multiplied by it.

    Raises CheckpointError for a power of P without the moments that P is made of.
    """

    #: A directory in Hugging Face format, or a hub id.
    model: str | Path
    #: The snapshot of a proxy run that the model is of, which has Adam's moments.
    snapshot: Snapshot | None = None
    #: Gradients are multiplied by P^power: 0.5 where both sides are, 1 where one side alone is.
    power: float = 0.0
    #: Of P, in place of the optimizer's own.
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.power and self.snapshot is None:
            raise CheckpointError(
                f"Adam's metric needs Adam's moments, which {self.model} does not have; give a "
                "snapshot of a proxy run, such as RUN/influence/proxy-*/snapshots/step-00000040, "
                "or leave out --adam"
            )


@dataclass(frozen=True)
class Aggregation:
    """How the influence on each query becomes one score an example; ``aggregate.py`` has the kinds.

    Raises ConfigError where self-influence is given what only queries have.
    """

    kind: Kind = "mean"
    #: Whether both gradients are divided by their norms.
    cosine: bool = True
    #: What the queries of a domain weigh against those of others; 1 where not named.
    query_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind != "self":
            return
        if self.cosine:
            raise ConfigError(
                "an example's cosine with itself is 1; write `normalise: none` (--normalise none) "
                "beside aggregate `self`"
            )
        if self.query_weights:
            raise ConfigError(
                "aggregate `self` has no queries to weigh; leave out query_weights (--query-weight)"
            )

    @property
    def has_queries(self) -> bool:
        return self.kind != "self"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Aggregation:
        """From JSON with ``aggregate``, ``normalise`` and ``query_weights``, as in a sweep file."""
        cosine = values["normalise"] == "cosine"
        return cls(values["aggregate"], cosine, values["query_weights"])


@dataclass(frozen=True)
class QuerySet:
    """Queries: their token store, how they are cut into examples, and where written, gradients."""

    store: Path
    measure: Measure
    #: The folder of a dump of all of them or a shard.
    gradients: Path | None = None


@dataclass(frozen=True)
class _Scoring:
    aggregation: Aggregation
    queries: QuerySet | None

    def __post_init__(self) -> None:
        kind = self.aggregation.kind
        if self.aggregation.has_queries and self.queries is None:
            raise ConfigError(
                f"aggregate `{kind}` scores against queries, and none are given; give a query set "
                "(--queries), or write aggregate `self`"
            )
        if not self.aggregation.has_queries and self.queries is not None:
            raise ConfigError(
                "aggregate `self` scores examples against themselves; leave out the query set "
                "(--queries), or write another aggregate"
            )


@dataclass(frozen=True)
class DumpRequest:
    """The gradients of one shard of a token store at one checkpoint."""

    store: Path
    checkpoint: CheckpointChoice
    measure: Measure
    #: This shard, and how many there are.
    shard: tuple[int, int] = (0, 1)
    #: Of what decides the rows: an unfinished dump of another key is started over.
    key: str = ""
    #: Tokens of a forward pass; changes speed, memory and rounding.
    batch_tokens: int = BATCH_TOKENS


@dataclass(frozen=True)
class BlockRequest(_Scoring):
    """One score block: written gradients of pool examples against those of queries.

    Raises ConfigError for queries without an aggregate that uses them, and the reverse.
    """

    #: The folder of a dump of the pool.
    gradients: Path
    key: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries is not None and self.queries.gradients is None:
            raise ConfigError(
                f"the gradients of {self.gradients} are scored against gradients of queries, and "
                "none are given; dump the query set, and give its folder"
            )


@dataclass(frozen=True)
class CapturedBlockRequest(_Scoring):
    """One score block of the gradients that a proxy run captured in one interval."""

    #: The folder that the run captured into.
    captured: Path
    #: Number of the interval, which is that of its snapshot.
    interval: int
    #: The token store that the proxy run trained on.
    pool: Path
    measure: Measure


@dataclass(frozen=True)
class DirectRequest(_Scoring):
    """One score block of a shard of the pool from whole gradients, of which none is written.

    ``checkpoint.power`` is 0.5 for Adam's metric: P is split between both sides.
    """

    pool: Path
    checkpoint: CheckpointChoice
    measure: Measure
    shard: tuple[int, int] = (0, 1)
    key: str = ""
    batch_tokens: int = BATCH_TOKENS


@dataclass(frozen=True)
class ScoredCheckpoint:
    """name: of its column in the table. eta: the learning rate that it stands for."""

    name: str
    eta: float


@dataclass(frozen=True)
class MergeRequest:
    """All score blocks of one set of scores.

    Raises DataError where the blocks are no whole grid.
    """

    #: Folders by checkpoint, then by shard of the pool, then by shard of the queries.
    blocks: Sequence[Path]
    checkpoints: Sequence[ScoredCheckpoint]
    query_shards: int
    kind: Kind
    #: The token store that the blocks score the documents of.
    pool: Path
    measure: Measure
    #: The queries' token store, where ``max`` names the best query by its document.
    queries: Path | None = None
    #: The folder of the captured gradients that the blocks were made of.
    captured: Path | None = None

    def __post_init__(self) -> None:
        if not self.blocks or len(self.blocks) % (len(self.checkpoints) * self.query_shards):
            raise DataError(
                f"{len(self.blocks)} score blocks are no grid of {len(self.checkpoints)} "
                f"checkpoints and {self.query_shards} shards of queries; give all blocks"
            )

    def grid(self) -> list[list[list[Path]]]:
        """``blocks[checkpoint][pool shard][query shard]``."""
        rows = [
            list(self.blocks[first : first + self.query_shards])
            for first in range(0, len(self.blocks), self.query_shards)
        ]
        pools = len(rows) // len(self.checkpoints)
        return [rows[first : first + pools] for first in range(0, len(rows), pools)]


def _known(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {part.name for part in fields(cls)}
    return {name: value for name, value in values.items() if name in names}
