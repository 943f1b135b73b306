"""Small tokenizer directories, by how they end texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GPT2 = {"!": 0, "a": 1, "<|endoftext|>": 2}
OPT = {"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3, "<|endoftext|>": 4}
LLAMA = {"<s>": 0, "</s>": 1}


def whole(vocab: dict[str, int]) -> dict[str, Any]:
    added = [{"id": i, "content": t, "special": True} for t, i in vocab.items() if t[0] == "<"]
    return {"added_tokens": added, "model": {"type": "BPE", "vocab": vocab, "merges": []}}


PARTS = {"vocab.json": GPT2, "merges.txt": "#version: 0.2\n"}
ENDOFTEXT, EOS = {"eos_token": "<|endoftext|>"}, {"eos_token": "</s>"}
#: The files of a directory.
FILES: dict[str, dict[str, Any]] = {
    "GPT-2": {"tokenizer.json": whole(GPT2), "tokenizer_config.json": ENDOFTEXT},
    "GPT-2 alone": {"tokenizer.json": whole(GPT2)},
    "GPT-2 in parts": PARTS,
    "GPT-2 in parts without a prefix space": PARTS
    | {"tokenizer_config.json": ENDOFTEXT | {"add_prefix_space": False}},
    "GPT-2 in parts with a prefix space": PARTS
    | {"tokenizer_config.json": {"add_prefix_space": True}},
    "a prefix space beside a tokenizer.json, which says it itself": {
        "tokenizer.json": whole(GPT2),
        "tokenizer_config.json": {"add_prefix_space": True},
    },
    "Llama": {"tokenizer.json": whole(LLAMA), "tokenizer_config.json": EOS},
    "OPT": {"tokenizer.json": whole(OPT), "tokenizer_config.json": EOS},
    "OPT by its model": {"tokenizer.json": whole(OPT), "config.json": {"eos_token_id": 2}},
    "an eos_token that the task refuses": {
        "tokenizer.json": whole(OPT),
        "tokenizer_config.json": {"eos_token": "<gone>"},
    },
}


def write_files(folder: Path, files: dict[str, Any]) -> Path:
    """Write ``files``, values other than text as JSON; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
    return folder
