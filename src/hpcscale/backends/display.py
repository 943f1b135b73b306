"""What a person sees while a sweep runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from hpcscale.config.resources import STAGES
from hpcscale.plan.array_tasks import ArrayTask
from hpcscale.plan.graph import AnyTask
from hpcscale.plan.specs import EvaluateSpec
from hpcscale.rundir.layout import DONE, FAILED, PROGRESS
from hpcscale.units import format_duration, format_rate

_SHOWN = 12
_BUNDLED = 2


class Display:
    """Counts per stage, a bar per running task, and a line for each task that ends."""

    def __init__(self, run_dir: Path, tasks: Sequence[AnyTask], done: set[str]) -> None:
        self.run_dir = run_dir
        self.console = Console(stderr=True)
        self.total = Counter(str(task.stage) for task in tasks)
        self.done = Counter(str(task.stage) for task in tasks if task.id in done)
        self.failures = 0
        self.started = time.monotonic()
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def say(self, message: str) -> None:
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def finished(self, *tasks: AnyTask) -> None:
        """Report tasks that one array task completed; a bundle of light tasks shares a line."""
        for task in tasks:
            self.done[task.stage] += 1
        if len(tasks) > _BUNDLED:
            self._line(tasks[0], f"{tasks[0].name} and {len(tasks) - 1} more")
        else:
            for task in tasks:
                self._line(task, task.name + self._outcome(task))

    def _line(self, task: AnyTask, text: str) -> None:
        count = f"{self.done[task.stage]}/{self.total[task.stage]}"
        elapsed = format_duration(time.monotonic() - self.started)
        self.say(f"[{elapsed:>6}] {task.stage:<9} {count:>7}  {text}")

    def _outcome(self, task: AnyTask) -> str:
        """The main number of the task's result, as text; empty where it has none."""
        try:
            facts = json.loads((self.run_dir / task.id / DONE).read_text())["facts"]
        except (OSError, ValueError, KeyError):
            return ""
        if isinstance(task.spec, EvaluateSpec):
            return f"  loss {facts['loss']:.4f}"
        if "tokens_per_second" in facts:
            return f"  {format_rate(facts['tokens_per_second'])} tokens/s"
        return ""

    def failed(self, task: AnyTask, log: Path) -> None:
        try:
            error = json.loads((self.run_dir / task.id / FAILED).read_text())["error"]
        except (OSError, ValueError, KeyError):
            return  # it did not fail: it was stopped, or its input is missing
        self.failures += 1
        self.say(f"FAILED {task.name}: {error}\n       log: {log}")

    def refresh(self, running: Sequence[ArrayTask]) -> None:
        if self.console.is_terminal:
            self._live.update(self.render([one.tasks[0] for one in running]))

    def render(self, running: Sequence[AnyTask]) -> Group:
        stages = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for stage in STAGES:
            if self.total[stage]:
                bar = ProgressBar(total=self.total[stage], completed=self.done[stage], width=24)
                stages.add_row(stage, bar, f"{self.done[stage]}/{self.total[stage]}")
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for task in running[:_SHOWN]:
            table.add_row("  " + task.name, *progress_cells(read_progress(self.run_dir, task.id)))
        if len(running) > _SHOWN:
            table.add_row(f"  and {len(running) - _SHOWN} more")
        return Group(stages, table)


def progress_cells(report: dict[str, Any] | None) -> tuple[Any, str]:
    """A bar and a note for one running task."""
    if report is None:
        return "starting", ""
    done, total = report["done"], report["total"]
    note = f"{format_rate(done)} {report['unit']}  {report['note']}".rstrip()
    if not total:
        return "", note
    return ProgressBar(total=total, completed=done, width=24), note


def read_progress(run_dir: Path, task_id: str) -> dict[str, Any] | None:
    """The latest progress report of a task, None before the first."""
    try:
        value = json.loads((run_dir / task_id / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
