"""The files of a hub repository that make its tokenizer."""

from __future__ import annotations

from pathlib import Path

from hpcscale.data.end_of_text import CONFIG, SPECIAL_TOKENS
from hpcscale.errors import DataError

#: The model's config.json names an end of text, and the class by which transformers reads the rest.
_FILES = [
    "tokenizer.json",
    CONFIG,
    SPECIAL_TOKENS,
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "config.json",
]


def download(source: str, revision: str | None) -> Path:
    """The hub's snapshot of ``source``: a directory that is named after its commit.

    Raises DataError where there is none, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    at = f" at revision {revision}" if revision else ""
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=_FILES))
    except (RepositoryNotFoundError, HFValidationError):
        raise DataError(
            f"tokenizer {source!r} is neither a directory here nor a repository of the hub{at}; "
            "check its spelling"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DataError(_offline(source, at, error)) from None


def _offline(source: str, at: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"tokenizer {source!r}{at} is not in the local cache and the hub did not send it "
        f"({reason}); run `hpcscale data prepare` on a node with a network, or set `tokenizer:` "
        "to a directory with its tokenizer.json"
    )
