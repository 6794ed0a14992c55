"""Runs as a model of EleutherAI's lm-evaluation-harness, and texts in files as its tasks.

The harness knows models by a registry that it fills itself and looks for no plug-ins, so somebody has to import this
module: `holonomy lm-eval` does, and so does a task file of the harness's own command that names a function of it,
such as `custom_dataset: !function holonomy.audit.harness.text_documents`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from holonomy.core.errors import ConfigError, DataError
from holonomy.data.text import load_text
from holonomy.infer.sampling import Sampling
from holonomy.infer.scoring import continuation, likelihoods
from holonomy.infer.session import continue_batch
from holonomy.recipes import launch

MODEL_NAME = "holonomy"
MAX_TOKENS = 256
"""Length of a reply where a task does not say it, as in the harness."""
PERPLEXITIES = ("word_perplexity", "byte_perplexity", "bits_per_byte")
GENERATION = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}
SEED = 1
"""Start of the random numbers of tasks that sample."""
SHOWN = 5
"""Unknown symbols that are named."""

FAULTS = (yaml.YAMLError, AssertionError, AttributeError, ImportError, LookupError, OSError, TypeError, ValueError)
"""What the harness raises for tasks that are missing, wrong or not to be had."""


def _module(name: str) -> Any:
    """A module of the harness, which is an extra, or of what comes with it.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("lm-eval is not installed; install it with `pip install 'holonomy[eval]'`")
    return importlib.import_module(name)


class HarnessModel:
    """Answers the three kinds of requests of the harness with a trained run.

    Texts go through `LanguageModel` only, each from rest. Symbols that the model never saw are refused where its
    tokens have no symbol for them, else they are counted, see `get_model_info`.

    Args:
        run: run directory, its name under `root`, or a checkpoint directory.
        root: where run directories live.
        batch_size, max_batch_size, device: what the harness passes to every model, its defaults (one, a GPU) too;
            here batches are cut by tokens, and the run knows its device.

    Raises:
        ConfigError: the run writes no text.
        CheckpointError: there is no such run, or it is damaged.
    """

    def __init__(
        self,
        run: str,
        root: str = "runs",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.run = run
        self.model, _ = launch.load_speaker(run, root=Path(root))
        self._unknown = Counter[str]()
        self._tokens = 0

    def get_model_info(self) -> dict[str, Any]:
        """What stands beside the results: tokens that were scored, and symbols that the model never saw.

        `unknown` counts them in everything that was read; a model of words also drops what is neither word nor
        punctuation.
        """
        tokenizer = self.model.tokenizer
        return {
            "run": self.run,
            "tokenizer": type(tokenizer).__name__,
            "vocabulary": tokenizer.vocab_size,
            "scored_tokens": self._tokens,
            "unknown": self._unknown.total(),
            "unknown_symbols": dict(self._unknown.most_common(SHOWN)),
        }

    def _pairs(self, texts: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        found = []
        for n, (context, text) in enumerate(texts):
            try:
                found.append(continuation(self.model.tokenizer, context, text))
            except DataError as error:
                raise DataError(f"request {n}: {error}") from error
            self._unknown.update(self.model.tokenizer.unknown(context + text))
            self._tokens += len(found[-1].ids)
        return [(answer.nats, answer.greedy) for answer in likelihoods(self.model, found)]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log probability of each continuation given its context, and whether greedy decoding would write it.

        Raises:
            DataError: a symbol is unknown and there is no token for it.
        """
        return self._pairs([request.args for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log probability of each text as one stream after `tokenizer.opening()`, nothing cut.

        Raises:
            DataError: a symbol is unknown and there is no token for it.
        """
        return [nats for nats, _ in self._pairs([("", request.args[0]) for request in requests])]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continues each context up to one of its stop strings; greedy, unless the task asks to sample.

        Raises:
            ConfigError: a task sets something about generation that is unknown here.
            DataError: a symbol is unknown and there is no token for it.
        """
        texts = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for n, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(n)
        for places in groups.values():
            sampling, max_tokens, stop = _generation(requests[places[0]].args[1])
            contexts = [requests[n].args[0] for n in places]
            for context in contexts:
                self._unknown.update(self.model.tokenizer.unknown(context))
            encoded = [self.model.tokenizer.encode(context) for context in contexts]
            found = continue_batch(self.model, encoded, sampling=sampling, max_tokens=max_tokens, seed=SEED, stop=stop)
            for n, text in zip(places, found, strict=True):
                texts[n] = text.text
        return texts


def _generation(settings: dict[str, Any]) -> tuple[Sampling, int, list[str]]:
    """Sampling, longest reply and stop strings of a task."""
    if odd := sorted(settings.keys() - GENERATION):
        raise ConfigError(f"`generation_kwargs` has {', '.join(odd)}; known: {', '.join(sorted(GENERATION))}")
    until = settings.get("until") or []
    stop = [until] if isinstance(until, str) else list(until)
    sampling = Sampling(temperature=0.0)
    if settings.get("do_sample"):
        chosen = {name: settings[name] for name in ("temperature", "top_p", "top_k") if name in settings}
        sampling = Sampling(**{"temperature": 1.0, **chosen})
    return sampling, int(settings.get("max_gen_toks", MAX_TOKENS)), [s for s in stop if s]


@cache
def model_class() -> type:
    """`HarnessModel` as a model class of the harness.

    Raises:
        ConfigError: the harness is not installed.
    """
    return type("HolonomyLM", (HarnessModel, _module("lm_eval.api.model").LM), {})


def register_runs() -> None:
    """Makes `--model holonomy --model_args run=RUN` known to the harness; a second time changes nothing.

    Raises:
        ConfigError: the harness is not installed.
    """
    # Its own models are registered only where it finds none.
    _module("lm_eval.models")
    registry = _module("lm_eval.api.registry")
    if MODEL_NAME not in registry.MODEL_REGISTRY:
        registry.register_model(MODEL_NAME)(model_class())


def text_documents(file: str, **metadata: Any) -> dict[str, Any]:
    """A text as one document, for `custom_dataset` of a task.

    Args:
        file: known name or path of a UTF-8 text, from `dataset_kwargs` of the task.
        metadata: what the harness adds.

    Raises:
        DataError: it cannot be read.
    """
    return {"test": _module("datasets").Dataset.from_list([{"text": load_text(file).text}])}


def text_tasks(files: Sequence[str]) -> list[dict[str, Any]]:
    """Tasks of `text_task`, named after their files, or by their paths where files have one name."""
    stems = Counter(Path(file).stem for file in files)
    return [text_task(file, Path(file).stem if stems[Path(file).stem] == 1 else file) for file in files]


def text_task(file: str, name: str | None = None) -> dict[str, Any]:
    """A task: perplexity a word and a byte, and bits a byte, of a text read as one document.

    Args:
        file: known name or path of a UTF-8 text.
        name: of the task; that of the file by default.
    """
    return {
        "task": name or Path(file).stem,
        "custom_dataset": text_documents,
        "dataset_kwargs": {"file": file},
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": name, "higher_is_better": False} for name in PERPLEXITIES],
        "metadata": {"version": 1.0},
    }


def evaluate_tasks(
    model: HarnessModel,
    tasks: Sequence[str | dict[str, Any]],
    *,
    limit: float | None = None,
    num_fewshot: int | None = None,
    include_path: Path | None = None,
) -> dict[str, Any]:
    """Runs tasks of the harness on a run.

    Args:
        model: of the class `model_class`.
        tasks: names, YAML files, or tasks as of `text_task`.
        limit: documents a task at most, or their share.
        num_fewshot: examples before each document; None is as in the task.
        include_path: folder with more tasks.

    Returns:
        `results` by task and metric, `config`, and the rest of what the harness says but the samples.

    Raises:
        ConfigError: the harness is not installed, or a task is unknown or wrong, or two have one name.
        DataError: a text cannot be read, or has unknown symbols without a token for them.
    """
    manager = _module("lm_eval.tasks").TaskManager(include_path=None if include_path is None else str(include_path))
    loaded: dict[str, Any] = {}
    for task in tasks:
        for name, part in _loaded(manager, task).items():
            if name in loaded:
                # The harness would keep the results of one of them and say nothing.
                raise ConfigError(f"`--tasks` or `--text` gives two tasks the name {name}; rename one, or drop it")
            loaded[name] = part
    evaluate = _module("lm_eval.evaluator").simple_evaluate
    try:
        found = evaluate(
            model=model,
            tasks=list(loaded.values()),
            task_manager=manager,
            limit=limit,
            num_fewshot=num_fewshot,
            log_samples=False,
        )
    except FAULTS as error:
        raise ConfigError(f"lm-eval cannot run the tasks: {_reason(error)}") from error
    return {k: v for k, v in found.items() if k != "samples"}


def _reason(error: Exception) -> str:
    """An error of the harness in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _loaded(manager: Any, task: str | dict[str, Any]) -> dict[str, Any]:
    """A task with its data by name, a group of them as a whole.

    Raises:
        ConfigError: there is none of that name, or it cannot be read.
        DataError: its text cannot be read.
    """
    try:
        found = manager.load([task])
    except FAULTS as error:
        name = task if isinstance(task, str) else task["task"]
        raise ConfigError(
            f"`--tasks` {name}: {_reason(error)}; name a task of the harness (`lm-eval ls tasks`) or a YAML file"
        ) from error
    groups = found["groups"]
    return dict([next(iter(groups.items()))] if groups else found["tasks"])


if "lm_eval.api.registry" in sys.modules:
    # The harness itself imports this module, to find a function of one of its tasks.
    register_runs()
