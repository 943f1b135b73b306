"""The reproducibility checklist of (Mis)fitting (Li et al. 2025), filled in by the program.

An answer that was not recorded says so; the authors have to fill it in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scalinglaws.bootstrap import DRAWS
from scalinglaws.inputs import Inputs
from scalinglaws.study import Study

UNKNOWN = "not recorded"
COLUMNS = ["part", "question", "answer"]


def checklist(study: Study, inputs: Inputs, holdout: int = 0) -> pd.DataFrame:
    """Rows of part, question, answer. ``holdout``: how many budgets were held out."""
    setting = _Setting(inputs.setting or {})
    rows = [
        *(("form", *row) for row in _form(study)),
        *(("training", *row) for row in _training(study, setting)),
        *(("data", *row) for row in _data(inputs, setting)),
        *(("fitting", *row) for row in _fitting(study, holdout)),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


class _Setting:
    """Nested values of a sweep's setting by dotted path; ``not recorded`` where there is none."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def get(self, path: str) -> Any:
        value: Any = self.values
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def text(self, path: str, form: str = "{}") -> str:
        value = self.get(path)
        return UNKNOWN if value in (None, {}, []) else form.format(_plain(value))

    def join(self, **paths: str) -> str:
        told = [
            f"{name.replace('_', ' ')} {_plain(value)}"
            for name, path in paths.items()
            if (value := self.get(path)) not in (None, {}, [])
        ]
        return ", ".join(told) or UNKNOWN


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list):
        return ", ".join(_plain(each) for each in value if each is not None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _form(study: Study) -> list[tuple[str, str]]:
    compared = next((law for law in study.laws if law.name == study.law), None)
    others = ", ".join(law.name for law in study.laws if law is not compared)
    shapes = compared.parameters if compared else ()
    return [
        ("Which form is fitted?", compared.formula if compared else "none could be fitted"),
        ("Where does it come from?", compared.source if compared else UNKNOWN),
        (
            "Which variables does it have?",
            "training tokens" + "".join(f", {n.replace('_', ' ')}" for n in compared.needs)
            if compared
            else UNKNOWN,
        ),
        ("Which parameters are fitted?", ", ".join(shapes) or UNKNOWN),
        ("Which are measured?", _plain(compared.measured) if compared else UNKNOWN),
        ("Which other forms were tried?", others or "none"),
    ]


def _training(study: Study, setting: _Setting) -> list[tuple[str, str]]:
    frame = study.losses.frame
    sizes = frame["model_size"].dropna().unique() if "model_size" in frame else []
    tokens = frame["tokens"]
    return [
        ("How many runs?", f"{len(frame)}, {frame['method'].nunique()} selection methods"),
        ("Which model sizes?", ", ".join(f"{s:,.0f} parameters" for s in sizes) or UNKNOWN),
        (
            "How many tokens?",
            f"{frame['budget'].nunique()} budgets from {tokens.min():,.0f} to {tokens.max():,.0f}",
        ),
        (
            "Which base model?",
            setting.join(
                source="model.source", shape="model.shape", pretraining="model.pretraining"
            ),
        ),
        ("How are tokens counted?", setting.text("counted_as.tokens")),
        ("How are parameters counted?", setting.text("counted_as.parameters")),
        ("How are FLOPs counted?", setting.text("counted_as.flops")),
        ("Which optimizer?", setting.text("training.optimizer")),
        (
            "Which schedule?",
            setting.join(
                schedule="training.schedule",
                peak="training.learning_rate",
                warm_up="training.warmup",
                least_share="training.min_lr_ratio",
                decays_over="training.decay",
                ends_at="training.schedule_ends_at",
            ),
        ),
        ("How was each loss made?", setting.join(by="evaluation.rule", shared="training.branches")),
        (
            "Which batch?",
            setting.join(
                tokens_a_step="training.batch_tokens",
                tokens_a_row="training.sequence_length",
                packing="training.packing",
            ),
        ),
        (
            "Which precision and engine?",
            setting.join(
                precision="training.precision", engine="training.engine", ZeRO="training.zero"
            ),
        ),
        ("How were hyper-parameters chosen?", "the authors have to answer"),
        (
            "On what hardware?",
            setting.join(
                device="hardware.device",
                name="hardware.device_name",
                ranks="hardware.ranks",
                hours="hardware.device_hours",
            ),
        ),
        ("Which code?", setting.join(git="code.git", packages="code.packages")),
    ]


def _data(inputs: Inputs, setting: _Setting) -> list[tuple[str, str]]:
    frame = inputs.losses.frame
    repeats = "no run repeats a token"
    if "unique_tokens" not in frame or frame["unique_tokens"].isna().all():
        repeats = UNKNOWN
    elif (most := (frame["tokens"] / frame["unique_tokens"]).max()) > 1.001:
        repeats = f"up to {most:.3g} epochs"
    seeds = frame.groupby(["method", "budget"]).size()
    spread = f"{seeds.min()} to {seeds.max()}" if seeds.min() < seeds.max() else f"{seeds.min()}"
    return [
        (
            "Which data are chosen from?",
            setting.join(
                corpus="data.pool.corpus",
                split="data.pool.split",
                revision="data.pool.revision",
                tokens="data.pool.held.tokens",
                documents="data.pool.held.documents",
            ),
        ),
        ("How are they chosen?", setting.text("selection")),
        ("Are data repeated?", repeats),
        (
            "Which set is the loss measured on?",
            setting.join(
                corpus="data.eval.corpus",
                tokens="evaluation.tokens",
                documents="evaluation.documents",
            ),
        ),
        ("How is the loss measured?", setting.text("counted_as.loss")),
        ("Which checkpoints are used?", setting.text("training.checkpoints_used")),
        ("How many seeds?", spread),
        ("Is anything smoothed or interpolated?", "no"),
        ("Where are the numbers?", inputs.source),
    ]


def _fitting(study: Study, holdout: int) -> list[tuple[str, str]]:
    fits = list(study.chosen.values())
    some = fits[0] if fits else None
    huber = some is not None and some.delta is not None
    left_out = len(study.losses.left_out)
    agreeing = [fit.diagnostics.agreeing for fit in fits]
    return [
        (
            "Which objective?",
            f"sum of Huber's loss of log residuals, delta {some.delta}"
            if some and huber
            else "sum of squared residuals in nats"
            + (
                ", weighted by the seeds' variance"
                if some is not None and some.problem.weights is not None
                else ""
            ),
        ),
        (
            "Which algorithm?",
            "Newton and reweighted least squares in all parameters"
            if huber
            else "variable projection: amplitudes >= 0 exactly, shapes by Levenberg-Marquardt",
        ),
        (
            "From which starts?",
            f"{some.diagnostics.starts} spread over the bounds, of which "
            f"{min(agreeing):.0%} or more reached the optimum"
            if some
            else UNKNOWN,
        ),
        (
            "Did it converge?",
            ", ".join(f"{m}: {f.message}" for m, f in study.chosen.items()) or "nothing was fitted",
        ),
        ("Which points are left out?", f"{left_out}, listed with reasons" if left_out else "none"),
        (
            "How are intervals made?",
            "parameters: points drawn with replacement"
            if huber
            else f"parameters: profile likelihood; curves and comparisons: wild cluster bootstrap, "
            f"{DRAWS} draws, clusters are {study.cluster_kind}",
        ),
        (
            "How good is the fit?",
            "; ".join(
                f"{m}: residual sd {f.residual_sd:.4g} nats"
                for m, f in study.chosen.items()
                if np.isfinite(f.residual_sd)
            )
            or UNKNOWN,
        ),
        (
            "How is extrapolation tested?",
            f"the {holdout} largest budgets are forecast from the others"
            if holdout
            else "the largest budget is forecast from the others; each budget is left out in turn",
        ),
    ]
