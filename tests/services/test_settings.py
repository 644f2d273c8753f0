"""Settings from the environment, and the folder of bundles."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import fields
from pathlib import Path

import pytest

from models.errors import BundleError, ConfigError
from services.settings import Settings, bundle_folders, default_jobs

ROOT = Path(__file__).resolve().parents[2]


def test_settings_come_from_the_environment_and_bad_ones_are_named():
    assert Settings.from_environment({}) == Settings()
    given_values = {"CONVOY_MAX_TEXTS": "5", "CONVOY_TIMEOUT_SECONDS": "0.5", "CONVOY_CALL_THREADS": ""}
    assert Settings.from_environment(given_values) == Settings(max_texts=5, timeout_seconds=0.5)
    for value in ("many", "0", "-1", "1.5"):
        with pytest.raises(ConfigError, match="CONVOY_MAX_TEXTS"):
            Settings.from_environment({"CONVOY_MAX_TEXTS": value})
    with pytest.raises(ConfigError, match="CONVOY_TIMEOUT_SECONDS"):
        Settings.from_environment({"CONVOY_TIMEOUT_SECONDS": "nan"})


@pytest.mark.parametrize("page", ["serving.md", "serving.zh.md"])
def test_the_documentation_names_every_setting_and_its_default(page):
    text = (ROOT / "docs" / page).read_text("utf-8")
    told = dict(re.findall(r"^\| `CONVOY_([A-Z_]+)` \| ([^|]+) \|", text, re.MULTILINE))
    known = {field.name.upper(): field.default for field in fields(Settings)}
    assert set(told) == {*known, "PRECISION"}  # which is `models.runtime`'s
    numbers = {name: default for name, default in known.items() if isinstance(default, int | float)}
    assert {name: float(told[name].replace(",", "")) for name in numbers} == numbers


def test_work_may_stand_back_not_at_all_or_as_far_as_the_system_knows():
    assert [Settings.from_environment({"CONVOY_NICE": nice}).nice for nice in ("0", "19")] == [0, 19]
    for nice in ("-1", "20"):
        with pytest.raises(ConfigError, match="CONVOY_NICE: a limit is out of range: expected 0 to 19"):
            Settings.from_environment({"CONVOY_NICE": nice})


def test_accepted_tasks_lie_where_they_survive_and_each_folder_of_bundles_has_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    one, two = default_jobs(tmp_path / "one" / "bundles"), default_jobs(tmp_path / "two" / "bundles")
    assert one.parent == two.parent == tmp_path / "state" / "convoy"
    assert one != two
    assert Settings.from_environment({"CONVOY_BUNDLES": str(tmp_path / "one" / "bundles")}).jobs == one
    assert Settings.from_environment({"CONVOY_BUNDLES": "x", "CONVOY_JOBS": str(tmp_path)}).jobs == tmp_path
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nobody/writes/here")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert default_jobs(tmp_path).is_relative_to(tempfile.gettempdir())


def test_every_setting_is_described():
    from services import settings

    names = [f"CONVOY_{name.upper()}" for name in Settings.__dataclass_fields__]
    assert all(f"``{name}``" in settings.__doc__ for name in names)


def test_bundle_folders_of_a_task(tmp_path):
    for name, task in (("b", "tagger"), ("a", "tagger"), ("c", "separator")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bundle.json").write_text(json.dumps({"task": task}))
    assert [path.name for path in bundle_folders(tmp_path, "tagger")] == ["a", "b"]
    assert bundle_folders(tmp_path / "nothing", "tagger") == []
    (tmp_path / "c" / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match=r"c.bundle\.json"):
        bundle_folders(tmp_path, "tagger")
