"""The numbers doctor finds nothing where all is well, and each fault where there is one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import masking_utils

from hpcscale.cli.main import cli
from hpcscale.config.model import Shape
from hpcscale.data.tokenizer import train_tokenizer
from hpcscale.doctor import numerics
from hpcscale.doctor.finding import Finding
from hpcscale.doctor.reference_run import Curve, ReferenceRun
from hpcscale.model import isolation
from hpcscale.model.build import build_model, load_model, save_model
from hpcscale.train.distributed import Ranks
from hpcscale.train.engine_torch import TorchEngine

Patch = pytest.MonkeyPatch
Check = Callable[[ReferenceRun, Curve], Finding]


def test_a_healthy_machine_passes_every_check() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hpcscale.cli.main", "doctor", "numerics"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = [line.split()[0] for line in done.stdout.splitlines() if "bound:" in line]
    assert verdicts == ["ok"] * 7


def untie(patch: Patch) -> None:
    def load(path: Path) -> Any:
        model: Any = load_model(path)
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        return model

    patch.setattr(numerics, "load_model", load)


def widen(patch: Patch) -> None:
    whole = ReferenceRun.model

    def wide(self: ReferenceRun) -> torch.nn.Module:
        model = whole(self)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(20)  # type: ignore[operator]
        return model

    patch.setattr(ReferenceRun, "model", wide)


def freeze(patch: Patch) -> None:
    whole = TorchEngine.step
    patch.setattr(TorchEngine, "step", lambda self, lr: whole(self, 0.0))


def stir(patch: Patch) -> None:
    """As a kernel that adds in an order of its own."""
    count, whole = [0], TorchEngine.backward

    def backward(self: TorchEngine, loss: torch.Tensor) -> None:
        count[0] += 1
        whole(self, loss * (1 + 1e-6 * count[0]))

    patch.setattr(TorchEngine, "backward", backward)


def forget(patch: Patch) -> None:
    """As engines that lose the gradient of all passes but one."""
    whole = TorchEngine.backward

    def backward(self: TorchEngine, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        whole(self, loss)

    patch.setattr(TorchEngine, "backward", backward)


def see_through(patch: Patch) -> None:
    """As layers that do not look at position ids, of a model whose layers did when it was tried."""
    patch.setattr(isolation, "way_to_isolate", lambda model: "positions")
    patch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)


def misscale(patch: Patch) -> None:
    from hpcscale.train.engine_deepspeed import DeepSpeedEngine

    whole = DeepSpeedEngine.backward
    patch.setattr(DeepSpeedEngine, "backward", lambda self, loss: whole(self, loss * 1.001))


@pytest.mark.parametrize(
    ("break_it", "check"),
    [
        (widen, lambda subject, reference: numerics.initial_loss(subject)),
        (untie, numerics.tied_weights),
        (freeze, lambda subject, reference: numerics.overfit(subject, most=5)),
        (stir, numerics.determinism),
        (forget, numerics.accumulation),
        (see_through, lambda subject, reference: numerics.isolation(subject)),
        (misscale, numerics.engine_equality),
    ],
    ids=lambda part: part.__name__,
)
def test_each_fault_is_found(
    tmp_path: Path, monkeypatch: Patch, break_it: Callable[[Patch], None], check: Check
) -> None:
    subject = ReferenceRun(None, tmp_path, Ranks())
    reference = subject.train("reference")
    break_it(monkeypatch)
    finding = check(subject, reference)
    assert finding.passed is False, finding
    assert finding.remedy


def test_what_fails_is_said_with_a_remedy_and_the_exit_code(monkeypatch: Patch) -> None:
    found = [Finding("one", True, "1", "2"), Finding("other", False, "3", "2", "mend it")]
    monkeypatch.setattr(numerics, "examine", lambda model: iter(found))
    result = CliRunner().invoke(cli, ["doctor", "numerics"])
    assert result.exit_code == 1
    assert "FAIL  other" in result.output
    assert "mend it" in result.output


def test_a_model_of_the_user_s_is_measured_on_text(tmp_path: Path) -> None:
    model = build_model(Shape(layers=1, width=16, heads=1), 260, 64, 259)
    save_model(model, tmp_path / "bare")
    (tmp_path / "a").mkdir()
    subject = ReferenceRun(str(tmp_path / "bare"), tmp_path / "a", Ranks())
    assert numerics.initial_loss(subject).passed is None, "no tokenizer, nothing to say"
    train_tokenizer(["documentation of the standard library"], 260, tmp_path / "whole")
    save_model(model, tmp_path / "model")
    for file in (tmp_path / "model").iterdir():
        file.rename(tmp_path / "whole" / file.name)
    (tmp_path / "b").mkdir()
    subject = ReferenceRun(str(tmp_path / "whole"), tmp_path / "b", Ranks())
    assert subject.reads_text
    assert numerics.isolation(subject).passed
    worse: Any = load_model(tmp_path / "whole")
    with torch.no_grad():
        worse.get_input_embeddings().weight.mul_(20)
    save_model(worse, tmp_path / "worse")
    subject.source = str(tmp_path / "worse")
    assert numerics.initial_loss(subject).passed is False, "it would do better to guess"
