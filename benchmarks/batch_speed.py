"""Throughput of batch runs against one predictor pinned to a core times the cores, and the memory that they take.

    python benchmarks/batch_speed.py                       after benchmarks/batch_corpus.py runs/corpus
    python benchmarks/batch_speed.py --memory              a folder of recordings of an hour, and of volumes of 512³

Rounds: the pinned predictor works on every fourth file of the task, then the pool and Ray on all of them, from the command to
its end, starting up included. Asked: the pool at least 90 %, Ray within 15 % of the pool. Memory is the largest sum of all
processes' resident memory less what they share (PSS).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from batch import ROOT, TASKS
from worker import Worker, answer

SUFFIX_FUNCTIONS = {"tag": "text", "separate": "sound", "segment": "volumes"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--corpus", type=Path, default=ROOT / "runs" / "corpus")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--task", choices=list(TASKS), action="append")
    parser.add_argument(
        "--repeat",
        type=int,
        default=4,
        help="how often each recording and text is repeated within its file, and each volume given",
    )
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        predict(given.worker[0], Path(given.worker[1]))
    elif given.memory:
        memory()
    else:
        for task in given.task or TASKS:
            compare(task, given)


def compare(task: str, given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as name:
        folder = Path(name)
        inputs = lengthened(task, given.corpus / TASKS[task][0], folder / "in", given.repeat)
        predictor = Worker([sys.executable, __file__, "--worker", task, str(inputs)], [0])
        share, times = float(predictor.ready.split()[0]), {"pinned": [], "pool": [], "ray": []}
        for _ in range(given.rounds):
            times["pinned"].append(predictor.turn() / share / given.cores)
            times["pool"].append(timed(task, inputs, folder / "out"))
            if not given.no_ray:
                times["ray"].append(timed(task, inputs, folder / "out", "--engine", "ray"))
        predictor.close()
    pinned = statistics.median(times["pinned"])
    print(f"{task}: {given.cores} cores × one pinned predictor: {pinned:.1f} s")
    for engine in ("pool", "ray"):
        if times[engine]:
            ratio = statistics.median(a / b for a, b in zip(times["pinned"], times[engine], strict=True))
            print(f"  {engine}: {statistics.median(times[engine]):.1f} s, {ratio:.0%}", flush=True)


def lengthened(task: str, source: Path, target: Path, repeat: int) -> Path:
    """The good files of a corpus, recordings and texts made longer, of volumes several copies."""
    import soundfile

    for path in sorted(source.rglob("*.*")):
        if path.stat().st_size < 20:  # broken
            continue
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if task == "separate":
            samples, rate = soundfile.read(path, dtype="float32")
            soundfile.write(place.with_suffix(".flac"), np.tile(samples, repeat), rate)
        elif task == "tag":
            place.write_text(path.read_text("utf-8") * repeat, "utf-8")
        else:
            for number in range(repeat):
                shutil.copy(path, place.with_name(f"{number}-{place.name}"))
    return target


def timed(task: str, inputs: Path, out: Path, *more: str) -> float:
    shutil.rmtree(out, ignore_errors=True)
    bundles = [part for name in TASKS[task][1] for part in ("--bundle", str(ROOT / "pretrained" / name))]
    command = [sys.executable, "-m", "convoy", task, str(inputs), "--out", str(out), *bundles, *more]
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def predict(task: str, inputs: Path) -> None:
    """The pinned predictor: works on every fourth file, reading and writing as the pool's processes do, without records."""
    import importlib

    from services.batch.records import Assignment
    from services.batch.sources import find_items
    from services.batch.work import open_handler

    module = importlib.import_module(f"services.batch.{SUFFIX_FUNCTIONS[task]}")
    items = find_items([str(inputs)], module.SUFFIXES)
    part = items[::4]
    options = {"flips": "", "suffix": None} if task == "segment" else {}
    bundles = tuple(str(ROOT / "pretrained" / name) for name in TASKS[task][1])
    handler = open_handler(Assignment(task, bundles, (), options, ""))
    share = sum(item.size for item in part) / sum(item.size for item in items)
    answer(f"{share} ready")
    for _ in sys.stdin:
        with tempfile.TemporaryDirectory(dir=inputs.parent) as out:
            started = time.perf_counter()
            for item in part:
                handler(Path(item.address), item, Path(out), lambda done, total: None)
            answer(time.perf_counter() - started)


def memory() -> None:
    import nibabel
    import soundfile

    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as name:
        folder = Path(name)
        (folder / "sounds").mkdir()
        (folder / "volumes").mkdir()
        random = np.random.default_rng(0)
        for number in range(4):
            soundfile.write(folder / "sounds" / f"{number}.flac", 0.1 * random.standard_normal(3600 * 8000), 8000)
        for number in range(2):
            values = random.integers(0, 1000, (512, 512, 512), np.int16)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "volumes" / f"{number}.nii.gz")
        for task in ("separate", "segment"):
            inputs, out, most = folder / TASKS[task][0], folder / "out", [0.0]
            thread = threading.Thread(target=watch, args=(most,), daemon=True)
            thread.start()
            seconds = timed(task, inputs, out)
            print(
                f"{task}: {len(list(inputs.iterdir()))} files in {seconds:.0f} s, at most {most[0] / 2**20:.0f} MiB", flush=True
            )


def watch(most: list[float]) -> None:
    """The largest PSS of this process's children, added up."""
    while True:
        total = 0.0
        for child in psutil.Process().children(recursive=True):
            try:
                total += child.memory_full_info().pss
            except psutil.Error:
                continue
        most[0] = max(most[0], total)
        time.sleep(0.2)


if __name__ == "__main__":
    main()
