"""An hour of sound: memory and time of the separators, from file to file and as a live stream.

    python benchmarks/separator_long.py

From file to file, `separator-2speakers` takes recordings of 60 s and of an hour apart, each in a process of its own: peak memory
above that of the process with its bundle loaded, and seconds for each second of sound. As a stream, `separator-2speakers-causal`
takes an hour in chunks of 20 ms on one core: its real-time factor, and the time of a chunk in the first and in the last
minutes. The recording is that of services/page/samples, again and again. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SAMPLE = ROOT / "services" / "page" / "samples" / "two-speakers.flac"
RATE = 8000
SHORT, LONG = 60, 3600
CHUNK = RATE // 50  # 20 ms
MINUTES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", default=str(ROOT / "pretrained" / "separator-2speakers"), help="bundle for files")
    parser.add_argument("--live", default=str(ROOT / "pretrained" / "separator-2speakers-causal"), help="bundle for the stream")
    parser.add_argument("--cores", type=int, default=2, help="cores for files (default: 2)")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, seconds = arguments.worker
        print(json.dumps(stream(arguments.live, int(seconds)) if kind == "stream" else file(arguments.files, int(seconds))))
        return
    cores = sorted(os.sched_getaffinity(0))
    figures = {f"file_{seconds}": run(arguments, "file", seconds, cores[: arguments.cores]) for seconds in (SHORT, LONG, SHORT)}
    ratio = figures[f"file_{LONG}"]["per_second"] / figures[f"file_{SHORT}"]["per_second"]
    print(json.dumps({**figures, "hour_over_minute": ratio, "stream": run(arguments, "stream", LONG, cores[:1])}, indent=2))


def run(arguments: argparse.Namespace, kind: str, seconds: int, cores: list[int]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--files", arguments.files, "--live", arguments.live, "--worker", kind, str(seconds)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, cores)
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def file(bundle: str, seconds: int) -> dict[str, Any]:
    import numpy as np
    import soundfile

    from models.separator import Separator

    separator = Separator.load(bundle)
    sample, _ = soundfile.read(SAMPLE, dtype="int16")
    with tempfile.TemporaryDirectory() as folder:
        recording, voices = Path(folder) / "recording.flac", Path(folder) / "voices.wav"
        with soundfile.SoundFile(recording, "w", RATE, 1, "PCM_16") as target:
            for _ in range(seconds * RATE // len(sample)):
                target.write(sample)
        separator.separate(np.zeros(RATE, np.float32), RATE)
        idle, start = resident(), time.perf_counter()
        separator.separate_file(recording, voices)
        taken = time.perf_counter() - start
        written = soundfile.info(voices)
        if (written.frames, written.channels) != (seconds * RATE, 2):
            sys.exit(f"{written.frames} samples of {written.channels} voices for {seconds} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"per_second": taken / seconds, "idle_mib": idle, "above_idle_mib": peak - idle}


def stream(bundle: str, seconds: int) -> dict[str, Any]:
    import numpy as np
    import soundfile

    from models.separator import Separator

    live = Separator.load(bundle).stream(RATE)
    sample, _ = soundfile.read(SAMPLE, dtype="float32")
    chunks = [sample[start : start + CHUNK] for start in range(0, len(sample), CHUNK)]
    idle, taken = resident(), []
    for number in range(seconds * RATE // CHUNK):
        start = time.perf_counter()
        live.push(chunks[number % len(chunks)])
        taken.append(time.perf_counter() - start)
    edge = MINUTES * 60 * RATE // CHUNK
    first, last = statistics.median(taken[:edge]), statistics.median(taken[-edge:])
    return {
        "real_time_factor": sum(taken) / seconds,
        "chunk_ms": {"first": 1000 * first, "last": 1000 * last, "99_percent": 1000 * float(np.quantile(taken, 0.99))},
        "last_over_first": last / first,
        "delay_ms": 1000 * live.delay_samples / RATE,
        "grown_mib": resident() - idle,
    }


def resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
