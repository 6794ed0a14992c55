"""Mixtures of two trained language models over one vocabulary, as runs of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holonomy.core.config import from_json, to_json
from holonomy.core.errors import ConfigError, DataError
from holonomy.core.picture import Picture
from holonomy.data.kneser_ney import baselines
from holonomy.infer.language_model import LanguageModel
from holonomy.infer.mixing import MixedModel, Panel, Pooling, even_gate, fitted_gate, num_clues, read_through
from holonomy.models.holographic.contexts import Contexts, of_text
from holonomy.models.holographic.following import following_of
from holonomy.models.holographic.metrics import Predictions
from holonomy.models.holographic.mixture import Gate
from holonomy.models.holographic.model import BlockReader, History, HolographicModel
from holonomy.models.holographic.pictures import holographic_pictures
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.models.lior.pictures import lior_pictures
from holonomy.recipes.families import FAMILIES
from holonomy.recipes.mixture_config import MixedData, MixingConfig, MixtureRunConfig
from holonomy.recipes.work import Texts, Work, figures, no_targets, online_baseline
from holonomy.train import checkpoint
from holonomy.train.checkpoint import Checkpoint
from holonomy.train.distributed import World
from holonomy.train.loop import BEST
from holonomy.train.monitor import MetricsLog, Progress, peak_rss_mb
from holonomy.train.report import Counters, FitReport
from holonomy.train.run import RunDirectory

FIT_BLOCK = 512
"""Tokens that members are asked about at a time."""
FOREIGN_SHARE = 0.5
"""Share of a text that no member learned which the weights are fitted on; the rest is held out."""


def memories_of(model: Any) -> Iterator[HolographicModel]:
    """The members that can learn while they read."""
    if isinstance(model, HolographicModel):
        yield model
    elif isinstance(model, MixedModel):
        for member in model.members:
            yield from memories_of(member)


def forgets(model: Any) -> bool:
    """Whether all members can unlearn a part of their text without a trace.

    Vectors of words, their classes and topics are made from the whole text at once and would still know it: only
    members that multiply voices, which read none, forget all that they learned.
    """
    if isinstance(model, MixedModel):
        return all(forgets(member) for member in model.members)
    return isinstance(model, HolographicModel) and model.config.mixture.pool == "logarithmic"


@dataclass(frozen=True)
class Passage:
    """A part of a text, and the tokens before it that are read first."""

    before: np.ndarray
    tokens: np.ndarray


def _opened(texts: Texts, tokens: np.ndarray) -> Passage:
    return Passage(np.asarray(texts.tokenizer.opening(), dtype=np.int64), tokens)


def _held_out(texts: Texts, config: MixtureRunConfig) -> Passage:
    if not config.data.foreign:
        return Passage(texts.train[-config.model.reach :], texts.held_out)
    whole = np.concatenate([texts.train, texts.held_out])
    cut = int(len(whole) * config.data.share)
    return Passage(whole[max(0, cut - config.model.reach) : cut], whole[cut:])


class _Follower:
    """A member that learns a text while it reads it, and whose mixture follows; what stands before is read as ever.

    Args:
        model: the member.
        contexts: of every token of what stands before and of the text.
        tokens: these tokens.
        first: number of the first token of the text.
        block: tokens of a block.
    """

    def __init__(self, model: HolographicModel, contexts: Contexts, tokens: np.ndarray, first: int, block: int) -> None:
        self.model, self.first = model, first
        follows = following_of(model.memories, model.mixture)
        told = None if follows is None else (follows, tokens[first:])
        self.reader = BlockReader(model, contexts.part(slice(first, None)), block, told)
        self.tokenizer, self.context_limit = model.tokenizer, model.context_limit

    def start(self, batch: int) -> tuple[History, int]:
        """State before the first token: that of the member, and how many tokens were taken."""
        return self.model.start(batch), 0

    def advance(self, ids: torch.Tensor, state: tuple[History, int]) -> tuple[torch.Tensor, tuple[History, int]]:
        """Takes tokens, those of the text in whole blocks, each learned before the next; see `LanguageModel`."""
        history, taken = state
        if taken + 1 < self.first:
            found, history = self.model.advance(ids, history)
            return found, (history, taken + ids.shape[1])
        return self.reader.ask()[None], (history, taken + ids.shape[1])

    def prefill(self, ids: torch.Tensor, state: tuple[History, int]) -> tuple[torch.Tensor, tuple[History, int]]:
        """Takes many tokens at once; returns the distribution after the last one."""
        found, state = self.advance(ids, state)
        return found[:, -1], state

    def step(self, ids: torch.Tensor, state: tuple[History, int]) -> tuple[torch.Tensor, tuple[History, int]]:
        """Takes one token a sequence; returns the distribution after it."""
        return self.prefill(ids[:, None], state)

    def log_probs(self, ids: torch.Tensor) -> torch.Tensor:
        """Log probabilities of the token after each place of another text."""
        return self.model.log_probs(ids)


class _Learning:
    """Lets the members that can learn follow a text, and makes them forget it again."""

    def __init__(self, model: MixedModel, tokens: np.ndarray) -> None:
        self.members, self.tokens = list(memories_of(model)), tokens
        self._contexts = of_text(tokens, np.zeros(1, dtype=np.int64))
        self._learned: list[tuple[int, int]] = []
        self._followers: list[_Follower] = []

    def change(self, begin: int, end: int, sign: int) -> None:
        """Learns or unlearns places of the text."""
        for member in self.members:
            member.change(self._contexts.part(slice(begin, end)), self.tokens[begin:end], sign=sign)

    def following(self, model: MixedModel, first: int, block: int) -> MixedModel:
        """The same mixture of members that `learn` tells what came, from place `first` on."""
        members = list[LanguageModel]()
        for member in model.members:
            if isinstance(member, HolographicModel):
                self._followers.append(_Follower(member, self._contexts, self.tokens, first, block))
                members.append(self._followers[-1])
            else:
                members.append(self.following(member, first, block) if isinstance(member, MixedModel) else member)
        return MixedModel(members, model.gate, shares=model.shares.tolist(), pool=model.pool)

    def learn(self, begin: int, end: int) -> None:
        """Learns places that followers were just asked about, to be forgotten later."""
        for follower in self._followers:
            follower.reader.learn(self.tokens[begin:end])
        self._learned.append((begin, end))

    def forget(self) -> None:
        """Forgets all that `learn` learned."""
        for begin, end in reversed(self._learned):
            self.change(begin, end, -1)
        self._learned.clear()


def predicted(model: MixedModel, passage: Passage, *, online: bool, block: int) -> Predictions:
    """Predicts a passage as one stream; online, members that can learn it do so block by block, and forget it."""
    if not online:
        return read_through(model, passage.before, passage.tokens, block=8 * block)
    first = len(passage.before)
    learning = _Learning(model, np.concatenate([passage.before, passage.tokens]))
    try:
        return read_through(
            learning.following(model, first, block),
            passage.before,
            passage.tokens,
            block=block,
            learn=lambda begin, end: learning.learn(first + begin, first + end),
        )
    finally:
        learning.forget()


def gate_of(model: MixedModel, texts: Texts, config: MixtureRunConfig) -> Gate:
    """The gate of a mixture.

    It is fitted where the members can be asked about a text that they have not learned: a foreign one, or the end of
    their own if all of them can unlearn that without a trace. A network cannot, nor can vectors of words: it knows its
    training text too well, so that a gate fitted there would trust it too much; an even gate then follows what the
    members said lately.

    Raises:
        ConfigError: a member cannot unlearn its text.
        DataError: the text is too short.
    """
    if not config.data.foreign and not forgets(model):
        return even_gate(len(model.members))
    return fitted_gate(_asked(model, texts, config), prior=config.model.prior)


def _asked(model: MixedModel, texts: Texts, config: MixtureRunConfig) -> Iterator[Panel]:
    data = config.data
    if data.foreign:
        whole = np.concatenate([texts.train, texts.held_out])
        opened = _opened(texts, whole[: int(len(whole) * data.share)])
        yield from model.panels(opened.before, opened.tokens, block=FIT_BLOCK)
        return
    count = len(texts.train)
    edges = np.linspace(count - int(count * data.share), count, config.model.parts + 1).astype(int).tolist()
    if edges[0] < 1 or edges[0] == count:
        raise DataError(f"the training text has {count} tokens, too few to fit a mixture; name another with `--data`")
    learning = _Learning(model, texts.train)
    try:
        learning.change(edges[0], count, -1)
    except DataError as error:
        raise ConfigError(
            f"a member cannot unlearn the end of its text, as after a sleep ({error}); name another text with `--data`"
        ) from error
    for begin, end in pairwise(edges):
        before = texts.train[max(0, begin - config.model.reach) : begin]
        yield from model.panels(before, texts.train[begin:end], block=FIT_BLOCK)
        learning.change(begin, end, 1)


def _members(saved: Checkpoint) -> list[Checkpoint]:
    """The checkpoints that a mixture holds."""
    found = list[Checkpoint]()
    for number, member in enumerate(saved.state["members"]):
        mark, dot = f"{number}/", f"{number}."
        tensors = {k.removeprefix(mark): v for k, v in saved.tensors.items() if k.startswith(mark)}
        files = {k.removeprefix(dot): v for k, v in saved.files.items() if k.startswith(dot)}
        found.append(Checkpoint(member["step"], tensors, member["state"], files, saved.path))
    return found


def _parts(saved: Checkpoint) -> Any:
    return FAMILIES.get(str(saved.state["config"].get("family"))).parts


def _config(saved: Checkpoint) -> MixtureRunConfig:
    return from_json(MixtureRunConfig, saved.state["config"], origin=str(saved.path))


def _load(saved: Checkpoint) -> MixedModel:
    """The model of a checkpoint; see `holonomy.recipes.work.FamilyParts`."""
    members = [_parts(member).load(member) for member in _members(saved)]
    arrays = {k.removeprefix("gate/"): v.numpy() for k, v in saved.tensors.items() if k.startswith("gate/")}
    gate = Gate.from_state(arrays, num_clues(len(members)), len(members))
    config = _config(saved).model
    return MixedModel(members, gate, shares=config.shares, pool=config.pool)


def _texts(saved: Checkpoint, *, data: str | None) -> Texts:
    """The text of a checkpoint; see `holonomy.recipes.work.FamilyParts`."""
    members, config = _members(saved), _config(saved)
    found = _parts(members[0]).texts(members[0], data=data or (config.data.source if config.data.foreign else None))
    return replace(found, learned=lambda: _learned(members))


def _known(state: dict[str, Any]) -> frozenset[str]:
    """sha256 of every text that a run or a member of it has learned, or was fitted on."""
    own = frozenset([state["text_sha256"], *(text["sha256"] for text in state.get("texts", ()))])
    return own.union(*(_known(member["state"]) for member in state.get("members", ())))


def _learned(members: Sequence[Checkpoint]) -> np.ndarray:
    """Tokens of all that members have learned, once where they learned the same."""
    apart = {_known(member.state): member for member in members}.values()
    return np.concatenate([_parts(member).texts(member, data=None).learned() for member in apart])


def _evaluate(
    saved: Checkpoint, *, data: str | None, split: str | None, with_baselines: bool, protocol: str | None, mode: str
) -> dict[str, float]:
    """Held-out figures of a checkpoint; see `holonomy.recipes.work.FamilyParts`."""
    if protocol is not None:
        raise ConfigError(f"`--protocol` is {protocol}; a mixture reads its text as one stream: drop it")
    config, model = _config(saved), _load(saved)
    texts = _texts(saved, data=data)
    whole = np.concatenate([texts.train, texts.held_out])
    split = split or ("validation" if data is None else "all")
    parts = {"train": _opened(texts, texts.train), "all": _opened(texts, whole)}
    parts["validation"] = _held_out(texts, config) if data is None else Passage(texts.train, texts.held_out)
    if split not in parts:
        raise ConfigError(f"`--split` is {split}; wanted one of {', '.join(parts)}")
    learned = _learned(_members(saved)) if with_baselines else None
    return scored(model, parts[split], learned, mode=mode, block=config.model.block)


def scored(
    model: MixedModel, passage: Passage, learned: np.ndarray | None, *, mode: str, block: int
) -> dict[str, float]:
    """Figures of a mixture on a passage, beside plain baselines that learned `learned`, if that is given."""
    tokenizer, online = model.tokenizer, mode == "online"
    found = predicted(model, passage, online=online, block=block)
    size, unknown = tokenizer.vocab_size, getattr(tokenizer, "unknown_id", None)
    fitted = all(member.mixture.calibrated for member in memories_of(model))
    metrics = figures(found.report(size, unknown, calibrated=fitted), tokenizer, online=online)
    if learned is None:
        return metrics
    if not online:
        return metrics | baselines(learned, passage.tokens, size)
    return metrics | online_baseline(learned, passage.tokens, tokenizer, block=block)


def _checked(names: tuple[str, str], members: tuple[Checkpoint, Checkpoint], data: str | None) -> Texts:
    """The common text of two runs, or another one, once it is sure that they go together."""
    for name, member in zip(names, members, strict=True):
        family = FAMILIES.get(str(member.state["config"].get("family")))
        if not family.speaks:
            raise ConfigError(f"`{name}` is a run of the family {family.name}, which is no language model")
    if members[0].path.resolve() == members[1].path.resolve():
        raise ConfigError(f"`{names[0]}` and `{names[1]}` are one run, and a mixture of it is the same; name another")
    one, other = (_parts(m).texts(m, data=None) for m in members)
    if one.tokenizer.to_json() != other.tokenizer.to_json():
        sizes = one.tokenizer.vocab_size, other.tokenizer.vocab_size
        raise ConfigError(
            f"`{names[0]}` and `{names[1]}` have different vocabularies ({sizes[0]:,} and {sizes[1]:,} tokens); "
            "mix runs that were trained on the same text with the same kind of tokens"
        )
    if data is not None:
        found = _parts(members[0]).texts(members[0], data=data)
        if found.digest in _known(members[0].state) | _known(members[1].state):
            raise ConfigError(f"`--data` {data} is a text that a member was trained on; leave it out, or name another")
        return found
    if one.digest != other.digest or len(one.train) != len(other.train):
        raise ConfigError(
            f"`{names[0]}` and `{names[1]}` learned different texts or parts of them, so one may know what the other "
            "is tested on; name a text that neither learned with `--data`"
        )
    return one


def mix(
    runs: tuple[str, str],
    *,
    run: str,
    root: Path,
    read: Callable[[str], Checkpoint],
    progress: Progress,
    data: str | None = None,
    pool: Pooling = "geometric",
) -> FitReport:
    """Fits a mixture of two runs and saves it as a run.

    Args:
        runs: names or directories of the members.
        run: name of the run directory to make.
        root: where run directories live.
        read: reads the checkpoint of a run.
        progress: told about it.
        data: a text that neither learned; None takes the end of the training text of both.
        pool: how members become one.

    Raises:
        ConfigError: the runs do not go together.
        DataError, CheckpointError, StorageError: something cannot be read or written.
    """
    RunDirectory.check_free(root / run)
    members = read(runs[0]), read(runs[1])
    texts = _checked(runs, members, data)
    source = data or str(members[0].state["config"]["data"]["source"])
    share = FOREIGN_SHARE if data is not None else MixedData().share
    own_data = MixedData(source=source, foreign=data is not None, share=share)
    config = MixtureRunConfig(members=runs, model=MixingConfig(pool=pool), data=own_data)
    progress.start({"members": f"{runs[0]} and {runs[1]}", "data": source, "vocabulary": texts.tokenizer.vocab_size})
    begin, wall = time.process_time(), time.perf_counter()
    try:
        loaded = [_parts(m).load(m) for m in members]
        gate = gate_of(MixedModel(loaded, shares=config.model.shares), texts, config)
        model = MixedModel(loaded, gate, shares=config.model.shares, pool=config.model.pool)
        cpu, seconds = time.process_time() - begin, time.perf_counter() - wall
        passage = _held_out(texts, config)
        metrics = scored(model, passage, _learned(members), mode="static", block=config.model.block)
    finally:
        progress.stop()
    now = Counters(step=1, cpu_s=cpu, seconds=seconds, evaluated=1)
    now.best, now.metrics = {"value": metrics[BEST], "step": 1}, metrics
    with RunDirectory.create(root, run, prefix="mixture", config=config, at_once=True) as directory:
        report = FitReport(
            run=directory.path,
            family="mixture",
            steps=1,
            tokens=now.tokens,
            seconds=seconds,
            cpu_seconds=cpu,
            peak_rss_mb=peak_rss_mb(),
            metrics=metrics,
            best={"metric": BEST, **now.best},
            checkpoint=_save(directory, config, members, model, now, texts.digest),
            ended="the weights are fitted",
        )
        directory.keep_result(report.to_json())
    return report


def _save(
    directory: RunDirectory,
    config: MixtureRunConfig,
    members: tuple[Checkpoint, Checkpoint],
    model: MixedModel,
    now: Counters,
    digest: str,
) -> Path:
    tensors = {f"{n}/{name}": tensor for n, m in enumerate(members) for name, tensor in m.tensors.items()}
    tensors |= {f"gate/{name}": torch.from_numpy(array) for name, array in model.gate.state().items()}
    state = {
        "config": to_json(config),
        "text_sha256": digest,
        "budget": {"steps": 1},
        "learner": {},
        "members": [{"step": m.step, "state": m.state} for m in members],
        "data": {},
        "counters": asdict(now),
        "callbacks": {},
    }
    files = {f"{n}.{name}": text for n, m in enumerate(members) for name, text in m.files.items()}
    path = checkpoint.save(directory.checkpoints, step=1, tensors=tensors, state=state, files=files)
    for name in ("latest", "best"):
        checkpoint.point(directory.checkpoints, name, 1)
    MetricsLog(directory.path / "metrics.jsonl").write(1, now.metrics)
    return path


def _prepare(config: MixtureRunConfig, *, start: Checkpoint | None, saved: Checkpoint | None, world: World) -> Work:
    """A mixture is fitted by `mix`; see `holonomy.recipes.work.FamilyParts`.

    Raises:
        ConfigError: always.
    """
    raise ConfigError("a mixture is not trained; train its members, and mix them again with `holonomy mix`")


def _check_data(saved: Checkpoint) -> None:
    """Refuses a text that is not the one a checkpoint was fitted on.

    Raises:
        DataError: it is not there, or has changed.
    """
    if _texts(saved, data=None).digest != saved.state["text_sha256"]:
        raise DataError(f"`data.source` {_config(saved).data.source} is not the text that the mixture was fitted on")


def _pictures(model: MixedModel) -> list[Picture]:
    """What the members look like inside, one after the other."""
    found: list[Picture] = []
    for member in model.members:
        if isinstance(member, LiorLanguageModel):
            found += lior_pictures(member)
        elif isinstance(member, HolographicModel):
            found += holographic_pictures(member)
    return found


class MixtureParts:
    """What mixtures say; see `holonomy.recipes.work.FamilyParts`."""

    prepare = staticmethod(_prepare)
    load = staticmethod(_load)
    evaluate = staticmethod(_evaluate)
    missed = staticmethod(no_targets)
    check_data = staticmethod(_check_data)
    pictures = staticmethod(_pictures)
    texts = staticmethod(_texts)


PARTS = MixtureParts()
