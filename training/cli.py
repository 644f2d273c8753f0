"""`convoy fit|validate|test|predict`: LightningCLI with Convoy's modules."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from lightning import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.plugins.io import TorchCheckpointIO

from models.runtime import threads
from training.checkpoints import WholeFiles
from training.leaving import LeaveOnSigterm


class ConvoyCLI(LightningCLI):
    """LightningCLI whose trainers write checkpoints that are whole or not there."""

    def instantiate_trainer(self, **settings: Any) -> Trainer:
        trainer = super().instantiate_trainer(**settings)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # no other one was asked for
            trainer.strategy.checkpoint_io = WholeFiles()
        return trainer


def main(arguments: Sequence[str]) -> LightningCLI:
    """Run LightningCLI on the arguments: a subcommand, ``--config FILE`` and overrides."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(wanted) if wanted.isdecimal() and int(wanted) else threads())
    torch.set_float32_matmul_precision("high")
    # Not `args=`: LightningCLI warns where a command line stands beside it, and the processes of a distributed run are
    # started with what stands in sys.argv.
    with _quiet(), mock.patch.object(sys, "argv", [sys.argv[0], *arguments]):
        return ConvoyCLI(
            seed_everything_default=1,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            # The data modules deal out batches themselves: dealt out again, most would go to nobody.
            trainer_defaults={"use_distributed_sampler": False, "callbacks": [LeaveOnSigterm()]},
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without advertisements, and without what Lightning is told by the libraries that it calls."""
    tips = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.cli", category=DeprecationWarning)  # of jsonargparse
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")  # of torch
        # The loaders here are small: more processes than cores are no help.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Of course: the logger and the copy of the config stand in the same folder.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        # Nothing is to be restored: the weights of such a checkpoint are the average.
        warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback, but loading a checkpoint outside")
        # Convoy's own returns every sentence.
        warnings.filterwarnings("ignore", message=".*custom batch sampler `BatchSampler` for prediction")
        tips.addFilter(_is_no_advertisement)
        try:
            yield
        finally:
            tips.removeFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()


if __name__ == "__main__":
    main(sys.argv[1:])
