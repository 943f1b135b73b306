"""What a kind of task is: one row each, which planner, previews, workers and tables read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from hpcscale.config.resources import StageName
from hpcscale.errors import TaskError
from hpcscale.plan import specs
from hpcscale.rundir.spec import Spec

S = TypeVar("S", bound=Spec)


class Passes(Enum):
    """The passes through a model that a task makes; previews and cost tables count them."""

    NONE = "none"
    #: Forward and backward, on the tokens that its spec gives.
    TRAIN = "train"
    #: Forward, on a shard of the pool.
    SCORE = "score"
    #: Forward and backward, on a shard of a store.
    GRADIENTS = "gradients"
    #: Forward and backward, on all queries and a shard of the pool.
    DIRECT = "direct"
    #: Forward, on the eval set.
    EVALUATE = "evaluate"
    #: Those of a scorer of another package, which reports its own FLOPs.
    SCORER = "scorer"


@dataclass(frozen=True)
class Kind(Generic[S]):
    """step: the module in ``worker/steps``. version: raise it when the step's result changes, so
    that results of older code count as stale.

    scoring: whether the task is part of scoring, whose cost the analysis lists. unkeyed: labels of
    inputs that the result does not depend on. bundle: how many tasks may share an array task.
    fixed: the task's directory is its name without a key, and it runs once all tasks in its
    ``after`` have ended, done or failed.
    """

    name: str
    stage: StageName
    spec: type[S]
    version: int | None
    step: str
    passes: Passes = Passes.NONE
    scoring: bool = False
    unkeyed: frozenset[str] = frozenset()
    version_name: str = "version"
    bundle: int = 1
    fixed: bool = False

    def decides(self, spec: S) -> dict[str, object]:
        """What decides the result, as a key and ``task.json`` hold it."""
        version = {} if self.version is None else {self.version_name: self.version}
        return spec.decides() | version


_SHARDS, _STATE = frozenset({"shards"}), frozenset({"state"})

TOKENIZER = Kind("tokenizer", "tokenizer", specs.TokenizerSpec, 1, "tokenizer")
STORE = Kind("store", "data", specs.StoreSpec, 1, "store")
FILTER = Kind("filter", "data", specs.FilterSpec, 1, "filter")
FETCH = Kind("fetch", "data", specs.FetchSpec, 1, "fetch")
PRETRAIN = Kind("pretrain", "base", specs.PretrainSpec, 2, "pretrain", Passes.TRAIN)
PERPLEXITY = Kind(
    "perplexity", "score", specs.PerplexitySpec, 1, "perplexity", Passes.SCORE, scoring=True
)
MERGE_PERPLEXITY = Kind(
    "merge",
    "select",
    specs.MergePerplexitySpec,
    1,
    "merge_perplexity",
    scoring=True,
    unkeyed=_SHARDS,
    version_name="merge",
)
SCORER = Kind("scorer", "score", specs.ScorerSpec, 1, "scorer", Passes.SCORER, scoring=True)
MERGE_SCORES = Kind(
    "merge-scores",
    "select",
    specs.MergeScoresSpec,
    1,
    "merge_scores",
    scoring=True,
    unkeyed=_SHARDS,
)
PROXY = Kind("proxy", "proxy", specs.ProxySpec, 2, "proxy", Passes.TRAIN, scoring=True)
GRADIENTS = Kind(
    "gradients", "dump", specs.GradientsSpec, 1, "gradients", Passes.GRADIENTS, scoring=True
)
DIRECT = Kind("direct", "dump", specs.DirectSpec, 1, "direct", Passes.DIRECT, scoring=True)
BLOCK = Kind("block", "influence", specs.BlockSpec, 1, "block", scoring=True)
MERGE_INFLUENCE = Kind(
    "influence",
    "influence",
    specs.MergeInfluenceSpec,
    1,
    "merge_influence",
    scoring=True,
    unkeyed=_SHARDS,
    version_name="merge",
)
SELECT = Kind("select", "select", specs.SelectSpec, 1, "select", bundle=64)
TRUNK = Kind("trunk", "train", specs.TrunkSpec, 2, "trunk", Passes.TRAIN, unkeyed=_STATE)
TRAIN = Kind("train", "train", specs.TrainSpec, 2, "train", Passes.TRAIN, unkeyed=_STATE)
EVALUATE = Kind("evaluate", "train", specs.EvaluateSpec, 1, "evaluate", Passes.EVALUATE)
ANALYSE = Kind("analyse", "analyse", specs.AnalyseSpec, None, "analyse", fixed=True)

#: Every kind of task by its name.
KINDS: dict[str, Kind[Spec]] = {
    kind.name: kind  # type: ignore[misc]
    for kind in (
        TOKENIZER,
        STORE,
        FILTER,
        FETCH,
        PRETRAIN,
        PERPLEXITY,
        MERGE_PERPLEXITY,
        SCORER,
        MERGE_SCORES,
        PROXY,
        GRADIENTS,
        DIRECT,
        BLOCK,
        MERGE_INFLUENCE,
        SELECT,
        TRUNK,
        TRAIN,
        EVALUATE,
        ANALYSE,
    )
}


def kind_of(name: str) -> Kind[Spec]:
    """Raises TaskError for a kind that this version does not have."""
    if name not in KINDS:
        raise TaskError(
            f"this version of hpcscale has no tasks of kind `{name}`; it has: {', '.join(KINDS)}"
        )
    return KINDS[name]
