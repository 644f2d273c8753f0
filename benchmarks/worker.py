"""A process that stays loaded and works when it is told to, so that programs can take turns on the same cores."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "MKL_NUM_THREADS", "CONVOY_THREADS")
MARK = "= "  # begins an answer; what libraries print does not


class Worker:
    """Runs a command on some cores, reads what it says when it is ready, and then one answer for each line that it is sent."""

    def __init__(self, command: Sequence[str], cores: Sequence[int]) -> None:
        self.process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **dict.fromkeys(THREADS, str(len(cores))), "PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        self.ready = self._answer()

    def turn(self, line: object = "go") -> float:
        """Seconds that the work took."""
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        self.process.communicate(timeout=60)

    def _answer(self) -> str:
        assert self.process.stdout
        while line := self.process.stdout.readline():
            if line.startswith(MARK):
                return line.removeprefix(MARK)
        sys.exit(f"{self.process.args!r} stopped with exit status {self.process.wait()}; its message is above")


def peer_python(environment: Path, packages: Sequence[str]) -> str:
    """The interpreter of a peer's own environment, made if it is not there: these packages alone, over what ours has."""
    python, done = environment / "bin" / "python", environment / f"{packages[0]}.installed"
    if not done.exists():
        print(f"installing {packages[0]} into {environment}", file=sys.stderr)
        venv.create(environment, clear=True, with_pip=True)
        folder = next((environment / "lib").glob("python*/site-packages"))
        (folder / "convoy.pth").write_text("\n".join(site.getsitepackages()), "utf-8")
        command = [python, "-m", "pip", "install", "--quiet", "--no-deps", *packages]
        subprocess.run(command, check=True, stdout=sys.stderr)
        done.touch()
    return str(python)


def answer(text: object) -> None:
    """What a worker prints to be heard."""
    print(f"{MARK}{text}", flush=True)
