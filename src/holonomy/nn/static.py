"""Static maps with hand-written local products (no recurrence): linear, RMS norm, gated unit, causal FIR."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer, PointwiseLayer
from holonomy.core.tape import Tape


class Linear(PointwiseLayer):
    """y = W x without bias: one matrix product over all tokens.

    Args:
        inputs: channels of x.
        outputs: channels of y.
        std: standard deviation of the initial weights.
        generator: source of the initial weights.

    Attributes:
        product_dtype: what the factors of matrix products are rounded to while learning (with a tape), or None.
            Weights, statistics and everything without a tape keep their precision.
    """

    decays = frozenset({"weight"})

    def __init__(self, inputs: int, outputs: int, *, std: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, generator=generator) * std)
        self.product_dtype: torch.dtype | None = None

    def free(self, x: Float[Tensor, "inputs ..."], tape: Tape | None) -> Float[Tensor, "outputs ..."]:
        """Maps every token; the record is the input and the weight, as they were multiplied."""
        weight, flat = self.weight, x.flatten(1)
        if tape is not None:
            if self.product_dtype is not None:
                weight, flat = weight.to(self.product_dtype), flat.to(self.product_dtype)
            tape.push(self, flat, weight)
        return (weight @ flat).to(x.dtype).view(-1, *x.shape[1:])

    def echo(self, tape: Tape, g: Float[Tensor, "outputs ..."], acc: StatBuffer) -> Float[Tensor, "inputs ..."]:
        """dW = g x^T, dx = W^T g."""
        x, weight = tape.pop(self)
        flat = g.flatten(1).to(x.dtype)
        stat = acc[self.weight]
        if x.dtype == stat.dtype:
            stat.addmm_(flat, x.T)
        else:
            stat.add_(flat @ x.T)
        return (weight.T @ flat).to(g.dtype).view(-1, *g.shape[1:])

    def step(self, x: Float[Tensor, "inputs batch"], state: None) -> tuple[Float[Tensor, "outputs batch"], None]:
        """Maps one token a sequence, without the reshaping that longer inputs need."""
        return torch.mm(self.weight, x), None


class RMSNorm(PointwiseLayer):
    """y = x / sqrt(mean_channels x^2 + eps), per token, without gain."""

    eps = 1e-5

    def free(self, x: Float[Tensor, "channels ..."], tape: Tape | None) -> Float[Tensor, "channels ..."]:
        """Normalises every token; the record is the output and the scale."""
        scale = (x.square().mean(0) + self.eps).rsqrt()
        y = x * scale
        if tape is not None:
            tape.push(self, y, scale)
        return y

    def echo(self, tape: Tape, g: Float[Tensor, "channels ..."], acc: StatBuffer) -> Float[Tensor, "channels ..."]:
        """dx = r (g - y mean(g y))."""
        y, scale = tape.pop(self)
        along = (g * y).mean(0)
        return torch.addcmul(g, y, along, value=-1).mul_(scale)


class GatedUnit(PointwiseLayer):
    """y = silu(a) b, where a and b are the two halves of the input channels."""

    def free(self, x: Float[Tensor, "double ..."], tape: Tape | None) -> Float[Tensor, "half ..."]:
        """Gates the second half by the first; the record is the input and the gate."""
        a, b = x.chunk(2)
        gate = F.silu(a)
        if tape is not None:
            tape.push(self, x, gate)
        return gate * b

    def echo(self, tape: Tape, g: Float[Tensor, "half ..."], acc: StatBuffer) -> Float[Tensor, "double ..."]:
        """da = g b silu'(a), db = g silu(a)."""
        x, gate = tape.pop(self)
        a, b = x.chunk(2)
        dx = torch.empty_like(x)
        da, db = dx.chunk(2)
        silu_product(g * b, a, out=da)
        torch.mul(g, gate, out=db)
        return dx


def silu_product(g: Float[Tensor, ...], a: Float[Tensor, ...], *, out: Tensor) -> Float[Tensor, ...]:
    """g silu'(a) with silu'(a) = s + a s (1 - s), s the logistic function of a, written to `out`."""
    return torch.ops.aten.silu_backward.grad_input(g, a, grad_input=out)


class FIRState(NamedTuple):
    """What a filter carries from token to token.

    Attributes:
        past: the last `taps - 1` inputs, oldest first, [channels, batch, taps - 1].
        taps: the weights in the order of the inputs, [channels, 1, taps]; read once, not every token.
    """

    past: Float[Tensor, "channels batch lag"]
    taps: Float[Tensor, "channels 1 taps"]


class CausalFIR(EchoLayer):
    """Depthwise causal convolution y_t = sum_k w_k x_{t-k} with a few taps.

    Args:
        channels: number of channels, each with its own taps.
        taps: length of the filter.
        generator: source of the initial taps: 1 for lag 0, plus 0.2 N(0, 1) on every tap.
    """

    def __init__(self, channels: int, taps: int, *, generator: torch.Generator) -> None:
        super().__init__()
        weight = 0.2 * torch.randn(channels, taps, generator=generator)
        weight[:, 0] += 1
        self.weight = nn.Parameter(weight)

    @property
    def taps(self) -> int:
        """Length of the filter."""
        return self.weight.shape[1]

    def free(self, x: Float[Tensor, "channels batch time"], tape: Tape | None) -> Float[Tensor, "channels batch time"]:
        """Filters along time from a zero past; the record is the input."""
        if tape is not None:
            tape.push(self, x)
        w = self.weight[:, :, None, None]
        y = x * w[:, 0]
        for k in range(1, min(self.taps, x.shape[-1])):
            y[..., k:].addcmul_(w[:, k], x[..., :-k])
        return y

    def echo(
        self, tape: Tape, g: Float[Tensor, "channels batch time"], acc: StatBuffer
    ) -> Float[Tensor, "channels batch time"]:
        """dw_k = sum_t g_t x_{t-k}, dx_t = sum_k w_k g_{t+k}."""
        (x,) = tape.pop(self)
        stat, w = acc[self.weight], self.weight[:, :, None, None]
        dx = g * w[:, 0]
        stat[:, 0] += (g * x).sum((1, 2))
        for k in range(1, min(self.taps, x.shape[-1])):
            late, early = g[..., k:], x[..., :-k]
            stat[:, k] += (late * early).sum((1, 2))
            dx[..., :-k].addcmul_(w[:, k], late)
        return dx

    def resume(
        self, x: Float[Tensor, "channels batch time"], state: FIRState, tape: Tape | None
    ) -> tuple[Float[Tensor, "channels batch time"], FIRState]:
        """Filters a segment with the inputs before it in front; the record holds both."""
        whole = torch.cat([state.past, x], -1)
        lag = self.taps - 1
        return self.free(whole, tape)[..., lag:], state._replace(past=whole[..., whole.shape[-1] - lag :])

    def echo_segment(
        self, tape: Tape, g: Float[Tensor, "channels batch time"], carry: Tensor | None, acc: StatBuffer
    ) -> tuple[Float[Tensor, "channels batch time"], Tensor]:
        """Echo of a segment; what is carried is the nudge on the last inputs before it."""
        lag = self.taps - 1
        dx = self.echo(tape, F.pad(g, (lag, 0)), acc)
        if carry is not None and lag:
            dx[..., dx.shape[-1] - lag :] += carry
        return dx[..., lag:], dx[..., :lag]

    def retrace(
        self, x: Float[Tensor, "channels batch time"], state: FIRState, tape: Tape
    ) -> tuple[Float[Tensor, "channels batch time"], FIRState]:
        """Filters a segment again, where there is only one tap; longer filters forget their first inputs."""
        if self.taps > 1:
            return super().retrace(x, state, tape)
        return self.free(x, tape), state

    def start(self, batch: int) -> FIRState:
        """A zero past."""
        past = self.weight.new_zeros(self.weight.shape[0], batch, self.taps - 1)
        return FIRState(past, self.weight.flip(1).unsqueeze(1))

    def advance(
        self, x: Float[Tensor, "channels batch time"], state: FIRState
    ) -> tuple[Float[Tensor, "channels batch time"], FIRState]:
        """Filters with the past inputs in front."""
        return self.resume(x, state, None)

    def step(
        self, x: Float[Tensor, "channels batch"], state: FIRState
    ) -> tuple[Float[Tensor, "channels batch"], FIRState]:
        """Filters one token."""
        whole = torch.cat([state.past, x.unsqueeze(-1)], -1)
        return (whole * state.taps).sum(-1), FIRState(whole[..., 1:], state.taps)


class Dropout(PointwiseLayer):
    """Sets a random share of the values to zero while learning, and scales the rest up to keep the mean.

    Both phases see the same mask: it lies on the tape. Without a tape nothing is dropped.

    Args:
        rate: share of the values that is dropped, in [0, 1).
        generator: source of the masks; its state belongs to the state of the learner.
    """

    def __init__(self, rate: float, *, generator: torch.Generator) -> None:
        super().__init__()
        self.rate, self.generator = rate, generator

    def free(self, x: Float[Tensor, ...], tape: Tape | None) -> Float[Tensor, ...]:
        """Draws a mask if there is a tape; the record is the mask."""
        if tape is None:
            return x
        # Sixteen bits a place are enough, and cheaper than a uniform number.
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=self.generator)
        draws = words.view(torch.int16)[: x.numel()].view(x.shape).to(x.device)
        mask = (draws >= min(round(self.rate * 2**16) - 2**15, 2**15 - 1)).to(x.dtype).div_(1 - self.rate)
        tape.push(self, mask)
        return x * mask

    def echo(self, tape: Tape, g: Float[Tensor, ...], acc: StatBuffer) -> Float[Tensor, ...]:
        """dx = mask g."""
        (mask,) = tape.pop(self)
        return g * mask
