"""The module trains, judges whole volumes, and becomes a bundle whose answers are those of the module."""

from __future__ import annotations

import warnings

import lightning
import numpy as np
import pytest
import torch

from models.errors import ConfigError
from models.segmenter import Segmenter
from models.segmenter.network import UNetSettings
from tests.scans import ball, save, write_decathlon
from training.export import export_bundle
from training.segmenter.annotation import Annotation
from training.segmenter.complete import complete
from training.segmenter.data import SegmenterData, Split
from training.segmenter.evaluate import evaluate
from training.segmenter.module import SegmenterModule
from training.segmenter.patches import Drawing


def trained(folder, settings=None, annotation=None, **trainer):
    data = SegmenterData(
        str(write_decathlon(folder / "data", 6, (12, 14, 10))),
        group="scan",
        split=Split(3),
        plan=str(folder / "plan.json"),
        annotation=annotation,
        drawing=Drawing(patch=(8, 8, 8)),
        batch_size=2,
        batches=30,
        cache=str(folder / "cache"),
    )
    torch.manual_seed(0)
    settings = settings or UNetSettings(classes=3, channels=(8, 16), heads=1)
    module = SegmenterModule(settings, learning_rate=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = lightning.Trainer(
            max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, accelerator="cpu", **trainer,
        )  # fmt: skip
        run.fit(module, datamodule=data)
    return module, run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    module, run = trained(folder)
    run.save_checkpoint(folder / "x.ckpt")
    return module, run, export_bundle(folder / "x.ckpt", folder / "bundle"), folder


def test_it_learns_and_its_bundle_says_the_same(bundle, tmp_path):
    _, run, path, folder = bundle
    judged = float(run.callback_metrics["validation/dice"])
    assert judged > 0.5  # by chance less than 0.3
    result = evaluate(path, folder / "data", group="scan", folds=3, out=tmp_path / "out")
    assert result["dice"] == pytest.approx(judged, abs=0.03)  # other windows' overlap, weights of 16 bits
    assert {"metrics.json", "cases.json", "worst.html"} == {each.name for each in (tmp_path / "out").iterdir()}
    page = (tmp_path / "out/worst.html").read_text()
    assert page.count("data:image/png") == 2 * result["volumes"]
    assert "Anterior" in page


def test_one_painted_slice_of_each_volume_is_enough_to_learn(tmp_path):
    _, run = trained(tmp_path, annotation=Annotation(keep=1))
    assert float(run.callback_metrics["validation/dice"]) > 0.4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (UNetSettings(classes=2, channels=(8, 16)), "other classes"),
        (UNetSettings(classes=3, channels=(2, 2, 2, 2, 2, 2)), "window does not fit"),
    ],
)
def test_what_would_fail_after_hours_fails_at_once(tmp_path, settings, said):
    with pytest.raises(ConfigError, match=said):
        trained(tmp_path, settings)


def test_activations_that_are_computed_again_cost_less_memory_and_give_the_same_gradient():
    def step(**settings):
        torch.manual_seed(0)
        module = SegmenterModule(UNetSettings(classes=3, channels=(8, 16, 16), heads=2), **settings)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.nbytes) or each, lambda each: each):
            scores = module.run(torch.randn(2, 1, 16, 16, 16))
        loss = module.loss(scores, torch.randint(-1, 3, (2, 16, 16, 16)))
        loss.backward()
        return sum(kept), {name: each.grad for name, each in module.named_parameters()}

    size, plain = step()
    assert step(recompute=True)[0] < 0.5 * size
    for settings in ({}, {"recompute": True}, {"recompute": True, "channels_last": True}):
        for name, gradient in step(**settings)[1].items():
            torch.testing.assert_close(gradient, plain[name], rtol=1e-3, atol=1e-5)
    with pytest.raises(ConfigError, match="batch norm"):
        SegmenterModule(UNetSettings(norm="batch"), recompute=True)


def test_the_rest_of_a_volume_is_painted_from_a_few_slices_of_it(tmp_path):
    values, labels = ball((20, 26, 22), 4)
    affine = np.array([[0, 0, -1.0, 4], [1.0, 0, 0, 2], [0, -1.0, 0, 7], [0, 0, 0, 1]])
    volume, painted = save(tmp_path / "v.nii.gz", values, affine), save(tmp_path / "l.nii.gz", labels, affine)
    done = complete(
        volume, painted, tmp_path / "out.nrrd", slices={"z": [8, 13], "x": [11]}, steps=40, channels=(8, 16, 16), progress=False
    )
    assert done.painted == pytest.approx(1 - (18 / 20) * (21 / 22), abs=1e-3)
    found = stored(done.path)
    assert np.array_equal(found[[8, 13]], labels[[8, 13]])  # what was painted stays
    unseen = np.ones(labels.shape, bool)
    unseen[[8, 13]], unseen[:, :, 11] = False, False
    for label in (1, 2):
        a, b = (found == label)[unseen], (labels == label)[unseen]
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.6
    with pytest.raises(ConfigError, match="what is painted"):
        complete(volume, painted, tmp_path / "x.nii")


def stored(path):
    from models.segmenter.formats import open_volume

    return np.asarray(open_volume(path, path.parent).stored)


def test_a_bundle_of_it_loads_as_a_segmenter(bundle):
    assert Segmenter.load(bundle[2]).classes == ["background", "Anterior", "Posterior"]
