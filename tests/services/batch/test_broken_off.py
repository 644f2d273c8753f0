"""Runs that were killed, at whatever moment, and started again, on whatever engine, end as one that nobody touched."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from tests.services.batch.corpus import command, done_records, kill_after, run, tree, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), 16)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_separator):
    return tiny_separator(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, corpus, bundle):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    code, said = run(command("separate", [str(corpus / "sounds")], str(out), [bundle]))
    assert code == 1, said
    assert "17/17" in said
    assert said.count(" error: ") == 1
    return out


def test_every_item_is_there_once(undisturbed, corpus):
    records = [json.loads(line) for line in (undisturbed / "manifest.jsonl").read_text().splitlines()]
    inputs = sorted(str(path) for path in (corpus / "sounds").rglob("*.*"))
    assert [record["input"] for record in records] == inputs
    assert [record["status"] for record in records] == ["failed", *["done"] * 16]
    made = {path for path in tree(undisturbed) if not path.startswith((".convoy", "manifest"))}
    assert made == {output["path"] for record in records for output in record["outputs"]}
    assert len(made) == 16


@pytest.mark.timeout(300)
def test_killed_at_random_and_started_again_it_ends_as_undisturbed(undisturbed, corpus, bundle, tmp_path):
    arguments = command("separate", [str(corpus / "sounds")], str(tmp_path / "out"), [bundle])
    chance, killed = random.Random(3), 0
    while killed < 5:
        killed += kill_after(arguments, tmp_path / "out", min(3 * killed, 14), chance.uniform(0, 0.03))
        if done_records(tmp_path / "out") == 16:
            shutil.rmtree(tmp_path / "out" / "odd")  # too fast for us: damage some of it instead
    code, said = run(arguments)
    assert code == 1, said
    assert tree(tmp_path / "out") == tree(undisturbed)


@pytest.mark.timeout(300)
def test_a_cluster_makes_the_same_bytes(undisturbed, corpus, bundle, tmp_path):
    ray = ["--engine", "ray", "--processes", "2"]
    arguments = command("separate", [str(corpus / "sounds")], str(tmp_path / "out"), [bundle], *ray)
    code, said = run(arguments)
    assert code == 1, said
    assert tree(tmp_path / "out") == tree(undisturbed)
