from __future__ import annotations

import numpy as np
import pytest

from models.products import ONE_THREAD, product


@pytest.mark.parametrize(
    ("rows", "inner", "outer"), [(1, 3, 3), (16, 128, 128), (17, 128, 128), (33, 128, 24), (2, 600, 600), (0, 5, 2)]
)
def test_products_in_parts_are_the_whole_product(rows, inner, outer):
    random = np.random.default_rng(0)
    left, right = random.random((rows, inner)), random.random((inner, outer))
    np.testing.assert_allclose(product(left, right), left @ right, rtol=1e-13)


def test_no_part_is_shared_out_among_threads(monkeypatch):
    seen = []

    class Watched(np.ndarray):
        def __matmul__(self, other):
            seen.append(self.shape[0] * other.size)
            return np.asarray(self) @ other

    product(np.ones((750, 129)).view(Watched), np.ones((129, 24)))
    assert len(seen) > 1
    assert max(seen) <= ONE_THREAD
