"""The scores of a shard of the pool by a scorer of another package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpcscale.atomic import write_parquet
from hpcscale.data.shards import shard_range
from hpcscale.data.store import TokenStore
from hpcscale.data.tokenizer import Tokenizer, load_tokenizer
from hpcscale.errors import TaskError
from hpcscale.influence.row_files import Part, Rows, RowWriter, drop_other_ranks
from hpcscale.plan.specs import ScorerSpec
from hpcscale.rundir.layout import MODEL, SCORES, STORE, TOKENIZER
from hpcscale.selection.method import ScoreRequest
from hpcscale.selection.scorer import Batch, Place, Scorer
from hpcscale.selection.scorers import load_scorer
from hpcscale.train.distributed import Ranks
from hpcscale.types import Ints
from hpcscale.worker.context import Context, StepResult
from hpcscale.worker.scores import shard_table

#: The folder with the scores of an unfinished task.
_PARTS = "parts"


def run(context: Context[ScorerSpec]) -> StepResult:
    spec, folder = context.spec, context.directory / _PARTS
    scorer = _loaded(spec)
    store = TokenStore.open(context.input("pool") / STORE)
    tokenizer = load_tokenizer(context.input("tokenizer") / TOKENIZER)
    first, last = shard_range(*spec.shard, store.n_documents)
    ranks = Ranks.from_environment()
    begin, end = shard_range(ranks.rank, ranks.world_size, last - first)
    mine = np.arange(first + begin, first + end, dtype=np.int64)
    if ranks.rank == 0 and folder.is_dir():
        drop_other_ranks(folder, ranks.world_size)
    ranks.barrier()
    facts = {"key": context.key, "world_size": ranks.world_size}
    writer = RowWriter(folder, ranks.rank, mine, {"scores": Part(np.float64)}, facts)
    scorer.open(Place(str(ranks.device), _model(context)))
    for row in range(writer.done, len(mine), scorer.batch):
        rows = mine[row : row + scorer.batch]
        writer.write(row, scores=_scores(spec, scorer, _batch(store, tokenizer, rows)))
        writer.commit(row + len(rows))
        context.progress(row + len(rows), len(mine), "documents")
    ranks.barrier()
    if ranks.rank == 0:
        scores = Rows(folder, ("scores",)).whole("scores")
        tokens = store.lengths[first:last].astype(np.int64)
        write_parquet(context.directory / SCORES, shard_table(store, first, last, scores, tokens))
    found = {"documents": last - first, "device": ranks.device.type}
    return StepResult([SCORES], found, temporary=(_PARTS,))


def _loaded(spec: ScorerSpec) -> Scorer:
    """Raises TaskError where this machine has another version of the scorer than the planner."""
    scorer = load_scorer(ScoreRequest(spec.scorer, dict(spec.scorer_params)))
    if scorer.version != spec.scorer_version:
        raise TaskError(
            f"scorer `{spec.scorer}` has version {scorer.version} here and {spec.scorer_version} "
            "where the sweep was planned; install one version on all machines"
        )
    return scorer


def _model(context: Context[ScorerSpec]) -> Path | None:
    asked = context.file.input_ids("model")
    return context.input("model") / MODEL if asked else None


def _batch(store: TokenStore, tokenizer: Tokenizer, rows: Ints) -> Batch:
    return Batch(
        ids=store.ids[rows],
        lengths=store.lengths[rows].astype(np.int64),
        domains=[store.domain_names[code] for code in store.domains[rows]],
        text=lambda row: tokenizer.decode(store.tokens(int(rows[row]))[:-1].tolist()),
        tokens=lambda row: store.tokens(int(rows[row])).astype(np.int64),
    )


def _scores(spec: ScorerSpec, scorer: Scorer, batch: Batch) -> npt.NDArray[np.float64]:
    """Raises TaskError for the wrong number of scores, or one that is not finite."""
    scores = np.asarray(scorer.score(batch), dtype=np.float64)
    if scores.shape != (len(batch),):
        raise TaskError(
            f"scorer `{spec.scorer}` returned {scores.shape} scores for {len(batch)} documents; "
            "`score` must return one number for each"
        )
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise TaskError(
            f"scorer `{spec.scorer}` gave document {int(batch.ids[bad]):016x} the score "
            f"{scores[bad]}; `score` must return finite numbers"
        )
    return scores
