"""Claims about configurations: every key is read where something happens, or refused where nothing would."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args, get_origin

import numpy as np
from pydantic import ValidationError

import holonomy
from holonomy.audit.claim import Evidence, Figure, Setting, claim
from holonomy.core.config import Config, leaves, to_json
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import generate
from holonomy.models.ternary.homeostasis import Homeostasis
from holonomy.nn.sites import FieldOptions
from holonomy.recipes import configure, launch
from holonomy.recipes.families import FAMILIES
from holonomy.train.monitor import SilentProgress

CARRIERS: Mapping[type, tuple[str, str]] = {FieldOptions: ("field", "model_dump"), Sampling: ("infer", "getattr")}
"""Classes that a whole node is handed on in, the node, and how the source takes it apart for that."""
CONFIG_MODULES = frozenset(
    {
        *("core.config", "core.budget", "core.inference", "models.lior.companions", "models.lior.text_config"),
        *(f"models.{f.name}.config" for f in FAMILIES),
    }
)
WHOLE_TREES = frozenset({"leaves", "_inactive"})
"""Functions that go over all keys, whatever they mean."""

RARE = {
    "infer.max_tokens": "`holonomy generate` and `chat`",
    "train.threads": "every command, before torch starts",
    "train.guard.rollbacks": "a loss that is no number",
    "train.guard.on_save_error": "a checkpoint that cannot be written",
    "train.positions": "an evaluation before the end of a pass",
    "model.evaluation.block": "evaluation that learns as it goes",
    "model.evaluation.follow": "evaluation that learns as it goes",
    "data.documents.cache": "streams whose token ids are kept",
    "data.documents.workers": "streams whose token ids are kept",
}
"""Keys that tiny runs do not read, and what does; the source has to read them by the name of their node."""

IDLE: Mapping[str, str] = {
    **{
        f"lior: memory.{key}": "every run may be evaluated by the protocol memory, few of these are"
        for key in ("capacity", "k", "mixing", "prior", "share", "weighting", "window")
    },
    **{
        f"{family}: train.schedule.floor": "tables and constants have none, but recipes bring one of their own"
        for family in ("lior", "ternary")
    },
}
"""Keys that some tiny run reads and another takes without reading them, and why they are not refused there."""


@dataclass(frozen=True)
class Scenario:
    """A tiny training, with evaluation and generation, in which keys are read.

    Attributes:
        recipe: that it begins with.
        overrides: dotted key -> value, as on the command line.
        protocols: evaluations afterwards.
    """

    recipe: str
    overrides: Mapping[str, str]
    protocols: Sequence[str | None] = (None,)

    def configuration(self, text: Path) -> Any:
        """The run's configuration, with the text to learn where one is learned."""
        source = {} if self.recipe.startswith("ternary") else {"data.source": str(text)}
        return configure(self.recipe, overrides=[f"{k}={v}" for k, v in {**self.overrides, **source}.items()]).config


SMALL = {"train.budget.steps": "3", "train.cadence.log_every": "1", "train.cadence.eval_every": "1"}
BLOCKS = {
    **SMALL, "data.seq_len": "16", "data.batch": "4", "model.d": "8", "model.n_osc": "8", "model.hidden": "8",
    "model.heads": "2",
}  # fmt: skip
LIOR = {**BLOCKS, "model.blocks": "2"}
TOKENS = {
    "model.mixture.positions": "200", "model.mixture.em_steps": "3",
    "model.recency.traces": "[[1, 50, 20.0]]", "model.batch_size": "500",
}  # fmt: skip
WORDS = {
    **TOKENS, "model.tower.levels": "3", "model.similarity.dim": "16", "model.mixture.product_steps": "3",
    "model.mixture.product_positions": "50",
}  # fmt: skip
TERNARY = {**SMALL, "data.base": "3", "data.digits": "4", "data.batch": "16", "data.extra_from_level": "2"}
LOSSES = (
    "kl", "padic_triplet", "monotone_levels", "global_rank", "padic_geodesic", "padic_metric", "tree_centroid",
    "soft_rank", "zero_structure", "fisher_rao", "entropy", "repulsion", "align", "hyperbolic_reconstruction",
)  # fmt: skip
SCENARIOS = (
    Scenario("lior-smoke", LIOR | {
        "train.cadence.samples": "4", "train.cadence.keep_every": "1", "train.guard.patience": "9",
        "train.guard.halve_after": "8", "train.optim.ema": "0.9", "train.schedule.kind": "cyclic",
        "train.cadence.eval_least": "1",
    }, ("windows", "memory")),
    Scenario("lior-smoke", BLOCKS | {"model.bank": "kernel", "model.pattern": "om", "train.schedule.kind": "table"}),
    Scenario("lior-smoke", LIOR | {
        "model.bank": "hamiltonian", "model.architecture": "causal_field", "train.echo.memory": "segment",
        "train.echo.segment": "8",
    }),
    Scenario("lior-smoke", LIOR | {"geometry.chart": "shared", "train.guard.on_nonfinite": "rollback"}),
    Scenario("lior-smoke", LIOR | {
        "field.enabled": "true", "field.adaptive": "true", "field.collapse_every": "1", "field.pace": "64",
        "memory.weighting": "entropy",
    }, ("field", "memory")),
    Scenario("lior-smoke", LIOR | {"data.tokenizer": "bpe", "data.unk": "false", "data.bpe_vocab": "270"}),
    Scenario("lior-smoke", LIOR | {"data.stream": "true"}),
    Scenario("holographic", WORDS | {
        "model.counts.classes": "[5]", "model.similarity.readout": "true", "model.basins.enabled": "true",
        "train.sleep.every": "2500", "train.sleep.least": "2", "train.cadence.eval_table": "[]",
    }),
    Scenario("holographic", WORDS | {
        "data.stream": "true", "data.documents.first": "60", "data.documents.held_out": "0.2",
        "data.documents.apart": "0.2", "train.words": "4000", "model.similarity.candidates": "64",
        "model.tower.cleanup": "candidates",
    }),
    Scenario("holographic-chars", {
        **TOKENS, "model.counts.skips": "[[1, 3]]", "model.counts.spelled": "[[word0]]", "model.tower.role": "'off'",
    }),
    Scenario("ternary-smoke", TERNARY | {
        **{f"loss.{name}.weight": "0.1" for name in LOSSES}, "model.sharing": "separate",
        "loss.kl.structure": "2.0", "homeostasis.enabled": "true", "curriculum.enabled": "true",
        "weighting.kind": "controller", "weighting.every": "1", "data.holdout": "0.1",
        "model.curvature.learnable": "true", "train.guard.patience": "9", "train.guard.halve_after": "8",
        "train.schedule.kind": "table",
    }),
    Scenario("ternary-smoke", TERNARY | {
        "loss.kl.weight": "0", "loss.wrapped_kl.weight": "0.1", "model.posterior": "wrapped_normal",
        "loss.radial_bands.weight": "0", "loss.rich_hierarchy.weight": "1.0", "train.schedule.kind": "cyclic",
        "train.cadence.keep_every": "1", "train.cadence.eval_table": "[[2, 1]]", "train.cadence.eval_halve": "0.1",
        "train.cadence.eval_least": "2",
    }),
    Scenario("ternary-smoke", TERNARY | {
        "loss.radial_bands.weight": "0", "loss.radial_stratification.weight": "1.0", "train.schedule.kind": "table",
        "train.guard.patience": "9", "train.guard.halve_after": "8",
    }),
)  # fmt: skip


def _outside(frame: FrameType | None) -> bool:
    """Whether the package reads a key outside of its definitions: neither validation, nor a walk over all keys."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == __name__ and frame.f_code.co_name == "reading":
            # A property of a configuration was asked for: who asked for that?
            frame = frame.f_back
            continue
        if module.removeprefix("holonomy.") not in CONFIG_MODULES:
            return module.startswith("holonomy.") and not module.startswith("holonomy.audit")
        if frame.f_code.co_name in WHOLE_TREES:
            return False
        frame = frame.f_back
    return False


def _nodes(config: Config, prefix: str = "") -> Iterator[tuple[str, Config]]:
    yield prefix, config
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from _nodes(value, f"{prefix}{name}.")


class Recorder:
    """Notes which keys of a configuration are read while it is in force.

    Args:
        config: what is watched. Copies of it, made when a checkpoint is loaded, are known by the classes of their
            nodes, where these stand at one place of the tree only.
    """

    def __init__(self, config: Config) -> None:
        self.read, self.family = set[str](), str(getattr(config, "family", ""))
        self._places = {id(node): prefix for prefix, node in _nodes(config)}
        prefixes: dict[type, list[str]] = {}
        for prefix, node in _nodes(config):
            prefixes.setdefault(type(node), []).append(prefix)
        self._alone = {kind: found[0] for kind, found in prefixes.items() if len(found) == 1}

    def note(self, node: object, name: str) -> None:
        """Remembers one key."""
        place = self._places.get(id(node), self._alone.get(type(node)))
        carried = CARRIERS.get(type(node))
        if carried is not None:
            place = f"{carried[0]}." if carried in spelled_reads(self.family) else None
        if place is not None:
            self.read.add(f"{place}{name}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches every read of an attribute, of configurations and of what their nodes are handed on in."""
        kinds: dict[type, frozenset[str]] = {kind: frozenset(f.name for f in fields(kind)) for kind in CARRIERS}

        def watch(kind: type) -> Any:
            plain: Any = kind.__getattribute__

            def reading(node: object, name: str) -> Any:
                value = plain(node, name)
                known = kinds.get(type(node)) or getattr(type(node), "model_fields", ())
                if name in known and _outside(sys._getframe(1)):
                    self.note(node, name)
                return value

            return reading

        watched = (Config, *CARRIERS)
        replaced = {kind: watch(kind) for kind in watched}
        try:
            for kind, reading in replaced.items():
                kind.__getattribute__ = reading  # type: ignore[method-assign]
            yield
        finally:
            for kind in watched:
                del kind.__getattribute__


def _play(scenario: Scenario, text: Path, where: Path) -> tuple[Any, set[str]]:
    """Trains, evaluates and generates; the configuration and its keys that were read."""
    speaks, config = not scenario.recipe.startswith("ternary"), scenario.configuration(text)
    recorder = Recorder(config)
    with recorder.watching():
        report = launch.train(
            config, recipe=scenario.recipe, run=where.name, root=where.parent, progress=SilentProgress()
        )
        metrics: dict[str, float] = {}
        for protocol in scenario.protocols:
            metrics = launch.evaluate(str(report.run), root=where.parent, protocol=protocol)
        if speaks:
            model, _ = launch.load_speaker(str(report.run), root=where.parent)
            warm = Sampling(top_k=5, top_p=0.9, gate=True, selector="gibbsmax", repetition=0.3)
            unsure = Sampling(selector="inhibition", inhibition=0.5, least_prob=0.99, doubt="fallback")
            for sampling in (warm, unsure):
                "".join(generate(model, "the ", sampling=sampling, max_tokens=3, seed=1))
        else:
            _alternate(config)
            launch.missed_targets(str(report.run), metrics, root=where.parent)
    return config, recorder.read


def _alternate(config: Any) -> None:
    """Freezes and releases parts over more evaluations than a tiny run has."""
    if config.homeostasis.enabled:
        steered = Homeostasis(config.homeostasis, tied=False)
        for n in range(40):
            steered.update(coverage=1.0 if n % 10 < 8 else 0.5, hierarchy=-0.5, q=float(n))


@lru_cache(maxsize=1)
def sources() -> dict[str, ast.Module]:
    """The modules of the package that may read a key, parsed."""
    root = Path(holonomy.__file__).parent
    found = {}
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        if module not in CONFIG_MODULES and not module.startswith("audit"):
            found[module] = ast.parse(path.read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=8)
def spelled_reads(family: str) -> frozenset[tuple[str, str]]:
    """(node, key) of every `node.key` and `getattr(node, ...)` in the source that a family shares with none or all."""
    found, foreign = set(), {f.name for f in FAMILIES} - {family}
    for module, tree in sources().items():
        if foreign & set(module.split(".")):
            continue
        for part in ast.walk(tree):
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load):
                owner = part.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                found.add((name, part.attr))
            elif isinstance(part, ast.Call) and getattr(part.func, "id", "") == "getattr" and len(part.args) > 1:
                dynamic = not isinstance(part.args[1], ast.Constant)
                found |= {(getattr(part.args[0], "id", ""), "getattr")} if dynamic else set()
    return frozenset(found)


def spelled_in_source(family: str, key: str) -> bool:
    """Whether the source reads a key by the name of its node: what only commands, or rare events, look at."""
    node, _, name = key.rpartition(".")
    return (node.rpartition(".")[2], name) in spelled_reads(family)


def others(value: Any, annotation: Any) -> list[Any]:
    """Other values that a key might take."""
    if get_origin(annotation) is Literal:
        return [v for v in get_args(annotation) if v != value]
    if value is None:
        return [1, 0.5, "om", True]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2, value - 1]
    if isinstance(value, float):
        return [value * 0.75, value / 2 + 0.01, value + 0.1]
    if isinstance(value, str):
        return [f"{value}x"]
    if isinstance(value, (tuple, list)):
        return [_each(value, float, lambda v: v * 0.9), _each(value, int, lambda v: v + 1)]
    return []


def _each(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Lists in lists with all their numbers of a kind changed."""
    if isinstance(value, (tuple, list)):
        return [_each(v, kind, change) for v in value]
    return change(value) if isinstance(value, kind) else value


def refused(config: Config, key: str) -> bool:
    """Whether every other value of a key is refused for what other keys say, not for what it is."""
    node: Any = config
    *parents, name = key.split(".")
    for parent in parents:
        node = getattr(node, parent)
    candidates = others(getattr(node, name), type(node).model_fields[name].annotation)
    reasons = [] if candidates else ["only this value"]
    for value in candidates:
        tree = to_json(config)
        at = tree
        for parent in parents:
            at = at[parent]
        if at[name] == value:
            continue
        at[name] = value
        try:
            type(config).model_validate_json(json.dumps(tree), strict=True)
            return False
        except ValidationError as error:
            # A value that is wrong by itself says nothing about the key.
            reasons += [detail["type"] for detail in error.errors() if detail["type"] == "value_error"]
    return bool(reasons)


def synthetic_text(seed: int) -> str:
    """Sentences of a few words, in lines and paragraphs."""
    random = np.random.default_rng(seed)
    words = ["the", "of", *("".join(random.choice(list("aeioustrnl"), 5)) for _ in range(60))]
    picked = random.zipf(1.4, 6_000).clip(1, len(words)) - 1
    return "".join(
        words[n] + ("." if k % 9 == 8 else "") + ("\n\n" if k % 85 == 84 else "\n" if k % 17 == 16 else " ")
        for k, n in enumerate(picked)
    )


@claim(
    "config.no-dead-keys",
    statement="Every key of every configuration is read where something happens, or refused where nothing would.",
    source="README.md",
    limit_s=300.0,
)
def no_dead_keys(setting: Setting) -> Evidence:
    """Watches reads while tiny runs train, evaluate and write; looks for the rest in the source, or for refusals."""
    text = setting.scratch / "text.txt"
    text.write_text(synthetic_text(setting.seed), encoding="utf-8")
    keys, read, idle = dict[str, set[str]](), dict[str, set[str]](), set[str]()
    played: list[tuple[Any, set[str]]] = []
    for number, scenario in enumerate(SCENARIOS):
        config, found = _play(scenario, text, setting.scratch / "runs" / f"run-{number}")
        played.append((config, found))
        family = config.family
        keys.setdefault(family, set()).update(leaves(config))
        read.setdefault(family, set()).update(found)
    every = {f"{family}: {key}" for family, own in keys.items() for key in own}
    watched = {f"{family}: {key}" for family, own in read.items() for key in own & keys[family]}
    elsewhere = {name for name in every if name.split(": ")[1] in RARE and spelled_in_source(*name.split(": "))}
    dead = set()
    for config, found in played:
        unread = {f"{config.family}: {key}": key for key in leaves(config).keys() - found}
        for name, key in unread.items():
            if name not in elsewhere and not refused(config, key):
                (idle if name in watched else dead).add(name)
    return Evidence(
        (
            Figure("keys of all families", len(every)),
            Figure("of them read in tiny runs", len(watched), ">=", 0.5 * len(every)),
            Figure("read by commands or in rare events, by the source", len(elsewhere - watched)),
            Figure("read by nothing, and not refused", len(dead), "==", 0),
            Figure("idle in some tiny run, neither refused there nor for a reason", len(idle - IDLE.keys()), "==", 0),
        ),
        detail="; ".join(
            f"{what}: {', '.join(sorted(names))}"
            for what, names in (("dead", dead), ("idle", idle - IDLE.keys()), ("idle for a reason", idle & IDLE.keys()))
            if names
        ),
    )
