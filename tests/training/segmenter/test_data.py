"""Plans, prepared volumes, patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.errors import ConfigError, DataFormatError
from models.segmenter.plan import Plan
from tests.scans import CLASSES, ball, save, write_decathlon
from training.segmenter.annotation import Annotation
from training.segmenter.augmentation import Augmentation
from training.segmenter.cases import Case, find_cases
from training.segmenter.data import SegmenterData, Split
from training.segmenter.losses import UNANNOTATED
from training.segmenter.patches import Drawing, Patches, cut
from training.segmenter.planning import make_plan
from training.segmenter.prepared import prepare

PLAN = Plan(classes=CLASSES, spacing=(1.0, 1.0, 1.0), window=(8, 8, 8))


def case(folder, values, labels, affine=None, name="a"):
    return Case(name, save(folder / f"{name}.nii.gz", values, affine), save(folder / f"{name}-l.nii.gz", labels, affine), name)


# ---- plans


def test_a_plan_of_mr_volumes(tmp_path):
    found = find_cases(write_decathlon(tmp_path, 4))
    plan = make_plan(found.cases, found.classes, Annotation())
    assert plan.classes == CLASSES
    assert plan.spacing == (1.0, 1.0, 1.0)
    assert plan.window == (16, 24, 16)  # the median shape (14, 18, 12), up to multiples of 8
    assert plan.normalisation.kind == "volume"
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
    small = make_plan(found.cases, found.classes, Annotation(), voxels=16**3)
    assert np.prod(small.window) <= 16**3


def test_a_plan_of_ct_keeps_thick_slices_and_takes_hounsfield_units(tmp_path):
    cases = []
    for number in range(3):
        _, labels = ball((10, 30, 30), number)
        values = np.where(labels > 0, 60, -1000).astype(np.int16)
        cases.append(case(tmp_path, values, labels, np.diag([1.0, 1.0, 5.0, 1.0]), f"c{number}"))
    plan = make_plan(cases, None, Annotation())
    assert plan.classes == ["background", "class_1", "class_2"]
    assert plan.spacing == (5.0, 1.0, 1.0)
    assert plan.normalisation.kind == "fixed"
    assert (plan.normalisation.low, plan.normalisation.mean) == (60, 60)


def test_a_plan_that_somebody_spoiled_is_refused_by_field(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(PLAN.model_dump_json().replace('"window":[8,8,8]', '"window":[8,8]'))
    with pytest.raises(ConfigError, match=r"plan\.json: window"):
        Plan.read(path)
    with pytest.raises(ConfigError, match="cannot read the plan"):
        Plan.read(tmp_path / "nowhere.json")


# ---- prepared volumes


def test_a_prepared_volume_is_turned_normalised_and_kept(tmp_path):
    values, labels = ball()
    turned = np.array([[0, -1.0, 0, 3], [-1.0, 0, 0, 2], [0, 0, 1.0, 1], [0, 0, 0, 1]])
    one = prepare(case(tmp_path, values, labels, turned), PLAN, Annotation(), tmp_path / "cache")
    # x of the file runs to the back, y to the left.
    expected = values.transpose(0, 2, 1)[:, ::-1, ::-1]
    np.testing.assert_allclose(one.image, (expected - values.mean()) / values.std(), rtol=1e-4, atol=1e-4)
    assert np.array_equal(one.labels, labels.transpose(0, 2, 1)[:, ::-1, ::-1])
    for label, places in one.places.items():
        assert (one.labels[tuple(places.T)] == label).all()
        assert len(places) == (labels == label).sum()
    before = one.folder.stat().st_mtime_ns
    again = prepare(one.case, PLAN, Annotation(), tmp_path / "cache")
    assert (again.folder, again.folder.stat().st_mtime_ns) == (one.folder, before)
    assert prepare(one.case, PLAN, Annotation(keep=1), tmp_path / "cache").folder != one.folder


def test_labels_are_resampled_class_by_class_and_stay_where_they_are(tmp_path):
    values, labels = ball((16, 20, 18))
    fine = case(tmp_path, values, labels, np.diag([0.5, 0.5, 0.5, 1.0]))
    one = prepare(fine, PLAN, Annotation(), tmp_path / "cache")
    assert one.labels.shape == (8, 10, 9)
    for label in range(3):  # a cell of 2 × 2 × 2 voxels that are all of one class is of that class
        cells = (labels == label).reshape(8, 2, 10, 2, 9, 2).all(axis=(1, 3, 5))
        assert (one.labels[cells] == label).all()


def test_a_label_map_on_another_grid_is_refused(tmp_path):
    values, labels = ball()
    wrong = Case("a", save(tmp_path / "v.nii", values), save(tmp_path / "l.nii", labels, np.diag([2.0, 1, 1, 1])), "a")
    with pytest.raises(DataFormatError, match="another grid"):
        prepare(wrong, PLAN, Annotation(), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]


# ---- patches


@pytest.fixture
def prepared(tmp_path):
    return [prepare(each, PLAN, Annotation(), tmp_path / "cache") for each in find_cases(write_decathlon(tmp_path, 3)).cases]


def test_patches_are_parts_of_their_volumes(prepared):
    patches = Patches(prepared, (8, 8, 8), 4, Drawing(), None, seed=1)
    batch = patches[0, 0]
    assert (batch.volume.shape, batch.labels.shape) == ((4, 1, 8, 8, 8), (4, 8, 8, 8))
    for volume, labels in zip(batch.volume, batch.labels, strict=True):
        assert any(
            np.array_equal(cut(one.image, start, (8, 8, 8), 0.0), volume[0])
            and np.array_equal(cut(one.labels, start, (8, 8, 8), UNANNOTATED), labels)
            for one in prepared
            for start in np.ndindex(*(max(1, size - 7) for size in one.image.shape))
        )


def test_each_volume_comes_once_before_any_comes_again(prepared):
    patches = Patches(prepared, (8, 8, 8), 3, Drawing(), None, seed=1)
    sums = {float(one.image[:, :, :].std()): number for number, one in enumerate(prepared)}
    assert len(sums) <= 3
    big = Patches(prepared, (14, 18, 12), 3, Drawing(), None, seed=1)
    for epoch in range(3):
        seen = {float(volume.double().abs().sum()) for volume in big[epoch, 0].volume}
        assert len(seen) == 3
    assert patches[1, 2].volume.shape[0] == 3


def test_patches_follow_from_seed_epoch_and_number_alone(prepared):
    torch.manual_seed(1)
    first = Patches(prepared, (8, 8, 8), 2, Drawing(), Augmentation(), seed=1)[3, 4]
    torch.manual_seed(2)
    again = Patches(prepared, (8, 8, 8), 2, Drawing(), Augmentation(), seed=1)[3, 4]
    other = Patches(prepared, (8, 8, 8), 2, Drawing(), Augmentation(), seed=2)[3, 4]
    assert torch.equal(first.volume, again.volume)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.volume, other.volume)


def test_every_patch_of_a_sparse_volume_holds_an_annotated_voxel(tmp_path):
    one = prepare(case(tmp_path, *ball((30, 30, 30))), PLAN, Annotation(keep=1), tmp_path / "cache")
    patches = Patches([one], (8, 8, 8), 1, Drawing(), None, seed=1)
    assert all((patches[0, number].labels != UNANNOTATED).any() for number in range(40))


def test_foreground_is_drawn_more_often_when_asked_for(tmp_path):
    values, labels = ball((40, 40, 40))
    labels[(labels == 1) & (np.indices(labels.shape)[2] > 14)] = 0  # a small class
    one = prepare(case(tmp_path, values, labels), PLAN, Annotation(), tmp_path / "cache")

    def share(foreground):
        patches = Patches([one], (4, 4, 4), 1, Drawing(foreground=foreground), None, seed=1)
        return np.mean([bool((patches[0, number].labels == 1).any()) for number in range(60)])

    assert share(1.0) > share(0.0) + 0.2


def test_deformed_labels_follow_their_voxels_and_what_comes_from_outside_is_unannotated():
    labels = torch.zeros(24, 24, 24, dtype=torch.long)
    labels[8:16, 8:16, 8:16] = 1
    image = labels.float() * 100
    change = Augmentation(affine=1, degrees=45, deformation=1, grey=0, noise=0, blur=0, flips="zyx")
    for seed in range(3):
        moved, answers = change(image, labels, (1, 2, seed))
        assert set(answers.unique().tolist()) <= {UNANNOTATED, 0, 1}
        annotated = answers != UNANNOTATED
        assert ((moved > 50) == (answers == 1))[annotated].float().mean() > 0.98
        assert not torch.equal(moved, image)
    stretched = Augmentation(affine=1, scale=0.5, deformation=0, grey=0, noise=0, blur=0)
    assert any((stretched(image, labels, (seed,))[1] == UNANNOTATED).any() for seed in range(5))


def test_a_volume_of_one_plane_stays_annotated(tmp_path):
    values = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    for axes in ((0, 1, 2), (1, 2, 0)):
        one = case(tmp_path, values.transpose(axes), np.ones_like(values, np.uint8).transpose(axes), np.eye(4))
        prepared = prepare(one, PLAN, Annotation(), tmp_path / "cache")
        size = tuple(min(40, each) for each in prepared.image.shape)
        patches = Patches([prepared], size, 8, Drawing(), Augmentation(affine=1, deformation=1), seed=1)
        volume, answers = patches[0, 0]
        assert (answers != UNANNOTATED).float().mean() > 0.9
        assert len({float(each.sum()) for each in volume}) == 8


@pytest.mark.parametrize("axis", range(3))
def test_thin_patches_are_turned_and_bent_within_their_plane(axis):
    shape = [40, 40, 40]
    shape[axis] = 13
    planes = torch.arange(13).reshape([-1 if each == axis else 1 for each in range(3)]).expand(shape)
    size = [28, 28, 28]
    size[axis] = 1
    change = Augmentation(affine=1, degrees=45, scale=0, deformation=1, grey=0, noise=0, blur=0)
    for seed in range(3):
        _, moved = change(torch.rand(shape), planes, (seed,), size)
        assert torch.equal(moved[moved != UNANNOTATED], planes[moved != UNANNOTATED])
        assert (moved != UNANNOTATED).float().mean() > 0.7
    _, moved = change(torch.rand(shape), planes, (1,), [28, 28, 28])
    assert not torch.equal(moved[moved != UNANNOTATED], planes[moved != UNANNOTATED])


def test_no_chance_means_no_change():
    image, labels = torch.randn(6, 6, 6), torch.randint(-1, 3, (6, 6, 6))
    same = Augmentation(affine=0, deformation=0, grey=0, noise=0, blur=0)(image, labels, (1,))
    assert torch.equal(same[0], image)
    assert torch.equal(same[1], labels)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Augmentation(affine=1.5), "affine: not a chance"),
        (lambda: Augmentation(flips="t"), "no such axes"),
        (lambda: Augmentation(scale=1), "scale: not a share below 1"),
        (lambda: Augmentation(scale=float("nan")), "scale: not a share below 1"),
        (lambda: Augmentation(degrees=-15), "degrees: out of range: expected 0 to 180, got -15"),
        (lambda: Augmentation(degrees=float("nan")), "degrees: out of range"),
        (lambda: Augmentation(displacement=-1), "displacement: out of range"),
        (lambda: Augmentation(displacement=float("inf")), "displacement: out of range: expected 0 or more, got inf"),
        (lambda: Augmentation(control_points=4), "control points.*5 or more"),
        (lambda: Drawing(foreground=-1), "not a share"),
        (lambda: Split(5, 5), "no such fold"),
    ],
)
def test_settings_out_of_range(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_the_data_module_splits_by_scan_and_makes_its_plan(tmp_path):
    write_decathlon(tmp_path / "data", 8)
    data = SegmenterData(
        str(tmp_path / "data"), group="scan", split=Split(4, 1), plan=str(tmp_path / "plan.json"), cache=str(tmp_path / "cache")
    )
    data.setup("fit")
    assert (tmp_path / "plan.json").is_file()
    judged = {one.case.group for one in data.judged}
    trained = {one.case.group for one in data.patches.cases}
    assert len(judged) == 1
    assert judged.isdisjoint(trained)
    assert len(data.judged) == 2
    assert len(data.patches.cases) == 6
