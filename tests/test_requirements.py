"""The locks hold what pyproject.toml asks for, by hash, and serving needs no torch."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = ["base", "batch", "dev"]


def read_lock(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.lock").read_text("utf-8")
    return {canonicalize_name(found[1]): found[2] for found in re.finditer(r"^([A-Za-z0-9_.\-]+)==(\S+)", text, re.MULTILINE)}


def declared(name: str) -> list[Requirement]:
    optional = PYPROJECT["project"]["optional-dependencies"]
    extras = {"base": [], "batch": [optional["batch"]], "dev": optional.values()}[name]
    groups = [PYPROJECT["project"]["dependencies"], PYPROJECT["dependency-groups"]["build"], *extras]
    return [Requirement(line) for group in groups for line in group]


@pytest.mark.parametrize("name", LOCKS)
def test_every_declared_requirement_is_locked_at_a_version_it_allows(name):
    locked = read_lock(name)
    for requirement in declared(name):
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in {name}.lock; run `make lock`"
        assert requirement.specifier.contains(version), f"{name}.lock has {requirement.name} {version}; run `make lock`"


@pytest.mark.parametrize("name", LOCKS)
def test_nothing_is_locked_for_a_requirement_that_is_gone(name):
    text = (ROOT / "requirements" / f"{name}.lock").read_text("utf-8")
    asked, current = set(), ""
    for line in text.splitlines():
        if found := re.match(r"^([A-Za-z0-9_.\-]+)==", line):
            current = canonicalize_name(found[1])
        elif re.match(r"\s+#.* convoy \(pyproject\.toml", line):
            asked.add(current)
    assert asked == {canonicalize_name(requirement.name) for requirement in declared(name)}


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_version_has_a_hash(name):
    text = (ROOT / "requirements" / f"{name}.lock").read_text("utf-8")
    for block in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_serving_installs_no_torch():
    heavy = {"torch", "torchaudio", "lightning", "pytorch-lightning", "gensim", "triton"}
    assert not heavy & read_lock("base").keys()


def test_tests_run_on_the_versions_that_serve():
    tested = read_lock("dev")
    assert {name: tested.get(name) for name in read_lock("base")} == read_lock("base")


@pytest.mark.parametrize("name", LOCKS)
def test_locks_name_no_machine(name):
    text = (ROOT / "requirements" / f"{name}.lock").read_text("utf-8")
    assert not re.search(r"--index-url|--find-links|://|(?:^|\s)/\w", text)
