"""What a run does when it is told to go: Kubernetes, SLURM and `docker stop` send SIGTERM and wait for some time."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

TOLD_TO_GO = 128 + signal.SIGTERM  # as a shell tells it: 143


class LeaveOnSigterm(Checkpoint):
    """At SIGTERM, writes last.ckpt after the batch that is being learnt from and ends the run with exit code 143.

    A run that goes on from there ends where an uninterrupted one ends. Where the batch is the last of an epoch, and during a
    validation, the checkpoint is that of the epoch's end; where gradients accumulate, it waits for the step.

    A subclass of ``Checkpoint``, since Lightning calls those after all other callbacks, which may still change weights. It stands
    in for Lightning's own handling of the signal, which keeps nothing, exits with 0, and broadcasts from within the signal
    handler, where another exchange between the processes may be under way.
    """

    def __init__(self) -> None:
        self.told = False

    def on_sanity_check_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._listen()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_last_batch and not trainer.fit_loop._should_accumulate():
            self._leave_if_told(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._leave_if_told(trainer)

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, number: int, frame: object) -> None:
        self.told = True

    def _leave_if_told(self, trainer: lightning.Trainer) -> None:
        # Together: the signal reaches processes at different times, or only one of them.
        if not trainer.strategy.reduce_boolean_decision(self.told, all=False):
            return
        place = last_checkpoint(trainer)
        if place is None:
            rank_zero_info("Ended by SIGTERM. No callback keeps checkpoints, so nothing was kept.")
        else:
            trainer.save_checkpoint(place)
            step = trainer.global_step
            rank_zero_info(f"Ended by SIGTERM after step {step}, kept in {place}: --ckpt_path last goes on from there.")
        raise SystemExit(0 if _started_by_us(trainer) else TOLD_TO_GO)


def last_checkpoint(trainer: lightning.Trainer) -> Path | None:
    """Where ``--ckpt_path last`` looks: last.ckpt in the folder of the callback that writes it, or else of the first one."""
    keeping = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    name = ModelCheckpoint.CHECKPOINT_NAME_LAST
    for callback in sorted(keeping, key=lambda each: not (each.save_last or each.filename == name)):
        if callback.dirpath is not None:
            return Path(callback.dirpath) / f"{name}{ModelCheckpoint.FILE_EXTENSION}"
    return None


def _started_by_us(trainer: lightning.Trainer) -> bool:
    """Whether this is a process that the first one started: at any code but 0 of theirs, Lightning kills the first one."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return trainer.local_rank > 0 and environment is not None and not environment.creates_processes_externally
