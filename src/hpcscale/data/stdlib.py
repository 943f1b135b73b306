"""The embedded corpus: the English and the code of every Python installation.

Four domains: ``topics`` (the language reference in ``pydoc_data``), ``docstrings``, ``comments``
and ``code`` (functions and classes without either). No text is in two documents of different
domains, and the modules are parsed, never imported.
"""

from __future__ import annotations

import ast
import inspect
import platform
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path

from hpcscale.data.documents import Document
from hpcscale.data.report import ReadReport
from hpcscale.errors import DataError

DOMAINS = ("topics", "docstrings", "comments", "code")
#: Shorter texts ("Return the size.") say too little to be a document; in characters.
_MINIMUM = {"topics": 1, "docstrings": 120, "comments": 120, "code": 120}
#: A longer class is taken apart into its methods; in characters.
_WHOLE_CLASS = 4000
_SKIPPED = {"test", "tests", "idlelib", "site-packages", "dist-packages", "__pycache__"}
_TOPICS = "pydoc_data/topics.py"

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def version() -> str:
    """What decides the documents: the full version of this Python."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def read_stdlib(report: ReadReport) -> Iterator[Document]:
    """All documents, in the order of file names and lines.

    Raises DataError where this Python has no sources of its library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*.py")
        if not _SKIPPED & set(path.relative_to(root).parts)
    )
    if not any(name == _TOPICS for name, _ in files):
        raise DataError(
            f"this Python has no {_TOPICS} under {root}, so corpus `stdlib` is not whole; "
            "install the full standard library (Debian: python3), or use corpus `files`"
        )
    for name, path in files:
        try:
            source = _read_source(path)
            documents = list(_topics(source) if name == _TOPICS else _module(source))
        except (SyntaxError, ValueError, tokenize.TokenError) as error:
            report.add_broken(f"{name}:1", f"not Python: {error}")
            continue
        for domain, line, text in documents:
            if len(text.strip()) >= _MINIMUM[domain]:
                report.documents += 1
                yield Document(text, domain, f"{name}:{line}")


def _read_source(path: Path) -> str:
    with tokenize.open(path) as handle:
        return handle.read()


def _topics(source: str) -> Iterator[tuple[str, int, str]]:
    """The values of the literal ``topics = {...}``."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for value in node.value.values:
                text = ast.literal_eval(value)
                yield "topics", value.lineno, inspect.cleandoc(text) + "\n"


def _module(source: str) -> Iterator[tuple[str, int, str]]:
    """(domain, line, text) of each docstring, comment and definition."""
    tree = ast.parse(source)
    # str.splitlines would also split at form feeds, which the parser does not count.
    lines = [line + "\n" for line in source.split("\n")]
    docstrings: list[tuple[str, int, str]] = []
    strings: set[int] = set()
    hidden: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Constant, ast.JoinedStr)):
            strings.update(range(node.lineno + 1, (node.end_lineno or 0) + 1))
        elif isinstance(node, (ast.Module, *_DEFINITIONS)):
            text = ast.get_docstring(node)
            if text is not None:
                statement = node.body[0]
                hidden.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
                docstrings.append(("docstrings", statement.lineno, text + "\n"))
    # A line that starts with # is a comment unless it is inside a string.
    comments = {
        number: stripped.rstrip()
        for number, line in enumerate(lines, 1)
        if (stripped := line.lstrip()).startswith("#") and number not in strings
    }
    yield from docstrings
    yield from _comments(comments)
    yield from _code(tree.body, lines, hidden | set(comments))


def _comments(lines: dict[int, str]) -> Iterator[tuple[str, int, str]]:
    """Comments on consecutive lines are one document."""
    block: list[str] = []
    begin = 0
    for number in [*sorted(lines), -1]:
        if block and number != begin + len(block):
            yield "comments", begin, textwrap.dedent("\n".join(block)).strip() + "\n"
            block = []
        if number > 0:
            begin = begin if block else number
            block.append(lines[number].lstrip("#").rstrip())


def _code(
    body: list[ast.stmt], lines: list[str], hidden: set[int]
) -> Iterator[tuple[str, int, str]]:
    """Functions and short classes whole; of a long class its methods."""
    for node in body:
        if not isinstance(node, _DEFINITIONS):
            continue
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        last = node.end_lineno or first
        numbers = [n for n in range(first, last + 1) if n not in hidden]
        text = textwrap.dedent("".join(lines[n - 1] for n in numbers))
        if isinstance(node, ast.ClassDef) and len(text) > _WHOLE_CLASS:
            yield from _code(node.body, lines, hidden)
        else:
            yield "code", first, text
