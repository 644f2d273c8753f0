from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from models.errors import ConfigError
from training.settings import checked, output_folder


def takes(data: str, *, count: int | None = None, ratios: Sequence[float] = (), out: Path | None = None) -> None: ...


def takes_more(data: str, *, count: int = 1, **options: object) -> None: ...


def test_settings_that_fit_come_back():
    settings = {"count": 3, "ratios": [0.5, 1]}
    assert checked(takes, settings) == settings
    assert checked(takes_more, {"count": 3, "column": 7}) == {"count": 3, "column": 7}


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (takes, {"part": 1, "seed": 2}, "part, seed: no such setting here: expected count, ratios"),
        (takes, {"data": "x"}, "data: no such setting"),
        (takes, {"count": 2.5}, "count: a setting has the wrong type: expected .*integer, got 2.5"),
        (takes, {"count": "2"}, "count"),
        (takes, {"ratios": ["x"]}, "ratios"),
        (takes_more, {"count": "x"}, "count"),
    ],
)
def test_settings_that_do_not_fit_are_named(function, settings, message):
    with pytest.raises(ConfigError, match=message):
        checked(function, settings)


def test_a_folder_that_a_file_is_in_the_way_of(tmp_path):
    assert output_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"cannot be made a folder.*another"):
            output_folder(path)
