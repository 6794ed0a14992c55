"""Figures of parts of a model: shares, losses, coherence, loads, noise and bytes, each made in another way."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from holonomy.data.text import load_text
from holonomy.data.words import WordTokenizer, split_characters
from holonomy.geometry.minkowski import blade_matrices
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.figures import EDGES, LENT, load_shares, metric_name, part_figures, store_figures
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.retrieval import retrieve_batch, shares_brought
from holonomy.models.holographic.storage import state_of
from holonomy.models.holographic.tower import SCALE, Bindings
from holonomy.recipes import holographic_chars

ONE, WORDS = np.zeros(1, dtype=np.int64), 40
SMALL = {"blocks": 2, "block_share": 0.1, "product_steps": 8, "em_steps": 20}
CONFIG = {
    "tower": {"levels": 4, "channels": 16, "promote_at": None},
    "counts": {"classes": [4], "skips": [[1, 3]]},
    "similarity": {"dim": 16, "readout": True},
    "basins": {"enabled": True, "bits": 4, "tables": 2},
    "recency": {"traces": [[0, 60, 20.0], [2, 300, 40.5]]},
    "mixture": SMALL,
}


def text(count: int = 2500, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    chain, words = np.random.default_rng(9).permutation(np.arange(2, WORDS)), [2]
    for _ in range(count - 1):
        likely = random.random() < 0.7
        words.append(int(chain[(words[-1] * 7) % (WORDS - 2)]) if likely else int(random.integers(2, WORDS)))
    return np.array(words)


def made(**changes: object) -> HolographicModel:
    config = HolographicConfig.model_validate({**CONFIG, **changes})
    return HolographicModel(config, WordTokenizer([f"w{i}" for i in range(WORDS - 2)]))


@pytest.fixture(scope="module")
def model() -> HolographicModel:
    found = made()
    found.learn_text(text())
    found.fit(text())
    return found


@pytest.fixture(scope="module")
def held() -> np.ndarray:
    return text(400, seed=1)


def expert_rows(model: HolographicModel, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole distributions of each expert, [C, B, V], which of them know anything, and weights, [B, C]."""
    reading, weights = model.reading(of_text(tokens, ONE))
    memories, mixture = model.memories, model.mixture
    known, lean = memories.knowing(reading), mixture.lean(memories, reading)
    whole = []
    for column in range(len(memories.experts)):
        alone = np.zeros_like(weights)
        alone[:, column] = 1.0
        whole.append(mixture.combined(memories, reading, alone, lean).astype(np.float64))
    return np.stack(whole), known, weights


def test_shares_and_losses_are_those_of_whole_distributions(model: HolographicModel, held: np.ndarray) -> None:
    whole, known, weights = expert_rows(model, held)
    assert model.mixture.product == "episodic" and model.mixture.slope != 0
    names, here = model.memories.experts, np.arange(len(held))
    assert np.allclose(whole.sum(2)[known.T], 1, atol=1e-4)
    parts = weights * whole[:, here, held].T
    found = part_figures(model, held, here)
    shares = [found[f"val/share_{metric_name(name)}"] for name in names]
    assert np.allclose(shares, (parts / parts.sum(1, keepdims=True)).mean(0), atol=1e-4)
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0
    # What the shares divide is the mixture before its certainty is corrected.
    reading, _ = model.reading(of_text(held, ONE))
    plain = replace(model.mixture, certainty=None).distribution(model.memories, reading)
    assert np.allclose(parts.sum(1), plain[here, held], atol=1e-5)
    assert known.mean() < 1
    for column, name in enumerate(names):
        dense = np.where(known[:, column, None], whole[column], whole[0])
        if name.startswith("recent"):
            dense = (1 - LENT) * dense + LENT * whole[0]
        assert found[f"val/loss_{metric_name(name)}"] == pytest.approx(-np.log(dense[here, held]).mean(), abs=1e-3)
    # A double that leaves counts as they are, where similarity sharpens them.
    blunt, _ = model.memories.target_probs(reading, held)
    assert np.abs(shares_brought(weights, blunt).mean(0) - shares).max() > 0.01


def test_a_model_of_what_is_not_fitted_shares_alike(held: np.ndarray) -> None:
    fresh = made(tower={"role": "off"})
    empty = part_figures(fresh, held, np.arange(50))
    assert empty["val/loss_counts"] == pytest.approx(math.log(WORDS)) and part_figures(fresh, held, ONE[:0]) == {}
    fresh.learn_text(text())
    found = part_figures(fresh, held, np.arange(50))
    assert found.keys() == empty.keys() and not any("coherence" in name for name in found)
    assert np.isfinite(list(found.values())).all() and found["val/loss_counts"] < empty["val/loss_counts"]
    # Nothing is sharpened yet, and what is not made leaves its weight to the counts.
    assert found["val/share_class_4"] == 0 < found["val/share_skip_1_3"] < found["val/share_counts"]


def test_voices_are_told_by_losses_and_exponents() -> None:
    split = split_characters(load_text("pydoc").text[:20_000], unk=True)
    values = holographic_chars().model.model_dump()
    values["mixture"] |= {"positions": 1000, "pool_steps": 2}
    model = HolographicModel(HolographicConfig.model_validate(values), split.tokenizer)
    model.learn_text(split.train)
    places = np.arange(0, len(split.test), 5)
    before = part_figures(model, split.test, places)
    model.fit(split.train)
    found, voices = part_figures(model, split.test, places), model.memories.voices
    assert set(found) - set(before) == {f"val/exponent_{metric_name(v)}" for v in voices}
    contexts, targets = of_text(split.test, ONE, places), split.test[places]
    reading, pool = model.memories.read(contexts), model.mixture.pool
    assert pool is not None
    exponents = pool.scores(reading.numbers).mean(0)
    for column, voice in enumerate(voices):
        # The product of one voice alone is that voice, read by other kernels; a trace needs the order that smooths it.
        weights = np.zeros((len(places), len(voices)), dtype=np.float32)
        weights[:, column] = 1.0
        if voice.startswith("recent"):
            weights[:, voices.index("counts 5")] = 1.0
        own = -model.memories.pooled_logs(reading, weights)[np.arange(len(places)), targets].astype(np.float64)
        assert found[f"val/loss_{metric_name(voice)}"] == pytest.approx(own.mean(), abs=2e-3), voice
        assert found[f"val/exponent_{metric_name(voice)}"] == pytest.approx(exponents[column], abs=1e-4)


def stable(m: np.ndarray) -> np.ndarray:
    """Share of a matrix that lies along the unit and the pseudoscalar, by inner products with these two alone."""
    blades = blade_matrices(torch.float64, torch.device("cpu")).numpy()
    along = np.stack([(m * blades[k]).sum((-2, -1)) / 4 for k in (0, 15)])
    total = (m**2).sum((-2, -1)) / 4
    return np.where(total > 0, (along**2).sum(0) / np.where(total > 0, total, 1), 0)


def test_coherence_is_that_of_single_products(model: HolographicModel, held: np.ndarray) -> None:
    assert model.mirror is not None
    tower, signatures = model.mirror.tower, model.mirror.signatures
    words, places, store = signatures.words.double().numpy(), signatures.places.double().numpy(), tower.store.numpy()
    wanted = []
    for place in range(60):
        context = held[:place]
        order = min(place + 1, tower.orders[-1])
        if order < 2:
            wanted.append((0.0, 0.0))
            continue
        key = np.broadcast_to(np.eye(4), (16, 4, 4))
        for back in range(1, order):
            key = key @ places[back - 1] @ words[context[-back]]
        row = int(tower.addresses(torch.from_numpy(context[None, place - order + 1 :]), order))
        x = np.swapaxes(key, 1, 2) @ (store[row] / SCALE)
        logs = model.next_log_probs(context[None]).numpy()[0]
        rival = next(w for w in np.argsort(-logs, kind="stable") if w != held[place])
        wanted.append(tuple(float(stable(x @ np.swapaxes(words[w], 1, 2)).mean()) for w in (held[place], rival)))
    found = part_figures(model, held, np.arange(60))
    assert (found["val/coherence"], found["val/coherence_wrong"]) == pytest.approx(np.mean(wanted, 0), abs=1e-4)
    # A double that asks about the most probable word, whatever came.
    rows = np.stack([held[place - 5 : place] for place in range(5, 60)])
    assert abs(retrieve_batch(model, rows).coherence.mean() - np.mean(wanted[5:], 0)[0]) > 0.01


def test_a_lone_pair_is_coherent() -> None:
    alone = made()
    alone.learn([5, 6, 7], 8)
    tokens = np.array([5, 6, 7, 8])
    found = part_figures(alone, tokens, np.array([3]))
    assert found["val/coherence"] == pytest.approx(1, abs=1e-5) and found["val/coherence_wrong"] < 0.5


def test_loads_and_noise_are_those_of_a_walk_over_satellites(model: HolographicModel) -> None:
    assert model.mirror is not None
    tower, found = model.mirror.tower, store_figures(model)
    loads = {4: tower.load.tolist(), 3: tower.fold().load.tolist()}
    for level, name in ((4, "memory/load"), (3, "memory/load_level3")):
        for low, high in zip(EDGES, [*EDGES[1:], math.inf], strict=True):
            share = sum(low <= n < high for n in loads[level]) / len(loads[level])
            assert found[f"{name}_{low}"] == pytest.approx(share)
    assert sum(loads[3]) == sum(loads[4]) and found["memory/load"] == max(loads[4])
    assert sum(found[f"memory/load_{edge}"] for edge in EDGES) == pytest.approx(1)
    held = tower.store.numpy() / SCALE
    energy = (held**2).sum((1, 2, 3)) / (4 * 16)
    assert found["memory/f2_per_cell"] == pytest.approx(energy.sum() / held.size)
    begin = 0
    for order, digits in tower.top_digits.items():
        part = slice(begin, begin := begin + digits * 256)
        assert found[f"memory/f2_per_cell_{order}"] == pytest.approx(energy[part].sum() / held[part].size)
    used = np.array(loads[4]) > 0
    assert 0.05 < used.mean() < 0.9
    assert found["memory/stability"] == pytest.approx(stable(held[used]).mean(), abs=1e-6)
    model.mirror.tower.pack()
    packed = store_figures(model)
    model.mirror.tower.unpack()
    assert packed["memory/bytes_tower"] < found["memory/bytes_tower"]
    same = [k for k in found if not k.startswith("memory/bytes")]
    assert {k: packed[k] for k in same} == pytest.approx({k: found[k] for k in same}, rel=1e-6)


def test_random_pairs_have_the_noise_and_the_stability_of_their_law() -> None:
    random, count = np.random.default_rng(3), 4000
    bare = made(counts={"classes": [], "skips": []})
    assert bare.mirror is not None
    symbols, weights = random.integers(2, WORDS, (count, 3)), random.integers(1, 4, count)
    targets = random.integers(2, WORDS, count)
    # Each pair is bound once, as often as it weighs: F2 is the sum of squared counts of different pairs.
    pairs: dict[tuple[int, ...], int] = {}
    for context, target, weight in zip(symbols.tolist(), targets.tolist(), weights.tolist(), strict=True):
        pairs[*context, target] = pairs.get((*context, target), 0) + weight
    only = np.stack([np.zeros(count, int), np.zeros(count, int), weights], 1)
    bare.mirror.tower.write(Bindings(symbols, np.full(count, 3), targets, only))
    found, cells = store_figures(bare), 6 * 256 * 16 * 16
    f2 = sum(n * n for n in pairs.values())
    assert found["memory/f2_per_cell_4"] * cells == pytest.approx(f2, rel=0.05)
    assert found["memory/f2_per_cell_2"] == found["memory/f2_per_cell_3"] == 0
    assert found["memory/f2_per_cell"] == pytest.approx(found["memory/f2_per_cell_4"] * 6 / 16)
    # Two of sixteen coefficients of noise.
    assert found["memory/stability"] == pytest.approx(0.125, abs=0.01)
    assert store_figures(made())["memory/stability"] == 0


def test_classes_of_loads_begin_where_their_names_say() -> None:
    loads = torch.tensor([0, 0, 1, 2, 3, 4, 7, 8, 127, 128, 2**18], dtype=torch.int32)
    found = {edge: round(share * 11) for edge, share in load_shares(loads).items()}
    assert found == {0: 2, 1: 1, 2: 2, 4: 2, 8: 1, 16: 0, 32: 0, 64: 1, 128: 2}


def test_bytes_are_those_of_all_structures(model: HolographicModel) -> None:
    found, memories = store_figures(model), model.memories
    assert model.mirror is not None and memories.readout is not None and memories.basins is not None
    parts = {k: v for k, v in found.items() if k.startswith("memory/bytes_")}
    assert sum(parts.values()) == found["memory/bytes"] == sum(model.stats().values())
    assert parts["memory/bytes_skip_1_3"] == memories.grams[1].trie.nbytes
    assert parts["memory/bytes_tower"] == model.mirror.tower.store.nbytes + model.mirror.tower.load.nbytes
    assert {"memory/bytes_readout", "memory/bytes_basins", "memory/bytes_class_4"} <= parts.keys()


def test_asking_changes_nothing(model: HolographicModel, held: np.ndarray) -> None:
    before, draws = state_of(model), (torch.get_rng_state(), np.random.get_state()[1].copy())
    first = part_figures(model, held, np.arange(100)) | store_figures(model)
    again = part_figures(model, held, np.arange(100)) | store_figures(model)
    after = state_of(model)
    assert first == again and np.isfinite(list(first.values())).all()
    assert all(torch.equal(v, after[k]) if isinstance(v, torch.Tensor) else v == after[k] for k, v in before.items())
    assert torch.equal(draws[0], torch.get_rng_state()) and (draws[1] == np.random.get_state()[1]).all()
