"""Direct scoring: every document along the summed query gradient, exact and without a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hpcscale.errors import ConfigError
from hpcscale.influence.aggregate import Groups
from hpcscale.influence.blocks import SCORES
from hpcscale.influence.dump import DumpOptions, part_of, row_blocks
from hpcscale.influence.examples import Examples
from hpcscale.influence.factors import Direction
from hpcscale.influence.gradients import direct_scores, full_scores, mean_gradients
from hpcscale.influence.row_files import Part, RowWriter, drop_other_ranks, output_names
from hpcscale.train.distributed import Ranks
from hpcscale.types import Floats, Ints, Progress


@dataclass(frozen=True)
class Along:
    """What documents are scored along: a direction a column, and how.

    ``scale``: P^1/2, or None. ``normalise``: whether documents' norms are divided away.
    ``own``: self-influence, which has no direction.
    """

    names: tuple[str, ...]
    directions: Sequence[Direction]
    scale: Direction | None
    normalise: bool
    own: bool = False


def query_directions(
    model: nn.Module,
    queries: Examples,
    groups: Groups,
    normalise: bool,
    scale: Direction | None,
    options: DumpOptions,
    device: torch.device,
) -> Along:
    """The weighted sum of query gradients of each group; in Adam's metric where ``scale`` is given.

    Raises ConfigError where each query would be a direction of its own.
    """
    if groups.weights is None:
        raise ConfigError(
            "aggregate `max` needs every query by itself, which `way: direct` does not keep; "
            "write `way: dump`, or aggregate `mean` or `domain`"
        )
    if groups.weights.shape[1] == 0:
        return Along(groups.names, (), scale, normalise, own=True)
    weights = groups.weights
    if normalise:
        weights = weights / _norms(model, queries, scale, options, device)
    found = mean_gradients(
        model,
        queries,
        weights,
        device=device,
        precision=options.precision,
        batch_tokens=options.batch_tokens,
    )
    return Along(groups.names, found, scale, normalise)


def _norms(
    model: nn.Module,
    examples: Examples,
    scale: Direction | None,
    options: DumpOptions,
    device: torch.device,
) -> Floats:
    """The norm of each example's gradient, float64 [count]; a zero gradient counts as infinite."""
    _, squares = full_scores(
        model,
        examples,
        (),
        device=device,
        precision=options.precision,
        scale=scale,
        batch_tokens=options.batch_tokens,
    )
    return np.sqrt(np.where(squares > 0, squares, np.inf))


def direct_block(
    model: nn.Module,
    examples: Examples,
    bounds: tuple[int, int],
    along: Along,
    out: Path,
    options: DumpOptions,
    *,
    ranks: Ranks,
    progress: Progress | None = None,
) -> list[str]:
    """Write this rank's rows of the score block of the examples [first, last); all ranks' files.

    Called by all ranks; continues behind the rows that an earlier attempt left.
    """
    mine = part_of(bounds, ranks)
    if ranks.rank == 0 and out.is_dir():
        drop_other_ranks(out, ranks.world_size)
    parts = {SCORES: Part(np.float64, len(along.names))}
    facts = {"key": options.key, "world_size": ranks.world_size, "columns": list(along.names)}
    writer = RowWriter(out, ranks.rank, mine, parts, facts)
    tokens = examples.tokens[mine]
    score = _Scorer(model, examples, along, options, ranks.device)
    for begin, end in row_blocks(tokens, writer.done, options.batch_tokens, 1 << 30):
        writer.write(begin, **{SCORES: score(mine[begin:end])})
        writer.commit(end)
        if progress:
            progress(int(tokens[:end].sum()), int(tokens.sum()))
    ranks.barrier()
    return output_names(parts, ranks.world_size)


class _Scorer:
    """Scores of some examples, float64 [examples, columns]."""

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        along: Along,
        options: DumpOptions,
        device: torch.device,
    ) -> None:
        self.model, self.examples, self.along = model, examples, along
        self.options, self.device = options, device
        scale = along.scale
        power = 1 if along.normalise else 2
        # Gradients that are scaled themselves meet P^1/2 of the query; others all of P.
        self.directions = [
            d if scale is None else {name: d[name] * scale[name] ** power for name in d}
            for d in along.directions
        ]

    def __call__(self, which: Ints) -> Floats:
        asked = self.options
        if not (self.along.normalise or self.along.own):
            return direct_scores(
                self.model,
                self.examples,
                self.directions,
                device=self.device,
                which=which,
                precision=asked.precision,
                batch_tokens=asked.batch_tokens,
            )
        scores, squares = full_scores(
            self.model,
            self.examples,
            self.directions,
            device=self.device,
            which=which,
            scale=self.along.scale,
            precision=asked.precision,
            batch_tokens=asked.batch_tokens,
        )
        if self.along.own:
            return squares[:, None]
        normalised: Floats = scores / np.sqrt(np.where(squares > 0, squares, np.inf))[:, None]
        return normalised
