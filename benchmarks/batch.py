"""Batch runs over two thousand real files, killed again and again, on this machine and on a Ray cluster of two nodes.

    convoy fetch voices-en voices-es mni152 reviews
    python benchmarks/batch.py                       about 15 minutes on two cores
    python benchmarks/batch.py --engine local --kills 3

First `convoy tag`, `separate` and `segment` work on the corpus of `batch_corpus.py` undisturbed. Then the same on each engine,
killed (SIGKILL, the whole process group) after random times, each time started again; on the cluster a node is lost every other
time and a new one comes. In the end every output and manifest has to be what the undisturbed run made, byte for byte.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import batch_corpus
import psutil

ROOT = Path(__file__).resolve().parent.parent
TASKS = {
    "tag": ("texts", ["tagger-en", "tagger-zh"]),
    "separate": ("sounds", ["separator-2speakers"]),
    "segment": ("volumes", ["segmenter-hippocampus"]),
}
RAY = str(Path(sys.executable).parent / "ray")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--corpus", type=Path, default=ROOT / "runs" / "corpus", help="made if it is not there")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "batch", help="emptied first")
    parser.add_argument("--engine", choices=["local", "ray"], action="append", help="only this one")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not given.corpus.is_dir():
        batch_corpus.make(given.corpus, ROOT / "data", 1000, 500, 600)
    shutil.rmtree(given.out, ignore_errors=True)
    seconds = {task: undisturbed(task, given) for task in TASKS}
    print(f"undisturbed: {', '.join(f'{task} {taken:.1f} s' for task, taken in seconds.items())}", flush=True)
    wrong = [line for engine in given.engine or ["local", "ray"] for line in disturbed(engine, given, seconds)]
    sys.exit("\n".join(wrong) or None)


def undisturbed(task: str, given: argparse.Namespace) -> float:
    started = time.perf_counter()
    code = subprocess.run(command(task, given, "undisturbed"), cwd=ROOT, capture_output=True).returncode
    if code != 1:
        sys.exit(f"convoy {task} ended with {code}, and not with 1 for its broken files")
    return time.perf_counter() - started


def disturbed(engine: str, given: argparse.Namespace, seconds: dict[str, float]) -> Iterator[str]:
    """What differs in the end, a line each."""
    chance, killed = random.Random(given.seed), 0
    with cluster() if engine == "ray" else nothing() as nodes:
        more = ["--engine", "ray", "--address", nodes.address] if nodes else []
        for number in range(given.kills):
            task = list(TASKS)[number % len(TASKS)]
            start_up = 8.0 if nodes else 2.0
            share = min(0.3, 1 / math.ceil(given.kills / len(TASKS)))  # so that a task's last kill still finds work
            after = start_up + chance.uniform(0, share) * seconds[task]
            early = run_and_kill(command(task, given, engine, *more), after)
            killed += early
            lost = nodes.lose_one() if nodes and number % 2 else ""
            print(f"{engine}: {task} {'killed' if early else 'ended before'} after {after:.1f} s{lost}", flush=True)
        for task in TASKS:
            said = subprocess.run(command(task, given, engine, *more), cwd=ROOT, capture_output=True, text=True)
            print(f"{engine}: {task} ended with {said.returncode}\n{''.join(said.stderr.splitlines(True)[-6:])}", flush=True)
    print(f"{engine}: {killed} of {given.kills} kills came before the end")
    for task in TASKS:
        first, second = (tree(given.out / which / task) for which in ("undisturbed", engine))
        differ = [name for name in sorted(first.keys() | second.keys()) if first.get(name) != second.get(name)]
        outputs = sum(not name.startswith((".convoy", "manifest")) for name in first)
        print(f"{engine}: {task}: {outputs} outputs, {len(first)} files, {len(differ)} differ", flush=True)
        yield from (f"{engine}: {task}: {name} differs" for name in differ)


def command(task: str, given: argparse.Namespace, run: str, *more: str) -> list[str]:
    folder, bundles = TASKS[task]
    chosen = [part for name in bundles for part in ("--bundle", str(ROOT / "pretrained" / name))]
    program = [sys.executable, "-m", "convoy", task, str(given.corpus / folder), "--out", str(given.out / run / task)]
    return [*program, *chosen, *more]


def run_and_kill(arguments: list[str], seconds: float) -> bool:
    process = subprocess.Popen(arguments, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def tree(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@contextmanager
def nothing() -> Iterator[None]:
    yield None


class Nodes:
    """Two Ray nodes of one processor each, on this machine."""

    def __init__(self, folder: str) -> None:
        self.address = "127.0.0.1:6399"
        self._folder = folder
        os.environ["RAY_AUTH_MODE"] = "token"  # here and for the runs: unset, only the head takes it from the token that is there
        subprocess.run([RAY, "get-auth-token", "--generate"], check=True, capture_output=True)
        self._ray("start", "--head", "--port", "6399", "--temp-dir", folder)
        self._second = self._join()

    def lose_one(self) -> str:
        """Kill a node and everything on it, and let a new one come."""
        for process in [self._second, *self._second.children(recursive=True)]:
            process.kill()
        self._second = self._join()
        return ", and a node lost"

    def close(self) -> None:
        subprocess.run([RAY, "stop", "--force"], capture_output=True)

    def _join(self) -> psutil.Process:
        before = {raylet.pid for raylet in raylets()}
        self._ray("start", "--address", self.address)
        [raylet] = [raylet for raylet in raylets() if raylet.pid not in before]
        return raylet

    def _ray(self, *arguments: str) -> None:
        program = [RAY, *arguments, "--num-cpus", "1", "--disable-usage-stats"]
        done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        if done.returncode:
            sys.exit(done.stdout + done.stderr)


def raylets() -> list[psutil.Process]:
    """What runs now: others end while one looks, and `process_iter` leaves those out only where it is told what to ask for."""
    return [process for process in psutil.process_iter(["name"]) if process.info["name"] == "raylet"]


@contextmanager
def cluster() -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        nodes = Nodes(folder)
        try:
            yield nodes
        finally:
            nodes.close()


if __name__ == "__main__":
    main()
