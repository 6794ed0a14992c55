"""Our ranking and calibration figures beside those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from holonomy.models.holographic.metrics import calibration_error, separation
from holonomy.models.ternary.metrics import level_auc


@pytest.mark.parametrize("digits", [1, 3, 12])
def test_separation_is_the_area_under_the_curve(digits: int) -> None:
    random = np.random.default_rng(digits)
    score, right = random.random(500).round(digits), random.random(500) < 0.3
    assert separation(score, right) == pytest.approx(roc_auc_score(right, score), abs=1e-12)


def test_level_auc_is_the_area_under_the_curve_of_two_levels() -> None:
    generator = torch.Generator().manual_seed(0)
    radii = torch.rand(400, generator=generator, dtype=torch.float64).mul(50).round()
    levels = (torch.rand(400, generator=generator) < 0.4).long()
    assert level_auc(levels, radii) == pytest.approx(roc_auc_score(1 - levels.numpy(), radii.numpy()), abs=1e-12)


@pytest.mark.parametrize("bins", [5, 15])
def test_calibration_error_is_that_of_the_reliability_curve(bins: int) -> None:
    random = np.random.default_rng(bins)
    confidence = random.random(3_000) ** 2
    # Too sure in places and not sure enough in others: signs do not cancel the choice of bins.
    right = random.random(3_000) < confidence + 0.2 * np.sin(9 * confidence)
    share, mean = calibration_curve(right, confidence, n_bins=bins, strategy="quantile")
    assert calibration_error(confidence, right.astype(np.float64), bins) == pytest.approx(np.abs(share - mean).mean())
    assert calibration_error(confidence, right.astype(np.float64), 3) != pytest.approx(np.abs(share - mean).mean())
