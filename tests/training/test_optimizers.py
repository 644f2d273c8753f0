from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from training.optimizers import Muon, make_optimizer, orthogonal, rate


def test_the_rate_rises_then_falls_along_a_cosine():
    rates = [rate(step, 100, 0.1, "cosine") for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0, abs=1e-6)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[32] == pytest.approx(0.5 * (1 + math.cos(math.pi * 22 / 90)))


def test_the_rate_stays_where_it_is_wanted_constant():
    assert [rate(step, 100, 0.02, "constant") for step in range(5)] == [0.5, 1, 1, 1, 1]


def test_a_trapezoid_stays_up_and_falls_straight_in_the_last_quarter():
    rates = [rate(step, 100, 0.02, "trapezoid") for step in range(101)]
    assert rates[:2] == [0.5, 1.0]
    assert set(rates[2:76]) == {1.0}
    assert rates[75:] == pytest.approx([step / 25 for step in range(25, -1, -1)])
    assert rate(75, 100, 0.02, "trapezoid", falling=0.5) == 0.5


@given(st.integers(1, 50), st.floats(0, 1), st.integers(0, 50), st.sampled_from(["cosine", "constant", "trapezoid"]))
def test_the_rate_is_a_share(steps, warmup, step, schedule):
    assert 0 <= rate(step, steps, warmup, schedule) <= 1


@pytest.mark.parametrize(
    ("kind", "expected"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD), ("muon", Muon)]
)
def test_optimisers(kind, expected):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = make_optimizer(kind, [parameter], 0.1, 0.01)
    assert type(optimizer) is expected
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.1, 0.01)
    assert optimizer.defaults.get("momentum", 0.9) == (0.95 if kind == "muon" else 0.9)
    for _ in range(50):
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        optimizer.step()
    assert parameter.abs().max() < 0.5


def test_an_unknown_optimiser():
    with pytest.raises(ConfigError, match="adamw"):
        make_optimizer("lion", [], 0.1, 0)


@given(st.integers(4, 40), st.integers(4, 40), st.integers(0, 1000))
def test_a_step_of_muon_has_singular_values_near_one(rows, columns, seed):
    result = orthogonal(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)), steps=10)
    assert result.shape == (rows, columns)
    values = torch.linalg.svdvals(result)
    assert values.max() < 1.3
    assert values.min() > 0.3


def test_muon_steps_as_torch_does():
    """torch.optim.Muon computes in bfloat16, whose numbers have two to three digits."""
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(24, 40))
    theirs = torch.nn.Parameter(ours.detach().clone())
    settings = {"lr": 0.02, "weight_decay": 0.1}
    pairs = [
        (ours, Muon([ours], **settings)),
        (theirs, torch.optim.Muon([theirs], momentum=0.95, adjust_lr_fn="match_rms_adamw", **settings)),
    ]
    start = ours.detach().clone()
    for _ in range(5):
        gradient = torch.randn(24, 40)
        for parameter, optimizer in pairs:
            parameter.grad = gradient.clone()
            optimizer.step()
    assert (ours - start).norm() > 0.3
    assert (ours - theirs).norm() < 0.03 * (ours - start).norm()


def test_muon_goes_on_from_its_state():
    torch.manual_seed(0)
    gradients = [torch.randn(6, 8) for _ in range(4)]
    straight, resumed = (torch.nn.Parameter(torch.ones(6, 8)) for _ in range(2))
    first, second = Muon([straight], 0.1), Muon([resumed], 0.1)
    for number, gradient in enumerate(gradients):
        if number == 2:
            saved = second.state_dict()
            second = Muon([resumed], 0.1)
            second.load_state_dict(saved)
        straight.grad, resumed.grad = gradient, gradient.clone()
        first.step()
        second.step()
    assert torch.equal(straight, resumed)
