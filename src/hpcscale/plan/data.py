"""The tokenizer and the token stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcscale.config.data import CorpusConfig, Role
from hpcscale.config.sweep import SweepConfig
from hpcscale.data.pool_filter import load_filter
from hpcscale.plan.fingerprints import Sources, absolute_paths, absolute_source
from hpcscale.plan.graph import Inputs, Task
from hpcscale.plan.kinds import FILTER, STORE, TOKENIZER
from hpcscale.plan.models import origin
from hpcscale.plan.specs import Documents, FilterSpec, StoreSpec, TokenizerSpec
from hpcscale.plan.tokenizer_settings import token_ids

#: The task that writes the token store of each role; for the pool, the last filter if any.
Stores = Mapping[Role, Task[Any]]


def tokenizer_task(config: SweepConfig, sources: Sources) -> Task[TokenizerSpec]:
    given, base = config.tokenizer, config.data.base
    if given.train is not None:
        assert base is not None
        spec = TokenizerSpec(
            vocabulary=given.train,
            documents=_documents(config, "base", sources),
            corpus=_with_absolute_paths(base),
        )
    else:
        assert given.source is not None
        spec = TokenizerSpec(
            origin=origin(given.source, given.revision, sources),
            source=absolute_source(given.source),
            revision=given.revision,
            token_ids=token_ids(given.source, given.reading),
        )
    return Task("data/tokenizer", TOKENIZER, spec)


def store_tasks(config: SweepConfig, sources: Sources, tokenizer: Task[TokenizerSpec]) -> Stores:
    """The store of each role, without the documents that the store of an earlier role holds."""
    roles, stores = config.data.roles(), dict[Role, Task[Any]]()
    for role, corpus in roles.items():
        before = tuple(stores[other] for other in stores if roles[other].source != corpus.source)
        spec = StoreSpec(
            documents=_documents(config, role, sources),
            role=role,
            max_broken=config.data.max_broken,
            corpus=_with_absolute_paths(corpus),
            cut=role in ("eval", "query"),
        )
        inputs: Inputs = {"tokenizer": (tokenizer,), "exclude": before}
        stores[role] = Task(f"data/{role}", STORE, spec, inputs)
    return stores | {"pool": filtered_pool(config, stores["pool"], tokenizer)}


def filtered_pool(
    config: SweepConfig, pool: Task[Any], tokenizer: Task[TokenizerSpec]
) -> Task[Any]:
    """The last of the tasks that apply ``data.filters`` in turn; ``pool`` without filters."""
    for given in config.data.filters:
        chosen = load_filter(given)
        spec = FilterSpec(
            filter=given.filter,
            filter_version=chosen.version,
            filter_params=chosen.params.deciding(),
        )
        inputs: Inputs = {"pool": (pool,), "tokenizer": (tokenizer,)}
        pool = Task(f"{pool.name}-{given.filter}", FILTER, spec, inputs)
    return pool


def _documents(config: SweepConfig, role: Role, sources: Sources) -> Documents:
    corpus = config.data.roles()[role]
    return Documents(
        fingerprint=sources.corpus(corpus),
        domains=corpus.domains,
        domain_field=corpus.domain if corpus.corpus == "files" else None,
        range=config.data.hash_ranges()[role],
        seed=corpus.seed,
        shuffle_buffer=corpus.shuffle_buffer if corpus.corpus == "c4" else None,
        tokens=corpus.tokens,
    )


def _with_absolute_paths(corpus: CorpusConfig) -> CorpusConfig:
    return corpus.model_copy(update={"path": tuple(absolute_paths(corpus.path))})
