"""Optimisers for parameters that live on a manifold, for models trained with autograd.

Steps follow geodesics and moments are carried along by parallel transport, so that parameters never leave the
manifold and directions keep their meaning (Bonnabel 2013; Becigneul & Ganea 2019, algorithm 1a). The second moment is
one number a point, the squared length of its gradient: coordinates have no meaning of their own on a manifold.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from holonomy.core.errors import ConfigError
from holonomy.geometry import normal
from holonomy.geometry.manifold import Manifold


class _OnManifold(Optimizer):
    def __init__(self, params: Iterable[Tensor], manifold: Manifold, defaults: dict[str, Any]) -> None:
        if not defaults["lr"] > 0:
            raise ConfigError(f"`lr` is {defaults['lr']}; wanted a number above zero")
        self.manifold = manifold
        super().__init__(params, defaults)
        for group in self.param_groups:
            for point in group["params"]:
                manifold.check_point(point.detach())

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Moves every parameter that has a gradient."""
        for group in self.param_groups:
            for point in group["params"]:
                if point.grad is not None:
                    gradient = self.manifold.gradient(point, point.grad)
                    self._move(point, gradient, self.state[point], group)

    def _move(self, point: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise AssertionError("a subclass moves")

    def _follow(self, point: Tensor, velocity: Tensor, *carried: Tensor) -> list[Tensor]:
        arrived = self.manifold.project(self.manifold.exp(point, velocity))
        moved = [self.manifold.transport(point, arrived, v) for v in carried]
        point.copy_(arrived)
        return moved


class RiemannianSGD(_OnManifold):
    """Gradient descent along geodesics, with momentum.

    Args:
        params: points of the manifold, coordinates on the last axis.
        manifold: where they live.
        lr: step per unit of gradient.
        momentum: share of the last velocity that is kept.

    Raises:
        ConfigError: a parameter is not on the manifold, or lr is not above zero.
    """

    def __init__(self, params: Iterable[Tensor], manifold: Manifold, *, lr: float, momentum: float = 0.0) -> None:
        super().__init__(params, manifold, {"lr": lr, "momentum": momentum})

    def _move(self, point: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        velocity = gradient + group["momentum"] * state.get("velocity", torch.zeros_like(gradient))
        (state["velocity"],) = self._follow(point, -group["lr"] * velocity, velocity)


class RiemannianAdam(_OnManifold):
    """Adam along geodesics.

    Args:
        params: points of the manifold, coordinates on the last axis.
        manifold: where they live.
        lr: length of a step where gradients keep their direction.
        betas: decay of the first and of the second moment.
        eps: added to the root of the second moment.

    Raises:
        ConfigError: a parameter is not on the manifold, or lr is not above zero.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        manifold: Manifold,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, manifold, {"lr": lr, "betas": betas, "eps": eps})

    def _move(self, point: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        b1, b2 = group["betas"]
        count = state["count"] = state.get("count", 0) + 1
        square = self.manifold.inner(point, gradient, gradient).unsqueeze(-1)
        first = b1 * state.get("first", torch.zeros_like(gradient)) + (1 - b1) * gradient
        state["second"] = b2 * state.get("second", torch.zeros_like(square)) + (1 - b2) * square
        root = (state["second"] / (1 - b2**count)).sqrt() + group["eps"]
        (state["first"],) = self._follow(point, -group["lr"] * (first / (1 - b1**count)) / root, first)


class NormalAdam(Optimizer):
    """Adam for points of hyperbolic space in normal coordinates, at radii where the optimisers above fail.

    A tangent in coordinates of the ball or of the hyperboloid loses its digits in float64 from radius 17 on: what is
    left of it after cancellation is of size e^(-2r) or e^(2r). Here moments and steps live in the orthonormal frame
    along and across the radius, where every length is as it is. A step is straight in normal coordinates, which is a
    geodesic along the radius and one to first order across it; frames of near points are near, so moments stay.

    Args:
        params: normal coordinates [..., n].
        k: curvature, below zero.
        lr, betas, eps: as in `RiemannianAdam`.
        max_radius: points beyond it are put back on it.

    Raises:
        ConfigError: lr is not above zero.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        k: Tensor,
        *,
        lr: float,
        max_radius: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not lr > 0:
            raise ConfigError(f"`lr` is {lr}; wanted a number above zero")
        self.k, self.max_radius = k, max_radius
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Moves every parameter that has a gradient."""
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for v in group["params"]:
                if v.grad is None:
                    continue
                state = self.state[v]
                slope = normal.whiten(v, v.grad, self.k)
                square = slope.square().sum(-1, keepdim=True)
                count = state["count"] = state.get("count", 0) + 1
                first = state["first"] = b1 * state.get("first", torch.zeros_like(v)) + (1 - b1) * slope
                second = state["second"] = b2 * state.get("second", torch.zeros_like(square)) + (1 - b2) * square
                root = (second / (1 - b2**count)).sqrt() + group["eps"]
                v.sub_(normal.whiten(v, group["lr"] * (first / (1 - b1**count)) / root, self.k))
                radius = v.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
                v.mul_((self.max_radius / radius).clamp_max(1))
