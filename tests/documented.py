"""Packages that the documentation shows, installed beside the suite for one process.

A fenced block whose first line is ``# my_package/NAME`` is that file of the package.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"^```(python|toml)\n# (my_package/\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def install(document: str, folder: Path) -> str:
    """Write the package of a page of docs/ into ``folder``; the PYTHONPATH that finds it."""
    text = (DOCS / document).read_text(encoding="utf-8")
    points = ""
    for language, name, content in _BLOCK.findall(text):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if language == "toml":
            points += content
        else:
            path.write_text(content, encoding="utf-8")
    (folder / "my_package" / "__init__.py").touch()
    metadata = folder / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    entry_points = re.sub(r'\[project\.entry-points\."(.+?)"\]', r"[\1]", points).replace('"', "")
    (metadata / "entry_points.txt").write_text(entry_points)
    return str(folder)
