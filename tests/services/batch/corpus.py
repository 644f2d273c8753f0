"""Small files of all three kinds, good ones and bad, and the command line run over them in processes that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

from tests.scans import ball, save

ROOT = Path(__file__).resolve().parents[3]
SENTENCES = ["Ada Lovelace lived in London.", "我爱北京天安门。", "Nothing happens, twice.", "今天天气很好，我们去公园散步。"]


def write_corpus(folder: Path, count: int, seconds: float = 2.0) -> Path:
    """`count` files of each kind below ``texts``, ``sounds`` and ``volumes``, in folders of folders, and a bad one of each."""
    random = np.random.default_rng(7)
    for number in range(count):
        place = f"{'even' if number % 2 == 0 else 'odd/deep'}/{number:04d}"
        text = folder / "texts" / f"{place}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("".join(f"{SENTENCES[line % 4]} {number}\n" for line in range(5 + number % 30)), "utf-8")
        sound = folder / "sounds" / f"{place}.{('wav', 'flac')[number % 2]}"
        sound.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(sound, 0.1 * random.standard_normal(int(8000 * seconds * random.uniform(0.5, 1.5))), 8000)
        save(folder / "volumes" / f"{place}.nii.gz", ball(seed=number)[0])
    (folder / "texts" / "bad.txt").write_bytes(b"\xff\xfe")
    (folder / "sounds" / "bad.wav").write_bytes(b"no sound")
    (folder / "volumes" / "bad.nii.gz").write_bytes(b"\x1f\x8b no volume")
    return folder


def command(task: str, inputs: Sequence[str], out: str, bundles: Sequence[Path], *more: str) -> list[str]:
    chosen = [part for bundle in bundles for part in ("--bundle", str(bundle))]
    return [sys.executable, "-m", "convoy", task, *inputs, "--out", out, *chosen, *more]


class Started:
    """A command in a process group of its own."""

    def __init__(self, arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> None:
        environment = os.environ | {"PYTHONWARNINGS": "ignore", **(settings or {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(arguments, cwd=ROOT, env=environment, start_new_session=True, **pipes)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def finish(self, seconds: float = 120) -> tuple[int, str]:
        """Its exit code, and what it said."""
        said, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, said

    def kill(self) -> None:
        """kill -9, of it and all that it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def run(arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> tuple[int, str]:
    return Started(arguments, settings).finish()


def done_records(out: Path) -> int:
    return len(list((out / ".convoy" / "done").glob("*.json")))


def kill_after(arguments: Sequence[str], out: Path, records: int, pause: float) -> bool:
    """Kill a run some time after so many items are done in all; whether it was killed before it ended."""
    started = Started(arguments)
    while done_records(out) < records and not started.ended():
        time.sleep(0.005)
    time.sleep(pause)
    early = not started.ended()
    started.kill() if early else started.finish()
    return early


def tree(out: Path) -> dict[str, bytes]:
    """Every file of an output folder but the lock."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "lock")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}
