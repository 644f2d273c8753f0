"""`bentoml build` packs what serving needs and nothing else, and the bento serves from its own store without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import serving
from recordings import read, recording

GUARD = Path(__file__).parent / "guard"
MARK = "<!-- the page of the bento -->"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("bentoml-home")


@pytest.fixture(scope="module")
def context(tmp_path_factory, tiny_bundle, tiny_separator) -> Path:
    """A copy of the checkout whose published bundles are tiny ones."""
    context = tmp_path_factory.mktemp("checkout")
    for name in ("models", "services", "training", "tests", "benchmarks", "clients", "deploy"):
        shutil.copytree(serving.CHECKOUT / name, context / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    (context / "requirements").mkdir()
    for name in ("bentofile.yaml", "requirements/base.lock", "requirements/dev.lock", "pyproject.toml"):
        shutil.copy(serving.CHECKOUT / name, context / name)
    page = context / "services" / "page" / "dist" / "index.html"
    page.write_text(page.read_text(encoding="utf-8") + MARK, encoding="utf-8")
    for language in ("en", "zh"):
        tiny_bundle(context / "pretrained", language, f"tagger-{language}")
    tiny_separator(context / "pretrained", name="separator-2speakers")
    return context


def build(context: Path, home: Path, *options: str) -> tuple[str, Path]:
    """Tag and folder of a bento that is built from a checkout."""
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag", *options]
    environment = {**os.environ, "BENTOML_HOME": str(home), "PYTHONPATH": ""}
    built = subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    tag = built.stdout.split("__tag__:")[1].split()[0]
    return tag, home / "bentos" / tag.replace(":", "/")


@pytest.fixture(scope="module")
def bento(home, context) -> tuple[str, Path]:
    return build(context, home)


def test_it_holds_what_serving_needs_and_nothing_else(bento):
    _, folder = bento
    files = {path.relative_to(folder / "src").as_posix() for path in (folder / "src").rglob("*") if path.is_file()}
    assert {"models/bundle.py", "services/gateway.py", "pretrained/tagger-en/bundle.json"} <= files
    assert {"services/page/dist/index.html", "services/page/samples/two-speakers.flac"} <= files
    other = ("tests/", "training/", "benchmarks/", "clients/", "deploy/", "services/page/src/")
    assert not [name for name in files if name.startswith(other) or "__pycache__" in name]
    assert not [name for name in files if name.startswith("services/page/") and name.split("/")[2] not in {"dist", "samples"}]
    assert {"pretrained/tagger-zh/network.onnx", "pretrained/separator-2speakers/network.onnx"} <= files


def test_its_requirements_are_the_lock_with_hashes_and_without_torch(bento):
    _, folder = bento
    requirements = (folder / "env" / "python" / "requirements.txt").read_text()
    names = {line.partition("==")[0].strip().lower() for line in requirements.splitlines() if "==" in line}
    assert {"bentoml", "openvino", "numpy"} <= names
    assert not names & {"torch", "torchaudio", "lightning", "gensim"}
    assert requirements.count("--hash=sha256:") >= len(names)


def test_its_image_is_built_as_ours(bento):
    _, folder = bento
    written = (folder / "env" / "docker" / "Dockerfile").read_text("utf-8")
    assert written.strip() == (serving.CHECKOUT / "deploy" / "bento.dockerfile").read_text("utf-8").strip()


def test_a_task_alone_takes_its_own_bundles(home, context):
    tag, folder = build(context, home, "-f", "deploy/bentofiles/tagger.yaml")
    assert tag.startswith("tagger:")
    assert {path.name for path in (folder / "src" / "pretrained").iterdir()} == {"tagger-en", "tagger-zh"}
    assert (folder / "src" / "services" / "tagger.py").is_file()


def test_it_serves_from_its_own_store(bento, home, tmp_path):
    tag, _ = bento
    calls = tmp_path / "calls.txt"
    calls.touch()
    environment = {"BENTOML_HOME": str(home), "PYTHONPATH": str(GUARD), "CONVOY_TEST_CALLS": str(calls), "CONVOY_BUNDLES": ""}
    with serving.serving(tag, tmp_path, environment, cwd=tmp_path) as server:
        assert MARK in httpx.get(server.url).text  # the bento's files, not the checkout's
        answer = server.tag("Ada Lovelace lived in London.", "我爱北京天安门。").raise_for_status().json()
        assert answer["models"] == ["tagger-en", "tagger-zh"]
        for text, result in zip(("Ada Lovelace lived in London.", "我爱北京天安门。"), answer["results"], strict=True):
            assert result["tokens"]
            assert all(text[token["start"] : token["end"]] == token["text"] for token in result["tokens"])
        assert server.tag("").status_code == 422
        assert read(server.separate(recording()).raise_for_status().content)[0].shape == (8000, 2)
    assert calls.read_text() == ""
