"""Names with umlauts on the command line and in the sweep file, whatever the locale says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support import SWEEP, command, texts

__all__ = ["texts"]  # a fixture
LATIN = "LC_ALL=en_US.ISO-8859-1"
LOCALES = ["LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0", "LC_ALL=POSIX", LATIN]


@pytest.fixture(scope="module")
def latin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a locale that few machines still have."""
    folder = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef"):
        target = folder / "en_US.ISO-8859-1"
        words = ["localedef", "-f", "ISO-8859-1", "-i", "en_US", str(target)]
        subprocess.run(words, capture_output=True, check=False)
    return folder


def call(
    locale: str, latin: Path, *words: object, flags: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[bytes]:
    if locale == LATIN and not list(latin.iterdir()):
        pytest.skip("no Latin-1 locale can be made here")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUTF8"}
    environment |= dict(pair.split("=") for pair in locale.split()) | {"LOCPATH": str(latin)}
    python, *rest = command()
    line = [python, *flags, *rest, *(w if isinstance(w, bytes) else str(w) for w in words)]
    return subprocess.run(line, env=environment, capture_output=True, check=False, timeout=300)


@pytest.mark.parametrize("locale", LOCALES)
def test_names_with_umlauts_are_understood_in_any_locale(
    locale: str, latin: Path, tmp_path: Path, texts: Path
) -> None:
    folder = tmp_path / "Ä é"
    folder.mkdir()
    corpus = folder / "wörter.jsonl"
    corpus.write_bytes(texts.read_bytes())
    file = folder / "swéep.yaml"
    file.write_text(SWEEP.format(root=tmp_path / "runs", texts=corpus), encoding="utf-8")
    root = f"root={folder}/läufe"
    done = call(locale, latin, "sweep", file, "--dry-run", "--executor", "local", "--set", root)
    assert done.returncode == 0, done.stderr.decode()
    assert f"{folder}/läufe" in done.stdout.decode("utf-8")
    rows = [f"{tokens},{2 + 50 * tokens**-0.3}" for tokens in (1e5, 3e5, 1e6, 3e6, 1e7)]
    (folder / "tàble.csv").write_text("\n".join(["tokens,loss", *rows]))
    done = call(locale, latin, "fit", folder / "tàble.csv", "--out", folder / "ö", "--law", "power")
    assert done.returncode == 0, done.stderr.decode()
    assert (folder / "ö" / "fits.csv").exists()
    (folder / "ñ").mkdir()
    missing = call(locale, latin, "report", folder / "ñ")
    assert missing.returncode == 2
    assert f"hpcscale: {folder}/ñ/analysis/results.csv is missing" in missing.stderr.decode("utf-8")


@pytest.mark.parametrize("flags", [(), ("-X", "utf8=0"), ("-I", "-X", "utf8=0")])
def test_python_starts_again_once_whatever_its_flags_are(
    flags: tuple[str, ...], latin: Path
) -> None:
    done = call("LC_ALL=C PYTHONUTF8=0", latin, "--version", flags=flags)
    assert done.stdout.startswith(b"hpcscale, version")


@pytest.mark.slow
def test_worker_processes_find_files_with_umlauts_in_the_locale_c(
    latin: Path, tmp_path: Path, texts: Path
) -> None:
    corpus = tmp_path / "wörter.jsonl"
    corpus.write_bytes(texts.read_bytes())
    file = tmp_path / "tiny.yaml"
    text = SWEEP.format(root=tmp_path / "Ä", texts=corpus)
    file.write_text(text.replace("[2k, 4k, 8k]", "[2k]"), encoding="utf-8")
    done = call(LOCALES[0], latin, "sweep", file, "--executor", "local")
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert b"2 of 2 cells done" in done.stdout
    assert (tmp_path / "Ä" / "tiny" / "analysis" / "results.csv").exists()


@pytest.mark.parametrize("locale", LOCALES)
def test_an_argument_that_is_not_utf_8_is_refused_by_its_bytes(locale: str, latin: Path) -> None:
    done = call(locale, latin, "sweep", "a.yaml", "--set", b"root=/tmp/\xc4")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert rb"b'root=/tmp/\xc4' on the command line is not UTF-8" in done.stderr
