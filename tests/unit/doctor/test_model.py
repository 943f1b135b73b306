"""`hpcscale doctor model` says of each model what a sweep of it would meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from families import LENGTH, VOCABULARY, save, tiny_config, tiny_model
from hpcscale.atomic import read_json
from hpcscale.cli.main import cli
from hpcscale.model.flops import model_flops_per_token

LINES = [
    "weights",
    "causality",
    "training passes",
    "head short cut",
    "packing isolate",
    "positions",
    "tokenizer ids",
    "vocabulary",
    "separator",
    "FLOPs",
]


def doctor(*words: object) -> Result:
    return CliRunner().invoke(cli, ["doctor", "model", *map(str, words)])


def verdicts(result: Result) -> dict[str, str]:
    lines = [line for line in result.output.splitlines() if line[:1] not in ("", " ")][:-1]
    return {line[6:24].strip(): line.split()[0] for line in lines}


def test_a_good_model_passes_every_probe(tmp_path: Path) -> None:
    result = doctor(save(tmp_path / "model"))
    assert result.exit_code == 0, result.output
    assert verdicts(result) == dict.fromkeys(LINES, "ok")
    assert result.output.endswith("all checks passed\n")


def test_a_model_without_a_tokenizer_skips_three_lines(tmp_path: Path) -> None:
    tiny_model(tiny_config("llama")).save_pretrained(tmp_path)  # type: ignore[operator]
    found = verdicts(doctor(tmp_path))
    assert [name for name in LINES if found[name] == "skip"] == [
        "tokenizer ids",
        "vocabulary",
        "separator",
    ]


def test_isolate_is_a_note_until_it_is_asked_for(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "bloom")
    result = doctor(folder)
    assert (result.exit_code, verdicts(result)["packing isolate"]) == (0, "note")
    asked = doctor(folder, "--packing", "isolate")
    assert (asked.exit_code, verdicts(asked)["packing isolate"]) == (1, "FAIL")
    assert "write `packing: concat`" in asked.output


def test_rows_that_are_too_long_fail(tmp_path: Path) -> None:
    result = doctor(save(tmp_path / "model"), "--sequence-length", 2 * LENGTH)
    assert (result.exit_code, verdicts(result)["positions"]) == (1, "FAIL")
    assert "128 is longer than the 64 positions" in result.output


def test_a_model_that_cannot_be_loaded_is_one_line_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    result = doctor(tmp_path)
    assert result.exit_code == 1
    assert verdicts(result) == {"loading": "FAIL"}
    assert "no causal language model" in result.output.replace("\n", " ")


def test_tokens_without_an_embedding_fail_where_text_gives_them(tmp_path: Path) -> None:
    result = doctor(save(tmp_path / "model", tokens=VOCABULARY + 6))
    assert (result.exit_code, verdicts(result)["vocabulary"]) == (1, "FAIL")
    assert "390 tokens, 384 embeddings; text gives 5 tokens" in result.output


def test_padding_past_the_embeddings_does_not_matter(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    path = folder / "tokenizer.json"
    tokenizer = read_json(path)
    pad = tokenizer["added_tokens"][0] | {"id": VOCABULARY, "content": "[PAD]"}
    tokenizer["added_tokens"].append(pad)
    path.write_text(json.dumps(tokenizer))
    result = doctor(folder)
    assert verdicts(result)["vocabulary"] == "ok", result.output


def test_a_separator_that_the_model_does_not_name_is_a_note(tmp_path: Path) -> None:
    result = doctor(save(tmp_path / "model", eos_token_id=3))
    assert (result.exit_code, verdicts(result)["separator"]) == (0, "note")
    assert "texts end with <|endoftext|> (token 383)" in result.output
    assert "config.json says token 3" in result.output


def test_a_chosen_reading_of_the_tokenizer_is_taken(tmp_path: Path) -> None:
    """As of a tokenizer.json that splits digits, which a class of transformers leaves out."""
    folder = save(tmp_path / "model")
    path = folder / "tokenizer.json"
    tokenizer = read_json(path)
    parts = [{"type": "Digits", "individual_digits": True}, tokenizer["pre_tokenizer"]]
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    words = tokenizer["model"]["vocab"]
    number = next(
        i for i in range(VOCABULARY - 1) if len(next(w for w in words if words[w] == i)) > 1
    )
    merged = next(w for w in words if words[w] == number)
    del words[merged]
    tokenizer["model"]["vocab"] = words | {"12": number}
    tokenizer["model"]["merges"] = [["1", "2"]]
    path.write_text(json.dumps(tokenizer))
    config = read_json(folder / "tokenizer_config.json")
    kind = {"tokenizer_class": "GPT2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | kind))
    refused = doctor(folder)
    assert (refused.exit_code, verdicts(refused)["tokenizer ids"]) == (1, "FAIL")
    assert "reading: file" in refused.output
    chosen = doctor(folder, "--reading", "file")
    assert (chosen.exit_code, verdicts(chosen)["tokenizer ids"]) == (0, "skip"), chosen.output


def test_flops_are_counted_and_set_against_those_of_the_weights(tmp_path: Path) -> None:
    result = doctor(save(tmp_path / "gpt2"))
    weights = model_flops_per_token(tiny_model(tiny_config("gpt2")), LENGTH)
    assert f"{weights:.3g} a token" in result.output
    assert "its weights give 1.00 times that" in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("llama", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("gpt_neox", {}),
        ("opt", {"word_embed_proj_dim": 16}),
        ("mixtral", {}),
    ],
)
def test_flops_of_other_families_are_right_too(
    tmp_path: Path, kind: str, given: dict[str, Any]
) -> None:
    tiny_model(tiny_config(kind, **given)).save_pretrained(tmp_path)  # type: ignore[operator]
    result = doctor(tmp_path)
    assert verdicts(result)["FLOPs"] == "ok", result.output


def test_flops_that_the_weights_do_not_give_are_a_note(tmp_path: Path) -> None:
    """Recurrent layers of this type multiply states, which no weight shows."""
    tiny_model(tiny_config("bailing_hybrid")).save_pretrained(tmp_path)  # type: ignore[operator]
    result = doctor(tmp_path)
    assert verdicts(result)["FLOPs"] == "note", result.output


def test_values_that_change_from_load_to_load_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a parameter that the library fills at random without a word."""
    from hpcscale.doctor import model as model_doctor

    whole, loads = model_doctor.load_model, iter(range(100))

    def load(*given: Any) -> torch.nn.Module:
        model: Any = whole(*given)
        with torch.no_grad():
            model.transformer.wpe.weight[5] += next(loads)
        return model  # type: ignore[no-any-return]

    monkeypatch.setattr(model_doctor, "load_model", load)
    result = doctor(save(tmp_path / "model"))
    assert (result.exit_code, verdicts(result)["weights"]) == (1, "FAIL")
    assert "1 of 29 tensors differ in a second load" in result.output
