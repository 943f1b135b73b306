"""The tasks that all cells of a sweep and their scores share."""

from __future__ import annotations

from dataclasses import dataclass

from hpcscale.config.sweep import SweepConfig
from hpcscale.plan.data import Stores, store_tasks, tokenizer_task
from hpcscale.plan.fingerprints import Sources
from hpcscale.plan.graph import AnyTask, Task
from hpcscale.plan.models import BASE, fetch_task, pretrain_task
from hpcscale.plan.settings import sequences
from hpcscale.plan.specs import Sequences, TokenizerSpec


@dataclass(frozen=True)
class Shared:
    """base: the task of the base model, fetched or pretrained."""

    config: SweepConfig
    sources: Sources
    sequences: Sequences
    tokenizer: Task[TokenizerSpec]
    stores: Stores
    base: AnyTask

    @property
    def pool(self) -> AnyTask:
        """The task with the store that methods select from: the pool after all filters."""
        return self.stores["pool"]


def shared_tasks(config: SweepConfig, precision: str, sources: Sources) -> Shared:
    """The shared tasks. precision: resolved, fp32 or bf16 or fp16."""
    used = sequences(config, precision)
    tokenizer = tokenizer_task(config, sources)
    stores = store_tasks(config, sources, tokenizer)
    base: AnyTask
    if config.model.source is not None:
        base = fetch_task(BASE, config.model.source, config.model.revision, sources)
    else:
        base = pretrain_task(config, used, tokenizer, stores["base"])
    return Shared(config, sources, used, tokenizer, stores, base)
