"""One-pass memories as a language model: one function makes every probability, everything else looks at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError, DataError
from holonomy.data.tokenizer import CharTokenizer
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import Contexts, checked_ids, checked_numbers, of_rows, of_text, of_windows
from holonomy.models.holographic.cues import Cues, Reading
from holonomy.models.holographic.fit import Mixture, MixtureFit
from holonomy.models.holographic.following import Following, Multiplied
from holonomy.models.holographic.memories import PART, Memories
from holonomy.models.holographic.mirror import Mirror
from holonomy.models.holographic.mixture import logarithms
from holonomy.models.holographic.pairs import LARGEST
from holonomy.models.holographic.topics import WINDOW


@dataclass
class History:
    """The last words of several sequences.

    Attributes:
        ids: [B, n] int64.
        lengths: how many of them, at the end of each row, are there, [B].
    """

    ids: np.ndarray
    lengths: np.ndarray

    def take(self, ids: np.ndarray, limit: int) -> History:
        """With further words [B, n] at the end, cut to the last `limit`."""
        joined = np.concatenate([self.ids, ids], 1)[:, -limit:]
        return History(joined, np.minimum(self.lengths + ids.shape[1], joined.shape[1]))


class HolographicModel:
    """Implements the `LanguageModel` protocol on memories that learn each pair once.

    Args:
        config: of the model.
        tokenizer: words or characters.

    Raises:
        ConfigError: contexts are to be read in spelling, which the tokenizer does not know.
    """

    def __init__(self, config: HolographicConfig, tokenizer: WordTokenizer | CharTokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.vocab_size = tokenizer.vocab_size
        self.pad_id = tokenizer.pad_id
        self.num_ids = max(self.vocab_size, self.pad_id + 1)
        """Ids that may stand in contexts: the pad need not have a probability."""
        if config.counts.spelled and tokenizer.spelling is None:
            raise ConfigError(
                f"`counts.spelled` is {config.counts.spelled}, but words are not spelled; set data.tokens=chars"
            )
        self.memories = Memories(config, self.vocab_size, unknown=tokenizer.unknown_id, spelling=tokenizer.spelling)
        self.mixture = Mixture.uniform(self.memories)
        self.mirror = None if config.tower.role == "off" else Mirror(config.tower, self.vocab_size)
        self.attach()
        reads_topics = config.mixture.product != "none" and config.similarity.topics
        about = WINDOW if reads_topics else 0
        self.context_limit: int | None = max(self.memories.recency.window, self.memories.reach, about)

    def attach(self) -> None:
        """Lets the store take what the counts drop, if that is its role; to be called when either is another one."""
        if self.mirror is not None and self.config.tower.role == "overflow":
            counts = self.memories.counts
            counts.spill, counts.longest = self.mirror.take, self.mirror.tower.orders[-1]

    def learn_batch(
        self,
        ids: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray | None = None,
        lengths: np.ndarray | None = None,
    ) -> None:
        """Learns what follows contexts.

        Args:
            ids: contexts, nearest word last, [B, n]; what stands before a pad is absent.
            targets: the words that follow, [B].
            weights: how often, [B] whole numbers from one on; once by default.
            lengths: how many of the ids count, [B]; all by default.

        Raises:
            DataError: something is out of range or of another size; nothing has changed.
        """
        self._change(*self._pairs(ids, targets, weights, lengths), sign=1)

    def unlearn_batch(
        self,
        ids: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray | None = None,
        lengths: np.ndarray | None = None,
    ) -> None:
        """Takes pairs away that were learned; arguments as of `learn_batch`.

        Raises:
            DataError: as there, or a pair that was not learned as often; nothing has changed.
        """
        self._change(*self._pairs(ids, targets, weights, lengths), sign=-1)

    def learn(self, context: Sequence[int], target: int, weight: int = 1) -> None:
        """Learns one pair: a batch of one."""
        self.learn_batch(np.array([context], dtype=np.int64).reshape(1, -1), np.array([target]), np.array([weight]))

    def _pairs(
        self, ids: np.ndarray, targets: np.ndarray, weights: np.ndarray | None, lengths: np.ndarray | None
    ) -> tuple[Contexts, np.ndarray, np.ndarray]:
        contexts = self.contexts(ids, lengths)
        targets = checked_ids("targets", targets, self.vocab_size)
        weights = np.ones_like(targets) if weights is None else checked_numbers("weights", weights, 1, LARGEST - 1)
        if targets.shape != contexts.ends.shape or weights.shape != targets.shape:
            raise DataError(
                f"`targets` has shape {targets.shape} and `weights` {weights.shape}; wanted ({len(contexts.ends)},)"
            )
        if (targets == self.pad_id).any():
            raise DataError(
                f"`targets` row {int((targets == self.pad_id).argmax())} is the pad, which is never learned"
            )
        return contexts, targets, weights

    def contexts(self, ids: np.ndarray, lengths: np.ndarray | None = None) -> Contexts:
        """Rows of ids as contexts, checked; arguments as of `learn_batch`."""
        ids = checked_ids("ids", ids, self.num_ids)
        if ids.ndim != 2:
            raise DataError(f"`ids` has shape {ids.shape}; wanted one row a context")
        rows, width = ids.shape
        lengths = np.full(rows, width) if lengths is None else checked_numbers("lengths", lengths, 0, width)
        if lengths.shape != (rows,):
            raise DataError(f"`lengths` has shape {lengths.shape}; wanted ({rows},)")
        return of_rows(ids, lengths, self.pad_id)

    def _change(self, contexts: Contexts, targets: np.ndarray, weights: np.ndarray, *, sign: int) -> None:
        for begin in range(0, len(targets), self.config.batch_size):
            cut = slice(begin, begin + self.config.batch_size)
            part = contexts.part(cut), targets[cut], weights[cut]
            try:
                self.memories.learn(*part, sign=sign)
            except DataError:
                # Batches before the one that cannot be learned or unlearned are as if they had not been.
                done = contexts.part(slice(0, begin)), targets[:begin], weights[:begin]
                if sign > 0:
                    self.memories.learn(*done, sign=-1)
                else:
                    self.memories.restore(*done)
                if self.mirror is not None and self.config.tower.role == "mirror":
                    self.mirror.follow(*done, -sign, self.memories.counts)
                raise
            if self.mirror is not None and self.config.tower.role == "mirror":
                self.mirror.follow(*part, sign, self.memories.counts)

    def change(self, contexts: Contexts, targets: np.ndarray, *, sign: int) -> None:
        """Learns the words after contexts of a buffer once (`sign` 1), or takes them away (-1)."""
        self._change(contexts, checked_ids("targets", targets, self.vocab_size), np.ones_like(targets), sign=sign)

    def _text(self, tokens: np.ndarray, starts: np.ndarray | None) -> tuple[Contexts, np.ndarray]:
        tokens = checked_ids("tokens", tokens, self.vocab_size)
        starts = np.zeros(1, dtype=np.int64) if starts is None else np.asarray(starts, dtype=np.int64)
        rising = (
            tokens.ndim == 1 and starts.ndim == 1 and len(starts) and starts[0] == 0 and (np.diff(starts) > 0).all()
        )
        if not rising or starts[-1] >= max(1, len(tokens)):
            raise DataError(f"`starts` must rise from 0 and stay below {len(tokens)}, the number of tokens")
        if (tokens == self.pad_id).any():
            raise DataError(
                f"`tokens` holds the pad at {int((tokens == self.pad_id).argmax())}; pads are never learned"
            )
        return of_text(tokens, starts), tokens

    def learn_text(self, tokens: np.ndarray, starts: np.ndarray | None = None) -> None:
        """Learns every word of documents after all that stand before it.

        Args:
            tokens: documents end to end, [n].
            starts: where each begins, rising from 0; one document by default.
        """
        contexts, tokens = self._text(tokens, starts)
        self._change(contexts, tokens, np.ones(len(tokens), dtype=np.int64), sign=1)

    def unlearn_text(self, tokens: np.ndarray, starts: np.ndarray | None = None) -> None:
        """Takes documents away that were learned; arguments as of `learn_text`."""
        contexts, tokens = self._text(tokens, starts)
        self._change(contexts, tokens, np.ones(len(tokens), dtype=np.int64), sign=-1)

    def consolidate(self, tokens: np.ndarray, starts: np.ndarray | None = None) -> None:
        """Makes word vectors and classes from all counts, and what hangs on them from a text that was learned."""
        self.memories.refresh(*self._text(tokens, starts))

    def fit(self, tokens: np.ndarray, starts: np.ndarray | None = None) -> None:
        """Fits the mixture on parts of a learned text, each unlearned while it is predicted, then consolidates."""
        contexts, tokens = self._text(tokens, starts)
        self.mixture = self._fitting(contexts, tokens).run()
        self.rehearse(contexts, tokens)

    def _fitting(self, contexts: Contexts, targets: np.ndarray) -> MixtureFit:
        unspoken = self.tokenizer.unspoken
        return MixtureFit(self.memories, self.mirror, self.config, contexts, targets, unspoken)

    def rehearse(self, contexts: Contexts, targets: np.ndarray) -> None:
        """Follows the end of a learned text with a fitted pool, as it was first read, and keeps what that taught.

        Args:
            contexts: of every word of the text.
            targets: the words.
        """
        evaluation, pool, size = self.config.evaluation, self.mixture.pool, len(targets)
        begin = size - int(self.config.mixture.rehearsal * size)
        if pool is None or begin == size or not evaluation.follow:
            return
        follows, whole, block = Multiplied(self.memories, pool), self.memories.learned, evaluation.block
        self.change(contexts.part(slice(begin, None)), targets[begin:], sign=-1)
        step = max(1, self.rows // block) * block
        try:
            for at in range(begin, size, step):
                part = slice(at, at + step)
                self.follow(contexts.part(part), targets[part], block, follows)
        finally:
            # Nothing, unless it was interrupted.
            left = slice(size - whole + self.memories.learned, None)
            self.change(contexts.part(left), targets[left], sign=1)
            for gram in self.memories.grams:
                gram.trie.arrange()
        self.mixture = replace(self.mixture, rehearsed=follows.state())

    def fit_apart(self, tokens: np.ndarray, starts: np.ndarray | None = None) -> None:
        """Fits the mixture to a text that was not learned; consolidate first."""
        self.mixture = self._fitting(*self._text(tokens, starts)).run_apart()

    @property
    def rows(self) -> int:
        """Contexts that are asked about at a time."""
        return max(1, PART // (self.vocab_size * self.memories.depth))

    def distributions(self, contexts: Contexts) -> Float[Tensor, "B V"]:
        """Log probabilities after contexts of a buffer."""
        logs, rows = torch.empty(len(contexts.ends), self.vocab_size), self.rows
        for begin in range(0, len(logs), rows):
            part = slice(begin, begin + rows)
            self.said(self.memories.read(contexts.part(part)), logs[part])
        return logs

    def said(self, reading: Reading, out: Float[Tensor, "B V"] | None = None) -> Float[Tensor, "B V"]:
        """Log probabilities from what was read: the only place that makes them."""
        pool = self.mixture.pool
        if pool is None:
            return logarithms(self.mixture.distribution(self.memories, reading), out)
        logs = torch.from_numpy(self.memories.pooled_logs(reading, pool.exponents(reading.numbers)))
        return logs if out is None else out.copy_(logs)

    def follow(
        self, contexts: Contexts, targets: np.ndarray, block: int, mixture: Following | None = None
    ) -> Float[Tensor, "B V"]:
        """Log probabilities after contexts of a buffer; each block of words is learned after it was predicted.

        Args:
            contexts: one for each target, nearest word last.
            targets: the words, [B].
            block: words that are predicted before they are learned.
            mixture: what follows the text, and goes on from call to call; the fitted mixture as it is by default.
        """
        targets, logs = checked_ids("targets", targets, self.vocab_size), torch.empty(len(targets), self.vocab_size)
        reader = BlockReader(self, contexts, block, None if mixture is None else (mixture, targets))
        for begin in range(0, len(targets), block):
            part = slice(begin, begin + block)
            logs[part] = reader.ask()
            reader.learn(targets[part])
        return logs

    def next_log_probs(self, ids: np.ndarray, lengths: np.ndarray | None = None) -> Float[Tensor, "B V"]:
        """Log probabilities of the word after each context, arguments as of `learn_batch`."""
        return self.distributions(self.contexts(ids, lengths))

    def score(self, tokens: np.ndarray, positions: np.ndarray, starts: np.ndarray | None = None) -> Float[Tensor, " B"]:
        """Log probabilities of the words at some positions of a text, each after all that stand before it."""
        contexts, tokens = self._text(tokens, starts)
        positions = checked_ids("positions", positions, max(1, len(tokens)))
        contexts, targets = contexts.part(positions), torch.from_numpy(tokens[positions])
        own = [
            self.distributions(contexts.part(cut)).gather(1, targets[cut, None]).squeeze(1)
            for cut in (slice(i, i + self.rows) for i in range(0, len(positions), self.rows))
        ]
        return torch.cat(own) if own else torch.empty(0)

    def log_probs(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Log probabilities of the word after each place, given the row up to it."""
        array = checked_ids("ids", ids.numpy(), self.num_ids)
        rows, width = array.shape
        return self.distributions(of_windows(array, self.pad_id)).view(rows, width, self.vocab_size)

    def start(self, batch: int) -> History:
        """State before the first word."""
        if batch < 1:
            raise ConfigError(f"`batch` is {batch}; wanted 1 or more")
        return History(np.empty((batch, 0), dtype=np.int64), np.zeros(batch, dtype=np.int64))

    def prefill(self, ids: Int[Tensor, "B T"], state: History) -> tuple[Float[Tensor, "B V"], History]:
        """Takes many words at once; returns the distribution after the last one."""
        array = checked_ids("ids", ids.numpy(), self.num_ids)
        state = state.take(array, self.context_limit or array.shape[1])
        return self.distributions(of_rows(state.ids, state.lengths, self.pad_id)), state

    def advance(self, ids: Int[Tensor, "B T"], state: History) -> tuple[Float[Tensor, "B T V"], History]:
        """Takes many words at once; returns the distribution after each of them."""
        array = checked_ids("ids", ids.numpy(), self.num_ids)
        rows, width = array.shape
        joined = np.concatenate([state.ids, array], 1)
        whole, before = of_windows(joined, self.pad_id), state.ids.shape[1]
        begins, ends = (a.reshape(rows, -1)[:, before:] for a in (whole.begins, whole.ends))
        limit = self.context_limit or joined.shape[1]
        kept = np.minimum(state.lengths[:, None] + np.arange(1, width + 1), limit)
        spans = Contexts(whole.tokens, np.maximum(begins, ends - kept).reshape(-1), ends.reshape(-1))
        found = self.distributions(spans)
        return found.view(rows, width, self.vocab_size), state.take(array, limit)

    def step(self, ids: Int[Tensor, " B"], state: History) -> tuple[Float[Tensor, "B V"], History]:
        """Takes one word a sequence; returns the distribution after it."""
        return self.prefill(ids[:, None], state)

    def reading(self, contexts: Contexts) -> tuple[Reading, np.ndarray]:
        """What the memories find for contexts, and the weights that the experts get, [B, C]."""
        reading = self.memories.read(contexts)
        return reading, self.mixture.weights(reading, self.memories.knowing(reading))

    def confidence_bound(self, share: float) -> float:
        """The highest probability that this share of predictions does not reach, on text that was not learned.

        Raises:
            ConfigError: nothing was fitted, or by an earlier version.
        """
        known = self.mixture.confidences
        if not known:
            reason = "was fitted by an earlier version" if self.mixture.calibrated else "is not fitted yet"
            raise ConfigError(f"`abstain` is {share}, but the model {reason}: finish its training, or train it anew")
        return float(np.interp(share, np.linspace(0, 1, len(known)), known))

    def pack(self) -> None:
        """Takes as little memory as reading needs and says the same; whoever learns or unlearns makes room first."""
        self.memories.pack()
        if self.mirror is not None:
            self.mirror.pack()

    def stats(self) -> dict[str, int]:
        """Bytes of every structure."""
        return self.memories.nbytes | (self.mirror.nbytes if self.mirror is not None else {})


class BlockReader:
    """The path of learning while reading: contexts are asked about block after block, and each block is learned.

    Args:
        model: what reads and learns; nothing else may change it between a question and its answer.
        contexts: all of a text, of one buffer.
        block: contexts of a block.
        mixture: what follows the text, and the words after all contexts, of which it is told as they are learned.
    """

    def __init__(
        self,
        model: HolographicModel,
        contexts: Contexts,
        block: int,
        mixture: tuple[Following, np.ndarray] | None = None,
    ) -> None:
        self.model, self.contexts, self.block = model, contexts, block
        self._mixture, self._targets = (None, None) if mixture is None else mixture
        self._most = model.rows
        self._at, self._span = 0, max(1, self._most // block) * block
        self._cues: Cues | None = None
        self._own: Cues | None = None
        self._rows: Mapping[str, np.ndarray] | None = None

    def ask(self) -> Float[Tensor, "B V"]:
        """Log probabilities after the contexts of the next block."""
        memories, most, begin = self.model.memories, self._most, self._at % self._span
        if self._cues is None or begin == 0:
            some = slice(self._at, self._at + self._span)
            targets = None if self._targets is None else self._targets[some]
            self._cues = memories.cues(self.contexts.part(some), traces=True, targets=targets)
        own = self._own = self._cues.part(slice(begin, begin + self.block))
        if len(own.lengths) <= most:
            reading = memories.read_cued(own)
            self._rows = reading.rows
            return self._said(reading, self._at)
        self._rows = None
        places = range(0, len(own.lengths), most)
        return torch.cat(
            [self._said(memories.read_cued(own.part(slice(at, at + most))), self._at + at) for at in places]
        )

    def _said(self, reading: Reading, begin: int) -> Float[Tensor, "B V"]:
        if self._mixture is None or self._targets is None:
            return self.model.said(reading)
        return self._mixture.log_probs(reading, self._targets[begin : begin + len(reading.mass)])

    def learn(self, targets: np.ndarray) -> None:
        """Learns the words that came after the contexts of the last question.

        Raises:
            DataError: they are more or fewer, or out of range; nothing has changed.
        """
        own, ones = self._own, np.ones_like(targets)
        if own is None or len(targets) != len(own.lengths):
            count = 0 if own is None else len(own.lengths)
            raise DataError(f"`targets` has {len(targets)} words; {count} contexts were asked about, learn those")
        if self._mixture is not None:
            self._mixture.step()
        self.model.memories.learn_cued(own, targets, ones, rows=self._rows)
        if self.model.mirror is not None and self.model.config.tower.role == "mirror":
            self.model.mirror.follow(own.contexts, targets, ones, 1, self.model.memories.counts)
        self._at, self._own = self._at + len(targets), None
