"""The four experiments on a tiny model of a small grammar, and LDS where the truth is known."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpcscale.config.model import Shape
from hpcscale.config.train import TrainConfig
from hpcscale.data.documents import text_id
from hpcscale.data.store import TokenStore
from hpcscale.data.tokenizer import Tokenizer, train_tokenizer
from hpcscale.data.writer import StoreWriter
from hpcscale.errors import ConfigError, DataError
from hpcscale.influence.validate import figures
from hpcscale.influence.validate.counterfactual import CounterfactualOptions, counterfactual
from hpcscale.influence.validate.lds import LdsOptions, datamodeling, half_subsets, lds
from hpcscale.influence.validate.noise import NoiseOptions, noise_check
from hpcscale.influence.validate.planting import CLEAN, plant, spoilers
from hpcscale.influence.validate.retrieval import RetrievalOptions, domain_retrieval
from hpcscale.influence.validate.setting import Setting, unit_losses
from hpcscale.influence.variants import Variant
from hpcscale.model.build import build_model, save_model
from hpcscale.train.distributed import Ranks

NOUNS = ["ship", "sea", "wind", "shore", "harbour", "sail", "storm", "rope", "mast", "captain"]
VERBS = ["finds", "leaves", "crosses", "meets", "follows", "loses"]
CODE = ["def", "return", "value", "list", "item", "while", "print", "none", "yield", "class"]
LENGTH = 48


def sea(rng: random.Random) -> str:
    """Sentences of a grammar in which the noun decides the verb."""
    sentences = []
    for _ in range(rng.randint(2, 5)):
        subject = rng.randrange(len(NOUNS))
        adverb = rng.choice(("slowly", "again"))
        sentences.append(
            f"the {NOUNS[subject]} {VERBS[subject % len(VERBS)]} the "
            f"{NOUNS[(subject * 3 + 1) % len(NOUNS)]} {adverb}."
        )
    return " ".join(sentences)


def code(rng: random.Random) -> str:
    lines = []
    for _ in range(rng.randint(2, 6)):
        word = rng.randrange(len(CODE))
        lines.append(f"{CODE[word]} {CODE[(word + 3) % len(CODE)]}({rng.randrange(10)})")
    return "\n".join(lines)


def make(folder: Path, tokenizer: Tokenizer, count: int, seed: int) -> TokenStore:
    rng = random.Random(seed)
    writer = StoreWriter(folder, tokenizer.vocab_size)
    for index in range(count):
        domain = ("sea", "code")[index % 2]
        text = (sea if domain == "sea" else code)(rng) + f" {seed}{index}"
        tokens = np.array([*tokenizer.encode_batch([text])[0], tokenizer.eot_id])
        writer.append(text_id(text), domain, len(text.encode()), tokens)
    writer.finish("pool", tokenizer.eot_id, {})
    return TokenStore.open(folder)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """A model that has learned the grammar in a few seconds."""
    folder = tmp_path_factory.mktemp("setting")
    rng = random.Random(0)
    texts = [make_text(rng) for make_text in (sea, code) for _ in range(400)]
    tokenizer = train_tokenizer(texts, 320, folder / "tokenizer")
    stores = []
    for role, count in (("base", 500), ("pool", 700), ("query", 120)):
        (folder / role).mkdir()
        stores.append(make(folder / role, tokenizer, count, seed=len(stores) + 1))
    base, pool, queries = stores
    model = build_model(
        Shape(layers=1, width=32, heads=2), tokenizer.vocab_size, LENGTH, tokenizer.eot_id
    )
    save_model(model, folder / "random")
    config = TrainConfig(global_batch=LENGTH * 8, micro_batch=8, lr=1e-2)
    start = Setting(folder / "random", base, queries, tokenizer, LENGTH, "concat", config)
    trained = start.fit(start.stream(np.arange(base.n_documents), 0), 0, folder / "pretraining")
    save_model(trained, folder / "model")
    return replace(
        start, model=folder / "model", pool=pool, train=config.model_copy(update={"lr": 2e-3})
    )


def test_spoilt_documents_are_what_their_kinds_say(setting: Setting, tmp_path: Path) -> None:
    kinds = spoilers(setting.tokenizer, ("language-x", "quod erat demonstrandum " * 500))
    chosen = setting.take(setting.pool, 12, 0)
    planted = plant(setting.pool, chosen, setting.tokenizer, kinds, tmp_path / "planted")
    assert planted.n_documents == 12 * 5
    texts: dict[str, list[list[int]]] = {}
    for i in range(planted.n_documents):
        domain = planted.domain_names[int(planted.domains[i])]
        texts.setdefault(domain, []).append(planted.tokens(i).tolist())
    decode = setting.tokenizer.decode
    for nth, clean in enumerate(texts[CLEAN]):
        assert clean == setting.pool.tokens(int(chosen[nth])).tolist()
        for kind in kinds:
            spoilt = texts[kind][nth]
            assert spoilt != clean
            assert spoilt[-1] == planted.eot_id
            assert len(spoilt) <= len(clean), "at most as many tokens"
        words, letters, repeated = (
            texts[k][nth] for k in ("shuffled-words", "shuffled-letters", "repeated")
        )
        # The last word may be cut.
        assert not Counter(decode(words[:-1]).split()[:-1]) - Counter(decode(clean[:-1]).split())
        assert not Counter(decode(letters[:-1])) - Counter(decode(clean[:-1]))
        assert len(repeated) == len(clean)
        assert any(
            all(repeated[i] == repeated[i % size] for i in range(len(repeated) - 1))
            for size in range(1, 17)
        )
    again = plant(setting.pool, chosen, setting.tokenizer, kinds, tmp_path / "again")
    assert np.array_equal(again.all_tokens, planted.all_tokens), "seeded"


def test_losses_of_units_are_those_of_one_document_after_the_other(setting: Setting) -> None:
    model, device = setting.load(), Ranks().device
    chosen = setting.take(setting.queries, 9, 0)
    together = unit_losses(model, setting.units(setting.queries, chosen), device)
    alone = [
        unit_losses(model, setting.units(setting.queries, chosen[i : i + 1]), device)[0]
        for i in range(9)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_noise_ranks_low_and_does_harm(setting: Setting, tmp_path: Path) -> None:
    language = tmp_path / "x.txt"
    language.write_text("quod erat demonstrandum in omnibus partibus galliae " * 200)
    options = NoiseOptions(
        documents=40, queries=24, proxy_tokens=6000, checkpoints=2, language=language
    )
    variants = [Variant.parse(name) for name in ("dot", "adam-cosine")]
    result = noise_check(setting, options, variants, tmp_path)
    assert result.kinds == ["shuffled-words", "shuffled-letters", "repeated", "language-x"]
    for kind in result.kinds:
        area = result.auc("adam-cosine", kind)
        brute = np.mean(
            [
                clean > noisy
                for clean in result.scores["adam-cosine"][CLEAN]
                for noisy in result.scores["adam-cosine"][kind]
            ]
        )
        assert area.value == pytest.approx(brute)
        assert area.low > 0.5, kind
        assert result.harm(kind).low > 0, kind
    tables = result.tables()
    assert [row[0] for row in tables["auc"].rows] == [*result.kinds, "mean of kinds"]
    figures.draw_noise(result, tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size > 10_000


def test_documents_of_the_queries_domain_rank_on_top(setting: Setting, tmp_path: Path) -> None:
    options = RetrievalOptions(documents=60, queries=10, proxy_tokens=4000, checkpoints=2)
    variants = [Variant.parse(name) for name in ("dot", "cosine", "adam-cosine@512")]
    result = domain_retrieval(setting, options, variants, tmp_path)
    assert Counter(result.domains) == {"sea": 30, "code": 30}
    for domain in ("sea", "code"):
        for name in ("dot", "cosine", "adam-cosine@512", "bm25"):
            assert result.auc(name, domain).value > 0.9, (name, domain)
    areas = [result.auc("perplexity", domain).value for domain in ("sea", "code")]
    assert sum(areas) == pytest.approx(1), "it does not see the queries"
    figures.draw_retrieval(result, tmp_path / "domains.png")


def test_one_domain_is_nothing_to_tell_apart(setting: Setting, tmp_path: Path) -> None:
    options = RetrievalOptions(documents=60, queries=4, proxy_tokens=4000)
    with pytest.raises(DataError, match=r"has 0 domain\(s\) with 5 queries"):
        domain_retrieval(setting, options, [Variant.parse("dot")], tmp_path)


def test_lds_of_a_linear_world() -> None:
    """The loss falls by the sum of known influences: the truth scores 1, its negative -1."""
    rng = np.random.default_rng(0)
    influence = rng.normal(size=(80, 30))
    masks = half_subsets(80, 60, seed=1)
    assert (masks.sum(1) == 40).all()
    assert len(np.unique(masks, axis=0)) == 60
    losses = 5 - masks @ influence + 1e-3 * rng.normal(size=(60, 30))
    scores = {
        "truth": 3 * influence + 7,
        "negative": -influence,
        "noisy": influence + rng.normal(size=influence.shape),
        "shuffled": rng.permutation(influence),
    }
    found = datamodeling(scores, masks, losses)
    assert found["truth"].over_both.value > 0.999
    assert found["negative"].over_both.value < -0.999
    assert 0.5 < found["noisy"].over_both.value < 0.85
    assert found["shuffled"].over_both.low < 0 < found["shuffled"].over_both.high
    assert found["noisy"].above(found["shuffled"]).low > 0


def test_lds_of_retrained_models(setting: Setting, tmp_path: Path) -> None:
    options = LdsOptions(candidates=24, queries=16, subsets=16, epochs=2, checkpoints=2)
    calls: list[tuple[int, int]] = []
    result = lds(
        setting,
        options,
        [Variant.parse("dot"), Variant.parse("cosine")],
        tmp_path,
        trained=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (16, 16)
    assert result.losses.shape == (16, 16)
    assert result.losses.std(0).min() > 0
    found = result.correlations()
    assert list(found) == ["dot", "cosine", "bm25"]
    assert found["dot"].over_rows.low > 0
    assert [row[0] for row in result.tables()["lds"].rows] == list(found)
    figures.draw_lds(result, tmp_path / "lds.png")
    with pytest.raises(ConfigError, match="too few to compare ranks"):
        LdsOptions(candidates=2)


def test_training_on_the_top_helps_the_queries_most(setting: Setting, tmp_path: Path) -> None:
    options = CounterfactualOptions(
        candidates=120, budget=1500, queries=12, proxy_tokens=3000, checkpoints=2, seeds=3
    )
    result = counterfactual(setting, options, [Variant.parse("cosine")], tmp_path, domain="sea")
    assert list(result.losses) == ["random", "cosine top", "cosine bottom"]
    assert result.difference("cosine top").low > 0
    assert result.difference("cosine bottom").high < 0
    assert result.difference("cosine top", "cosine bottom", unseen=True).low > 0
    figures.draw_counterfactual(result, tmp_path / "counterfactual.png")
    with pytest.raises(DataError, match="has no domain `land`; it has: code, sea"):
        counterfactual(setting, options, [Variant.parse("dot")], tmp_path, domain="land")
    with pytest.raises(DataError, match=r"99 documents of sea were .* has 60 of at most 512"):
        setting.take(setting.queries, 99, 0, "sea")
