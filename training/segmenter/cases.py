"""Where annotated volumes lie: the folders of the Medical Segmentation Decathlon and of nnU-Net, two folders, or a list."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import ConfigError, DataFormatError
from training.remote import local, parent, shown

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".tiff", ".tif", ".zarr")


@dataclass(frozen=True)
class Case:
    """One annotated volume.

    Attributes:
        name: of its file, without its ending.
        image: its file or folder.
        label: that of its label map; the same grid.
        group: cases of one group (one patient, one scan) never sit on two sides of a split.
    """

    name: str
    image: Path
    label: Path
    group: str


@dataclass(frozen=True)
class Cases:
    """A data set.

    Attributes:
        cases: in the order of their names.
        classes: names by label, the first the background; None where the data set does not tell.
    """

    cases: list[Case]
    classes: list[str] | None


def find_cases(folder: str | Path, group: str | None = None) -> Cases:
    """The annotated volumes of a data set.

    Args:
        folder: with ``dataset.json`` as the Decathlon or nnU-Net (version 2) writes it; or with ``images`` and ``labels`` that
            hold files of the same names; or a CSV with the columns image, label and, if wanted, group, paths relative to it. Or
            the fsspec address of one: it is fetched, but for ``imagesTs``, which nobody has annotated.
        group: what says which cases belong together: a key that each case has in the Decathlon's ``dataset.json``, the name of an
            object {case: group} in nnU-Net's, or a column of the CSV (``group``, if there is one). None: each case is a group.

    Raises:
        ConfigError: no such data set, or no group where one is asked for.
        DataFormatError: a list that cannot be read; names the file and the line or field.
    """
    place = local(folder, without=("imagesTs",))
    if place.is_file() and place.suffix == ".csv":
        return _from_list(place, str(folder), group)
    if (place / "dataset.json").is_file():
        return _from_json(place, group)
    if (place / "images").is_dir() and (place / "labels").is_dir():
        return Cases(_pairs(place / "images", place / "labels", "", {}, group, str(place)), None)
    expected = "a folder with dataset.json, or with images/ and labels/, or a CSV with columns image and label"
    raise ConfigError("no annotated volumes here", where=str(place), expected=expected, got="none of them")


def folds(cases: Sequence[Case], count: int, seed: int = 0) -> list[list[Case]]:
    """Divide cases into so many parts of about one size, groups whole: shuffled, largest first, each to the smallest part.

    Raises:
        ConfigError: fewer groups than parts.
    """
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    if len(groups) < count:
        raise ConfigError("too few groups to divide", where="folds", expected=f"at most {len(groups)}", got=count)
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    parts: list[list[Case]] = [[] for _ in range(count)]
    for name in sorted(names, key=lambda name: -len(groups[name])):
        min(parts, key=len).extend(groups[name])
    return [sorted(part, key=lambda case: case.name) for part in parts]


def bare_name(path: Path) -> str:
    """A file's name without its ending."""
    return next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), path.stem)


def _from_json(place: Path, group: str | None) -> Cases:
    where = place / "dataset.json"
    try:
        about = json.loads(where.read_text("utf-8"))
        classes = _classes(about["labels"])
        listed = about.get("training")
        if isinstance(listed, list):
            return Cases(sorted((_decathlon(place, entry, group) for entry in listed), key=lambda case: case.name), classes)
        groups = about.get(group, {}) if group else {}
        ending = str(about.get("file_ending", ".nii.gz"))
        return Cases(_pairs(place / "imagesTr", place / "labelsTr", "_0000", groups, group, str(where), ending), classes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        expected = "the Decathlon's or nnU-Net's fields (labels, training or file_ending)"
        raise DataFormatError("not a data set", where=str(where), expected=expected, got=repr(error)) from error


def _classes(labels: Mapping[str, Any]) -> list[str]:
    """From {"0": "background", …} (Decathlon) or {"background": 0, …} (nnU-Net; its label "ignore" is no class)."""
    named = {
        int(value): key
        for key, value in (
            (str(name), number) if str(number).lstrip("-").isdigit() else (str(number), name) for name, number in labels.items()
        )
    }
    kept = {number: name for number, name in named.items() if name != "ignore"}
    if sorted(kept) != list(range(len(kept))):
        raise ValueError(f"labels are not 0, 1, 2 …: {sorted(kept)}")
    return [kept[number] for number in range(len(kept))]


def _decathlon(place: Path, entry: Mapping[str, Any], group: str | None) -> Case:
    image, label = place / entry["image"], place / entry["label"]
    name = bare_name(image)
    if group is not None and group not in entry:
        fix = "Name a key that each case of dataset.json has, or leave `group` out."
        raise ConfigError("a case without a group", where=f"{place}/dataset.json: {name}", expected=group, fix=fix)
    return Case(name, image, label, str(entry[group]) if group else name)


def _pairs(
    images: Path, labels: Path, suffix: str, groups: Mapping[str, Any], group: str | None, where: str, ending: str = ""
) -> list[Case]:
    """Files of ``labels`` that have an image of the same name, and ``suffix``."""
    pairs = []
    for label in sorted(each for each in labels.iterdir() if each.name.endswith(ending or ENDINGS)):
        name = bare_name(label)
        image = images / f"{name}{suffix}{label.name.removeprefix(name)}"
        if not image.exists():
            raise ConfigError("a label map without its volume", where=str(label), expected=str(image), got="no such file")
        if group is not None and name not in groups:
            raise ConfigError("a case without a group", where=f"{where}: {group}", expected=f"a group for {name}")
        pairs.append(Case(name, image, label, str(groups.get(name, name))))
    if not pairs:
        raise ConfigError("no label maps", where=str(labels), expected=f"files that end in {ending or ', '.join(ENDINGS)}")
    return pairs


def _from_list(file: Path, path: str, group: str | None) -> Cases:
    """The cases of a CSV that lies in ``file`` and is named ``path``."""
    with file.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        needed = ["image", "label", *([group] if group else [])]
        if missing := [name for name in needed if name not in (reader.fieldnames or [])]:
            raise DataFormatError("columns are missing", where=shown(path), expected=", ".join(needed), got=f"no {missing}")
        rows = [(row["image"] or "", row["label"] or "", row.get(group or "group"), reader.line_num) for row in reader]
    if not rows:
        raise DataFormatError("no cases", where=shown(path), expected="a line for each volume")
    root = local(parent(path), only=[name for image, label, *_ in rows for name in (image, label)])
    cases = []
    for image_name, label_name, own, line in rows:
        image, label = root / image_name, root / label_name
        for each in (image, label):
            if not each.exists():
                raise DataFormatError("no such file", where=f"{shown(path)}: line {line}", got=each)
        name = bare_name(image)
        cases.append(Case(name, image, label, own or name))
    return Cases(sorted(cases, key=lambda case: case.name), None)
