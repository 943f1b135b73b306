"""What a path names: nothing that can be read is passed over, and what is not read is counted."""

import os
import random
import tempfile
from pathlib import Path

import pytest

from hpcscale.config.data import CorpusConfig
from hpcscale.data.corpora import open_corpus
from hpcscale.data.files import READERS
from hpcscale.data.listing import Listing, list_files
from hpcscale.data.report import ReadReport
from hpcscale.errors import DataError

LINE = '{"text": "x"}\n'


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LINE)


def names(*patterns: object) -> list[str]:
    return [name for name, _ in list_files(tuple(map(str, patterns))).files]


def test_directories_globs_variables_and_hidden_files(tmp_path, monkeypatch):
    write(tmp_path, "b.jsonl", "sub/a.jsonl", "sub/deep/c.txt", ".hidden/d.jsonl", "notes.md")
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names("$HERE") == ["b.jsonl", "sub/a.jsonl", "sub/deep/c.txt"]
    assert names("~/sub") == ["a.jsonl", "deep/c.txt"]
    assert names(f"{tmp_path}/**/*.jsonl") == ["a.jsonl", "b.jsonl"]
    # A file that two patterns name is read once.
    assert len(names(f"{tmp_path}/b.jsonl", f"{tmp_path}/*.jsonl")) == 1
    monkeypatch.chdir(tmp_path)
    assert list_files(("sub/a.jsonl",)).files == [("a.jsonl", Path("sub/a.jsonl"))]


def test_paths_that_name_nothing_are_errors(tmp_path):
    (tmp_path / "notes.md").write_text("x")
    for pattern, message in [
        ("nowhere.jsonl", "there is no file or directory"),
        ("*.jsonl", "no file fits"),
        ("notes.md", "is not of a known kind"),
        ("", r"holds no file that ends in .*; it holds 1 \.md$"),
    ]:
        with pytest.raises(DataError, match=message):
            list_files((str(tmp_path / pattern),))


def test_a_tree_without_outside_links_is_listed_as_before(tmp_path):
    """Against pathlib's own search, which enters no link: names decide the keys of tasks."""
    rng = random.Random(0)
    root = tmp_path / "root"
    folders = [root]
    root.mkdir()
    for index in range(40):
        folders.append(rng.choice(folders) / f"{rng.choice(['a', '.h', 'b.txt', 'Ä', 'z'])}{index}")
        folders[-1].mkdir()
    endings = [*READERS, ".json", ".md", ""]
    for index in range(200):
        write(rng.choice(folders), f"{rng.choice(['.', '', '', 'x'])}{index}{rng.choice(endings)}")
    readable = sorted(root.rglob("*.jsonl"))
    for index in range(20):
        # Links to files, and to folders of the tree, up and down.
        (rng.choice(folders) / f"file{index}.jsonl").symlink_to(rng.choice(readable))
        visible = [f for f in folders if "/." not in str(f)]
        (rng.choice(folders) / f"folder{index}").symlink_to(rng.choice(visible))
    expected = sorted(
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*")
        if path.is_file()
        and path.name.endswith(tuple(READERS))
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    assert len(expected) > 50
    assert list_files((str(root),)).files == expected


def test_documents_behind_a_linked_folder_are_read(tmp_path):
    """150 of 300 documents lie in another folder, as on a second disk."""
    for number, folder in enumerate(("root", "elsewhere/part")):
        (tmp_path / folder).mkdir(parents=True)
        lines = [f'{{"text": "{number} {index}"}}\n' for index in range(150)]
        (tmp_path / folder / "docs.jsonl").write_text("".join(lines))
    (tmp_path / "root" / "more").symlink_to(tmp_path / "elsewhere")
    spec = CorpusConfig(corpus="files", path=(str(tmp_path / "root"),))
    documents = list(open_corpus(spec).documents(ReadReport()))
    assert len({document.text for document in documents}) == len(documents) == 300
    assert names(tmp_path / "root") == ["docs.jsonl", "more/part/docs.jsonl"]


def test_a_folder_is_entered_once_whatever_links_lead_to_it(tmp_path):
    write(tmp_path, "root/a.jsonl", "root/sub/b.jsonl", "out/c.jsonl", "out/deep/d.jsonl")
    write(tmp_path, "root/.cache/e.jsonl", "beside.jsonl")
    root = tmp_path / "root"
    (root / "again").symlink_to(root / "sub")
    (root / "sub" / "up").symlink_to("..")
    (root / "sub" / "top").symlink_to(tmp_path)  # holds the tree itself: a loop
    (root / "one").symlink_to(tmp_path / "out")
    (root / "two").symlink_to(tmp_path / "out")
    (root / "two-deep").symlink_to(tmp_path / "out" / "deep")
    (tmp_path / "out" / "back").symlink_to(root)
    (tmp_path / "out" / "itself").symlink_to(".")
    (root / "cached").symlink_to(".cache")  # hidden, and named by a link that is not
    (tmp_path / "entry").symlink_to(root)
    expected = ["a.jsonl", "cached/e.jsonl", "one/c.jsonl", "one/deep/d.jsonl", "sub/b.jsonl"]
    assert names(root) == names(tmp_path / "entry") == expected


def test_links_that_lead_nowhere_are_refused_by_name(tmp_path):
    write(tmp_path, "a.jsonl")
    (tmp_path / "readme.md").symlink_to("gone.md")
    (tmp_path / ".hidden.jsonl").symlink_to("gone")
    assert list_files((str(tmp_path),)).skipped == {".md": 1}
    for name in ("b.jsonl.gz", "disk"):  # a file, and what may have been a folder
        link = tmp_path / name
        link.symlink_to(tmp_path / "annex" / "SHA256E-s5--abc")
        for pattern in (tmp_path, tmp_path / "*"):
            with pytest.raises(DataError, match=r"would miss files: .*SHA256E.*git annex get") as e:
                list_files((str(pattern),))
            assert str(link) in str(e.value)
        link.unlink()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    with pytest.raises(DataError, match=r"loop\.jsonl.*cannot be reached"):
        list_files((str(tmp_path),))


ENDS = ["", "closed", "*/*.jsonl", "**/*.jsonl", "*/sub/*.jsonl"]


@pytest.mark.parametrize("end", ENDS)
def test_folders_that_cannot_be_listed_are_refused(tmp_path, monkeypatch, end):
    write(tmp_path, "open/a.jsonl", "open/sub/b.jsonl", "closed/a.jsonl", "closed/sub/c.jsonl")
    closed, real = tmp_path / "closed", os.scandir

    def scandir(path):
        if Path(os.fsdecode(path)) == closed:
            raise PermissionError(13, "Permission denied", str(closed))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"closed/? cannot be read \(Permission denied\)"):
        list_files((str(tmp_path / end),))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user for a moment")
@pytest.mark.parametrize("mode", [0, 0o444, 0o111])
def test_folders_closed_by_the_kernel_are_refused(mode):
    # The parents of tmp_path are closed to others, and how many there are depends on the workers.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, "open/a.jsonl", "open/sub/b.jsonl", "closed/a.jsonl", "closed/sub/c.jsonl")
        folder.chmod(0o755)
        (folder / "closed").chmod(mode)
        os.seteuid(65534)
        try:
            for end in ENDS:
                with pytest.raises(DataError, match=r"closed.* cannot be read"):
                    list_files((str(folder / end),))
            assert len(names(folder / "open")) == 2
        finally:
            os.seteuid(0)


def test_what_is_not_read_is_counted_by_kind(tmp_path):
    write(tmp_path, "a.jsonl", "b.json", "c.jsonl.xz")
    for pattern in (tmp_path, tmp_path / "*"):
        listing = list_files((str(pattern),))
        assert [name for name, _ in listing.files] == ["a.jsonl"]
        assert listing.skipped == {".json": 1, ".jsonl.xz": 1}
        assert listing.skipped_text() == (
            "1 file is read; 2 files are not, because their kind is not read: 1 .json, 1 .jsonl.xz"
        )
    both = list_files((str(tmp_path), str(tmp_path / "*"), str(tmp_path / "a.jsonl")))
    assert sum(both.skipped.values()) == 2
    assert list_files((str(tmp_path / "*.jsonl"),)).skipped_text() == ""
    write(
        tmp_path,
        "sub/d.jsonl",
        "e.00000-of-00008.json.bz2",
        "LICENSE",
        "f.v1.2.csv",
        ".hidden.csv",
        "g.jsonl.part",
        "D.JSONL",
        "b.tar.gz",
    )
    assert list_files((str(tmp_path),)).skipped == {
        ".JSONL": 1,
        ".csv": 1,
        ".json": 1,
        ".json.bz2": 1,
        ".jsonl.part": 1,
        ".jsonl.xz": 1,
        ".tar.gz": 1,
        "without suffix": 1,
    }
    assert list_files((str(tmp_path / "*"),)).skipped["folder(s)"] == 1
    assert "folder(s)" not in list_files((str(tmp_path / "**"),)).skipped


def test_many_kinds_are_named_by_how_many_there_are():
    listing = Listing([("a", Path("a")), ("b", Path("b"))], {".csv": 1, ".tsv": 10})
    assert listing.skipped_text().startswith("2 files are read; 11 files are not")
    assert listing.skipped_text().endswith(": 10 .tsv, 1 .csv")
