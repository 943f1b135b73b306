"""How influence is measured: the proxy run, and what is kept of gradients."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hpcscale.config.types import Count, Section


class ProxyConfig(Section):
    """A warm-up run of the base model on a random part of the pool; influence is measured at its
    checkpoints. Unset values come from ``train``.
    """

    tokens: Count | None = Field(default=None, description="default: the smallest budget")
    checkpoints: int = Field(default=3, ge=1, le=1000)
    seed: int = Field(default=0, ge=0)
    lr: float | None = Field(default=None, gt=0)
    warmup: Count | None = None
    schedule: Literal["cosine", "constant", "wsd"] | None = None


class ProjectionConfig(Section):
    """``dimension`` numbers are stored per document; ``rank`` is per side of a matrix.

    Both None, written ``projection: none``, keeps the whole gradient.
    """

    pinned: ClassVar = frozenset({"dimension", "rank", "seed"})

    dimension: int | None = Field(default=4096, ge=1)
    rank: Annotated[int, Field(ge=1)] | Literal["auto"] | None = "auto"
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _accept_none(cls, value: Any) -> Any:
        if value == "none":
            return {"dimension": None, "rank": None}
        if isinstance(value, dict):
            return {key: None if part == "none" else part for key, part in value.items()}
        return value


class InfluenceConfig(Section):
    """What all ``tracin`` methods of a sweep share."""

    proxy: ProxyConfig = ProxyConfig()
    unit: Literal["document", "sequence"] = "document"
    projection: ProjectionConfig = ProjectionConfig()
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    #: Of Adam's metric. The optimizer's own would weigh embeddings of rare tokens a thousandfold.
    epsilon: float = Field(default=1e-5, gt=0)
    batch_tokens: Count = 4096
    query_shards: int = Field(default=1, ge=1)
    keep_gradients: bool = True
