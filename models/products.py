"""Products of numpy matrices on one thread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
ONE_THREAD = 4 * 65_536  # multiplications that OpenBLAS leaves to one thread: GEMM_MULTITHREAD_THRESHOLD × SMP_THRESHOLD_MIN


def product(rows: Doubles, matrix: Doubles) -> Doubles:
    """``rows @ matrix`` for (n, a) and (a, b), some rows at a time.

    OpenBLAS shares larger products out among all processors and spins until the last is done, which takes fifty times as long
    wherever another thread or process is at work.
    """
    most = max(1, ONE_THREAD // matrix.size)
    if len(rows) <= most:
        return rows @ matrix
    return np.concatenate([rows[start : start + most] @ matrix for start in range(0, len(rows), most)])
