"""A training without a config: for the command that paints the rest of a volume, and for curves of many small trainings."""

from __future__ import annotations

import logging
import warnings

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from models.runtime import capabilities
from models.segmenter.network import UNetSettings
from training.segmenter.data import SegmenterData
from training.segmenter.losses import Loss
from training.segmenter.module import SegmenterModule

AVERAGED = 10  # the weights that remain are averaged over about one step in so many


def fit(
    data: SegmenterData,
    network: UNetSettings,
    *,
    learning_rate: float = 2e-3,
    loss: Loss | None = None,
    progress: bool = False,
    seed: int = 1,
) -> SegmenterModule:
    """Train for one epoch of ``data``, that is for its ``batches`` steps, and return the module with averaged weights.

    It is computed in bf16 where the device does.
    """
    lightning.seed_everything(seed, verbose=False)
    quick = torch.cuda.is_available() or "BF16" in capabilities()
    module = SegmenterModule(
        network, loss, optimizer="muon", learning_rate=learning_rate, weight_decay=0.1, schedule="trapezoid", falling=0.5
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a run without validation and logs does not need
        logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
        trainer = lightning.Trainer(
            max_epochs=1,
            precision="bf16-mixed" if quick else "32-true",
            gradient_clip_val=5.0,
            use_distributed_sampler=False,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            callbacks=[EMAWeightAveraging(decay=max(0.0, 1 - AVERAGED / data.batches))],
        )
        trainer.fit(module, datamodule=data)
    return module.eval()
