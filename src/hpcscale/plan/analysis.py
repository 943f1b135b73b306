"""The last task of a sweep: whatever cells are there, as tables, fits and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpcscale.config.sweep import SweepConfig
from hpcscale.plan.graph import Task
from hpcscale.plan.stages import Pipeline


@dataclass(frozen=True, eq=False)
class Analysis(Task):
    """Stands at a fixed place, and runs even where cells failed: it reads what is done."""

    @property
    def id(self) -> str:
        return "analysis"


def analysis_task(config: SweepConfig, cells: Sequence[Task], pipeline: Pipeline) -> Analysis:
    """``params["cells"]`` lists each cell's evaluation and training by id and key."""
    rows = []
    for evaluation in cells:
        (train,) = evaluation.inputs["model"]
        rows.append(
            {
                **evaluation.params["cell"],
                "evaluation": [evaluation.id, evaluation.key],
                "train": [train.id, train.key],
            }
        )
    base = pipeline.evaluation("base/evaluation", pipeline.base, {"cell": None})
    decides = {"cells": [row["evaluation"][1] for row in rows], "base": base.key}
    params = {"name": config.name, "cells": rows, "base": [base.id, base.key]}
    return Analysis("analysis", "analyse", "analyse", decides, params=params)
