"""Text in another language, from files that most machines have.

Most Linux systems have translations of programs as gettext catalogues (``.mo``); the messages of
many programs together are hundreds of thousands of words. A catalogue is read as data, since
gettext's own reader would evaluate its plural rule.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

from hpcscale.errors import DataError

CATALOGUES = Path("/usr/share/locale")
#: A message this short is a label, not a sentence; in characters.
_SENTENCE = 40
_MAGIC = 0x950412DE


def read_catalogue(path: Path) -> list[str]:
    """The translated messages of a ``.mo`` file (GNU gettext manual, 10.3); none if not UTF-8.

    Raises DataError where the file is not a catalogue.
    """
    data = path.read_bytes()
    try:
        order = next(o for o in "<>" if struct.unpack(o + "I", data[:4])[0] == _MAGIC)
        count, _, table = struct.unpack(order + "3I", data[8:20])
        places = [struct.unpack_from(order + "2I", data, table + 8 * i) for i in range(count)]
    except (StopIteration, struct.error):
        raise DataError(f"{path} is not a gettext catalogue; give a text file instead") from None
    messages = []
    for size, begin in places[1:]:  # the first is the header
        try:
            # Plural forms are separated by NUL.
            messages.append(data[begin : begin + size].decode().partition("\0")[0])
        except UnicodeDecodeError:
            return []
    return messages


def catalogue_text(language: str, folder: Path = CATALOGUES) -> str | None:
    """The sentences of all catalogues of ``language`` (``de``), shuffled; None where too few."""
    files = sorted((folder / language / "LC_MESSAGES").glob("*.mo"))
    sentences = {m.strip() for path in files for m in read_catalogue(path)}
    chosen = sorted(s for s in sentences if len(s) >= _SENTENCE)
    random.Random(0).shuffle(chosen)
    text = "\n".join(chosen)
    return text if len(text) > 50_000 else None


def other_language(
    sample: str, file: Path | None = None, languages: Sequence[str] = ("de", "fr", "es")
) -> tuple[str, str]:
    """The name and a text of another language: ``file``, or else the first of ``languages`` that
    this machine has, or else one that is invented from ``sample`` and shares its word lengths.

    Raises DataError where the file cannot be read as UTF-8.
    """
    if file is not None:
        try:
            return f"language-{file.stem}", file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read as UTF-8 text ({error})") from None
    for language in languages:
        text = catalogue_text(language)
        if text is not None:
            return f"language-{language}", text
    return "invented", invented_text(sample, 200_000)


def invented_text(sample: str, size: int, seed: int = 0) -> str:
    """``size`` characters in words of no language: a Markov chain of the letters of ``sample``
    after a random permutation of the alphabet.

    Only word lengths and pairs of letters are as regular as in a language.
    """
    rng = random.Random(seed)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    other = dict(zip(letters, rng.sample(letters, len(letters)), strict=True))
    spelled = "".join(other.get(c, " ") for c in sample.lower())
    spelled = " ".join(spelled.split()) or "a"
    follows: dict[str, list[str]] = {}
    for first, second in zip(spelled, spelled[1:] + spelled[0], strict=True):
        follows.setdefault(first, []).append(second)
    state, text = spelled[0], []
    for _ in range(size):
        state = rng.choice(follows[state])
        text.append(state)
    return "".join(text)
