"""What a holographic run of words writes, and whether it knows when it had better not.

Run: `HOLONOMY_DATA=... python benchmarks/writing.py RUN`. Words held out are predicted, and those of the run's surer
predictions counted that are right, where the bound is that of `infer.abstain` and where it is one of the entropy
instead; unknown words are no prediction, since they are never written, and where they come none is right. Then eight
seeds continue the first 200 held-out words by 1,000 in each way of drawing: the perplexity that the run itself gives to
these, their geometric mean, also as a multiple of that of the 1,000 words that really follow; the share of distinct
pairs of words, its mean and the least; and of words that repeat the last one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from holonomy.infer.commitment import least_confidence
from holonomy.infer.sampling import Sampling, silenced
from holonomy.infer.session import Session
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.model import HolographicModel
from holonomy.recipes import launch
from holonomy.recipes.holographic import read_words

ASKED, TOGETHER = 6000, 200
PROMPT, WRITTEN, SEEDS = 200, 1000, range(1, 9)
SHARES = 0.1, 0.2, 0.4
WAYS = {
    "softmax": Sampling(1.0),
    "softmax, top_p 0.95": Sampling(1.0, top_p=0.95),
    "gibbsmax 1.5": Sampling(1.0, selector="gibbsmax", repetition=1.5),
    "gibbsmax 0.5": Sampling(1.0, selector="gibbsmax", repetition=0.5),
    "inhibition 0.96": Sampling(1.0, selector="inhibition", inhibition=0.96),
    "inhibition 2.5": Sampling(1.0, selector="inhibition", inhibition=2.5),
    "2.5, top_p 0.95": Sampling(1.0, selector="inhibition", inhibition=2.5, top_p=0.95),
    "2.5, phi": Sampling(selector="inhibition", inhibition=2.5, kernel="phi"),
    "2.5, fallback 0.2": Sampling(1.0, selector="inhibition", inhibition=2.5, abstain=0.2, doubt="fallback"),
}


def gate(model: HolographicModel, train: np.ndarray, test: np.ndarray) -> None:
    whole, random = np.concatenate([train, test]), np.random.default_rng(0)
    places = len(train) + np.sort(random.choice(len(test), min(ASKED, len(test)), replace=False))
    contexts, highest, spread, right = of_text(whole, np.zeros(1, np.int64), places), [], [], []
    for begin in range(0, len(places), TOGETHER):
        cut = slice(begin, begin + TOGETHER)
        # What is drawn from: a word that is never written is no prediction, and wrong wherever it comes.
        probs = silenced(model.distributions(contexts.part(cut)), model.tokenizer.unspoken).softmax(1)
        first = probs.max(1)
        highest.append(first.values)
        spread.append(torch.special.entr(probs).sum(1))
        right.append(first.indices == torch.from_numpy(whole[places[cut]]))
    sure, doubt, good = (torch.cat(part).double().numpy() for part in (highest, spread, right))
    unknown = np.isin(whole[places], model.tokenizer.unspoken).mean()
    print(f"{len(places)} words, {good.mean():.4f} right, {unknown:.4f} unknown, which none can be right about")
    for share in SHARES:
        kept = sure >= least_confidence(model, Sampling(abstain=share))
        calm = doubt <= np.quantile(doubt, 1 - share)
        print(
            f"abstain {share}: {1 - kept.mean():.3f} held back, of the others {good[kept].mean():.4f} right, "
            f"{good[kept].mean() / good.mean():.3f} times all; of the least entropies {good[calm].mean():.4f}, "
            f"{good[calm].mean() / good.mean():.3f} times"
        )


def perplexity(model: HolographicModel, prompt: np.ndarray, words: np.ndarray) -> float:
    found = model.score(np.concatenate([prompt, words]), np.arange(len(prompt), len(prompt) + len(words)))
    return float((-found.mean()).exp())


def distinct(words: np.ndarray) -> float:
    return len(np.unique(np.stack([words[:-1], words[1:]]), axis=1).T) / (len(words) - 1)


def written(model: HolographicModel, prompt: np.ndarray, sampling: Sampling, seed: int) -> np.ndarray:
    session = Session(model, sampling, seed=seed)
    session.feed(model.tokenizer.decode(prompt))
    return model.tokenizer.encode("".join(session.reply(max_tokens=WRITTEN)))


def main(run: str) -> None:
    saved = launch.read_checkpoint(run, Path("runs"))
    model = launch.load(run)
    split = read_words(launch.config_of(saved).data, model.tokenizer).split
    gate(model, split.train, split.test)
    prompt, real = split.test[:PROMPT], split.test[PROMPT : PROMPT + WRITTEN]
    base = perplexity(model, prompt, real)
    print(f"{'the text itself':26} perplexity {base:7.1f}       distinct pairs {distinct(real):.3f}")
    for name, sampling in WAYS.items():
        texts = [written(model, prompt, sampling, seed) for seed in SEEDS]
        own = float(np.exp(np.mean([np.log(perplexity(model, prompt, text)) for text in texts])))
        pairs, repeats = [distinct(text) for text in texts], np.mean([(t[1:] == t[:-1]).mean() for t in texts])
        print(
            f"{name:26} perplexity {own:7.1f} {own / base:5.2f} distinct pairs {np.mean(pairs):.3f}, "
            f"least {min(pairs):.3f} repeats {repeats:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1])
