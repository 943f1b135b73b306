"""Which model is trained, and which tokenizer reads its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from hpcscale.config.types import Count, Section


class Shape(Section):
    """A GPT-2 built from scratch; the vocabulary size comes from the tokenizer."""

    pinned: ClassVar = frozenset({"layers", "width", "heads", "context", "seed"})

    layers: int = Field(ge=1, le=200)
    width: int = Field(ge=8)
    heads: int = Field(ge=1)
    context: int | None = Field(default=None, ge=2)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Shape:
        if self.width % self.heads:
            fitting = [n for n in range(1, self.width + 1) if self.width % n == 0]
            raise ValueError(
                f"width {self.width} is not a multiple of heads {self.heads}; "
                f"heads may be one of {fitting}"
            )
        return self


class Pretrain(Section):
    """How a scratch model is pretrained on the base corpus; unset values come from ``train``."""

    tokens: Count | None = None
    lr: float | None = Field(default=None, gt=0)
    warmup: Count | None = None
    schedule: Literal["cosine", "constant", "wsd"] | None = None
    min_lr_ratio: float | None = Field(default=None, ge=0, le=1)
    seed: int = Field(default=0, ge=0)


class ModelConfig(Section):
    """``model: gpt2``, ``model: ./my-model`` or ``model: {scratch: {layers: 4, ...}}``."""

    source: str | None = None
    revision: str | None = None
    scratch: Shape | None = None
    pretrain: Pretrain = Pretrain()

    @model_validator(mode="before")
    @classmethod
    def _accept_a_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> ModelConfig:
        if (self.source is None) == (self.scratch is None):
            raise ValueError(
                "give either a hub id or directory (`model: gpt2`) or a shape "
                "(`model: {scratch: {layers: 4, width: 128, heads: 4}}`), not both"
            )
        return self


class TokenizerConfig(Section):
    """``tokenizer: gpt2``, ``tokenizer: ./folder`` or ``tokenizer: {train: 2048}``.

    reading: which token ids count where transformers reads a tokenizer.json differently.
    """

    source: str | None = None
    revision: str | None = None
    reading: Literal["file", "transformers"] | None = None
    train: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_a_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> TokenizerConfig:
        if (self.source is None) == (self.train is None):
            raise ValueError(
                "give either a hub id or directory (`tokenizer: gpt2`) or a vocabulary size to "
                "train (`tokenizer: {train: 2048}`), not both"
            )
        if self.train is not None and self.reading is not None:
            raise ValueError(
                f"reading: {self.reading} is for a tokenizer that is fetched; a trained one has "
                "only one reading"
            )
        if self.train is not None and self.train < 257:
            raise ValueError(
                f"a byte-level vocabulary needs at least 257 entries (256 bytes and end-of-text), "
                f"not {self.train}"
            )
        return self


def is_local(source: str) -> bool:
    """Whether ``source`` is a directory on this machine rather than a hub id."""
    return source.startswith((".", "/", "~")) or Path(source).is_dir()
