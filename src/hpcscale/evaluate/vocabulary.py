"""Whether a model has an embedding for every token of a store."""

from __future__ import annotations

from hpcscale.data.store import TokenStore
from hpcscale.errors import CheckpointError

_CHUNK = 1 << 22


def check_vocabulary(name: str, rows: int, store: TokenStore) -> None:
    """Raises CheckpointError where ``store`` holds a token past the ``rows`` embeddings of a model.

    A tokenizer may know more tokens than its model (padding that was added later): those that no
    text gives do not matter.
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
            f"{name} has {rows} embeddings, {store.path} holds {what} {largest}; evaluate with a "
            "store of the model's own tokenizer, or resize the model's embeddings"
        )
