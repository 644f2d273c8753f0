"""How far our Conv-TasNet with Asteroid's weights is from Asteroid's own, on random input.

    python benchmarks/asteroid_parity.py

Asteroid lives in an environment of its own, which the first run makes in ``benchmarks/.venv-asteroid``: it reads torch and the
rest from the environment that runs this, and what it asks for beside (older torchmetrics among it) is left out, for its networks
need none of it. Each network has random weights, biases and norms included; it is serialized by Asteroid, read by
``models.separator.state_dicts.from_asteroid``, and both get the same recordings. Prints a table, then JSON; fails over 1e-5.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from worker import peer_python

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "benchmarks" / ".venv-asteroid"
PACKAGES = ["asteroid==0.7.0", "asteroid-filterbanks==0.4.0", "huggingface-hub==2.4.0", "requests==2.34.2", "urllib3==2.8.0"]
LARGEST = 1e-5

SMALL = {"n_filters": 64, "bn_chan": 24, "hid_chan": 48, "skip_chan": 24, "n_blocks": 4, "n_repeats": 2}
NETWORKS: dict[str, dict[str, Any]] = {
    "the paper's size": {},
    "3 speakers, ReLU masks": {**SMALL, "n_src": 3, "mask_act": "relu"},
    "softmax masks, ReLU encoder": {**SMALL, "mask_act": "softmax", "encoder_activation": "relu"},
    "no skip path, P = 5": {**SMALL, "skip_chan": 0, "conv_kernel_size": 5},
    "cumulative norm": {**SMALL, "norm_type": "cgLN"},
    "causal": {**SMALL, "norm_type": "cgLN", "causal": True, "conv_kernel_size": 5},
    "L = 20, hop 5": {**SMALL, "kernel_size": 20, "stride": 5},
}


def main() -> None:
    if "asteroid" not in sys.argv[1:]:
        peer = asteroid_python()
        done = subprocess.run([peer, __file__, "asteroid"], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
        sys.exit(done.returncode)
    warnings.simplefilter("ignore")
    rows = {name: difference(arguments) for name, arguments in NETWORKS.items()}
    print(f"{'network':32} {'largest difference':>20} {'largest sample':>16}")
    for name, (error, peak) in rows.items():
        print(f"{name:32} {error:20.2g} {peak:16.3g}")
    print(json.dumps({name: error for name, (error, _) in rows.items()}))
    sys.exit(any(error > LARGEST for error, _ in rows.values()))


def asteroid_python() -> str:
    """The interpreter of Asteroid's environment, made if it is not there."""
    return peer_python(ENVIRONMENT, PACKAGES)


def difference(arguments: dict[str, Any]) -> tuple[float, float]:
    """Largest absolute difference and largest sample over recordings of several lengths, at the level of sound."""
    import torch
    from asteroid.models import ConvTasNet as Asteroid

    from models.separator.network import ConvTasNet
    from models.separator.state_dicts import from_asteroid

    torch.manual_seed(0)
    theirs = Asteroid(**{"n_src": 2, **arguments}).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    settings, state = from_asteroid(theirs.serialize())
    ours = ConvTasNet(settings).eval()
    ours.load_state_dict(state)
    error = peak = 0.0
    for frames in (1, 7, 100, 1999):
        mixture = 0.3 * torch.randn(2, frames * settings.step + settings.length - settings.step)
        with torch.no_grad():
            expected, got = theirs(mixture[:, None]), ours(mixture)
        error = max(error, float((expected - got).abs().max()))
        peak = max(peak, float(expected.abs().max()))
    return error, peak


if __name__ == "__main__":
    main()
