"""Claims about language models: true of small trained runs, and red for each broken double."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mutants import Mutant, assert_refuted, assert_stands, verdict_on

from holonomy.models.holographic import model as holographic
from holonomy.models.holographic.fit import Mixture
from holonomy.models.holographic.model import History, HolographicModel
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.nn.attention import Attention
from holonomy.nn.oscillator import OscillatorBank
from holonomy.nn.static import CausalFIR, RMSNorm


def oscillators_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = OscillatorBank.step
    monkeypatch.setattr(OscillatorBank, "step", lambda self, x, state: plain(self, x, state._replace(z=0.99 * state.z)))


def short_history(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = History.take
    monkeypatch.setattr(History, "take", lambda self, ids, limit: plain(self, ids, 2))


def pads_are_read_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holographic, "of_windows", lambda ids, pad: windows_with_pads(ids))


def windows_with_pads(ids):
    from holonomy.models.holographic.contexts import of_windows

    return of_windows(ids, -1)


def too_much_mass(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = HolographicModel.distributions
    monkeypatch.setattr(HolographicModel, "distributions", lambda self, contexts: plain(self, contexts) + 0.01)


def filter_sees_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CausalFIR.free

    def free(self, x, tape):
        return plain(self, x, tape) + 1e-3 * torch.roll(x, -1, -1)

    monkeypatch.setattr(CausalFIR, "free", free)


def norm_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def free(self, x, tape):
        return x * (x.square().mean() + self.eps).rsqrt()

    monkeypatch.setattr(RMSNorm, "free", free)


def retrieval_sees_all(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Attention._apart
    monkeypatch.setattr(Attention, "_apart", lambda self, *args: plain(self, *args).abs())


def contexts_end_late(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = HolographicModel.distributions

    def distributions(self, contexts):
        last = len(contexts.tokens)
        return plain(self, contexts._replace(ends=(contexts.ends + 1).clip(max=last)))

    monkeypatch.setattr(HolographicModel, "distributions", distributions)


def sharpened(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LiorLanguageModel.log_probs
    monkeypatch.setattr(LiorLanguageModel, "log_probs", lambda self, ids: (3 * plain(self, ids)).log_softmax(-1))


def sharpened_words(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = HolographicModel.distributions
    monkeypatch.setattr(HolographicModel, "distributions", lambda self, c: (4 * plain(self, c)).log_softmax(-1))


def all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LiorLanguageModel.log_probs
    monkeypatch.setattr(LiorLanguageModel, "log_probs", lambda self, ids: (0 * plain(self, ids)).log_softmax(-1))


def mixture_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Mixture.weights
    monkeypatch.setattr(
        Mixture, "weights", lambda self, reading, knowing: 0 * (w := plain(self, reading, knowing)) + 1 / w.shape[1]
    )


LIOR, HOLOGRAPHIC = ("lior",), ("holographic",)
MUTANTS_OF = [
    (Mutant("language.one-path", "oscillators forget while writing", oscillators_forget), LIOR),
    (Mutant("language.one-path", "a chat remembers two words", short_history), HOLOGRAPHIC),
    (Mutant("language.one-path", "pieces read over the beginning of a text", pads_are_read_over), HOLOGRAPHIC),
    (Mutant("language.one-path", "probabilities sum to more than one", too_much_mass), HOLOGRAPHIC),
    (Mutant("language.causality", "the filter sees the next token", filter_sees_ahead), LIOR),
    (Mutant("language.causality", "norms run over time", norm_over_time), LIOR),
    (Mutant("language.causality", "retrieval sees all tokens", retrieval_sees_all), LIOR),
    (Mutant("language.causality", "contexts end a word late", contexts_end_late), HOLOGRAPHIC),
    (Mutant("language.calibration", "probabilities are sharpened", sharpened), LIOR),
    (Mutant("language.calibration", "probabilities of words are sharpened", sharpened_words), HOLOGRAPHIC),
    (Mutant("language.beats-baselines", "all tokens are alike", all_alike), LIOR),
    (Mutant("language.beats-baselines", "experts have equal weights", mixture_not_loaded), HOLOGRAPHIC),
]
MUTANTS = [mutant for mutant, _ in MUTANTS_OF]


@pytest.fixture
def trained(lior_run: Path, holographic_run: Path) -> dict[str, Path]:
    return {"lior": lior_run, "holographic": holographic_run}


@pytest.mark.parametrize("name", sorted({m.claim for m in MUTANTS}))
def test_claims_stand(name: str, tmp_path: Path, trained: dict[str, Path]) -> None:
    assert_stands(name, tmp_path, **trained)


@pytest.mark.parametrize(("mutant", "families"), MUTANTS_OF, ids=[str(m) for m in MUTANTS])
def test_mutants_are_caught(
    mutant: Mutant,
    families: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: dict[str, Path],
) -> None:
    assert_refuted(mutant, monkeypatch, tmp_path, **{f: trained[f] for f in families})


def test_a_run_whose_text_is_gone_is_passed_over(tmp_path: Path, lior_run: Path) -> None:
    text = lior_run.parent / "text.txt"
    content = text.read_text(encoding="utf-8")
    text.write_text(content + "more", encoding="utf-8")
    try:
        found = verdict_on("language.calibration", tmp_path, lior=lior_run)
    finally:
        text.write_text(content, encoding="utf-8")
    assert found.status == "skip" and "not the text" in found.detail
