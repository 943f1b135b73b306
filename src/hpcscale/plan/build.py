"""Build the tasks of a sweep, with what decides the result of each and what each reads.

tokenizer -> stores (eval, query, base, pool) -> base model -> scores -> selections
          -> cells (train, evaluate) -> analysis
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from hpcscale.config.data import Role
from hpcscale.config.sweep import SweepConfig
from hpcscale.plan.cells import Arm, base_evaluation, cell_task
from hpcscale.plan.fingerprints import Sources
from hpcscale.plan.graph import AnyTask, Graph, Task
from hpcscale.plan.kinds import ANALYSE, FETCH, GRADIENTS, STORE
from hpcscale.plan.scores.requests import score_tasks
from hpcscale.plan.shared import Shared, shared_tasks
from hpcscale.plan.specs import AnalyseSpec, CellRow, EvaluateSpec, StoreSpec
from hpcscale.plan.trunk import branch_of, trunk_segments
from hpcscale.rundir.layout import ANALYSIS
from hpcscale.selection.registry import load_method


@dataclass(frozen=True)
class SweepTasks:
    """base, cells: evaluations of the base model and of the cells. graph: all but the analysis."""

    shared: Shared
    base: Task[EvaluateSpec]
    cells: tuple[Task[EvaluateSpec], ...]
    graph: Graph
    analysis: Task[AnalyseSpec]

    def data(self) -> list[AnyTask]:
        """The tokenizer and the token stores."""
        return [self.shared.tokenizer, *self.shared.stores.values()]

    def corpora(self) -> dict[Role, Task[StoreSpec]]:
        """The task that reads each role's corpus; filters of the pool come after it."""
        stores = (task for task in self.graph if task.kind is STORE)
        return {task.spec.role: task for task in stores}

    def prepared(self) -> list[AnyTask]:
        """The tasks that may need the network: tokenizer, token stores and fetched models."""
        return [*self.data(), *(task for task in self.graph if task.kind is FETCH)]

    @cached_property
    def depth(self) -> dict[str, int]:
        """By task id, the length of the longest path to a task without inputs."""
        return Graph(self.every()).depth

    def every(self) -> list[AnyTask]:
        """All tasks; each comes after its inputs."""
        return [*self.graph, self.analysis]


def build_tasks(config: SweepConfig, precision: str, sources: Sources) -> SweepTasks:
    """Raises ConfigError for a method, scorer or setting that cannot be planned.

    precision: resolved, fp32 or bf16 or fp16. sources: fingerprints of corpora and directories.
    """
    shared = shared_tasks(config, precision, sources)
    methods = [load_method(method) for method in config.selection]
    scores = score_tasks(shared, [method.score_request() for method in methods])
    names = [method.name for method in config.selection]
    arms = {
        name: Arm(method, score) for name, method, score in zip(names, methods, scores, strict=True)
    }
    trunks = {
        (name, seed): trunk_segments(shared, arm, name, seed)
        for name, arm in arms.items()
        for seed in config.seeds
    }
    base = base_evaluation(shared)
    cells = tuple(
        cell_task(
            shared, cell, arms[cell.method], branch_of(shared, cell, trunks[cell.method, cell.seed])
        )
        for cell in config.cells()
    )
    data: list[AnyTask] = [shared.tokenizer, *shared.stores.values()]
    graph = Graph([*data, *_kept_gradients(config, scores), base, *cells])
    return SweepTasks(shared, base, cells, graph, analysis_task(config.name, base, cells, graph))


def _kept_gradients(config: SweepConfig, scores: Sequence[AnyTask | None]) -> list[AnyTask]:
    """Gradient tasks as targets: the next query set can reuse their shards, so a lost shard is
    computed again even where its scores are done."""
    if not config.influence.keep_gradients:
        return []
    return [task for task in Graph(filter(None, scores)) if task.kind is GRADIENTS]


def analysis_task(
    name: str, base: Task[EvaluateSpec], cells: Sequence[Task[EvaluateSpec]], graph: Graph
) -> Task[AnalyseSpec]:
    """The analysis, which runs last and reads the cells that are done, even if others failed."""
    rows = []
    for evaluation in cells:
        (train,) = evaluation.inputs["model"]
        label = evaluation.spec.cell
        assert label is not None
        rows.append(
            CellRow(
                method=label.method,
                budget=label.budget,
                seed=label.seed,
                evaluation=(evaluation.id, evaluation.key),
                train=(train.id, train.key),
            )
        )
    spec = AnalyseSpec(name=name, cells=tuple(rows), base=(base.id, base.key))
    return Task(ANALYSIS, ANALYSE, spec, after=tuple(graph))
