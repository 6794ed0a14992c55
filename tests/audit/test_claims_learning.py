"""Claims about learning: true of the code, and red for each broken double."""

from __future__ import annotations

import pytest
import torch
from mutants import Mutant

from holonomy.learn.echo import EchoLearner
from holonomy.models.ternary.encoder import TableEncoder
from holonomy.models.ternary.projection import Projection
from holonomy.nn import attention
from holonomy.nn.containers import Chain
from holonomy.nn.coupled import CoupledBank
from holonomy.nn.heads import SoftmaxCrossEntropy
from holonomy.nn.oscillator import OscillatorBank, OscillatorMixer
from holonomy.nn.retrieval import Retrieval
from holonomy.nn.static import CausalFIR


def gradients_by_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def phases(self, batch, part):
        params = [p.requires_grad_(True) for p in self.net.parameters()]
        with torch.enable_grad():
            loss = self.loss.free(self.net(batch.inputs), batch.targets, None)
            for param, found in zip(params, torch.autograd.grad(loss, params), strict=True):
                self.stats[param].add_(found)
                param.requires_grad_(False)
        return loss.detach()

    monkeypatch.setattr(EchoLearner, "_phases", phases)


def parameters_want_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chain, "requires_grad_", lambda self, wanted=True: self)


def graph_kept_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SoftmaxCrossEntropy.free

    def free(self, logits, targets, tape):
        if not torch.is_inference_mode_enabled():
            with torch.enable_grad():
                logits = logits.detach().requires_grad_() * 1.0
                return plain(self, logits, targets, tape).detach()
        return plain(self, logits, targets, tape)

    monkeypatch.setattr(SoftmaxCrossEntropy, "free", free)


def contrast_without_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "boltzmann_contrast", lambda w, energy: w * energy)


def damping_hears_half(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = OscillatorBank.echo

    def echo(self, tape, g, acc):
        found = plain(self, tape, g, acc)
        acc[self.damping].mul_(0.999)
        return found

    monkeypatch.setattr(OscillatorBank, "echo", echo)


def stiffness_is_not_symmetric(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CoupledBank._collect
    monkeypatch.setattr(CoupledBank, "_collect", lambda self, dk, q, acc: plain(self, dk.tril(), q, acc))


def filter_does_not_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CausalFIR.echo

    def echo(self, tape, g, acc):
        kept = acc[self.weight].clone()
        found = plain(self, tape, g, acc)
        acc[self.weight].copy_(kept)
        return found

    monkeypatch.setattr(CausalFIR, "echo", echo)


def distance_in_time_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    def scales(self):
        return self.log_radius.exp()[:, None, None], torch.full_like(self.log_interval, 0.01)[:, None, None]

    monkeypatch.setattr(Retrieval, "scales", scales)


def drive_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = OscillatorMixer._gated
    monkeypatch.setattr(
        OscillatorMixer, "_gated", lambda self, a, f, q, tape: plain(self, a, f, torch.zeros_like(q), tape)
    )


def directions_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Projection.forward

    def forward(self, z):
        return z / z.norm(dim=-1, keepdim=True), plain(self, z)[1]

    monkeypatch.setattr(Projection, "forward", forward)


def encoder_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TableEncoder.forward

    def forward(self, table):
        mean, logvar = plain(self, table)
        return mean.detach() + 0 * mean, logvar

    monkeypatch.setattr(TableEncoder, "forward", forward)


MUTANTS = [
    Mutant("lior.no-autograd", "statistics come from a graph", gradients_by_graph),
    Mutant("lior.no-autograd", "parameters ask for gradients", parameters_want_gradients),
    Mutant("lior.no-autograd", "the loss keeps a graph that nobody uses", graph_kept_for_nothing),
    Mutant("lior.gradient-parity", "the contrast forgets the mean", contrast_without_mean),
    Mutant("lior.gradient-parity", "the damping hears a thousandth less", damping_hears_half),
    Mutant("lior.gradient-parity", "half of a stiffness matrix is heard", stiffness_is_not_symmetric),
    Mutant("lior.parameters-live", "the filter is not told", filter_does_not_learn),
    Mutant("lior.parameters-live", "the distance in time is fixed", distance_in_time_is_fixed),
    Mutant("lior.parameters-live", "oscillators are not read", drive_goes_nowhere),
    Mutant("ternary.parameters-live", "directions are not learned", directions_are_given),
    Mutant("ternary.parameters-live", "the encoder is cut off", encoder_is_cut_off),
]
