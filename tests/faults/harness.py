"""One cell that a test disturbs: where it stands, what it lost, and whether it ends the same."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import command

#: Of 250 steps, some hundredths of a second each.
EVERY = 20
#: Steps that go on while a checkpoint is written: what fails meanwhile costs them too.
WRITING = 5
SWEEP = """\
name: faults
root: {root}
model:
  scratch: {{layers: 2, width: 64, heads: 4}}
  pretrain: {{lr: 3e-3}}
tokenizer: {{train: 300}}
data:
  sequence_length: 64
  base: {{corpus: files, path: {texts}, tokens: 20k}}
  pool: {{corpus: files, path: {texts}, tokens: 300k}}
  eval: {{corpus: files, path: {texts}, tokens: 5k}}
selection: [random]
budgets: [256000]
seeds: [0]
train:
  global_batch: 1024
  micro_batch: 8
  lr: 1e-3
  checkpoint: {{every_steps: 20, keep: 2}}
resources:
  default: {{cpus: 1}}
  base: {{ranks: 1}}
  train: {{ranks: 2}}
"""


def write_texts(path: Path, documents: int) -> None:
    """Sentences over a few hundred words, so that there is something to learn."""
    rng = random.Random(3)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 7))) for _ in range(400)]
    with open(path, "w", encoding="utf-8") as handle:
        for index in range(documents):
            text = " ".join(rng.choices(words, k=rng.randint(30, 90))) + f" {index}"
            handle.write(json.dumps({"text": text}) + "\n")


def eventually(found: Callable[[], Any], seconds: float = 120, every: float = 0.02) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(every)
    raise AssertionError("it did not come in time")


@dataclass(frozen=True)
class Ending:
    """What must not depend on faults: every loss and gradient norm, and the weights' bytes."""

    curve: tuple[tuple[float, ...], ...]
    weights: str
    loss: float

    @classmethod
    def of(cls, run: Path) -> Ending:
        (cell,) = run.glob("cells/random-*")
        (evaluation,) = run.glob("evaluations/random-*/evaluation.json")
        lines = [json.loads(text) for text in (cell / "metrics.jsonl").read_text().splitlines()]
        weights = (cell / "model" / "model.safetensors").read_bytes()
        return cls(
            tuple((x["step"], x["tokens"], x["loss"], x["grad_norm"]) for x in lines),
            hashlib.sha256(weights).hexdigest(),
            json.loads(evaluation.read_text())["loss"],
        )


class Disturbed:
    """The cell, run by ``hpcscale sweep`` in a run directory of its own."""

    def __init__(self, folder: Path, prepared: Path, *options: str) -> None:
        """``prepared``: a finished run directory, all of which but cells is used again."""
        self.run = folder / "runs" / "faults"
        left_out = shutil.ignore_patterns("cells", "random-*", "analysis", "logs", ".lock")
        shutil.copytree(prepared, self.run, ignore=left_out)
        shutil.copytree(prepared / "selections", self.run / "selections", dirs_exist_ok=True)
        self.file = folder / "faults.yaml"
        text = (prepared.parents[1] / "faults.yaml").read_text()
        self.file.write_text(text.replace(str(prepared.parent), str(folder / "runs")))
        self.options = options
        self.process: subprocess.Popen[str] | None = None
        self.output: str | None = None

    def start(self) -> Disturbed:
        words = command("sweep", self.file, *self.options)
        self.output = None
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return self

    def finish(self, code: int = 0) -> str:
        assert self.process is not None
        if self.output is None:
            self.output = self.process.communicate(timeout=400)[0]
        logs = "".join(
            p.read_text()[-3000:]
            for p in (*self.run.rglob("*_log.out"), *self.run.glob("logs/*.log"))
        )
        assert self.process.returncode == code, self.output + logs
        return self.output

    def stop(self) -> None:
        """End what a failed test left behind."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
            if "slurm" in self.options:
                ids = {json.loads(p.read_text())["id"] for p in self.run.rglob("job.json")}
                subprocess.run(["scancel", *ids], check=False)

    @property
    def cell(self) -> Path:
        (cell,) = self.run.glob("cells/random-*")
        return cell

    def steps(self) -> int:
        """Steps that the cell's metrics hold."""
        found = list(self.run.glob("cells/random-*/metrics.jsonl"))
        return found[0].read_bytes().count(b"\n") if found else 0

    def reach(self, step: int) -> None:
        """Wait until so many steps are done."""
        eventually(lambda: self._going() and self.steps() >= step, every=0.005)

    def _going(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(self.finish(self.process.returncode))
        return True

    def running(self) -> dict[str, Any] | None:
        """The record of the attempt under way."""
        try:
            return dict(json.loads((self.cell / "running.json").read_text()))
        except (OSError, ValueError):
            return None

    def attempts(self) -> list[dict[str, Any]]:
        path = self.cell / "attempts.jsonl"
        return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []

    def seconds_to_be_back(self, fault: Callable[[], None]) -> float:
        """From the fault until a later attempt has done a step more than was done before it."""
        before = self.running()
        assert before is not None
        fault()
        began = time.monotonic()
        most = self.steps()

        def back() -> bool:
            nonlocal most
            self._going()
            now = self.running()
            if now is None or now["started"] == before["started"]:
                most = max(most, self.steps())
                return (self.cell / "done.json").exists()
            return self.steps() > most

        eventually(back, 240)
        return time.monotonic() - began

    def status(self) -> str:
        words = command("status", self.run)
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    def plan(self) -> str:
        words = [*command("sweep", self.file, *self.options), "--dry-run"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    @property
    def job(self) -> str:
        return str(json.loads((self.cell / "job.json").read_text())["id"])

    def ranks(self) -> list[int]:
        """Process ids of the cell's ranks as this machine counts them, rank 0 first."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                pairs = (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # ended meanwhile
            values = dict(pair.partition(b"=")[::2] for pair in pairs)
            python = b"submitit.core._submit" in words and b"python" in words[0]
            if python and values.get(b"SLURM_JOB_ID") == self.job.encode():
                found[int(values[b"SLURM_PROCID"])] = int(process.name)
        return [found[rank] for rank in sorted(found)]

    def signal_ranks(self, number: signal.Signals) -> None:
        for pid in self.ranks():
            os.kill(pid, number)

    def kill_ranks(self, count: int | None = None) -> None:
        """SIGKILL for the last ``count`` ranks, or for all."""
        for pid in self.ranks()[-(count or 0) :]:
            os.kill(pid, signal.SIGKILL)


def saving(cell: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any(cell.glob("checkpoints/*.partial"))


@contextmanager
def small_disk(
    target: Path, megabytes: int, node: str | None = None
) -> Iterator[Callable[[], None]]:
    """A file system of its own on ``target``, as ``node`` sees it; calling what it yields
    enlarges it."""
    enter = ["nsenter", f"--target={_slurmd(node)}", "--mount", "--pid"] if node else []
    target.mkdir()
    mount = [*enter, "mount", "-t", "tmpfs", "tmpfs", str(target)]
    subprocess.run([*mount, "-o", f"size={megabytes}M"], check=True)
    try:
        yield lambda: subprocess.run([*mount, "-o", "remount,size=200M"], check=True) and None
    finally:
        subprocess.run([*enter, "umount", "--lazy", str(target)], check=True)


def _slurmd(node: str) -> int:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue  # ended meanwhile
        if words[0].endswith("slurmd") and words[-3:-1] == ["-N", node]:
            return int(process.name)
    raise AssertionError(f"no slurmd of {node}")


def break_newest_checkpoint(cell: Path, damage: str) -> None:
    """Half of its largest file goes, or one bit of it is turned."""
    newest = max(p for p in cell.glob("checkpoints/step-*") if p.name[5:].isdigit())
    file = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    file.write_bytes(content)


def steps_again(attempts: list[dict[str, Any]]) -> int:
    """Steps that were done more than once, over all attempts."""
    pairs = itertools.pairwise(attempts)
    return sum(before["step"] - after["from_step"] for before, after in pairs)
