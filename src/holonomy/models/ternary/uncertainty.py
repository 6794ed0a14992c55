"""How sure a decoded table is: by dropout, by several models, or by a calibrated set of values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from holonomy.core.errors import ConfigError
from holonomy.models.ternary.model import TernaryVAE


def entry_probabilities(vae: TernaryVAE, index: Int[Tensor, " B"]) -> Float[Tensor, "B digits base"]:
    """Softmax of the decoded entries."""
    with torch.no_grad():
        return vae(vae.table_of(index)).logits.softmax(-1)


def dropout_probabilities(
    vae: TernaryVAE, index: Int[Tensor, " B"], *, samples: int, seed: int = 0
) -> Float[Tensor, "S B digits base"]:
    """Probabilities under `samples` masks of the model's dropout (Gal & Ghahramani 2016).

    Raises:
        ConfigError: the model has no dropout, so that every sample would be the same.
    """
    masks = [m for m in vae.modules() if isinstance(m, nn.Dropout)]
    if not masks:
        raise ConfigError(
            "`vae` has no dropout, so all samples agree; train with model.encoder_dropout or decoder_dropout above 0"
        )
    was = vae.training
    vae.eval()
    for mask in masks:
        mask.train()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.stack([entry_probabilities(vae, index) for _ in range(samples)])
    finally:
        vae.train(was)


def ensemble_probabilities(members: Sequence[TernaryVAE], index: Int[Tensor, " B"]) -> Float[Tensor, "S B digits base"]:
    """Probabilities of several models.

    Raises:
        ConfigError: there are fewer than two, or they know other operations.
    """
    if len(members) < 2:
        raise ConfigError(f"`members` holds {len(members)} models; an ensemble wants at least 2")
    if len({(m.space.base, m.space.digits) for m in members}) > 1:
        raise ConfigError("`members` know different operations; they must share base and digits")
    return torch.stack([entry_probabilities(m, index) for m in members])


def split_entropy(
    probabilities: Float[Tensor, "S B digits base"],
) -> tuple[Float[Tensor, "B digits"], Float[Tensor, "B digits"]]:
    """Entropy of the mean, and the part of it that the samples disagree about (mutual information)."""
    mean = probabilities.mean(0)
    total = -torch.special.xlogy(mean, mean).sum(-1)
    inside = -torch.special.xlogy(probabilities, probabilities).sum(-1).mean(0)
    return total, total - inside


class ConformalSets:
    """Sets of values for every entry that hold the true one at a chosen rate (Vovk et al. 2005), whatever the model.

    The score of a value is 1 - p; the threshold is the ceil((n + 1)(1 - miss)) / n quantile of the scores of true
    values on data that was not trained on.

    Args:
        probabilities: of calibration tables, [n, digits, base].
        table: their true entries, [n, digits].
        miss: share of entries whose set may lack the true value.

    Raises:
        ConfigError: too few entries to promise that rate.
    """

    def __init__(
        self, probabilities: Float[Tensor, "n digits base"], table: Int[Tensor, "n digits"], *, miss: float
    ) -> None:
        if not 0 < miss < 1:
            raise ConfigError(f"`miss` is {miss}; wanted a share between 0 and 1")
        true = probabilities.gather(-1, table.long().unsqueeze(-1)).flatten()
        scores = (1 - true).sort().values
        rank = math.ceil((len(scores) + 1) * (1 - miss))
        if rank > len(scores):
            least = math.ceil(1 / miss)
            raise ConfigError(f"`table` has {len(scores)} entries; to miss {miss:g} takes at least {least}")
        self.threshold = float(scores[rank - 1])

    def sets(self, probabilities: Float[Tensor, "B digits base"]) -> Bool[Tensor, "B digits base"]:
        """Which values each set holds."""
        return 1 - probabilities <= self.threshold


def ensemble_doubt(members: Sequence[TernaryVAE], index: Int[Tensor, " n"]) -> dict[str, float]:
    """Figures of several models taken together, about the same operations.

    Returns:
        `ensemble_coverage`: share of the tables that the mean of their probabilities gives without a fault.
        `ensemble_entropy` and `ensemble_disagreement`: entropy of that mean and what of it the models differ by, in
        nats an entry.

    Raises:
        ConfigError: as for `ensemble_probabilities`.
    """
    probabilities = ensemble_probabilities(members, index)
    total, between = split_entropy(probabilities)
    right = (probabilities.mean(0).argmax(-1) == members[0].table_of(index)).all(-1)
    return {
        "ensemble_coverage": float(right.double().mean()),
        "ensemble_entropy": float(total.mean()),
        "ensemble_disagreement": float(between.mean()),
    }


MISS, MASKS = 0.01, 30


def doubt(vae: TernaryVAE, index: Int[Tensor, " n"], *, seed: int = 0) -> dict[str, float]:
    """Figures of how sure the model is about operations, the better those it was not trained on.

    Half of them calibrate sets that miss one true value in a hundred; the other half is measured.

    Returns:
        `entropy`: mean over entries, in nats. `set_size`, `set_coverage`: mean number of values in a set, and share of
        the sets that hold the true one. `disagreement`: what 30 masks of dropout differ by, in nats, where there is
        dropout.

    Raises:
        ConfigError: too few operations.
    """
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed)).to(index.device)
    known, asked = index[order].chunk(2)
    fitted = ConformalSets(entry_probabilities(vae, known), vae.table_of(known), miss=MISS)
    p, true = entry_probabilities(vae, asked), vae.table_of(asked).long().unsqueeze(-1)
    held = fitted.sets(p)
    figures = {
        "entropy": float(split_entropy(p[None])[0].mean()),
        "set_size": float(held.sum(-1).double().mean()),
        "set_coverage": float(held.gather(-1, true).double().mean()),
    }
    if any(isinstance(m, nn.Dropout) for m in vae.modules()):
        figures["disagreement"] = float(split_entropy(dropout_probabilities(vae, asked, samples=MASKS))[1].mean())
    return figures
