from __future__ import annotations

from pathlib import Path

import pytest

from hpcscale.config.load import load_sweep
from hpcscale.config.sweep import Cell, SweepConfig
from hpcscale.config.yaml_lines import load_yaml
from hpcscale.errors import ConfigError

MINIMAL = """\
name: small
model:
  scratch: {layers: 2, width: 32, heads: 2}
tokenizer: {train: 300}
data:
  sequence_length: 64
  base: stdlib
  pool: stdlib
  eval: {corpus: stdlib, tokens: 10k}
budgets: [4k, 16k]
train: {global_batch: 512}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["quickstart", "grid"])
def test_the_examples_are_valid(repository: Path, name: str) -> None:
    config = load_sweep(repository / "sweeps" / f"{name}.yaml")
    assert len(list(config.cells())) == len(config.selection) * len(config.budgets) * len(
        config.seeds
    )


def test_the_quickstart_is_short(repository: Path) -> None:
    assert len((repository / "sweeps" / "quickstart.yaml").read_text().splitlines()) < 40


def test_the_grid_is_the_papers(repository: Path) -> None:
    grid = load_sweep(repository / "sweeps" / "grid.yaml")
    assert grid.model.source == grid.tokenizer.source == "gpt2"
    assert grid.data.eval.tokens == 10**6
    assert grid.budgets[0] == 10**6
    assert grid.budgets[-1] == 300 * 10**6
    assert len(grid.budgets) == 6
    assert len(grid.seeds) == 3


def test_cells_have_names_that_people_read(tmp_path: Path) -> None:
    config = load_sweep(write(tmp_path, MINIMAL))
    assert [cell.name for cell in config.cells()][:4] == [
        "random-4k-s0",
        "random-4k-s1",
        "random-4k-s2",
        "random-16k-s0",
    ]
    assert Cell("a", 3_130_000, 1).name == "a-3.13M-s1"


def test_a_resolved_config_reads_back_as_itself(tmp_path: Path, repository: Path) -> None:
    for path in (write(tmp_path, MINIMAL), repository / "sweeps" / "grid.yaml"):
        config = load_sweep(path, ["resources.train.time=2h", "train.checkpoint.every=90s"])
        assert SweepConfig(**config.plain()) == config


def test_overrides_are_read_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    config = load_sweep(path, ["train.lr=3e-5", "budgets=[1k, 2k]", "resources.train.gpus=2"])
    assert config.train.lr == 3e-5
    assert config.budgets == (1000, 2000)
    assert config.resources.of("train").gpus == 2


def test_a_bare_time_is_minutes_wherever_it_comes_from(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert load_sweep(path, ["resources.train.time=90"]).resources.of("train").time == 5400
    assert load_sweep(path, ["resources.train.time=2:30:00"]).resources.of("train").time == 9000
    assert load_sweep(path).resources.of("train").time == 3600


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("1:30:00", 5400),
        ("1-12", 129_600),
        ("1-0", 86_400),
        ("2026-01", 175_050_000),
        ("1-12:30", 131_400),
        ("1-12:30:10", 131_410),
    ],
)
def test_yaml_turns_no_form_of_a_time_into_a_number_or_a_date(
    tmp_path: Path, text: str, seconds: int
) -> None:
    path = write(tmp_path, f"{MINIMAL}resources: {{train: {{time: {text}}}}}\n")
    assert load_sweep(path).resources.of("train").time == seconds
    path = write(tmp_path, MINIMAL)
    assert load_sweep(path, [f"resources.train.time={text}"]).resources.of("train").time == seconds


def test_yaml_is_read_without_base_60_octals_or_the_norway_problem(tmp_path: Path) -> None:
    path = write(tmp_path, "a: 1:30:00\nb: no\nc: 3e-4\nd: 010\ne: true\nf: ~\ng: .5\n")
    assert load_yaml(path)[0] == {
        "a": "1:30:00",
        "b": "no",
        "c": 3e-4,
        "d": 10,
        "e": True,
        "f": None,
        "g": 0.5,
    }


WRONG = {
    "unknown key": ("train: {global_batch: 512, lrr: 1}", r"sweep.yaml:11: `train.lrr` .*`lr`"),
    "missing part": ("budgets:", r"`budgets`"),
    "bad count": ("budgets: [4x]", r"sweep.yaml:10: .*'4x' is not a count"),
    "repeated": ("budgets: [4k, 4000]", r"4000 occurs twice"),
    "not divisible": ("train: {global_batch: 500}", r"write 448 or 512"),
    "heads": ("model: {scratch: {layers: 1, width: 32, heads: 3}}", r"heads may be one of"),
    "no origin": ("model: {}", r"hub id or directory"),
    "two origins": ("model: {source: gpt2, scratch: {layers: 1, width: 8, heads: 1}}", "not both"),
    "tiny vocabulary": ("tokenizer: {train: 100}", r"at least 257"),
    "bad corpus": ("data: {pool: wikipedia, eval: stdlib, base: stdlib}", r"'c4', 'files' or"),
    "no path": ("data: {pool: files, eval: stdlib, base: stdlib}", r"needs `path`"),
    "foreign field": (
        "data: {pool: {corpus: stdlib, split: validation}, eval: stdlib, base: stdlib}",
        r"`split` does not belong to corpus `stdlib`",
    ),
    "overlap": (
        "data: {pool: {corpus: stdlib, share: 0.9}, eval: {corpus: stdlib, share: 0.2}, "
        "base: {corpus: stdlib, share: 0.1}, sequence_length: 64}",
        r"splits overlap: eval 0.2, base 0.1, pool 0.9 add up to 1.2",
    ),
    "nothing left": (
        "data: {pool: {corpus: stdlib, share: 1}, eval: stdlib, base: stdlib}",
        r"splits overlap: pool take all",
    ),
    "warm-up": ("train: {global_batch: 512, warmup: 120%}", r"write 0% to 99%"),
    "scaling": ("train: {global_batch: 512, lr_scaling: linear}", r"lr_reference_batch"),
    "time": ("resources: {train: {time: soon}}", r"'soon' is not a duration"),
    "seeds": ("seeds: [0, -1]", r"greater than or equal to 0"),
    "name": ("name: a/b", r"`name`"),
    "zero": ("train: {global_batch: 512, zero: 4}", r"0, 1, 2 or 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_names_the_line_the_value_and_the_way_out(tmp_path: Path, case: str) -> None:
    line, message = WRONG[case]
    key = line.partition(":")[0]
    kept: list[str] = []
    for block in _blocks(MINIMAL):
        kept += [line] if block[0].startswith(f"{key}:") else block
    if line not in kept:
        kept.append(line)
    with pytest.raises(ConfigError, match=message):
        load_sweep(write(tmp_path, "\n".join(kept) + "\n"))


def _blocks(text: str) -> list[list[str]]:
    """Top-level keys with the lines under them."""
    blocks: list[list[str]] = []
    for row in text.splitlines():
        if row.startswith(" "):
            blocks[-1].append(row)
        else:
            blocks.append([row])
    return blocks


def test_a_model_from_scratch_needs_text_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs `data.base`"):
        load_sweep(write(tmp_path, MINIMAL.replace("  base: stdlib\n", "")))


def test_every_fault_is_listed(tmp_path: Path) -> None:
    text = MINIMAL.replace("budgets: [4k, 16k]", "budgets: [4x]\nseedz: [1]")
    with pytest.raises(ConfigError) as caught:
        load_sweep(write(tmp_path, text))
    assert len(str(caught.value).splitlines()) == 2
    assert "did you mean `seeds`?" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1", "expected `key: value`"),
        ("", "expected `key: value`"),
        ("name: a\nname: b", ":2: `name` occurs twice"),
        ("a: !!python/object:os.x {}", "YAML"),
    ],
)
def test_what_is_no_sweep_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep(write(tmp_path, text))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load_sweep(Path("nowhere.yaml"))


@pytest.mark.parametrize("override", ["train.lr", "=3", "train..lr=1", "selection.7.rate=1"])
def test_a_wrong_override_is_quoted(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_sweep(write(tmp_path, MINIMAL), [override])


def test_an_error_in_an_override_names_the_override(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set train.lr=-1: `train.lr`"):
        load_sweep(write(tmp_path, MINIMAL), ["train.lr=-1"])
