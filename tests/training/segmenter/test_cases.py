"""Where annotated volumes lie, and how they are divided."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError, DataFormatError
from tests.scans import CLASSES, ball, save, write_decathlon
from training.segmenter.cases import Case, find_cases, folds


def test_the_decathlons_folder_with_its_scans(tmp_path):
    found = find_cases(write_decathlon(tmp_path, 4), "scan")
    assert found.classes == CLASSES
    assert [(case.name, case.group) for case in found.cases] == [(f"case_00{n}", str(n // 2)) for n in range(4)]
    assert all(case.image.is_file() and case.label.is_file() for case in found.cases)
    with pytest.raises(ConfigError, match="a case without a group"):
        find_cases(tmp_path, "patient")


def test_nnunets_folder(tmp_path):
    values, labels = ball()
    for name in ("a", "b"):
        save(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", values)
        save(tmp_path / "labelsTr" / f"{name}.nii.gz", labels)
    about = {"labels": {"background": 0, "tumour": 1, "ignore": 2}, "file_ending": ".nii.gz", "numTraining": 2}
    (tmp_path / "dataset.json").write_text(json.dumps(about | {"patients": {"a": 1, "b": 1}}))
    found = find_cases(tmp_path)
    assert found.classes == ["background", "tumour"]
    assert [(case.name, case.group) for case in found.cases] == [("a", "a"), ("b", "b")]
    assert {case.group for case in find_cases(tmp_path, "patients").cases} == {"1"}
    (tmp_path / "imagesTr/b_0000.nii.gz").unlink()
    with pytest.raises(ConfigError, match="a label map without its volume"):
        find_cases(tmp_path)


def test_two_folders_and_lists(tmp_path):
    values, labels = ball()
    save(tmp_path / "images/a.nii", values)
    save(tmp_path / "labels/a.nii", labels)
    [case] = find_cases(tmp_path).cases
    assert (case.name, case.image.name) == ("a", "a.nii")
    (tmp_path / "list.csv").write_text("image,label,group\nimages/a.nii,labels/a.nii,p1\n")
    assert find_cases(tmp_path / "list.csv").cases[0].group == "p1"
    (tmp_path / "list.csv").write_text("image,label\nimages/a.nii,labels/b.nii\n")
    with pytest.raises(DataFormatError, match=r"list\.csv: line 2: no such file"):
        find_cases(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not a data set"), ("[]", "not a data set"), ('{"labels": {"0": "a", "2": "b"}}', "labels are not 0, 1, 2")],
)
def test_a_malformed_data_set_is_named(tmp_path, text, said):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataFormatError, match=said):
        find_cases(tmp_path)
    with pytest.raises(ConfigError, match="no annotated volumes here"):
        find_cases(tmp_path / "nowhere")


@given(st.lists(st.integers(0, 9), min_size=5, max_size=40), st.integers(1, 5), st.integers(0, 9))
def test_a_group_never_sits_on_two_sides(groups, count, seed):
    cases = [Case(f"{number:02d}", None, None, str(group)) for number, group in enumerate(groups)]
    if len(set(groups)) < count:
        with pytest.raises(ConfigError, match="too few groups"):
            folds(cases, count, seed)
        return
    parts = folds(cases, count, seed)
    assert sorted(case.name for part in parts for case in part) == sorted(case.name for case in cases)
    sides = [{case.group for case in part} for part in parts]
    assert sum(map(len, sides)) == len(set(groups))
    largest = max(groups.count(group) for group in groups)
    assert max(map(len, parts)) - min(map(len, parts)) <= largest
    assert parts == folds(cases, count, seed)
