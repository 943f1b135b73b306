"""The machine that each stage asks for; it never changes a result."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpcscale.config.types import Bytes, Seconds, Section

StageName = Literal[
    "tokenizer", "data", "base", "score", "proxy", "dump", "influence", "select", "train", "analyse"
]
STAGES: tuple[StageName, ...] = (
    "tokenizer",
    "data",
    "base",
    "score",
    "proxy",
    "dump",
    "influence",
    "select",
    "train",
    "analyse",
)
#: Stages of one process without a GPU.
SINGLE: tuple[StageName, ...] = ("tokenizer", "data", "influence", "select", "analyse")


class Resources(Section):
    """The resources of a task: one rank per GPU; without GPUs, ``ranks`` processes per node.

    ``gpus: auto`` means the site's GPUs per node under Slurm, and elsewhere one where this machine
    has any; ``cpus: auto`` means the rank's share of the cores.
    """

    nodes: int = Field(default=1, ge=1)
    gpus: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    ranks: int = Field(default=1, ge=1)
    cpus: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="CPU cores per rank"
    )
    memory: Bytes | None = Field(default=None, description="per node")
    time: Seconds = "1h"  # type: ignore[assignment]
    shards: int = Field(
        default=1, ge=1, description="array tasks that score and dump are split into"
    )
    array_parallelism: int | None = Field(default=None, ge=1)
    partition: str | None = None


class ResourcesConfig(Section):
    """``site`` names a profile in ``slurm/profiles`` or a YAML file; each other key is a stage."""

    site: str | None = None
    default: Resources = Resources()
    tokenizer: Resources | None = None
    data: Resources | None = None
    base: Resources | None = None
    score: Resources | None = None
    proxy: Resources | None = None
    dump: Resources | None = None
    influence: Resources | None = None
    select: Resources | None = None
    train: Resources | None = None
    analyse: Resources | None = None

    def of(self, stage: StageName) -> Resources:
        """The stage's own resources over the default; light stages never ask for GPUs or ranks."""
        own: Resources | None = getattr(self, stage)
        merged = self.default.model_dump() | (own.model_dump(exclude_unset=True) if own else {})
        if stage in SINGLE:
            merged |= {"nodes": 1, "ranks": 1, "gpus": 0}
        return Resources(**merged)
