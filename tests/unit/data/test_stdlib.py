"""The embedded corpus against tokenize and ast's own source segments."""

import ast
import io
import subprocess
import sys
import sysconfig
import textwrap
import tokenize
from collections import Counter
from pathlib import Path

import pytest

from hpcscale.data import stdlib
from hpcscale.data.report import ReadReport
from hpcscale.errors import DataError

ROOT = Path(sysconfig.get_path("stdlib"))


@pytest.fixture(scope="module")
def documents():
    report = ReadReport()
    found = list(stdlib.read_stdlib(report))
    assert report.broken == 0
    assert report.documents == len(found)
    return found


def test_every_domain_is_well_filled(documents):
    sizes = Counter()
    for document in documents:
        sizes[document.domain] += len(document.text)
    assert set(sizes) == set(stdlib.DOMAINS)
    assert sizes["topics"] > 300_000
    assert sizes["docstrings"] > 1_000_000
    assert sizes["comments"] > 400_000
    assert sizes["code"] > 3_000_000


def test_tests_and_site_packages_are_left_out(documents):
    folders = {part for d in documents for part in d.place.split("/")[:-1]}
    assert not folders & {"test", "tests", "idlelib", "site-packages"}
    assert {"json", "asyncio", "pydoc_data"} <= folders


def test_topics_equal_the_module(documents):
    from pydoc_data.topics import topics

    ours = [d.text for d in documents if d.domain == "topics"]
    assert len(ours) == len(topics)
    squeezed = sorted("".join(text.split()) for text in topics.values())
    assert sorted("".join(text.split()) for text in ours) == squeezed


def test_docstrings_equal_the_imported_module(documents):
    import inspect
    import textwrap as module

    ours = {d.text for d in documents if d.domain == "docstrings"}
    for thing in (module.TextWrapper, module.dedent, module.shorten, module.TextWrapper._split):
        assert inspect.getdoc(thing) + "\n" in ours


@pytest.mark.parametrize("name", ["json/decoder.py", "argparse.py", "email/header.py"])
def test_comments_and_code_by_tokenize(documents, name):
    source = (ROOT / name).read_text()
    lines = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
            lines[token.start[0]] = token.string.lstrip("#").strip()
    mine = {}
    for document in documents:
        path, _, line = document.place.rpartition(":")
        if document.domain == "comments" and path == name:
            for n, text in enumerate(document.text.splitlines()):
                mine[int(line) + n] = text.strip()
    assert mine
    assert {number: text for number, text in mine.items() if text} == {
        number: lines[number] for number in mine if lines[number]
    }
    code = [d.text for d in documents if d.domain == "code" and d.place.startswith(name + ":")]
    assert code
    for text in code:
        tree = ast.parse(text)  # what is left still parses where it had a body of its own
        assert not any(
            ast.get_docstring(node)
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        )


def test_one_module_by_hand():
    source = textwrap.dedent(
        '''
        """Module docstring."""
        # first line
        #   second line
        X = """
        # not a comment
        """\x0c
        # alone

        @decorator
        def function(a):
            """Docstring."""
            # inside
            return a  # trailing


        class Empty:
            """Only a docstring."""
        '''
    ).lstrip("\n")
    found = [(domain, line, text) for domain, line, text in stdlib._module(source)]
    assert ("docstrings", 1, "Module docstring.\n") in found
    assert ("comments", 2, "first line\n  second line\n") in found
    assert ("comments", 7, "alone\n") in found
    assert ("comments", 12, "inside\n") in found
    code = "@decorator\ndef function(a):\n    return a  # trailing\n"
    assert ("code", 9, code) in found
    assert not any("not a comment" in text for _, _, text in found)


def test_no_text_is_shared_between_code_and_the_other_domains(documents):
    code = {line.strip() for d in documents if d.domain == "code" for line in d.text.split("\n")}
    comments = [d for d in documents if d.domain == "comments"]
    # A class that is defined twice under two conditions may repeat a comment line as code.
    shared = sum(all(f"# {line}" in code for line in d.text.strip().split("\n")) for d in comments)
    assert shared <= len(comments) * 0.001


def test_order_and_content_do_not_depend_on_the_process(documents):
    script = (
        "import hashlib, sys; from hpcscale.data import stdlib;"
        "from hpcscale.data.report import ReadReport; before = set(sys.modules);"
        "never = {'this', 'antigravity', 'tkinter', 'json.tool', 'turtle', 'pydoc_data'};"
        "h = hashlib.sha256();"
        "[h.update(repr(d).encode()) for d in stdlib.read_stdlib(ReadReport())];"
        "new = {name for name in set(sys.modules) - before if name in never};"
        "assert not new, new;"
        "print(h.hexdigest())"
    )
    import hashlib

    digest = hashlib.sha256()
    for document in documents:
        digest.update(repr(document).encode())
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == digest.hexdigest(), result.stderr


def test_a_python_without_its_library_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(stdlib.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match=r"install the full standard library"):
        list(stdlib.read_stdlib(ReadReport()))
