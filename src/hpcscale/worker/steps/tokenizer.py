"""The tokenizer of a sweep: fetched, or trained on the base corpus."""

from __future__ import annotations

from hpcscale.config.data import CorpusConfig
from hpcscale.worker.context import Context, StepResult


def run(context: Context) -> StepResult:
    from hpcscale.data.corpora import open_corpus
    from hpcscale.data.documents import text_id, unit_hash
    from hpcscale.data.report import ReadReport
    from hpcscale.data.tokenizer import fetch_tokenizer, load_tokenizer, train_tokenizer

    decides, params = context.decides, context.params
    out = context.directory / "tokenizer"
    report = ReadReport()
    if "vocabulary" not in decides:
        reading = decides.get("reading")
        fetch_tokenizer(params["source"], params["revision"], out, reading)
    else:
        low, high = decides["range"]
        documents = open_corpus(CorpusConfig(**params["corpus"])).documents(report)
        domains = decides["domains"]
        texts = (
            document.text
            for document in documents
            if low <= unit_hash(text_id(document.text)) < high
            and (domains is None or document.domain in domains)
        )
        train_tokenizer(texts, decides["vocabulary"], out)
    tokenizer = load_tokenizer(out)
    facts = {"vocabulary": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint()}
    return StepResult([f"tokenizer/{f.name}" for f in out.iterdir() if f.is_file()], facts)
