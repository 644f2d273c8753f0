"""The segmenter's data: patches of annotated volumes to learn from, whole volumes to judge by."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from models.errors import ConfigError
from models.segmenter.plan import Plan
from training.places import Loader, PlacedData, Places, loading
from training.processes import own_share
from training.segmenter.annotation import Annotation
from training.segmenter.augmentation import Augmentation
from training.segmenter.cases import Case, find_cases, folds
from training.segmenter.patches import Batch, Drawing, Patches
from training.segmenter.planning import VOXELS, make_plan
from training.segmenter.prepared import Prepared, prepare


@dataclass
class Split:
    """Which volumes are left out of training to judge by.

    Attributes:
        folds: equal parts that groups are divided into; 1 judges by the volumes that are trained on.
        fold: the part that is left out, from 0.
        seed: of the division.
    """

    folds: int = 5
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fold < self.folds:
            raise ConfigError("no such fold", where="fold", expected=f"0 to {self.folds - 1}", got=self.fold)

    def __call__(self, cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
        """Those to train on, and those to judge by."""
        if self.folds == 1:
            return list(cases), list(cases)
        parts = folds(cases, self.folds, self.seed)
        return [case for number, part in enumerate(parts) if number != self.fold for case in part], parts[self.fold]


class _Whole(Dataset[Prepared]):
    """Prepared volumes, one at a time."""

    def __init__(self, cases: Sequence[Prepared]) -> None:
        self.cases = cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: int) -> Prepared:
        return self.cases[number]


class SegmenterData(PlacedData):
    """Annotated volumes for ``SegmenterModule``.

    Args:
        train: data set, see ``training.segmenter.cases.find_cases``.
        validation: another data set to judge by; None leaves out a part of ``train``.
        group: what tells which volumes belong together, see ``find_cases``.
        split: which part is left out; not used with ``validation``.
        plan: JSON file of the plan; it is made from the training volumes and written where it does not exist.
        window_voxels: of the window of a plan that is made, at most.
        annotation: what of the training label maps counts.
        validation_annotation: what of the label maps that are judged by counts; all of it by default.
        drawing: how patches are drawn.
        augmentation: how they are changed; None leaves them alone.
        batch_size: patches in a batch.
        batches: in an epoch, of all processes together.
        validation_count: only so many volumes are judged by during training; None for all.
        cache: folder for prepared volumes, which all processes and runs share and map.
        workers: processes that draw patches; 0 draws in the training process.
        prefetch: batches that each of these processes makes ahead.
        seed: with the epoch and a patch's number, all that a patch depends on.
    """

    def __init__(
        self,
        train: str,
        validation: str | None = None,
        group: str | None = None,
        split: Split | None = None,
        plan: str = "runs/plan.json",
        window_voxels: int = VOXELS,
        annotation: Annotation | None = None,
        validation_annotation: Annotation | None = None,
        drawing: Drawing | None = None,
        augmentation: Augmentation | None = None,
        batch_size: int = 2,
        batches: int = 100,
        validation_count: int | None = None,
        cache: str = "runs/cache",
        workers: int = 0,
        prefetch: int = 2,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.train, self.validation, self.group, self.split = train, validation, group, split or Split()
        self.plan_path, self.window_voxels, self.cache = Path(plan), window_voxels, Path(cache)
        self.annotation, self.validation_annotation = annotation or Annotation(), validation_annotation or Annotation()
        self.drawing, self.augmentation = drawing or Drawing(), augmentation
        self.batch_size, self.batches, self.validation_count = batch_size, batches, validation_count
        self.loading, self.seed = loading(workers, prefetch), seed
        self.plan: Plan | None = None
        self.cases: list[Case] = []  # that are trained on
        self.patches: Patches | None = None
        self.judged: list[Prepared] = []

    def prepare_data(self) -> None:
        # Lightning calls this once on a machine, before every process calls `setup`, which then finds plan and volumes.
        trainer = self.trainer
        self._prepare(*self._planned(), trainer is None or trainer.state.fn == "fit")

    def setup(self, stage: str | None = None) -> None:
        if self.plan is not None:
            return
        plan, train, judged = self._planned()
        self.plan, self.cases = plan, train
        self.judged, prepared = self._prepare(plan, train, judged, stage in (None, "fit"))
        if prepared:
            size = self.drawing.patch or plan.window
            self.patches = Patches(prepared, size, self.batch_size, self.drawing, self.augmentation, self.seed)

    def _planned(self) -> tuple[Plan, list[Case], list[Case]]:
        """The plan, the cases to train on, and those to judge by."""
        found = find_cases(self.train, self.group)
        train, judged = self.split(found.cases) if self.validation is None else (found.cases, find_cases(self.validation).cases)
        if not self.plan_path.exists():
            partial = self.plan_path.with_name(f".{self.plan_path.name}.{os.getpid()}")  # another machine may be reading
            make_plan(train, found.classes, self.annotation, voxels=self.window_voxels).write(partial)
            partial.replace(self.plan_path)
        return Plan.read(self.plan_path), train, judged[: self.validation_count]

    def _prepare(
        self, plan: Plan, train: Sequence[Case], judged: Sequence[Case], fitting: bool
    ) -> tuple[list[Prepared], list[Prepared]]:
        """Volumes to judge by, and where ``fitting`` those to train on."""
        to_judge = [prepare(case, plan, self.validation_annotation, self.cache) for case in judged]
        return to_judge, [prepare(case, plan, self.annotation, self.cache) for case in train if fitting]

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        loader = Loader(
            cast(Any, self.patches),
            batch_size=None,
            sampler=cast(Any, Places(self.batches, rank, world)),
            **self.loading,
        )
        return self.placed(loader)

    def val_dataloader(self) -> DataLoader[Prepared]:
        own = [self.judged[number] for number in own_share(len(self.judged), "volumes", self.trainer)]
        return DataLoader(cast(Any, _Whole(own)), batch_size=None, collate_fn=lambda case: case)

    def test_dataloader(self) -> DataLoader[Prepared]:
        return self.val_dataloader()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if isinstance(batch, Batch):
            return Batch(batch.volume.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True))
        return batch
