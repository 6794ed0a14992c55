"""Associative memory of a trained model on real text: what it read before must help, and cost nothing elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.data.tokenizer import CharTokenizer
from holonomy.infer.language_model import LanguageModel
from holonomy.models.lior.config import LiorConfig
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.models.lior.learner import build_learner
from holonomy.models.lior.model import build_network
from holonomy.recipes import configure
from holonomy.recipes.lior import choose_sampler, companion, read_corpus

SMALL = ("model.d=48", "model.n_osc=64", "model.hidden=64", "model.heads=2", "data.seq_len=64")


@pytest.fixture(scope="module")
def trained() -> tuple[LiorLanguageModel, Tensor]:
    """A small model of the reference text of Python after 120 updates, and the held-out part."""
    config = configure("lior", overrides=SMALL).config
    assert isinstance(config, LiorConfig)
    corpus = read_corpus(config.data)
    learner = build_learner(config, vocab_size=corpus.tokenizer.vocab_size)
    sampler = choose_sampler(config, corpus, torch.device("cpu"))
    for _ in range(120):
        learner.train_step(sampler.next(), progress=0.3)
    return LiorLanguageModel(learner.net, corpus.tokenizer, config), torch.from_numpy(corpus.validation)  # type: ignore[arg-type]


def weighed(model: LiorLanguageModel, weighting: str) -> LanguageModel:
    memory = configure("lior", overrides=(f"memory.weighting={weighting}",)).config.memory
    config = model.config.model_copy(update={"memory": memory})
    return companion(LiorLanguageModel(model.net, model.tokenizer, config), memory=True)  # type: ignore[arg-type]


def loss(reader: LanguageModel, ids: Tensor, start: int) -> float:
    """Mean loss of the tokens from `start` on, given all before them, nats."""
    found = reader.log_probs(ids[None])[0]
    return -float(found[start - 1 : -1].gather(-1, ids[start:, None]).mean())


@pytest.mark.parametrize("weighting", ["trust", "entropy"])
def test_the_first_half_of_a_document_helps_with_the_second(
    trained: tuple[LiorLanguageModel, Tensor], weighting: str
) -> None:
    model, held_out = trained
    document = held_out[:4000]
    assert loss(weighed(model, weighting), document, 2000) <= loss(model, document, 2000) - 0.1


def test_states_carried_over_4096_characters_cost_nothing(trained: tuple[LiorLanguageModel, Tensor]) -> None:
    """Learned from windows of 64: the text as one stream costs no more, not even at its end."""
    model, held_out = trained
    ids = held_out[:4097]
    windows = model.log_probs(ids[:-1].view(64, 64)).flatten(0, 1)
    carried = model.log_probs(ids[None, :-1])[0]
    rest, stream = (-found.gather(-1, ids[1:, None]).flatten() for found in (windows, carried))
    assert stream.mean() < rest.mean()
    assert stream[-1024:].mean() < rest[-1024:].mean()


@pytest.mark.parametrize("weighting", ["trust", "entropy"])
def test_a_passage_that_comes_again_costs_a_fifth_less_and_fresh_text_no_more(
    trained: tuple[LiorLanguageModel, Tensor], weighting: str
) -> None:
    model, held_out = trained
    passage, between = held_out[4000:6000], held_out[30_000:30_500]
    again = torch.cat([passage, between, passage])
    reader = weighed(model, weighting)
    assert loss(reader, again, 2500) <= 0.8 * loss(model, again, 2500)
    assert loss(reader, again[:2500], 1) <= loss(model, again[:2500], 1) + 0.005


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ((), "memory.window=16"),
        ((), "memory.capacity=40"),
        ((), "memory.k=1"),
        ((), "memory.share=0.9"),
        ((), "memory.prior=0.01"),
        ((), "memory.weighting=entropy"),
        ((), "memory.mixing=born"),
        (("memory.weighting=entropy",), "memory.most=0.1"),
    ],
)
def test_every_key_of_the_memory_changes_what_is_recalled(base: tuple[str, ...], change: str) -> None:
    def found(*more: str) -> Tensor:
        config = configure("lior", overrides=(*SMALL, "memory.window=32", *more)).config
        assert isinstance(config, LiorConfig)
        net = build_network(config, vocab_size=30).requires_grad_(False)
        model = LiorLanguageModel(net, CharTokenizer.from_text("".join(map(chr, range(97, 127)))), config)
        ids = torch.randint(30, (1, 150), generator=torch.Generator().manual_seed(0)).repeat(1, 2)
        return companion(model, memory=True).log_probs(ids)

    assert not torch.equal(found(*base), found(*base, change))
    for odd in ("memory.most=0.9", "memory.weighting=entropy memory.share=0.2"):
        with pytest.raises(ConfigError, match="have no part in weighting"):
            configure("lior", overrides=odd.split())
