"""Runs as a model of the lm-evaluation-harness: scores by a second road, batches, borders, and the harness itself."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from holonomy.audit import harness
from holonomy.audit.harness import HarnessModel
from holonomy.core.errors import ConfigError, DataError
from holonomy.data.text import load_text
from holonomy.infer.sampling import Sampling
from holonomy.infer.scoring import Continuation, continuation, likelihoods
from holonomy.infer.session import generate
from holonomy.recipes import configure, launch
from holonomy.train.monitor import SilentProgress

LIOR = ("model.d=16", "model.n_osc=16", "model.hidden=16", "model.heads=2", "data.seq_len=32", "data.batch=4")
PAIRS = ("data.tokenizer=bpe", "data.bpe_vocab=300", "data.unk=false")
HOLO = ("model.batch_size=500", "model.counts.classes=[]", "model.similarity.dim=16", "model.tower.levels=3")
HOLO += (
    "model.recency.traces=[[0,60,20.0],[1,120,40.0]]",
    "model.tower.channels=4",
    "model.mixture.product_steps=5",
    "model.mixture.em_steps=20",
)
RUNS = {
    "letters": ("lior", (*LIOR, "data.unk=false", "train.budget.steps=20", "train.budget.cpu_s=null")),
    "pairs": ("lior", (*LIOR, *PAIRS, "train.budget.steps=20", "train.budget.cpu_s=null")),
    "words": ("holographic", HOLO),
}
INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed; pip install 'holonomy[eval]'")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a text, a held-out text of the same letters, and three runs under `runs`."""
    path = tmp_path_factory.mktemp("harness")
    whole = load_text("pydoc").text
    letters = set(whole[:14_400])
    known = "".join(c for c in whole[:19_000] if c in letters)
    (path / "text.txt").write_text(known[:16_000], encoding="utf-8")
    (path / "held.txt").write_text(known[16_000:], encoding="utf-8")
    for name, (recipe, settings) in RUNS.items():
        config = configure(recipe, overrides=(f"data.source={path / 'text.txt'}", *settings)).config
        launch.train(config, recipe=recipe, run=name, root=path / "runs", progress=SilentProgress())
    return path


@pytest.fixture(scope="module")
def models(world: Path) -> dict[str, HarnessModel]:
    return {name: HarnessModel(name, root=str(world / "runs")) for name in RUNS}


def asked(*arguments: object) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def stepped(model, request: Continuation) -> tuple[float, bool]:
    """The same by single steps."""
    state, total, greedy, ahead = model.start(1), 0.0, True, None
    for place, token in enumerate([*request.context, *request.ids]):
        if place >= len(request.context):
            total += float(ahead[0, token])
            greedy &= int(ahead.argmax()) == token
        ahead, state = model.step(torch.tensor([int(token)]), state)
    return total, greedy


PAIRS_OF_TEXTS = [
    ("The with statement", " is used"),
    ("The with", " statement"),
    ("The with ", "statement"),
    ("The", " with statement is used to wrap"),
    ("", "The execution of the"),
    ("a" * 300, "b"),
    ("The with statement", " is used"),
    ("exec", "ution"),
    ("The with statement", ""),
]


@pytest.mark.parametrize("name", RUNS)
def test_a_likelihood_is_the_sum_of_single_steps_in_any_order(name: str, models) -> None:
    model = models[name].model
    requests = [continuation(model.tokenizer, *pair) for pair in PAIRS_OF_TEXTS]
    found = likelihoods(model, requests)
    for request, (nats, greedy) in zip(requests, found, strict=True):
        one_by_one = stepped(model, request)
        assert nats == pytest.approx(one_by_one[0], rel=1e-5, abs=1e-5)
        assert greedy == one_by_one[1]
        best = np.array([int(model.log_probs(torch.from_numpy(request.context)[None])[0, -1].argmax())])
        assert likelihoods(model, [Continuation(request.context, best)])[0].greedy
    order = np.random.default_rng(0).permutation(len(requests))
    again = likelihoods(model, [requests[n] for n in order])
    assert [again[int(np.flatnonzero(order == n)[0])] for n in range(len(requests))] == found
    assert found[0] == found[6]
    assert found[8] == (0.0, True)


def test_tokens_over_the_border_belong_to_the_continuation(models) -> None:
    for name, handler in models.items():
        tokenizer = handler.model.tokenizer
        for context, text in PAIRS_OF_TEXTS:
            cut = continuation(tokenizer, context, text)
            whole = tokenizer.encode(context + text).tolist()
            # A text that nothing stands before follows an opening of its own.
            assert whole in ([*cut.context, *cut.ids], [*cut.ids]), (name, context)
            assert len(cut.context)
    words = models["words"].model.tokenizer
    # "exec" and "ution" are one word: nothing stands before it but the place where a text begins.
    assert continuation(words, "exec", "ution").context.tolist() == words.opening().tolist()


@pytest.mark.parametrize("name", RUNS)
def test_a_text_costs_what_evaluation_says(name: str, models, world: Path) -> None:
    text = (world / "held.txt").read_text(encoding="utf-8")
    (nats,) = models[name].loglikelihood_rolling([asked(text)])
    if name == "words":
        measured = launch.evaluate(name, root=world / "runs", data=str(world / "held.txt"))
    else:
        # Our evaluation reads the first token and predicts the rest: here that is the line end a text begins with.
        (world / "opened.txt").write_text("\n" + text, encoding="utf-8")
        opened = str(world / "opened.txt")
        measured = launch.evaluate(name, root=world / "runs", data=opened, protocol="carried")
    words = len(re.split(r"\s+", text))
    ours = math.exp(measured["val/loss"] * measured["val/tokens"] / words)
    if name == "pairs":
        # The line end may be part of another token there.
        assert models[name].model.tokenizer.encode("\n" + text)[1:].tolist() == (
            models[name].model.tokenizer.encode(text).tolist()
        )
    assert math.exp(-nats / words) == pytest.approx(ours, rel=1e-4)


def test_the_border_of_parts_cuts_no_token_of_a_whole_text(models, world: Path) -> None:
    text, encode = (world / "held.txt").read_text(encoding="utf-8"), models["pairs"].model.tokenizer.encode
    cuts = ((n, int(n * 0.9)) for n in range(len(text), 0, -1))
    size = next(n for n, cut in cuts if len(encode(text[:cut])) + len(encode(text[cut:n])) > len(encode(text[:n])))
    (world / "cut.txt").write_text(text[:size], encoding="utf-8")
    for protocol in ("carried", "windows"):
        measured = launch.evaluate("pairs", root=world / "runs", data=str(world / "cut.txt"), protocol=protocol)
        assert measured["val/tokens"] == len(encode(text[:size])) - 1


def test_texts_longer_than_a_state_are_read_with_all_that_it_keeps(models, world: Path) -> None:
    model = models["words"].model
    limit, tokens = model.context_limit, model.tokenizer.encode((world / "text.txt").read_text(encoding="utf-8") * 2)
    assert len(tokens) > limit + 200
    (found,) = likelihoods(model, [Continuation(tokens[: limit + 100], tokens[limit + 100 : limit + 110])])
    ours = 0.0
    for place in range(limit + 100, limit + 110):
        last = tokens[None, place - limit : place]
        ours += float(model.next_log_probs(last)[0, tokens[place]])
    assert found.nats == pytest.approx(ours, rel=1e-5)


def test_a_stream_of_documents_forgets_what_stands_before_a_pad(models) -> None:
    model = models["words"].model
    ids = torch.tensor([[5, 6, 7, model.pad_id, 5, 6]])
    log_probs, _ = model.advance(ids, model.start(1))
    torch.testing.assert_close(log_probs, model.log_probs(ids), rtol=0, atol=1e-5)
    torch.testing.assert_close(log_probs[0, 4], model.log_probs(ids[:, 4:5])[0, 0], rtol=0, atol=1e-5)
    assert (log_probs[0, 4] - log_probs[0, 0]).abs().max() < 1e-5 < (log_probs[0, 1] - log_probs[0, 0]).abs().max()
    _, state = model.advance(ids[:, :2], model.start(1))
    later, _ = model.advance(ids[:, 2:], state)
    torch.testing.assert_close(later, log_probs[:, 2:], rtol=0, atol=1e-5)


def test_unknown_symbols_are_refused_or_counted(world: Path, models) -> None:
    with pytest.raises(DataError, match=r"request 1: .*'日'"):
        models["letters"].loglikelihood([asked("The", " with"), asked("The", " 日本")])
    with pytest.raises(DataError, match="'日'"):
        models["letters"].generate_until([asked("日", {})])
    fresh = HarnessModel("words", root=str(world / "runs"))
    fresh.loglikelihood_rolling([asked("The Zürichsee statement Zürichsee 日本")])
    info = fresh.get_model_info()
    assert info["unknown"] == 3
    assert info["unknown_symbols"] == {"Zürichsee": 2, "日本": 1}
    assert info["scored_tokens"] == 5


@pytest.mark.parametrize("name", RUNS)
def test_replies_end_before_the_first_stop_string(name: str, models) -> None:
    contexts = ["The with statement", "The", "", "In the execution of a block the name is", "The with stat"]
    requests = [asked(c, {"until": ["e "], "max_gen_toks": 20}) for c in contexts]
    free = [asked(c, {"until": [], "max_gen_toks": 20, "do_sample": False, "temperature": 0.7}) for c in contexts]
    found = models[name].generate_until(requests)
    whole = models[name].generate_until(free)
    greedy = Sampling(temperature=0.0)
    alone = ["".join(generate(models[name].model, c, sampling=greedy, max_tokens=20, seed=1)) for c in contexts]
    assert whole == alone
    assert found == [text.partition("e ")[0] for text in alone]
    assert models[name].generate_until(list(reversed(requests))) == found[::-1]
    warm = [asked(c, {"do_sample": True, "max_gen_toks": 5, "top_k": 1}) for c in contexts]
    assert [w[: len(a)] for w, a in zip(whole, models[name].generate_until(warm), strict=True)] == (
        models[name].generate_until(warm)
    )
    with pytest.raises(ConfigError, match="num_beams; known"):
        models[name].generate_until([asked("a", {"num_beams": 4})])


def test_a_missing_harness_is_one_clear_error(monkeypatch) -> None:
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'holonomy\[eval\]'"):
        harness.register_runs()


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_texts_of_one_name_are_told_apart(world: Path, tmp_path: Path) -> None:
    paths = [str(world / "held.txt"), str(tmp_path / "held.txt")]
    Path(paths[1]).write_text("a b a b a b\n", encoding="utf-8")
    model = harness.model_class()("words", root=str(world / "runs"))
    both = harness.evaluate_tasks(model, harness.text_tasks(paths))["results"]
    assert set(both) == set(paths)
    alone = harness.evaluate_tasks(model, harness.text_tasks(paths[1:]))["results"]
    assert alone["held"]["byte_perplexity,none"] == both[paths[1]]["byte_perplexity,none"]
    assert both[paths[0]]["byte_perplexity,none"] != both[paths[1]]["byte_perplexity,none"]
    with pytest.raises(ConfigError, match="two tasks the name held"):
        harness.evaluate_tasks(model, [harness.text_task(path) for path in paths])


@needs_harness
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RUNS)
def test_the_harness_finds_the_perplexity_of_our_evaluation(name: str, world: Path, models) -> None:
    model = harness.model_class()(name, root=str(world / "runs"))
    found = harness.evaluate_tasks(model, [harness.text_task(str(world / "held.txt"))])
    text = (world / "held.txt").read_text(encoding="utf-8")
    stream = models[name].model.tokenizer
    whole = np.concatenate([stream.opening(), stream.encode(text)])
    if name == "words":
        metrics = launch.evaluate(name, root=world / "runs", data=str(world / "held.txt"))
        total = metrics["val/loss"] * metrics["val/tokens"]
    else:
        total = -stepped(models[name].model, Continuation(whole[:1], whole[1:]))[0]
    figures = found["results"]["held"]
    words, size = len(re.split(r"\s+", text)), len(text.encode())
    assert figures["word_perplexity,none"] == pytest.approx(math.exp(total / words), rel=1e-4)
    assert figures["byte_perplexity,none"] == pytest.approx(math.exp(total / size), rel=1e-4)
    assert figures["bits_per_byte,none"] == pytest.approx(total / size / math.log(2), rel=1e-4)


TASK = """\
task: held_out
custom_dataset: !function holonomy.audit.harness.text_documents
dataset_kwargs: {file: held.txt}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: text
metric_list:
  - metric: word_perplexity
"""
CHOICE = """\
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: ["the", "of"]
doc_to_target: answer
metric_list:
  - metric: acc
"""


@needs_harness
@pytest.mark.slow
def test_the_commands_of_both_packages_agree(world: Path) -> None:
    (world / "held.yaml").write_text(TASK)
    (world / "choice.yaml").write_text(CHOICE)
    questions = [json.dumps({"question": q, "answer": n % 2}) for n, q in enumerate(["The end", "In", "A block"] * 4)]
    (world / "questions.jsonl").write_text("\n".join(questions))
    tasks = ["--tasks", "held.yaml", "--tasks", "choice.yaml"]
    ours = [sys.executable, "-m", "holonomy", "lm-eval", "letters", *tasks, "--json", "--quiet"]
    done = subprocess.run(ours, cwd=world, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    results = json.loads(done.stdout)["results"]
    assert 0 <= results["choice"]["acc"] <= 1
    theirs = [sys.executable, "-m", "lm_eval", "run", "--model", "holonomy", "--model_args", "run=letters"]
    theirs += ["--tasks", "held.yaml,choice.yaml", "--output_path", "theirs.json"]
    done = subprocess.run(theirs, cwd=world, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = world.glob("theirs*.json")
    stored = json.loads(file.read_text())["results"]
    assert stored["held_out"]["word_perplexity,none"] == pytest.approx(results["held_out"]["word_perplexity"], rel=1e-6)
    assert stored["choice"]["acc,none"] == results["choice"]["acc"]
    for task, words in (("none.yaml", "none.yaml"), ("no_such_task", "no_such_task")):
        wrong = [*ours[:5], "--tasks", task]
        done = subprocess.run(wrong, cwd=world, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
