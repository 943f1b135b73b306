"""Every causal language model that Transformers builds at a tiny size: what becomes of it here.

python -m families KIND...     prints the outcome of each, as ``test_families.py`` reads it
"""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

VOCABULARY, LENGTH, EOT = 384, 64, 3
#: What the columns of the table are called.
COLUMNS = ("concat", "isolate", "document scores", "training")
RIGHT = "right"
#: Relative, of losses beside those of plain Transformers.
BOUND = 1e-6

#: Six families whose sizes are known by hand, and what their tiny configs are given.
SIX: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "gpt_neox": {},
    "opt": {"word_embed_proj_dim": 16},
    "mixtral": {},
}

#: Settings that make a model small, where its config has them.
_SMALL = {
    "vocab_size": VOCABULARY,
    "eos_token_id": EOT,
    "bos_token_id": EOT,
    "is_decoder": True,
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "dim_model", "embedding_size", "word_embed_proj_dim"),
        32,
    ),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "decoder_layers", "num_layers"), 2
    ),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "decoder_attention_heads",
            "encoder_attention_heads",
        ),
        4,
    ),
    **dict.fromkeys(
        ("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "dim_ff"),
        48,
    ),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), LENGTH),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(
        (
            "sliding_window",
            "attention_window",
            "window_size",
            "attention_chunk_size",
            "local_attention",
        ),
        16,
    ),
    **dict.fromkeys(
        (
            "head_dim",
            "dim_head",
            "qk_rope_head_dim",
            "qk_nope_head_dim",
            "v_head_dim",
            "state_size",
            "mamba_d_state",
            "linear_key_head_dim",
            "linear_value_head_dim",
        ),
        8,
    ),
    "encoder_layers": 1,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "rotary_dim": 4,
    "conv_kernel": 4,
    "time_step_rank": 4,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "use_sliding_window": True,
    "max_window_layers": 1,
}
#: What the rules do not give.
_OWN: dict[str, dict[str, Any]] = {"gpt_neo": {"attention_types": [[["global", "local"], 1]]}}
_MOST_PARAMETERS = 5_000_000


def all_kinds() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(kind: str, **given: Any) -> Any:
    """A config of two layers with a window of 16 tokens and dropout of 0.1 wherever it can have
    these. Raises whatever the library raises where it cannot be built."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    cls = CONFIG_MAPPING[kind]
    usual = cls()
    values = {name: value for name, value in _SMALL.items() if _settable(usual, name)}
    if hasattr(usual, "kv_lora_rank"):  # heads of their own, from one latent vector
        values["num_key_value_heads"] = 4
    if getattr(usual, "pad_token_id", None) is not None:
        values["pad_token_id"] = 1
    for name in ("layer_types", "mlp_layer_types"):
        if _settable(usual, name) and getattr(usual, name):
            values[name] = (list(dict.fromkeys(getattr(usual, name))) * 2)[:2]
    config = cls(**values | _OWN.get(kind, {}) | given)
    inner = [part for part in vars(config).values() if hasattr(part, "model_type")]
    for part in (config, *inner):
        for name, value in vars(part).items():
            if isinstance(value, float) and "drop" in name:
                setattr(part, name, 0.1)
    return config


def _settable(config: Any, name: str) -> bool:
    known = getattr(type(config), name, None)
    return hasattr(config, name) and not (isinstance(known, property) and known.fset is None)


def tiny_model(config: Any, seed: int = 0) -> torch.nn.Module:
    """Random weights, its matrices six times the usual so that attention matters."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > _MOST_PARAMETERS:
        raise ValueError(f"{size} parameters are not tiny")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(6)
    rows = torch.randint(8, VOCABULARY, (2, LENGTH))
    logits = model(input_ids=rows, use_cache=False).logits
    if logits.shape[:2] != rows.shape or not logits.isfinite().all():
        raise ValueError("it gives no logits for each token")
    return model  # type: ignore[no-any-return]


def save(folder: Path, kind: str = "gpt2", tokens: int = VOCABULARY, **config: Any) -> Path:
    """A tiny model with a tokenizer that knows ``tokens`` tokens, the last its end of text."""
    from hpcscale.data.tokenizer import train_tokenizer

    words = ["of", "and", "the", "ship", "water", "wind", "turns", "shore"]
    texts = [f"{a}{b}{c} " for a in words for b in words for c in words]
    train_tokenizer(texts, tokens, folder)
    given = {"eos_token_id": VOCABULARY - 1} | config
    tiny_model(tiny_config(kind, **given)).save_pretrained(folder)  # type: ignore[operator]
    return folder


def make_store(folder: Path) -> Any:
    """Twelve documents, short and longer than a row, of random tokens."""
    from hpcscale.data.store import TokenStore
    from hpcscale.data.writer import StoreWriter

    drawn = np.random.default_rng(0)
    folder.mkdir()
    writer = StoreWriter(folder, VOCABULARY)
    for index, size in enumerate([20, 1, 37, 5, 90, 64, 3, 11, 29, 48, 7, 13]):
        tokens = np.append(drawn.integers(8, VOCABULARY, size), EOT)
        writer.append(index, "random", 2 * size, tokens)
    writer.finish("pool", EOT, {})
    return TokenStore.open(folder)


# --- the same numbers from plain Transformers


@torch.no_grad()
def _plain_nll(model: Any, before: np.ndarray, tokens: np.ndarray) -> float:  # type: ignore[type-arg]
    logits = model(input_ids=torch.from_numpy(before)[None], use_cache=False).logits[0].float()
    return float(functional.cross_entropy(logits, torch.from_numpy(tokens), reduction="sum"))


def _pieces(store: Any, packing: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # type: ignore[type-arg]
    """Inputs and targets of what attends within itself: rows, or documents within rows."""
    targets = np.asarray(store.all_tokens).astype(np.int64)
    inputs = np.concatenate([[EOT], targets[:-1]])
    cuts = set(range(LENGTH, len(targets), LENGTH))
    if packing == "isolate":
        cuts |= set(np.asarray(store.offsets)[1:-1].tolist())
    edges = [0, *sorted(cuts), len(targets)]
    for begin, end in pairwise(edges):
        yield inputs[begin:end], targets[begin:end]


def plain_loss(model: Any, store: Any, packing: str) -> float:
    return sum(_plain_nll(model, *piece) for piece in _pieces(store, packing)) / store.n_tokens


def plain_document_nll(model: Any, store: Any) -> list[float]:
    """Each document by itself behind end-of-text, in windows of a row's length."""
    found = []
    for position in range(store.n_documents):
        tokens = np.asarray(store.tokens(position)).astype(np.int64)
        before = np.concatenate([[EOT], tokens[:-1]])
        windows = [slice(at, at + LENGTH) for at in range(0, len(tokens), LENGTH)]
        found.append(sum(_plain_nll(model, before[w], tokens[w]) for w in windows))
    return found


# --- what becomes of a model here


def outcomes(kind: str, folder: Path) -> dict[str, str]:
    """``right``, ``refused: REASON`` or ``WRONG: FIGURE`` in each column."""
    from transformers import AutoModelForCausalLM

    from hpcscale.errors import HpcscaleError
    from hpcscale.model.build import load_model

    tiny_model(tiny_config(kind)).save_pretrained(folder / "model")  # type: ignore[operator]
    store = make_store(folder / "store")
    try:
        model = load_model(folder / "model")
    except HpcscaleError as error:
        return dict.fromkeys(COLUMNS, f"refused: {_reason(error)}")
    plain: Any = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    checks: dict[str, Callable[[], float]] = {
        "concat": lambda: _off_loss(model, plain, store, "concat"),
        "isolate": lambda: _off_loss(model, plain, store, "isolate"),
        "document scores": lambda: _off_documents(model, plain, store),
        "training": lambda: _off_training(folder, store),
    }
    found = {}
    for column in COLUMNS:
        try:
            off = checks[column]()
        except HpcscaleError as error:
            found[column] = f"refused: {_reason(error)}"
        else:
            found[column] = RIGHT if off <= BOUND else f"WRONG: off by {off:.1e}"
    return found


def _off_loss(model: Any, plain: Any, store: Any, packing: Any) -> float:
    from hpcscale.evaluate.loss import evaluate
    from hpcscale.train.distributed import Ranks

    found = evaluate(
        model, store, sequence_length=LENGTH, packing=packing, micro_batch=3, ranks=Ranks()
    )
    return abs(found.loss / plain_loss(plain, store, packing) - 1)


def _off_documents(model: Any, plain: Any, store: Any) -> float:
    from hpcscale.evaluate.loss import document_nll

    found, _ = document_nll(
        model,
        store,
        np.arange(store.n_documents),
        sequence_length=LENGTH,
        device=torch.device("cpu"),
    )
    pairs = zip(found, plain_document_nll(plain, store), strict=True)
    return max(abs(float(a) / b - 1) for a, b in pairs)


def _off_training(folder: Path, store: Any) -> float:
    """Losses of four steps with one pass a step, beside those with four."""
    one, four = (_train(folder, store, micro) for micro in (4, 1))
    return max(abs(a / b - 1) for a, b in zip(one, four, strict=True)) / 10  # after updates


def _train(folder: Path, store: Any, micro_batch: int) -> list[float]:
    from hpcscale.config.train import TrainConfig
    from hpcscale.data.packing import PackedStream
    from hpcscale.model.build import load_model
    from hpcscale.train.distributed import Ranks
    from hpcscale.train.loop import train
    from hpcscale.train.options import Hooks, RunSetup

    stream = PackedStream(store, np.arange(store.n_documents), 5 * LENGTH, LENGTH, "concat")
    config = TrainConfig(
        global_batch=2 * LENGTH * 2, micro_batch=micro_batch, lr=1e-3, warmup=0, zero=0
    )
    lines: list[dict[str, Any]] = []
    out = folder / f"train-{micro_batch}"
    out.mkdir()
    setup = RunSetup("torch", "fp32", 0, Ranks(), out, out.name)
    train(load_model(folder / "model"), stream, config, setup, Hooks(progress=lines.append))
    return [line["loss"] for line in lines]


def _reason(error: Exception) -> str:
    text = str(error)
    known = {
        "sees the future": "it sees the future",
        "packing: concat": "documents of a row cannot be kept apart",
        "something random in training": "random in training",
        "reads more than text": "it reads more than text",
        "not in the checkpoint": "a saved checkpoint lacks weights",
        "positions of": "rows are longer than its positions",
    }
    return next((short for part, short in known.items() if part in text), text)


# --- one process each, since a model may take memory or time without end


def outcome_apart(kind: str) -> dict[str, str] | None:
    """None where the model cannot be built tiny."""
    import os

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
        signal.alarm(120)
        with os.fdopen(writer, "w") as out:
            out.write(json.dumps(_built_outcome(kind)))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as found:
        text = found.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else dict.fromkeys(COLUMNS, "WRONG: the process died")


def _built_outcome(kind: str) -> dict[str, str] | None:
    torch.set_num_threads(1)
    try:
        tiny_model(tiny_config(kind))
    except Exception:  # of the library, about its own settings
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            return outcomes(kind, Path(folder))
        except Exception as error:
            return dict.fromkeys(COLUMNS, f"WRONG: {type(error).__name__}: {error}"[:300])


if __name__ == "__main__":
    import warnings

    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    assert math.isfinite(BOUND)
    for name in sys.argv[1:] or all_kinds():
        print(name, json.dumps(outcome_apart(name)), flush=True)
