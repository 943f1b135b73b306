"""C4 and tokenizers over HTTP, from a small server on this machine that answers like the hub."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from hpcscale.data.store import TokenStore
from hpcscale.data.tokenizer import train_tokenizer

COMMIT = hashlib.sha1(b"the commit of main").hexdigest()
CARD = """---
configs:
- config_name: en
  data_files:
  - split: train
    path: en/c4-train.*.json.gz
  - split: validation
    path: en/c4-validation.*.json.gz
---
"""


def shard(name: str, documents: int) -> bytes:
    records = [
        {"text": f"{name} document {i}", "timestamp": "2019-04-25T12:57:54Z", "url": "http://x"}
        for i in range(documents)
    ]
    return gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode())


class Hub(BaseHTTPRequestHandler):
    """The four routes that the hub's clients use to read a repository."""

    protocol_version = "HTTP/1.1"
    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}

    def log_message(self, *_):
        pass

    def answer(self, body: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        for repository, files in self.repositories.items():
            if path.startswith(f"api/{repository}"):
                return self.facts(repository, files, path[len(f"api/{repository}") :])
            begin = f"{repository.removeprefix('models/')}/resolve/"
            if path.startswith(begin):
                name = path[len(begin) :].partition("/")[2]
                if name in files:
                    return self.content(files[name])
        code = "RepoNotFound" if path.startswith("api/") else "EntryNotFound"
        return self.answer(b"{}", 404, X_Error_Code=code)

    def facts(self, repository: str, files: dict[str, bytes], rest: str) -> None:
        if rest.startswith("/revision/") and rest.split("/")[2] not in ("main", COMMIT):
            return self.answer(b"{}", 404, X_Error_Code="RevisionNotFound")
        if rest.startswith("/tree/"):
            folder = rest.split("/", 3)[3] + "/" if rest.count("/") > 2 else ""
            inside = {p: c for p, c in files.items() if p.startswith(folder)}
            tree = [
                {"type": "file", "path": p, "oid": hashlib.sha1(c).hexdigest(), "size": len(c)}
                for p, c in inside.items()
                if "/" not in p[len(folder) :]
            ]
            folders = {p[len(folder) :].split("/")[0] for p in inside if "/" in p[len(folder) :]}
            tree += [
                {"type": "directory", "path": folder + f, "oid": COMMIT, "size": 0} for f in folders
            ]
            return self.answer(json.dumps(tree).encode(), Content_Type="application/json")
        facts = {
            "id": repository.split("/", 1)[1],
            "_id": "1",
            "sha": COMMIT,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": name} for name in files],
        }
        return self.answer(json.dumps(facts).encode(), Content_Type="application/json")

    def content(self, body: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X_Repo_Commit": COMMIT}
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            begin, end = int(first), min(int(last or len(body)), len(body) - 1)
            headers["Content_Range"] = f"bytes {begin}-{end}/{len(body)}"
            return self.answer(body[begin : end + 1], 206, **headers)
        return self.answer(body, **headers)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    out = tmp_path_factory.mktemp("tokenizer") / "bpe"
    train_tokenizer(["train validation document 0 1 2"] * 9, 270, out)
    return out


@pytest.fixture
def hub(tmp_path, bpe):
    """The environment of a process whose hub is this server."""
    c4 = {"README.md": CARD.encode()}
    for i in range(3):
        c4[f"en/c4-train.{i:05}-of-00003.json.gz"] = shard(f"train {i}", 50)
    c4["en/c4-validation.00000-of-00001.json.gz"] = shard("validation", 50)
    tokenizer = {p.name: p.read_bytes() for p in bpe.iterdir()}
    Hub.repositories = {"datasets/allenai/c4": c4, "models/gpt2": tokenizer}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path / "hf"),
        "NO_PROXY": "127.0.0.1",
    }
    server.shutdown()
    server.server_close()


def run(script: str, environment: dict[str, str], *arguments: object) -> str:
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


STREAM = """
import sys, json
from hpcscale.data.corpora import *
split, seed, more = sys.argv[1:]
fields = {"revision": "main", "shuffle_buffer": 20, **json.loads(more)}
spec = CorpusConfig(corpus="c4", split=split, seed=int(seed), **fields)
corpus, report = open_corpus(spec), ReadReport()
texts = [d.text for d in corpus.documents(report)]
print(json.dumps([texts, report.documents, corpus.resolved()]))
"""

BUILD = """
import sys
from pathlib import Path
from hpcscale.config.data import CorpusConfig
from hpcscale.data.store import build_store
from hpcscale.data.tokenizer import load_tokenizer
spec = CorpusConfig(corpus="c4", split="validation", revision="main", tokens=200)
tokenizer = load_tokenizer(Path(sys.argv[1]))
build_store(spec, "eval", (0.0, 1.0), tokenizer, Path(sys.argv[2]), cut=True)
"""


def test_c4_streams_shuffled_by_seed_with_its_commit(hub):
    texts, count, resolved = json.loads(run(STREAM, hub, "train", 0, "{}"))
    in_order = [f"train {s} document {i}" for s in range(3) for i in range(50)]
    assert sorted(texts) == sorted(in_order)
    assert texts != in_order
    assert count == 150
    assert resolved == {"commit": COMMIT}
    assert json.loads(run(STREAM, hub, "train", 0, "{}"))[0] == texts
    assert json.loads(run(STREAM, hub, "train", 1, "{}"))[0] != texts
    validation = json.loads(run(STREAM, hub, "validation", 0, "{}"))[0]
    assert sorted(validation) == sorted(f"validation document {i}" for i in range(50))


@pytest.mark.parametrize("wrong", [{"variant": "de"}, {"revision": "no-such-branch"}])
def test_a_wrong_variant_or_revision_is_not_called_a_network_problem(hub, wrong):
    with pytest.raises(AssertionError, match="correct `variant` or `revision`") as caught:
        run(STREAM, hub, "train", 0, json.dumps(wrong))
    assert "node with a network" not in str(caught.value)


def test_a_store_of_c4_records_the_commit(hub, bpe, tmp_path):
    run(BUILD, hub, bpe, tmp_path / "store")
    store = TokenStore.open(tmp_path / "store", verify=True)
    assert store.n_tokens == 200
    assert store.manifest["source"]["revision"] == "main"
    assert store.manifest["source"]["commit"] == COMMIT


def test_the_config_of_a_hub_model_names_the_end_of_text_where_its_tokenizer_does_not(
    hub, bpe, tmp_path
):
    content = (bpe / "tokenizer.json").read_text().replace("<|endoftext|>", "<eos>")
    files = {"tokenizer.json": content.encode(), "config.json": b'{"eos_token_id": [269, 3]}'}
    Hub.repositories["models/some/model"] = files
    script = (
        "import sys; from pathlib import Path; from hpcscale.data.tokenizer import *\n"
        "fetched = fetch_tokenizer('some/model', None, Path(sys.argv[1]))\n"
        "print(fetched.eot_id, load_tokenizer(Path(sys.argv[1])).eot_id)"
    )
    assert run(script, hub, tmp_path / "out").split() == ["269", "269"]
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_tokenizer_is_fetched_with_its_commit(hub, bpe, tmp_path):
    script = (
        "import sys; from pathlib import Path; from hpcscale.data.tokenizer import *\n"
        "print(fetch_tokenizer(sys.argv[1], None, Path(sys.argv[2])).vocab_size)"
    )
    assert run(script, hub, "gpt2", tmp_path / "out").strip() == "270"
    content = (tmp_path / "out" / "tokenizer.json").read_bytes()
    assert content == (bpe / "tokenizer.json").read_bytes()
    record = json.loads((tmp_path / "out" / "source.json").read_text())
    ends = record.pop("end_of_text")
    assert record == {"source": "gpt2", "revision": None, "commit": COMMIT}
    assert (ends["token"], ends["id"]) == ("<|endoftext|>", 269)
    with pytest.raises(AssertionError, match="is neither a directory here nor a repository"):
        run(script, hub, "somebody/else", tmp_path / "none")
