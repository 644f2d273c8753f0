"""Checkpoints that are whole or not there: a power cut, a kill or a full disk leaves the one before."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.plugins.io import TorchCheckpointIO

from models.disk import sync
from models.errors import ConfigError


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, through to the disk, and only then gives it its name.

    Lightning's own goes by way of the system's temporary folder and copies where that is another disk, and waits for no disk.
    Addresses such as s3:// are left to it: a store's objects are whole by themselves.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            ConfigError: it cannot be written, such as on a full disk; the file that was there is as it was.
        """
        if not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # torch writes to memory: on a full disk its own writer ends the process (pytorch issue 156955) or says "unexpected pos".
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        place = Path(path)
        partial = place.with_name(f".{place.name}.partial")  # one name: what a kill leaves, the next checkpoint overwrites
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _write(partial, buffer.getbuffer())
            partial.replace(place)
            sync(place.parent)
        except OSError as error:
            _remove(partial)
            raise ConfigError(
                "the checkpoint cannot be written",
                where=str(path),
                got=error,
                fix="The one before it is whole. Make room or name another folder (dirpath), then go on with `--ckpt_path last`.",
            ) from error


def _write(path: Path, content: memoryview) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the first error is the one to tell
