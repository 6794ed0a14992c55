"""Claims about trained language models: one path for everything, causal, honest, and better than plain counts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from holonomy.audit import subjects
from holonomy.audit.claim import DoesNotApply, Evidence, Figure, Relation, Setting, claim, curve
from holonomy.core.errors import DataError
from holonomy.data.text import load_text
from holonomy.data.tokens import TokenBatch
from holonomy.infer.evaluation import stream_loss
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session
from holonomy.models.holographic.metrics import predict
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.retrieval import retrieve, retrieve_batch
from holonomy.recipes import launch
from holonomy.recipes.holographic import read_words
from holonomy.recipes.lior import read_corpus

LEARNERS = ("lior", "holographic")
SPEAKERS = (*LEARNERS, "mixture")
NUMBERS = 3 * 10**7
"""Probabilities that a check holds at a time."""
TOLERANCE = {"lior": 1e-3, "holographic": 1e-4, "mixture": 1e-3}
"""Of log probabilities by different paths, nats: float32 sums in another order."""
PIECE = 64
BINS, RESAMPLES = 15, 50
HONEST, PLAUSIBLE = 0.1, 0.25
"""Largest calibration error of the small runs of the package, and of any run, whose text may change its kind."""
ENOUGH, PLENTY = 1_000, 5_000
"""Trained tokens for each symbol of the vocabulary from which a lior run has to be better than counts, and from which
any run, whatever its bank and size, has to be better than counts of pairs."""


def speakers(setting: Setting) -> Iterator[tuple[str, Any]]:
    """Family and model of each run."""
    for family in SPEAKERS:
        if family in setting.runs:
            yield family, subjects.model(setting, family)


def natural(model: Any, size: int) -> np.ndarray:
    """Tokens of the reference text of Python, without characters that the model refuses."""
    text = load_text("pydoc").text[: 8 * size]
    if model.tokenizer.strict:
        unknown = set(model.tokenizer.unknown(text))
        text = "".join(c for c in text if c not in unknown)
    ids = np.asarray(model.tokenizer.encode(text), dtype=np.int64)
    return np.resize(ids if len(ids) else model.tokenizer.opening(), size)


def draw_contexts(model: Any, rows: int, length: int, random: np.random.Generator, text: np.ndarray) -> Tensor:
    """Contexts [rows, length]: the first half any symbols, unknown ones among them, the others from a text."""
    ids = random.integers(0, model.tokenizer.vocab_size, (rows, length))
    for row in range(rows // 2, rows):
        begin = random.integers(0, len(text) - length)
        ids[row] = text[begin : begin + length]
    return torch.from_numpy(ids)


def apart(a: Tensor, b: Tensor) -> float:
    """Largest difference of log probabilities, without those of what cannot happen."""
    return float((a.double().clamp_min(-60) - b.double().clamp_min(-60)).abs().max())


class Paths:
    """Distances of all paths from `log_probs`, the largest of each."""

    def __init__(self, model: Any) -> None:
        self.model, self.found, self.excess = model, dict[str, float](), 0.0

    def note(self, name: str, distance: float) -> None:
        """Keeps the largest; what is no number stays."""
        self.found[name] = float(np.fmax(self.found.get(name, 0.0), distance)) if distance == distance else np.nan

    def compare(self, ids: Tensor, random: np.random.Generator, *, steps: int) -> Tensor:
        """All paths over contexts [rows, length]; `steps` of the tokens, the last ones, are taken one by one."""
        model, (rows, length) = self.model, ids.shape
        whole = model.log_probs(ids)
        self.excess = max(self.excess, float((whole.double().exp().sum(-1) - 1).abs().max()))
        cuts = np.unique(random.integers(1, length, 4)) if length > 1 else np.array([], dtype=int)
        state, parts = model.start(rows), []
        for part in ids.tensor_split(torch.from_numpy(cuts), 1):
            found, state = model.advance(part, state)
            parts.append(found)
        self.note("in pieces", apart(torch.cat(parts, 1), whole))
        state, singles = model.start(rows), []
        if length > steps:
            _, state = model.advance(ids[:, : length - steps], state)
        for t in range(max(0, length - steps), length):
            found, state = model.step(ids[:, t], state)
            singles.append(found)
        self.note("token by token", apart(torch.stack(singles, 1), whole[:, -len(singles) :]))
        cut = int(random.integers(1, length + 1))
        found, state = model.prefill(ids[:, :cut], model.start(rows))
        self.note("after a prompt", apart(found, whole[:, cut - 1]))
        if cut < length:
            found, _ = model.step(ids[:, cut], state)
            self.note("after a prompt", apart(found, whole[:, cut]))
        return whole

    def evaluate(self, ids: Tensor, whole: Tensor) -> None:
        """The ways that losses are evaluated, on contexts whose distributions are known."""
        own = -whole[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1).double()
        streamed, _ = stream_loss(self.model, ids[0])
        self.note("evaluation", abs(streamed - float(own[0].mean())))
        if hasattr(self.model, "loss"):
            batch = TokenBatch(ids[:, :-1], ids[:, 1:], own.numel())
            self.note("evaluation", abs(float(self.model.loss(batch)) - float(own.mean())))
        elif isinstance(self.model, HolographicModel):
            losses = predict(self.model, ids[0].numpy(), np.arange(1, ids.shape[1])).losses
            self.note("evaluation", float(np.abs(losses - own[0].numpy()).max()))

    def recall(self, ids: Tensor, whole: Tensor) -> None:
        """What retrieval says is the most probable token, and its probability."""
        wanted, best = whole[:, -1].double().exp().max(1)
        many, one = retrieve_batch(self.model, ids.numpy()), retrieve(self.model, ids[0].tolist())
        self.note("retrieval", float(np.abs(many.probs - wanted.numpy()).max()))
        self.note("retrieval", float(abs(one.probs[0] - float(wanted[0]))))
        # Where two tokens are as probable as one another either may be named.
        named = whole[:, -1].double().exp().gather(1, torch.from_numpy(many.tokens)[:, None])
        self.note("retrieval", float((wanted - named.squeeze(1)).max()))
        assert len(best) == len(many.tokens)

    def converse(self, prompt: str, scratch: Path) -> None:
        """Every greedy choice of a session is the most probable token, of those that are text, after all before it."""
        session = Session(self.model, Sampling(temperature=0), seed=0)
        if prompt:
            session.feed(prompt)
        for _ in session.reply(max_tokens=12):
            pass
        session.save(scratch / "session.json")
        read, said = json.loads((scratch / "session.json").read_text(encoding="utf-8"))["ids"]
        ids = torch.tensor([read + said])
        unspoken = torch.tensor(self.model.tokenizer.unspoken, dtype=torch.int64)
        ahead = self.model.log_probs(ids)[0, len(read) - 1 : -1].index_fill(1, unspoken, -torch.inf)
        chosen = ahead.gather(1, ids[0, len(read) :, None]).squeeze(1)
        self.note("generation", float((ahead.max(1).values - chosen).max()))


@claim(
    "language.one-path",
    statement="Evaluation, retrieval, generation and chat see the same probabilities, and these sum to one.",
    source="README.md; docs/holographic.md",
    families=SPEAKERS,
    limit_s=300.0,
)
def one_path(setting: Setting) -> Evidence:
    """Random contexts through `log_probs` and through every other way to the same numbers."""
    # Long contexts first; many short ones cost less than as many long ones.
    groups = [(25, 64)] * 16 + [(250, 12)] * (40 if setting.full else 0)
    figures = []
    for family, model in speakers(setting):
        random, paths = np.random.default_rng(setting.seed), Paths(model)
        vocabulary = model.tokenizer.vocab_size
        text = natural(model, 20_000)
        for rows, most in groups:
            longest = int(np.clip(NUMBERS // (rows * vocabulary), 4, most))
            ids = draw_contexts(model, rows, int(random.integers(1, longest + 1)), random, text)
            whole = paths.compare(ids, random, steps=ids.shape[1])
            if family == "holographic":
                paths.recall(ids, whole)
        length = int(np.clip((model.context_limit or 1_000) + 100, 2, NUMBERS // vocabulary))
        ids = draw_contexts(model, 2, length, random, text)[1:]
        paths.evaluate(ids, paths.compare(ids, random, steps=16))
        opening = torch.as_tensor(model.tokenizer.opening())[None]
        first = paths.compare(opening, random, steps=1)[:, -1]
        if family == "holographic" and opening.tolist() == [[model.pad_id]]:
            paths.note("nothing before", apart(model.next_log_probs(np.zeros((1, 0), dtype=np.int64)), first))
        for n in range(6):
            begin = int(random.integers(0, len(text) - 40))
            prompt = model.tokenizer.decode(text[begin : begin + int(random.integers(1, 40))])
            paths.converse(prompt if n else "", setting.scratch)
        bound = TOLERANCE[family]
        figures.append(Figure(f"{family}: contexts", sum(rows for rows, _ in groups), ">=", 400))
        figures += [Figure(f"{family}: {n}", d, "<=", bound, "nats apart") for n, d in paths.found.items()]
        figures.append(Figure(f"{family}: probabilities sum to one but for", paths.excess, "<=", 1e-4))
    return Evidence(tuple(figures))


@claim(
    "language.causality",
    statement="What comes later changes nothing before it, not one bit.",
    source="docs/formulas.md; README.md",
    families=SPEAKERS,
)
def causality(setting: Setting) -> Evidence:
    """Other tokens from seven places on, at the borders of chunks among them, and the distributions before them."""
    figures = []
    for family, model in speakers(setting):
        random = np.random.default_rng(setting.seed)
        vocabulary, rows = model.tokenizer.vocab_size, 64 if setting.full else 8
        length = int(np.clip(NUMBERS // (rows * vocabulary), 9, 130))
        ids = draw_contexts(model, rows, length, random, natural(model, 20_000))
        before, moved, heard = model.log_probs(ids), 0, 0.0
        borders = [c for c in (1, 31, 32, 33, 64, 96, length - 1) if c < length]
        further = random.permutation(np.setdiff1d(np.arange(1, length), borders))
        cuts = sorted({*borders, *further[: 7 - len(borders)].tolist()})
        for cut in cuts:
            other = ids.clone()
            shift = torch.from_numpy(random.integers(1, vocabulary, (rows, length - cut)))
            other[:, cut:] = (other[:, cut:] + shift) % vocabulary
            after = model.log_probs(other)
            moved += int((after[:, :cut] != before[:, :cut]).sum())
            heard = max(heard, apart(after[:, cut], before[:, cut]))
        figures += [
            Figure(f"{family}: places that the text was changed from", len(cuts), ">=", 7),
            Figure(f"{family}: log probabilities before them that moved", moved, "==", 0),
            Figure(f"{family}: at them", heard, ">", 1e-3, "nats moved"),
        ]
    return Evidence(tuple(figures))


class HeldOut:
    """Training and held-out tokens of a run, and what its model says of the latter.

    Args:
        setting: of the check.
        family: of the run.

    Raises:
        DoesNotApply: the text of the run is not there, or another one.
    """

    def __init__(self, setting: Setting, family: str) -> None:
        self.saved = subjects.checkpoint(setting, family)
        self.model: Any = launch.family_of(self.saved).parts.load(self.saved)
        self.config: Any = launch.config_of(self.saved)
        self.windows, digest = family == "lior", self.saved.state["text_sha256"]
        self.bins = BINS if self.windows else self.config.model.evaluation.bins
        try:
            if self.windows:
                corpus = read_corpus(self.config.data, self.model.tokenizer, digest=digest)
                self.before, self.tokens = np.asarray(corpus.train, dtype=np.int64), corpus.validation
                self.train = self.before
            else:
                split = read_words(self.config.data, self.model.tokenizer, digest=digest).split
                self.before, self.tokens = split.train, split.test
                self.train = split.train[: max(1, int(len(split.train) * self.config.train.share))]
        except DataError as error:
            raise DoesNotApply(f"the text of the run cannot be read: {error}") from error

    def predictions(self, limit: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Log probabilities [n, V] and the tokens that came, [n], of the first `limit` tokens, or of all."""
        tokens = torch.from_numpy(np.ascontiguousarray(self.tokens[:limit]))
        yield from self._from_rest(tokens) if self.windows else self._in_a_row(tokens)

    def _from_rest(self, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows of the training length one after the other, each without what came before."""
        size = self.config.data.seq_len
        many = max(1, NUMBERS // (4 * size * self.model.tokenizer.vocab_size)) * size
        for begin in range(0, len(tokens) - 1, many):
            targets = tokens[begin + 1 : begin + 1 + many]
            inputs, whole = tokens[begin : begin + len(targets)], len(targets) // size * size
            for ids, wanted in (
                (inputs[:whole].view(-1, size), targets[:whole]),
                (inputs[None, whole:], targets[whole:]),
            ):
                if ids.numel():
                    yield self.model.log_probs(ids).flatten(0, 1), wanted

    def _in_a_row(self, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each word after all that stand before it, the training part included."""
        past = torch.from_numpy(self.before[-self.model.context_limit :])
        first, state = self.model.prefill(past[None], self.model.start(1))
        yield first, tokens[:1]
        for begin in range(0, len(tokens) - 1, PIECE):
            targets = tokens[begin + 1 : begin + 1 + PIECE]
            found, state = self.model.advance(tokens[None, begin : begin + len(targets)], state)
            yield found[0], targets


def reliability(confidence: np.ndarray, right: np.ndarray) -> tuple[float, list[tuple[float, float]]]:
    """Calibration error over bins of equal mass, and the mean confidence and accuracy of each."""
    ordered = np.argsort(confidence, kind="stable")
    edges = np.linspace(0, len(ordered), min(BINS, len(ordered)) + 1).astype(int)
    error, points = 0.0, []
    for low, high in pairwise(edges.tolist()):
        part = ordered[low:high]
        sure, true = float(confidence[part].mean()), float(right[part].mean())
        error += abs(sure - true) * len(part) / len(ordered)
        points.append((sure, true))
    return error, points


@claim(
    "language.calibration",
    statement="On held-out text the highest probability says how often it is right.",
    source="docs/holographic.md",
    families=LEARNERS,
    limit_s=300.0,
)
def calibration(setting: Setting) -> Evidence:
    """Calibration error over 15 bins of equal mass, and what chance alone would show of it."""
    figures, lines = [], {"honest": [(0.0, 0.0), (1.0, 1.0)]}
    for family in LEARNERS:
        if family not in setting.runs:
            continue
        held, sure, right = HeldOut(setting, family), [], []
        for found, targets in held.predictions(None if setting.full else 8_400):
            best = found.max(1)
            sure.append(best.values.double().exp().numpy())
            right.append((best.indices == targets).numpy())
        confidence, hits = np.concatenate(sure), np.concatenate(right)
        error, lines[family] = reliability(confidence, hits)
        random = np.random.default_rng(setting.seed)
        chance = [reliability(confidence, random.random(len(confidence)) < confidence)[0] for _ in range(RESAMPLES)]
        counters = held.saved.state["counters"]
        told = counters["metrics"].get("val/ece") if counters["evaluated"] == held.saved.step else None
        if told is not None and len(hits) == counters["metrics"]["val/tokens"] and held.bins == BINS:
            figures.append(Figure(f"{family}: recorded error off by", abs(told - error), "<=", 2e-3))
        figures += [
            Figure(f"{family}: tokens", len(hits)),
            Figure(f"{family}: calibration error", error, "<=", PLAUSIBLE if setting.audited else HONEST),
            Figure(f"{family}: of it by chance alone", float(np.mean(chance))),
            Figure(f"{family}: most probable token is right", float(hits.mean())),
        ]
    title = "how often the most probable token is right"
    return Evidence(tuple(figures), (curve(title, "its probability", "share that is right", lines),))


def count_losses(train: np.ndarray, tokens: np.ndarray, vocabulary: int) -> tuple[float, float]:
    """Losses of tokens by single counts (half of one added) and by pairs (0.75 of each taken for single counts)."""
    single = np.bincount(train, minlength=vocabulary) + 0.5
    single = single / single.sum()
    keys, counts = np.unique(train[:-1] * vocabulary + train[1:], return_counts=True)
    first = keys // vocabulary
    total = np.bincount(first, weights=counts, minlength=vocabulary)
    kinds = np.bincount(first, minlength=vocabulary)
    wanted = tokens[:-1] * vocabulary + tokens[1:]
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    seen = np.where(keys[at] == wanted, counts[at] - 0.75, 0.0)
    known = np.maximum(total, 1)[tokens[:-1]]
    spared = np.where(total > 0, 0.75 * kinds, 1.0)[tokens[:-1]]
    pair = seen / known + spared / known * single[tokens[1:]]
    return float(-np.log(single[tokens]).mean()), float(-np.log(pair).mean())


@claim(
    "language.beats-baselines",
    statement="The recorded held-out loss is what the probabilities say, and lower than that of plain counts.",
    source="README.md",
    families=LEARNERS,
    limit_s=600.0,
)
def beats_baselines(setting: Setting) -> Evidence:
    """The loss of all held-out tokens, summed here, beside the recorded one and counts of the training tokens."""
    figures = []
    for family in LEARNERS:
        if family not in setting.runs:
            continue
        held = HeldOut(setting, family)
        total, count = 0.0, 0
        for found, targets in held.predictions(None):
            total -= float(found.gather(1, targets[:, None]).double().sum())
            count += len(targets)
        loss, vocabulary = total / count, held.model.tokenizer.vocab_size
        single, pair = count_losses(held.train, np.asarray(held.tokens, dtype=np.int64), vocabulary)
        counters = held.saved.state["counters"]
        finished = held.windows or held.model.mixture.calibrated
        share = counters["tokens"] / vocabulary if held.windows else (math.inf if finished else 0.0)
        knows_pairs = share >= (PLENTY if setting.audited else ENOUGH)
        if not held.windows:
            knows_pairs = knows_pairs and held.config.model.counts.order > 2
        if counters["evaluated"] == held.saved.step and finished:
            off = abs(loss - counters["metrics"]["val/loss"])
            figures.append(Figure(f"{family}: recorded loss off by", off, "<=", 1e-3, "nats"))
        under: list[Relation | Literal[""]] = ["<" if known else "" for known in (share >= ENOUGH, knows_pairs)]
        figures += [
            Figure(f"{family}: held-out loss beside that of single counts", loss, under[0], single, "nats"),
            Figure(f"{family}: held-out loss beside that of counts of pairs", loss, under[1], pair, "nats"),
            Figure(f"{family}: loss by single counts", single, unit="nats"),
            Figure(f"{family}: loss by counts of pairs", pair, unit="nats"),
        ]
    if not any(f.relation for f in figures):
        raise DoesNotApply("the checkpoint was not evaluated and saw too few tokens to be compared with counts")
    return Evidence(tuple(figures))
