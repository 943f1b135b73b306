"""What the ranks agree on between two steps, in one collective."""

from __future__ import annotations

from dataclasses import dataclass

from hpcscale.train.distributed import Ranks


@dataclass(frozen=True)
class SaveProgress:
    """How far the checkpoint that is being written is: on one rank, or agreed by all.

    writing: a part of it is not written yet. failed: a part could not be written.
    """

    writing: bool = False
    failed: bool = False

    def agree(self, ranks: Ranks) -> SaveProgress:
        """What is true of any rank. Collective."""
        return SaveProgress(*ranks.any_of_each([self.writing, self.failed]))


@dataclass(frozen=True)
class StepRequests:
    """What one rank asks for before a step, or what all ranks do.

    stop: save and end. save: write a checkpoint. progress: of the checkpoint before.
    """

    stop: bool
    save: bool
    progress: SaveProgress

    def agree(self, ranks: Ranks) -> StepRequests:
        """What any rank asks for: the step's one collective beside its loss and gradients."""
        own = [self.stop, self.save, self.progress.writing, self.progress.failed]
        stop, save, writing, failed = ranks.any_of_each(own)
        return StepRequests(stop, save, SaveProgress(writing, failed))
