"""Which files the patterns of a corpus name, and which files beside them are not read."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from hpcscale.data.damage import refuse_pointer
from hpcscale.data.files import READERS, reader_of
from hpcscale.errors import DataError

_COMPRESSED = {".gz", ".zst", ".xz", ".bz2", ".lz4", ".lzma", ".zip", ".br", ".7z"}
_DATA = {".json", ".jsonl", ".parquet", ".txt"}
_FOLDER = "folder(s)"
_PROBLEMS_SHOWN = 3
#: Pointers of Git LFS and git-annex are shorter.
_POINTER_BYTES = 1024


@dataclass(frozen=True)
class Listing:
    """files: (relative name, path), sorted and each once. skipped: how many files of each kind are
    beside them and are not read, because no reader knows their kind.
    """

    files: list[tuple[str, Path]]
    skipped: dict[str, int] = field(default_factory=dict)

    def skipped_text(self) -> str:
        """The skipped kinds in words, the most frequent first; empty where there are none."""
        if not self.skipped:
            return ""
        return (
            f"{_files(len(self.files))} read; {_files(sum(self.skipped.values()))} not, because "
            f"their kind is not read: {_kinds(self.skipped)}"
        )

    def refuse_pointers(self) -> None:
        """Raises DataError for a pointer without its content, before a task on a node does."""
        for _, path in self.files:
            try:
                if path.stat().st_size < _POINTER_BYTES:
                    refuse_pointer(path)
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"


def _kinds(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {kind}" for kind, count in ordered)


def list_files(patterns: tuple[str, ...]) -> Listing:
    """The files that the patterns name.

    A pattern is a file, a directory (searched recursively, with the directories that it links to)
    or a glob; ``~`` and ``$VARIABLES`` are expanded, and hidden names are left out. Raises
    DataError where a pattern names nothing that can be read, and where a part of what it names
    cannot be read.
    """
    found: dict[Path, str] = {}
    skipped: dict[Path, str] = {}
    for pattern in patterns:
        search = _Search(pattern)
        try:
            search.run()
        except OSError as error:
            where = error.filename or pattern
            raise DataError(f"{where} cannot be read: {error.strerror or error}") from None
        for path, name in search.found.items():
            found.setdefault(path, name)
        skipped |= search.skipped
    files = sorted((name, path) for path, name in found.items())
    return Listing(files, dict(sorted(Counter(skipped.values()).items())))


class _Search:
    """The files that one pattern names."""

    def __init__(self, pattern: str) -> None:
        self.found: dict[Path, str] = {}
        self.skipped: dict[Path, str] = {}
        self._pattern = pattern
        self._expanded = os.path.expandvars(os.path.expanduser(pattern))  # noqa: PTH111
        self._problems: list[str] = []
        self._entered: set[str] = set()

    def run(self) -> None:
        """Raises DataError, and OSError where the pattern itself cannot be read."""
        root, known = Path(self._expanded), ", ".join(READERS)
        if root.is_dir():
            self._walk(root)
            nothing = f"directory {self._pattern} holds no file that ends in {known}"
        elif root.is_file():
            self._add(root.name, root)
            nothing = f"{self._pattern} is not of a known kind; a file must end in {known}"
        else:
            self._glob()
            magic = glob.has_magic(self._expanded)
            what = "no file fits" if magic else "there is no file or directory"
            nothing = f"{what} {self._pattern!r} (seen from {Path.cwd()}); correct `path:`"
        if self._problems:
            shown = "; ".join(self._problems[:_PROBLEMS_SHOWN])
            more = len(self._problems) - _PROBLEMS_SHOWN
            raise DataError(
                f"`path: {self._pattern}` would miss files: {shown}"
                + (f"; and {more} more" if more > 0 else "")
            )
        if not self.found:
            held = _kinds(Counter(self.skipped.values())) if root.is_dir() else ""
            raise DataError(f"{nothing}; it holds {held}" if held else nothing)

    def _add(self, name: str, path: Path) -> None:
        if reader_of(path):
            self.found[path] = name
        else:
            self.skipped[path] = _kind(path.name)

    def _lost(self, path: Path, reason: str) -> None:
        """A link that leads nowhere; one without a suffix may have been a folder."""
        if reader_of(path) or not path.suffix:
            self._problems.append(
                f"{path} is a link to {path.readlink()}, which cannot be reached ({reason}); "
                "fetch it (git-annex: `git annex get`) or delete the link"
            )
        else:
            self.skipped[path] = _kind(path.name)

    # --- folders

    def _walk(self, root: Path) -> None:
        """All real folders first, so that what they hold is named as if there were no links."""
        links = self._enter("", root, os.path.realpath(root))
        while links:
            following: list[tuple[str, Path]] = []
            for name, path in sorted(links):
                real, holder = os.path.realpath(path), os.path.realpath(path.parent)
                loops = f"{holder}/".startswith(f"{real.rstrip('/')}/")
                if not loops and real not in self._entered:
                    following += self._enter(f"{name}/", path, real)
            links = following

    def _enter(self, prefix: str, folder: Path, real: str) -> list[tuple[str, Path]]:
        """Add the files of a folder and of the real folders in it; return the linked ones."""
        links: list[tuple[str, Path]] = []
        waiting = [(prefix, folder, real)]
        while waiting:
            prefix, folder, real = waiting.pop()
            if real in self._entered:
                continue
            self._entered.add(real)
            for entry in self._entries(folder):
                name, path = prefix + entry.name, folder / entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{name}/", path, f"{real.rstrip('/')}/{entry.name}"))
                elif not entry.is_symlink():
                    if entry.is_file():
                        self._add(name, path)
                elif (mode := self._mode(path)) and stat.S_ISDIR(mode):
                    links.append((name, path))
                elif mode and stat.S_ISREG(mode):
                    self._add(name, path)
        return links

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """What a folder holds, hidden names left out; nothing and a problem if it is closed."""
        if reason := _closed(folder):
            self._problems.append(reason)
            return []
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]

    def _mode(self, path: Path) -> int:
        """The kind of what a path leads to; 0 where it leads nowhere."""
        try:
            return path.stat().st_mode
        except OSError as error:
            self._lost(path, error.strerror or str(error))
            return 0

    # --- globs

    def _glob(self) -> None:
        reasons = [_closed(Path(folder)) for folder in sorted(self._searched())]
        self._problems += [reason for reason in reasons if reason]
        recursive = "**" in Path(self._expanded).parts
        for match in glob.glob(self._expanded, recursive=True):  # noqa: PTH207
            path = Path(match)
            mode = self._mode(path) if path.is_symlink() else path.stat().st_mode
            if stat.S_ISREG(mode):
                self._add(path.name, path)
            elif stat.S_ISDIR(mode) and not recursive:
                self.skipped[path] = _FOLDER

    def _searched(self) -> set[str]:
        """The folders that the glob searches; it skips those that it may not enter."""
        parts = self._expanded.split("/")
        first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
        folders: set[str] = set()
        for index in range(first, len(parts)):
            above = "/".join([*parts[:index], ""]) or "./"
            deeper = "**/" if parts[index] == "**" else ""
            folders.update(glob.glob(above + deeper, recursive=True))  # noqa: PTH207
        return folders


def _closed(folder: Path) -> str | None:
    """Why this user cannot list a folder or open what is in it, or None."""
    try:
        with os.scandir(folder):
            os.stat(f"{folder}/.")  # noqa: PTH116 -- Path would drop the dot, which has to be found
    except OSError as error:
        return (
            f"{folder} cannot be read ({error.strerror}); let this user read it, or name the "
            "files beside it in `path:`"
        )
    return None


def _kind(name: str) -> str:
    """The suffix that tells the kind of a file: the last, or the last two of a compressed file."""
    stem, ending = os.path.splitext(name)  # noqa: PTH122
    before = os.path.splitext(stem)[1]  # noqa: PTH122
    joined = ending in _COMPRESSED or before in _DATA
    return (before if joined else "") + ending or "without suffix"
