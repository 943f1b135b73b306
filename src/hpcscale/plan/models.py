"""The base model, and models that only score."""

from __future__ import annotations

from hpcscale.config.sweep import SweepConfig
from hpcscale.plan.fingerprints import Sources, absolute_source
from hpcscale.plan.graph import AnyTask, Task
from hpcscale.plan.kinds import FETCH, PRETRAIN
from hpcscale.plan.settings import pretraining
from hpcscale.plan.specs import FetchSpec, Origin, PretrainSpec, Sequences, Training

BASE = "base/model"


def origin(source: str, revision: str | None, sources: Sources) -> Origin:
    """What identifies a model: the content of a directory, or a hub id and its revision."""
    content = sources.directory(source)
    return Origin(content=content) if content else Origin(hub=source, revision=revision)


def fetch_task(name: str, source: str, revision: str | None, sources: Sources) -> Task[FetchSpec]:
    """The task that brings a hub or local model into the run directory."""
    spec = FetchSpec(
        origin=origin(source, revision, sources),
        source=absolute_source(source),
        revision=revision,
    )
    return Task(name, FETCH, spec)


def pretrain_task(
    config: SweepConfig, sequences: Sequences, tokenizer: AnyTask, store: AnyTask
) -> Task[PretrainSpec]:
    """The task that trains a base model from scratch on the base corpus."""
    model = config.model
    assert model.scratch is not None
    spec = PretrainSpec(
        shape=model.scratch,
        tokens=model.pretrain.tokens,
        seed=model.pretrain.seed,
        sequences=sequences,
        training=Training(train=pretraining(config)),
    )
    return Task(BASE, PRETRAIN, spec, {"tokenizer": (tokenizer,), "store": (store,)})
