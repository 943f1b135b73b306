"""The sweep file as one validated model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from hpcscale.config.data import DataConfig
from hpcscale.config.influence import InfluenceConfig
from hpcscale.config.model import ModelConfig, TokenizerConfig
from hpcscale.config.resources import ResourcesConfig
from hpcscale.config.train import EvaluateConfig, TrainConfig
from hpcscale.config.types import Count, Name, Section
from hpcscale.units import format_count, parse_count


class MethodConfig(Section):
    """A named selection method; keys beside these are the method's own parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Name
    method: str

    @model_validator(mode="before")
    @classmethod
    def _accept_a_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value, "method": value}
        if isinstance(value, dict) and "method" in value:
            return {"name": value["method"], **value}
        return value

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _expand_budgets(value: Any) -> Any:
    """``{geomspace: [1M, 300M, 6]}`` as a list, rounded to three significant digits."""
    if not isinstance(value, dict):
        return value
    if set(value) != {"geomspace"} or len(value["geomspace"]) != 3:
        raise ValueError("write budgets as [1M, 4M] or {geomspace: [lowest, highest, how many]}")
    low, high = (parse_count(v) for v in value["geomspace"][:2])
    number = int(value["geomspace"][2])
    if not (0 < low < high and number >= 2):
        raise ValueError(f"geomspace {value['geomspace']} needs lowest < highest and two or more")
    exact = [low * (high / low) ** (i / (number - 1)) for i in range(number)]
    return [round(b, -max(0, len(str(round(b))) - 3)) for b in map(round, exact)]


Budgets = Annotated[tuple[Count, ...], BeforeValidator(_expand_budgets), Field(min_length=1)]


@dataclass(frozen=True)
class Cell:
    """One (selection method, token budget, seed) of a sweep."""

    method: str
    budget: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{format_count(self.budget)}-s{self.seed}"


class SweepConfig(Section):
    """One sweep. Everything but model, data and budgets has a default."""

    name: Name
    root: str = "runs"
    model: ModelConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    selection: tuple[MethodConfig, ...] = Field(
        default=(MethodConfig(name="random", method="random"),), min_length=1
    )
    budgets: Budgets
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 1, 2), min_length=1)
    influence: InfluenceConfig = InfluenceConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="before")
    @classmethod
    def _tokenizer_of_the_model(cls, value: Any) -> Any:
        if isinstance(value, dict) and "tokenizer" not in value:
            model = value.get("model")
            source = model.get("source") if isinstance(model, dict) else model
            if isinstance(source, str):
                return {**value, "tokenizer": source}
        return value

    @field_validator("budgets", "seeds", "selection", mode="after")
    @classmethod
    def _no_repeats(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [getattr(item, "name", item) for item in value]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(f"{repeated!r} occurs twice; write each once")
        return value

    @model_validator(mode="after")
    def _parts_fit_together(self) -> SweepConfig:
        if self.data.base is None and (self.model.scratch or self.tokenizer.train):
            raise ValueError(
                "a model from scratch or a tokenizer to train needs `data.base`, the corpus that "
                "it learns from, for example `base: {corpus: stdlib, tokens: 500k}`"
            )
        if self.train.global_batch % self.data.sequence_length:
            length = self.data.sequence_length
            below = max(1, self.train.global_batch // length) * length
            raise ValueError(
                f"train.global_batch {self.train.global_batch} is not a multiple of "
                f"data.sequence_length {length}; write {below} or {below + length}"
            )
        shape = self.model.scratch
        if shape and shape.context and shape.context < self.data.sequence_length:
            raise ValueError(
                f"model.scratch.context {shape.context} is shorter than data.sequence_length "
                f"{self.data.sequence_length}; raise one or lower the other"
            )
        return self

    def cells(self) -> Iterator[Cell]:
        """Every cell, methods slowest and seeds fastest."""
        for method in self.selection:
            for budget in self.budgets:
                for seed in self.seeds:
                    yield Cell(method.name, budget, seed)

    def method(self, name: str) -> MethodConfig:
        return next(method for method in self.selection if method.name == name)
