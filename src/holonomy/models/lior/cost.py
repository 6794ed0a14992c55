"""What a lior configuration costs: parameters exactly, memory from its parts."""

from __future__ import annotations

from dataclasses import dataclass

from holonomy.core.errors import ConfigError
from holonomy.core.machine import available_memory
from holonomy.core.modes import BUMPS, COUPLED
from holonomy.models.lior.config import LiorConfig

COPIES = 4
"""Weights, statistics, and two moments: four buffers of the size of the parameters."""
FLOAT = 4


def parameter_count(config: LiorConfig, *, vocab_size: int) -> int:
    """Number of learned scalars of the network of a configuration, without building it."""
    model = config.model
    mixers = {"o": _oscillators(config), "r": _retrieval(config), "m": 3 * model.d * model.hidden}
    mixers["e"] = model.hidden * (2 * model.d + model.hidden)
    mixers |= {"q": 27 * model.d // 8, "c": model.n_osc * (4 * model.d + 9), "p": _probe(config)}
    mixers["h"] = 2 * model.n_osc * (model.d + model.hidden) + model.hidden * model.d + _hamiltonian(config, wells=True)
    return 2 * vocab_size * model.d + sum(mixers[letter] for letter in model.letters)


def _oscillators(config: LiorConfig) -> int:
    model = config.model
    n, controls = model.n_osc, {"selective": 2, "hamiltonian": int(model.wells)}.get(model.bank, 0)
    maps = (2 + controls) * n * model.d + n * model.d
    return maps + n * model.fir + n + _bank(config)


def _bank(config: LiorConfig) -> int:
    model = config.model
    n, rank = model.n_osc, 4
    if model.bank == "kernel":
        return 9 * n
    if model.bank == "coupled":
        return (n // COUPLED) * (_butterfly(COUPLED) + COUPLED + COUPLED * rank + rank + 1)
    if model.bank == "hamiltonian":
        return _hamiltonian(config, wells=model.wells)
    return 2 * n


def _hamiltonian(config: LiorConfig, *, wells: bool) -> int:
    n, rank = config.model.n_osc, 4
    return _butterfly(n) + n + n * rank + rank + (2 * n if wells else 0)


def _butterfly(n: int) -> int:
    return (n.bit_length() - 1) * (n // 2)


def _retrieval(config: LiorConfig) -> int:
    model, geometry = config.model, config.geometry
    d, heads = model.d, model.heads
    taps = model.retrieval_fir if model.retrieval_fir > 1 else 0
    if model.score == "geometric":
        points = 2 * d + 2 * heads
        return (points + d) * d + taps * points + d * d + 3 * heads + heads * (d // heads // 2)
    points = geometry.n if geometry.chart == "shared" else 2 * d
    own = (points + d) * d + taps * points + d * d + 2 * heads + (heads if geometry.stress else 0)
    if geometry.source == "curvature" and "heights" in config.train.spsa.groups:
        own += BUMPS
    if config.field.enabled:
        own += 2 * config.field.dim**2 * 2 * d
    return own + (0 if geometry.chart == "folded" else _chart(config))


def _probe(config: LiorConfig) -> int:
    d, heads = config.model.d, config.model.heads
    return 4 * d * d + 6 * heads + (0 if config.geometry.chart == "folded" else _chart(config))


def _chart(config: LiorConfig) -> int:
    geometry, heads = config.geometry, config.model.heads
    n = geometry.n if geometry.chart == "shared" else config.model.d // heads
    count = heads + heads * (n if geometry.metric_mode == "diag_rot" else n * geometry.block)
    if geometry.frame_mode == "learned_lowrank":
        count += heads * geometry.rank * (n + 1)
    if geometry.rotor_mode == "stateful":
        count += heads * (geometry.rotor_layers or n) * (n // 2)
    elif geometry.frame_mode == "rotor":
        count += heads * n * (n - 1) // 2
    return count


@dataclass(frozen=True)
class Memory:
    """Bytes that training takes.

    Attributes:
        weights: weights, statistics, moments and averages.
        activations: what the free phase of a batch leaves for the echo.
    """

    weights: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.activations


def weight_bytes(config: LiorConfig, *, vocab_size: int) -> int:
    """Bytes of the buffers that have the size of the parameters."""
    copies = COPIES + bool(config.train.optim.ema)
    return FLOAT * copies * parameter_count(config, vocab_size=vocab_size)


def least_memory(config: LiorConfig, *, vocab_size: int) -> Memory:
    """A lower bound of the memory of training, from sizes alone: enough to refuse what cannot fit.

    Of the activations it counts what every block certainly keeps of a batch: its input, and the inner width twice.
    """
    model, data = config.model, config.data
    kept = {"o": model.d + 3 * model.n_osc, "r": 4 * model.d, "m": model.d + 3 * model.hidden}
    kept |= {"e": model.d + 2 * model.hidden, "q": 3 * model.d, "c": model.d + 4 * model.n_osc, "p": 4 * model.d}
    kept["h"] = model.d + 3 * model.n_osc + 3 * model.hidden
    tokens = data.batch * data.seq_len // config.train.accumulate
    if config.train.echo.memory != "full":
        tokens = min(tokens, data.batch * config.train.echo.segment)
    per_token = 2 * vocab_size + sum(kept[letter] for letter in model.letters)
    return Memory(weight_bytes(config, vocab_size=vocab_size), FLOAT * tokens * per_token)


def check_fits(config: LiorConfig, *, vocab_size: int, available: int | None = None) -> None:
    """Refuses, before anything is allocated, a training that the machine has too little memory for.

    Args:
        config: what would be trained.
        vocab_size: number of token ids.
        available: bytes; None is the memory of this machine.

    Raises:
        ConfigError: names the estimate and what to lower.
    """
    need, room = least_memory(config, vocab_size=vocab_size), available_memory() if available is None else available
    if need.total > room:
        wide, long = ("model.d, model.n_osc or model.hidden", "data.batch or data.seq_len, or raise train.accumulate")
        raise ConfigError(
            f"the training needs {need.total / 2**30:,.1f} GiB at least ({need.weights / 2**30:,.1f} for weights, "
            f"{need.activations / 2**30:,.1f} for activations), this machine has {room / 2**30:,.1f}; "
            f"lower {wide if need.weights > need.activations else long}"
        )
