"""AdamW on a flat buffer against torch.optim.AdamW, and its refusal of statistics that are not finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from holonomy.optim.contrastive import AdamW

SETTINGS = {"betas": (0.9, 0.98), "eps": 1e-8}


def flat(params: Tensor, clip: float = math.inf) -> AdamW:
    return AdamW(params, num_decayed=7, decay=0.1, clip=clip, **SETTINGS)  # type: ignore[arg-type]


def statistics(steps: int, size: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(steps, size, generator=generator, dtype=torch.float64).to(dtype)


def test_equals_torch_over_a_hundred_steps(dtype: torch.dtype) -> None:
    start = torch.linspace(-1, 1, 12, dtype=dtype)
    mine = start.clone()
    optimiser = flat(mine, clip=2.0)
    front, back = start[:7].clone().requires_grad_(), start[7:].clone().requires_grad_()
    reference = torch.optim.AdamW(
        [{"params": [front], "weight_decay": 0.1}, {"params": [back], "weight_decay": 0.0}], **SETTINGS
    )
    for step, stat in enumerate(statistics(100, 12, dtype)):
        lr = 1e-2 * (1 + step % 3)
        front.grad, back.grad = stat[:7].clone(), stat[7:].clone()
        torch.nn.utils.clip_grad_norm_([front, back], 2.0)
        for group in reference.param_groups:
            group["lr"] = lr
        reference.step()
        norm = optimiser.update(stat.clone(), lr=lr, loss=torch.zeros(()))
        assert math.isclose(float(norm), float(stat.norm()), rel_tol=1e-6)
    error = (mine - torch.cat([front, back]).detach()).abs().max()
    assert error <= {torch.float32: 1e-6, torch.float64: 1e-13}[dtype]


def test_refuses_what_is_not_finite() -> None:
    params = torch.ones(12)
    optimiser = flat(params)
    optimiser.update(torch.ones(12), lr=1e-2, loss=torch.zeros(()))
    before = [t.clone() for t in (params, *optimiser.state().values())]
    spoiled = torch.ones(12)
    spoiled[3] = math.nan
    optimiser.update(spoiled, lr=1e-2, loss=torch.zeros(()))
    optimiser.update(torch.ones(12), lr=1e-2, loss=torch.tensor(math.inf))
    after = [params, *optimiser.state().values()]
    for old, now in zip(before[:-1], after[:-1], strict=True):
        assert torch.equal(old, now)
    assert int(optimiser.skipped) == 2
    optimiser.update(torch.ones(12), lr=1e-2, loss=torch.zeros(()))
    assert torch.isfinite(params).all() and float(optimiser.count) == 2


def test_state_round_trip_continues_exactly() -> None:
    stats = statistics(6, 12, torch.float32)
    whole, split = torch.ones(12), torch.ones(12)
    first, second = flat(whole), flat(split)
    for stat in stats:
        first.update(stat.clone(), lr=1e-2, loss=torch.zeros(()))
    for stat in stats[:3]:
        second.update(stat.clone(), lr=1e-2, loss=torch.zeros(()))
    third = flat(split)
    third.load_state({k: v.clone() for k, v in second.state().items()})
    for stat in stats[3:]:
        third.update(stat.clone(), lr=1e-2, loss=torch.zeros(()))
    assert torch.equal(whole, split)
