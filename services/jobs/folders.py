"""A folder per accepted job, below ``CONVOY_JOBS``: what came, what is known of it, what was made.

    CONVOY_JOBS/
      separate/ID/      a job: upload, job.json, attempts, progress, work-…/ (what is made of it), outcome.json
      convoy-…/         uploads that are still arriving, of one process each (`services.workspace`)
      removed/          on their way out
      workers/N.lock    held by worker N while it lives (`services.jobs.slots`)
      jobs.sqlite       the line, where no other database is named (`services.jobs.line`)

What must survive a loss of power is written through to the disk before it is relied on. Everything that the line knows of a job
that waits stands in its folder too, so that a damaged database costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.disk import sync

About = dict[str, Any]
"""Of a job, in JSON: kind, name and fields of its upload, owner, request, created_at."""
Outcome = dict[str, Any]
"""What became of a job, in JSON: completed_at, and made or error."""

_ID = re.compile(r"[0-9a-f]{32}")
_REMOVED = "removed"


@dataclass(frozen=True)
class JobFolder:
    """One job's folder."""

    path: Path

    @property
    def upload(self) -> Path:
        return self.path / "upload"

    def about(self) -> About | None:
        """What was said when the job was accepted; None where that is lost."""
        return _read(self.path / "job.json")

    def attempts(self) -> int:
        """How often work on it was begun and neither ended nor given back: how many processes it has seen die."""
        try:
            return max(int((self.path / "attempts").read_text("ascii")), 0)
        except (OSError, ValueError):
            return 0

    def set_attempts(self, number: int) -> None:
        write_through(self.path / "attempts", str(number))

    def progress(self) -> float:
        """The part that is done, 0 to 1, as last reported."""
        try:
            part = float((self.path / "progress").read_text("ascii"))
        except (OSError, ValueError):
            part = 0.0
        return part if 0 <= part <= 1 else 0.0

    def set_progress(self, part: float) -> None:
        """Best effort: nobody's work ends because this could not be written."""
        with contextlib.suppress(OSError):
            (self.path / "progress.new").write_text(f"{part:.3f}", "ascii")
            (self.path / "progress.new").replace(self.path / "progress")

    @contextlib.contextmanager
    def attempt(self) -> Iterator[Path]:
        """An empty folder for one attempt; those of earlier ones go. It goes too where the block raises."""
        self._remove_work()
        folder = Path(tempfile.mkdtemp(prefix="work-", dir=self.path))
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def outcome(self) -> Outcome | None:
        """What became of it, where it is done."""
        return _read(self.path / "outcome.json")

    def conclude(self, outcome: Outcome) -> None:
        """Keep what became of it, through to the disk; then what it came from is no longer needed."""
        if "error" in outcome:
            self._remove_work()  # first: room for the rest, where the disk is full
            self.upload.unlink(missing_ok=True)
        else:
            for path in sorted(self.path.glob("work-*/**/*")):
                sync(path)
        write_through(self.path / "outcome.json", json.dumps(outcome))
        self.upload.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything but the folder, which is counted until its time is over."""
        self._remove_work()
        self.upload.unlink(missing_ok=True)

    def _remove_work(self) -> None:
        for folder in self.path.glob("work-*"):
            shutil.rmtree(folder, ignore_errors=True)


class JobFolders:
    """All of them, below `root`; nothing is made before `make`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self) -> None:
        """Make the folder, for this user alone; OSError where that cannot be."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.root / _REMOVED).mkdir(mode=0o700, exist_ok=True)

    def of(self, kind: str, job_id: str) -> JobFolder:
        return JobFolder(self.root / kind / job_id)

    def accept(self, kind: str, job_id: str, arrived: Path, about: Mapping[str, Any]) -> None:
        """Make the folder of an upload the job's. When this returns, the next loss of power does not matter."""
        sync(arrived / "upload")
        write_through(arrived / "job.json", json.dumps(about))
        (self.root / kind).mkdir(mode=0o700, exist_ok=True)
        arrived.rename(self.root / kind / job_id)
        for folder in (self.root / kind, self.root):
            sync(folder)

    def known(self, kind: str) -> list[str]:
        """Ids of the jobs that have a folder."""
        with contextlib.suppress(OSError):
            return [path.name for path in (self.root / kind).iterdir() if is_id(path.name)]
        return []

    def remove(self, kind: str, job_id: str) -> Path | None:
        """Take a job's folder out of sight, whole; None where another worker was faster. `sweep` does the rest."""
        target = self.root / _REMOVED / job_id
        try:
            return self.of(kind, job_id).path.rename(target)
        except OSError:
            return None

    def sweep(self) -> None:
        """Remove for good what was taken out of sight."""
        for folder in (self.root / _REMOVED).glob("*"):
            shutil.rmtree(folder, ignore_errors=True)


def is_id(text: str) -> bool:
    """Whether this could be a job's id; anything else never becomes a path."""
    return _ID.fullmatch(text) is not None


def write_through(path: Path, text: str) -> None:
    """Replace a file by `text`: whoever reads sees the old or the new one, also after a loss of power."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync(path.parent)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
