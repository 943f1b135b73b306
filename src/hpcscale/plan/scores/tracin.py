"""The tasks for ``tracin`` scores: proxy run -> gradients -> score blocks -> merged scores."""

from __future__ import annotations

from hpcscale.config.data import Role
from hpcscale.errors import ConfigError
from hpcscale.influence.capture_limits import check_capture
from hpcscale.plan.graph import AnyTask, Inputs, Task
from hpcscale.plan.kinds import BLOCK, DIRECT, GRADIENTS, MERGE_INFLUENCE, PROXY
from hpcscale.plan.settings import proxy_training
from hpcscale.plan.shared import Shared
from hpcscale.plan.specs import (
    BlockSpec,
    DirectSpec,
    GradientsSpec,
    InfluenceRequest,
    Measure,
    MergeInfluenceSpec,
    ProxySpec,
    Shard,
    Training,
)
from hpcscale.units import format_count

Proxy = Task[ProxySpec]


def influence_scores(shared: Shared, request: InfluenceRequest, proxy: Proxy) -> AnyTask:
    """The merged scores of one request."""
    _check(shared, request)
    if request.way == "direct":
        blocks = _direct_blocks(shared, request, proxy)
    else:
        blocks = _stored_blocks(shared, request, proxy)
    spec = MergeInfluenceSpec(
        measure=_measure(shared, request.way),
        request=request,
        epsilon=_epsilon(shared, request),
        checkpoints=shared.config.influence.proxy.checkpoints,
        pool_shards=_pool_shards(shared, request),
        query_shards=_query_shards(shared, request),
    )
    inputs = {"shards": tuple(blocks), **_stores(shared), "proxy": (proxy,)}
    return Task(f"scores/{slug(request)}/merged", MERGE_INFLUENCE, spec, inputs)


def proxy_task(shared: Shared, capture: bool) -> Proxy:
    """A short run of the base model on a random part of the pool. capture: whether it also stores
    the gradients of its own passes.

    Raises ConfigError where it has fewer steps than checkpoints.
    """
    proxy = shared.config.influence.proxy
    tokens = proxy.tokens or min(shared.config.budgets)
    train = proxy_training(shared.config)
    steps = -(-tokens // train.global_batch)
    if proxy.checkpoints > steps:
        raise ConfigError(
            f"influence.proxy.checkpoints {proxy.checkpoints} is more than the {steps} "
            f"steps that {format_count(tokens)} tokens make at train.global_batch "
            f"{train.global_batch}; write {steps} or fewer, or raise influence.proxy.tokens"
        )
    spec = ProxySpec(
        sequences=shared.sequences,
        training=Training(train=train),
        tokens=tokens,
        seed=proxy.seed,
        checkpoints=proxy.checkpoints,
        capture=_measure(shared, "capture") if capture else None,
    )
    return Task("influence/proxy", PROXY, spec, {"model": (shared.base,), "pool": (shared.pool,)})


def slug(request: InfluenceRequest) -> str:
    """A folder name that says how the scores are computed."""
    parts = ["tracin", request.way, request.aggregate]
    parts += ["adam"] if request.preconditioner == "adam" else []
    parts += ["cosine"] if request.normalise == "cosine" else []
    parts += ["weighted"] if request.query_weights else []
    return "-".join(parts)


def _check(shared: Shared, request: InfluenceRequest) -> None:
    if "query" not in shared.stores and request.aggregate != "self":
        raise ConfigError(
            "a tracin selection measures influence on a query set, but the sweep file has no "
            "`data.query`; add one, for example `query: {corpus: c4, split: validation, "
            "tokens: 100k}`, or write `aggregate: self`"
        )
    if request.way == "capture":
        train = shared.config.train
        zero = 0 if train.engine == "torch" else train.zero
        check_capture(zero=zero, precision=shared.sequences.precision, compiled=train.compile)


def _measure(shared: Shared, way: str) -> Measure:
    """How gradients are computed, without the checkpoint and the preconditioner."""
    config, sequences = shared.config.influence, shared.sequences
    stored = way != "direct"
    return Measure(
        sequence_length=sequences.sequence_length,
        packing=sequences.packing,
        precision=sequences.precision,
        unit=config.unit,
        seed=config.proxy.seed,
        projection=config.projection if stored else None,
        dtype=config.dtype if stored else None,
    )


def _epsilon(shared: Shared, request: InfluenceRequest) -> float | None:
    return shared.config.influence.epsilon if request.preconditioner == "adam" else None


def _stores(shared: Shared) -> dict[str, tuple[AnyTask, ...]]:
    roles: tuple[Role, ...] = ("pool", "query")
    return {role: (shared.stores[role],) for role in roles if role in shared.stores}


def _pool_shards(shared: Shared, request: InfluenceRequest) -> int:
    return 1 if request.way == "capture" else shared.config.resources.of("dump").shards


def _query_shards(shared: Shared, request: InfluenceRequest) -> int:
    alone = request.aggregate == "self" or request.way == "direct"
    return 1 if alone else shared.config.influence.query_shards


def _gradients(
    shared: Shared, proxy: Proxy, role: Role, checkpoint: int, power: float, shard: Shard
) -> Task[GradientsSpec]:
    """Gradients times P^power of a shard of one store at one checkpoint; P is Adam's metric."""
    suffix = {0.0: "", 0.5: "-adam", 1.0: "-adam-full"}[power]
    config = shared.config.influence
    spec = GradientsSpec(
        measure=_measure(shared, "dump"),
        checkpoint=checkpoint,
        power=power,
        epsilon=config.epsilon if power else None,
        shard=shard,
        batch_tokens=config.batch_tokens,
    )
    name = f"influence/{role}-checkpoint{checkpoint}{suffix}/shard-{shard[0]:05d}"
    return Task(name, GRADIENTS, spec, {"proxy": (proxy,), "store": (shared.stores[role],)})


def _stored_blocks(shared: Shared, request: InfluenceRequest, proxy: Proxy) -> list[AnyTask]:
    """A block for each checkpoint, shard of the pool and shard of the queries, in this order."""
    of_pool, of_query = _powers(request)
    shards, queries = _pool_shards(shared, request), _query_shards(shared, request)
    tasks: list[AnyTask] = []
    for checkpoint in range(shared.config.influence.proxy.checkpoints):
        pool_tasks: list[AnyTask] = [proxy]
        if request.way != "capture":
            pool_tasks = [
                _gradients(shared, proxy, "pool", checkpoint, of_pool, (index, shards))
                for index in range(shards)
            ]
        query_tasks: list[AnyTask | None] = [None]
        if request.aggregate != "self":
            query_tasks = [
                _gradients(shared, proxy, "query", checkpoint, of_query, (index, queries))
                for index in range(queries)
            ]
        label = "proxy" if request.way == "capture" else "gradients"
        for index, pool in enumerate(pool_tasks):
            for number, query in enumerate(query_tasks):
                inputs: Inputs = {**_stores(shared), label: (pool,)}
                suffix = ""
                if query is not None:
                    inputs, suffix = {**inputs, "queries": (query,)}, f"-q{number:05d}"
                spec = BlockSpec.model_validate(
                    _block(shared, request, checkpoint, (index, shards))
                )
                name = _block_name(request, checkpoint, index) + suffix
                tasks.append(Task(name, BLOCK, spec, inputs))
    return tasks


def _powers(request: InfluenceRequest) -> tuple[float, float]:
    """The powers of Adam's metric on gradients of the pool and of the queries; they add up to 1.

    Captured gradients are plain: all of the metric goes to the queries.
    """
    if request.preconditioner == "none":
        return 0.0, 0.0
    return (0.0, 1.0) if request.way == "capture" else (0.5, 0.5)


def _direct_blocks(shared: Shared, request: InfluenceRequest, proxy: Proxy) -> list[AnyTask]:
    shards = _pool_shards(shared, request)
    inputs = {**_stores(shared), "proxy": (proxy,)}
    return [
        Task(
            _block_name(request, checkpoint, index),
            DIRECT,
            DirectSpec.model_validate(_block(shared, request, checkpoint, (index, shards))),
            inputs,
        )
        for checkpoint in range(shared.config.influence.proxy.checkpoints)
        for index in range(shards)
    ]


def _block(
    shared: Shared, request: InfluenceRequest, checkpoint: int, shard: Shard
) -> dict[str, object]:
    return {
        "measure": _measure(shared, request.way),
        "request": request,
        "epsilon": _epsilon(shared, request),
        "checkpoint": checkpoint,
        "shard": shard,
        "batch_tokens": shared.config.influence.batch_tokens,
    }


def _block_name(request: InfluenceRequest, checkpoint: int, shard: int) -> str:
    return f"scores/{slug(request)}/block-checkpoint{checkpoint}-p{shard:05d}"
