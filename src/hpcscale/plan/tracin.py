"""The tasks behind ``tracin`` scores: proxy run -> gradients -> score blocks -> merged scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpcscale.config.data import Role
from hpcscale.errors import ConfigError
from hpcscale.influence.capture_limits import check_capture
from hpcscale.plan.graph import MergedTask, Task
from hpcscale.selection.method import ScoreRequest
from hpcscale.units import format_count

if TYPE_CHECKING:
    from hpcscale.plan.stages import Pipeline

VERSION = {"proxy": 2, "gradients": 1, "block": 1, "direct": 1, "influence": 1}
_POOL: Role = "pool"
_QUERY: Role = "query"


@dataclass
class TracinTasks:
    """Builds the tasks of all ``tracin`` methods of one sweep; equal tasks are one.

    ``captures``: some method reads gradients that the proxy run itself writes.
    """

    pipeline: Pipeline
    captures: bool
    gradients_kept: list[Task] = field(default_factory=list)
    _proxy: Task | None = None

    def __post_init__(self) -> None:
        self.config = self.pipeline.config.influence

    def scores(self, request: ScoreRequest) -> Task:
        """The merged scores of one request."""
        self._check(request)
        way = request.params["way"]
        blocks = self._direct(request) if way == "direct" else self._blocks(request)
        return MergedTask(
            f"scores/{slug(request)}/merged",
            "influence",
            "influence",
            {
                **self._of_gradients(way),
                **request.params,
                "epsilon": self._epsilon(request),
                "checkpoints": self.config.proxy.checkpoints,
                "merge": VERSION["influence"],
            },
            {"shards": tuple(blocks), **self._stores(), "proxy": (self.proxy(),)},
            {"pool_shards": self._pool_shards(way), "query_shards": self._query_shards(request)},
        )

    def _check(self, request: ScoreRequest) -> None:
        if _QUERY not in self.pipeline.stores and request.params["aggregate"] != "self":
            raise ConfigError(
                "a tracin selection measures influence on a query set, which the file does not "
                "name; add `data.query`, for example `query: {corpus: c4, split: validation, "
                "tokens: 100k}`, or write `aggregate: self`"
            )
        if request.params["way"] == "capture":
            train = self.pipeline.config.train
            zero = 0 if train.engine == "torch" else train.zero
            check_capture(zero=zero, precision=self.pipeline.precision, compiled=train.compile)

    def _epsilon(self, request: ScoreRequest) -> float | None:
        return self.config.epsilon if request.params["preconditioner"] == "adam" else None

    # --- the proxy run

    def proxy(self) -> Task:
        """A short run of the base model on a random part of the pool."""
        if self._proxy is None:
            pipeline, proxy = self.pipeline, self.config.proxy
            tokens = proxy.tokens or min(pipeline.config.budgets)
            train = pipeline.overridden(
                {"lr": proxy.lr, "warmup": proxy.warmup, "schedule": proxy.schedule}
            )
            steps = -(-tokens // train.global_batch)
            if proxy.checkpoints > steps:
                raise ConfigError(
                    f"influence.proxy.checkpoints {proxy.checkpoints} is more than the {steps} "
                    f"steps that {format_count(tokens)} tokens make at train.global_batch "
                    f"{train.global_batch}; write {steps} or fewer, or raise influence.proxy.tokens"
                )
            self._proxy = Task(
                "influence/proxy",
                "proxy",
                "proxy",
                {
                    **pipeline.sequences(),
                    **pipeline.training(train),
                    "tokens": tokens,
                    "seed": proxy.seed,
                    "checkpoints": proxy.checkpoints,
                    "capture": self._of_gradients("capture") if self.captures else None,
                    "version": VERSION["proxy"],
                },
                {"model": (pipeline.base,), "pool": (pipeline.stores[_POOL],)},
                {"train": train.plain()},
            )
        return self._proxy

    # --- gradients

    def _of_gradients(self, way: str) -> dict[str, Any]:
        """What decides a stored gradient, the checkpoint and the preconditioner apart."""
        seed = self.config.proxy.seed
        values = {"unit": self.config.unit, "seed": seed, **self.pipeline.sequences()}
        if way != "direct":
            values |= {"projection": self.config.projection.deciding(), "dtype": self.config.dtype}
        return values

    def _stores(self) -> dict[str, tuple[Task, ...]]:
        roles = [role for role in (_POOL, _QUERY) if role in self.pipeline.stores]
        return {role: (self.pipeline.stores[role],) for role in roles}

    def _pool_shards(self, way: str) -> int:
        return 1 if way == "capture" else self.pipeline.config.resources.of("dump").shards

    def _query_shards(self, request: ScoreRequest) -> int:
        by_itself = request.params["aggregate"] == "self" or request.params["way"] == "direct"
        return 1 if by_itself else self.config.query_shards

    def _shard(self, role: Role, checkpoint: int, power: float, index: int, count: int) -> Task:
        """Gradients times P^power of a shard of one store at one checkpoint."""
        suffix = {0.0: "", 0.5: "-adam", 1.0: "-adam-full"}[power]
        task = Task(
            f"influence/{role}-checkpoint{checkpoint}{suffix}/shard-{index:05d}",
            "gradients",
            "dump",
            {
                **self._of_gradients("dump"),
                "checkpoint": checkpoint,
                "power": power,
                "epsilon": self.config.epsilon if power else None,
                "shard": [index, count],
                "version": VERSION["gradients"],
            },
            {"proxy": (self.proxy(),), "store": (self.pipeline.stores[role],)},
            {"batch_tokens": self.config.batch_tokens},
        )
        if self.config.keep_gradients and task not in self.gradients_kept:
            self.gradients_kept.append(task)
        return task

    # --- score blocks

    def _blocks(self, request: ScoreRequest) -> list[Task]:
        params = request.params
        captured = params["way"] == "capture"
        adam = params["preconditioner"] == "adam"
        # Captured gradients are plain: all of Adam's metric goes to the queries.
        power = {(False, False): 0.0, (False, True): 0.5, (True, False): 0.0, (True, True): 1.0}
        shards, queries = self._pool_shards(params["way"]), self._query_shards(request)
        tasks = []
        for checkpoint in range(self.config.proxy.checkpoints):
            for pool in range(shards):
                for query in range(queries):
                    inputs: dict[str, tuple[Task, ...]] = {**self._stores()}
                    if captured:
                        inputs["proxy"] = (self.proxy(),)
                    else:
                        of_pool = self._shard(_POOL, checkpoint, 0.5 * adam, pool, shards)
                        inputs["gradients"] = (of_pool,)
                    if params["aggregate"] != "self":
                        used = power[captured, adam]
                        of_query = self._shard(_QUERY, checkpoint, used, query, queries)
                        inputs["queries"] = (of_query,)
                    tasks.append(self._block(request, "block", checkpoint, (pool, shards), inputs))
        return tasks

    def _direct(self, request: ScoreRequest) -> list[Task]:
        shards = self._pool_shards("direct")
        inputs = {**self._stores(), "proxy": (self.proxy(),)}
        return [
            self._block(request, "direct", checkpoint, (shard, shards), inputs)
            for checkpoint in range(self.config.proxy.checkpoints)
            for shard in range(shards)
        ]

    def _block(
        self,
        request: ScoreRequest,
        kind: str,
        checkpoint: int,
        shard: tuple[int, int],
        inputs: dict[str, tuple[Task, ...]],
    ) -> Task:
        query = inputs.get("queries")
        of_query = f"-q{query[0].decides['shard'][0]:05d}" if query else ""
        return Task(
            f"scores/{slug(request)}/block-checkpoint{checkpoint}-p{shard[0]:05d}{of_query}",
            kind,
            "dump" if kind == "direct" else "influence",
            {
                **self._of_gradients(request.params["way"]),
                **request.params,
                "epsilon": self._epsilon(request),
                "checkpoint": checkpoint,
                "shard": list(shard),
                "version": VERSION[kind],
            },
            inputs,
            {"batch_tokens": self.config.batch_tokens},
        )


def slug(request: ScoreRequest) -> str:
    """A name of the scores that says how they were made."""
    params = request.params
    parts = ["tracin", params["way"], params["aggregate"]]
    parts += ["adam"] if params["preconditioner"] == "adam" else []
    parts += ["cosine"] if params["normalise"] == "cosine" else []
    parts += ["weighted"] if params["query_weights"] else []
    return "-".join(parts)
