"""Associative memory of a trained model on real text: what it read before must help, and cost nothing elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holonomy.infer.language_model import LanguageModel
from holonomy.models.lior.config import LiorConfig
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.models.lior.learner import build_learner
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
