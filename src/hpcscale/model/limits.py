"""What a model can read: rows up to a length, and tokens that it has an embedding for."""

from __future__ import annotations

from typing import Any

from torch import nn

from hpcscale.data.store import TokenStore
from hpcscale.errors import CheckpointError, ConfigError

#: What configs call the longest row that a model reads.
_LIMITS = ("n_positions", "max_position_embeddings", "max_seq_len", "n_ctx")
_CHUNK = 1 << 22


def check_reads(model: nn.Module, store: TokenStore, sequence_length: int) -> None:
    """Raises HpcscaleError where ``model`` has too few positions for rows of ``sequence_length``
    tokens, or no embedding for a token of ``store``."""
    name = getattr(model.config, "_name_or_path", "") or text_config(model).model_type
    check_length(name, text_config(model), sequence_length)
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    check_vocabulary(name, len(embedding.weight), store)


def text_config(model: nn.Module) -> Any:
    """The config of the language model, which for some models is a part of the whole config."""
    config: Any = model.config
    return config.get_text_config()


def position_limit(config: Any) -> int | None:
    """The longest row in tokens that ``config`` allows; None where it names no limit."""
    found = [getattr(config, name, None) for name in _LIMITS]
    return next((n for n in found if isinstance(n, int) and n > 0), None)


def check_length(name: str, config: Any, sequence_length: int) -> None:
    """Raises ConfigError where rows are longer than the model ``name`` of that config reads."""
    limit = position_limit(config)
    if limit is not None and sequence_length > limit:
        raise ConfigError(
            f"a sequence length of {sequence_length} is longer than the {limit} positions of "
            f"{name}; write {limit} or less"
        )


def check_vocabulary(name: str, rows: int, store: TokenStore) -> None:
    """Raises CheckpointError where ``store`` holds a token past the ``rows`` embeddings of a model.

    A tokenizer may know more tokens than its model (padding that was added later): those that come
    from no text do not matter.
    """
    if store.vocab_size <= rows:
        return
    largest = store.eot_id
    for begin in range(0, store.n_tokens, _CHUNK):
        largest = max(largest, int(store.all_tokens[begin : begin + _CHUNK].max()))
        if largest >= rows:
            break
    if largest >= rows:
        what = "the end of text, token" if largest == store.eot_id else "token"
        raise CheckpointError(
            f"{name} has {rows} embeddings, {store.path} holds {what} {largest}; give the store "
            "and the model the same tokenizer, or resize the model's embeddings"
        )
