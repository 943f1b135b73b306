"""The tokenizer of a sweep: fetched, or trained on the base corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hpcscale.data.corpora import open_corpus
from hpcscale.data.documents import text_id, unit_hash
from hpcscale.data.report import ReadReport
from hpcscale.data.tokenizer import fetch_tokenizer, load_tokenizer, train_tokenizer
from hpcscale.plan.specs import TokenizerSpec
from hpcscale.rundir.layout import TOKENIZER
from hpcscale.worker.context import Context, StepResult


def run(context: Context[TokenizerSpec]) -> StepResult:
    out = context.directory / TOKENIZER
    _make(context.spec, out)
    tokenizer = load_tokenizer(out)
    facts = {"vocabulary": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint()}
    return StepResult([f"{TOKENIZER}/{f.name}" for f in out.iterdir() if f.is_file()], facts)


def _make(spec: TokenizerSpec, out: Path) -> None:
    if spec.vocabulary is not None:
        train_tokenizer(_texts(spec), spec.vocabulary, out)
    else:
        assert spec.source is not None
        fetch_tokenizer(spec.source, spec.revision, out, spec.token_ids.reading)


def _texts(spec: TokenizerSpec) -> Iterator[str]:
    assert spec.corpus is not None
    assert spec.documents is not None
    (low, high), domains = spec.documents.range, spec.documents.domains
    for document in open_corpus(spec.corpus).documents(ReadReport()):
        inside = low <= unit_hash(text_id(document.text)) < high
        if inside and (domains is None or document.domain in domains):
            yield document.text
