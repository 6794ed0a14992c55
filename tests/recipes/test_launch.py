"""A small lior from text to reply: training, evaluation, resume, loading, and what must be refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from holonomy.core.config import from_json, read_yaml, to_json
from holonomy.core.errors import CheckpointError, ConfigError, DataError, Interrupted
from holonomy.data.kneser_ney import baselines
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session, generate
from holonomy.models.lior.config import LiorConfig
from holonomy.models.lior.pictures import lior_pictures
from holonomy.recipes import RECIPES, configure, launch
from holonomy.train.distributed import World
from holonomy.train.monitor import SilentProgress
from holonomy.train.report import FitReport
from holonomy.train.run import RunDirectory

TEXT = "".join(f"{n} and {n + 1} make {2 * n + 1}.\n" for n in range(400))
TINY = [
    "model.d=16", "model.n_osc=16", "model.hidden=16", "model.heads=2", "data.seq_len=32", "data.batch=4",
    "train.cadence.eval_every=40", "train.cadence.save_every=25", "train.cadence.log_every=5",
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "sums.txt"
    path.write_text(TEXT)
    return path


def configured(text: Path, *more: str, recipe: str = "lior", num_steps: int = 60) -> LiorConfig:
    settings = [*TINY, "data.unk=false", f"data.source={json.dumps(str(text))}", *more]
    budget = {"steps": num_steps, "tokens": None, "cpu_s": None, "seconds": None}
    return configure(recipe, overrides=settings, options={"train.budget": ("--steps", budget)}).config


@pytest.fixture(scope="module")
def tolerant(text: Path, tmp_path_factory: pytest.TempPathFactory) -> FitReport:
    """A run with a symbol for unknown characters."""
    return trained(configured(text, "data.unk=true", num_steps=2), tmp_path_factory.mktemp("tolerant"))


def trained(config: LiorConfig, root: Path, run: str = "a") -> FitReport:
    return launch.train(config, recipe="lior", run=run, root=root, progress=SilentProgress())


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> FitReport:
    return trained(configured(text), tmp_path_factory.mktemp("runs"))


def test_training_learns_and_reports(text: Path, finished: FitReport) -> None:
    metrics = finished.metrics
    assert metrics["val/loss"] < metrics["baseline/unigram"]
    assert math.isclose(metrics["val/bits_per_char"], metrics["val/loss"] / math.log(2))
    assert math.isclose(metrics["val/perplexity"], math.exp(metrics["val/loss"]))
    assert finished.steps == 60
    assert finished.tokens == 60 * 4 * 32
    assert read_yaml(finished.run / "config.yaml")[0] == to_json(configured(text))


def test_evaluation_equals_training_and_the_step_by_step_model(text: Path, finished: FitReport) -> None:
    root, name = finished.run.parent, finished.run.name
    metrics = launch.evaluate(name, root=root, with_baselines=True)
    assert metrics["val/loss"] == finished.metrics["val/loss"]
    model = launch.load(name, root=root)
    held_out = TEXT[int(len(TEXT) * 0.9) :]
    ids = torch.as_tensor(model.tokenizer.encode(held_out))
    train = model.tokenizer.encode(TEXT[: int(len(TEXT) * 0.9)])
    assert baselines(train, ids.numpy(), model.tokenizer.vocab_size)["baseline/kn5"] == metrics["baseline/kn5"]
    total = 0.0
    for window in range(0, len(ids) - 1, 32):
        state = model.start(1)
        for at in range(window, min(window + 32, len(ids) - 1)):
            log_probs, state = model.step(ids[at : at + 1], state)
            total -= float(log_probs[0, ids[at + 1]])
    assert math.isclose(total / (len(ids) - 1), metrics["val/loss"], rel_tol=1e-5)


def test_language_model_paths_agree(finished: FitReport) -> None:
    model = launch.load(finished.run)
    ids = torch.as_tensor(model.tokenizer.encode(TEXT[:700])).view(2, -1)
    whole = model.log_probs(ids)
    assert whole.exp().sum(-1).sub(1).abs().max() < 1e-5
    state = model.start(2)
    last, state = model.prefill(ids[:, :300], state)
    assert (last - whole[:, 299]).abs().max() < 1e-4
    for at in range(300, 350):
        last, state = model.step(ids[:, at], state)
        assert (last - whole[:, at]).abs().max() < 1e-4


def test_other_texts_and_splits(finished: FitReport, tolerant: FitReport, tmp_path: Path) -> None:
    root, name = finished.run.parent, finished.run.name
    other = tmp_path / "other.txt"
    other.write_text(TEXT[:500])
    whole = launch.evaluate(name, root=root, data=str(other))
    assert whole["val/tokens"] == 499
    train = launch.evaluate(name, root=root, split="train")
    assert train["val/tokens"] == int(len(TEXT) * 0.9) - 1
    with pytest.raises(ConfigError, match="train, validation, all"):
        launch.evaluate(name, root=root, split="test")
    other.write_text("Z and z\n")
    with pytest.raises(DataError, match="'Z'"):
        launch.evaluate(name, root=root, data=str(other))
    assert "val/unknown" not in whole
    metrics = launch.evaluate(str(tolerant.run), root=root, data=str(other))
    assert metrics["val/unknown"] == 2


class Stopping(SilentProgress):
    """Behaves like Ctrl-C at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, step, fraction, metrics) -> None:
        if step == self.step:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("stop_at", [5, 30, 40])
def test_resume_is_exact(text: Path, finished: FitReport, tmp_path: Path, stop_at: int) -> None:
    config = configured(text)
    if stop_at == 30:
        config = configured(text, "model.dropout=0.2")
        finished = trained(config, tmp_path, run="whole")
    with pytest.raises(Interrupted):
        launch.train(config, recipe="x", run="b", root=tmp_path, progress=Stopping(stop_at))
    report = launch.resume("b", root=tmp_path, progress=SilentProgress())
    for name in ("tensors.safetensors", "tokenizer.json"):
        assert (report.checkpoint / name).read_bytes() == (finished.checkpoint / name).read_bytes()

    def losses(run: Path) -> list:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [(r["step"], r.get("train/loss"), r.get("val/loss")) for r in lines]

    assert losses(report.run) == losses(finished.run)


def test_a_run_without_a_checkpoint_resumes_from_the_start(text: Path, finished: FitReport, tmp_path: Path) -> None:
    copy = tmp_path / "fresh"
    shutil.copytree(finished.run, copy)
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").mkdir()
    report = launch.resume("fresh", root=tmp_path, progress=SilentProgress())
    assert report.metrics["val/loss"] == finished.metrics["val/loss"]


def test_a_changed_text_is_refused_on_resume(finished: FitReport, text: Path) -> None:
    text.write_text(TEXT + "one more line\n")
    try:
        with pytest.raises(DataError, match="not the text"):
            launch.resume(finished.run.name, root=finished.run.parent, progress=SilentProgress())
    finally:
        text.write_text(TEXT)


def test_weights_of_another_run_start_a_new_one(text: Path, finished: FitReport, tmp_path: Path) -> None:
    report = launch.train(
        configured(text, num_steps=1),
        recipe="x",
        run="c",
        root=tmp_path,
        progress=SilentProgress(),
        init_from=str(finished.run),
    )
    assert abs(report.metrics["val/loss"] - finished.metrics["val/loss"]) < 0.1
    with pytest.raises(CheckpointError, match="model.layers"):
        launch.train(
            configured(text, "model.d=8", num_steps=1),
            recipe="x",
            run="d",
            root=tmp_path,
            progress=SilentProgress(),
            init_from=str(finished.run),
        )
    assert not (tmp_path / "d").exists()


def test_generation_repeats(finished: FitReport) -> None:
    model = launch.load(finished.run)
    texts = ["".join(generate(model, "3 and ", sampling=Sampling(), max_tokens=50, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) == 50


def test_damaged_checkpoints_are_refused(finished: FitReport, tmp_path: Path) -> None:
    shutil.copytree(finished.run, tmp_path / "run")
    tensors = tmp_path / "run" / "checkpoints" / finished.checkpoint.name / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[len(content) // 2] ^= 4
    tensors.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors.*differs"):
        launch.load("run", root=tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint yet|not a run"):
        launch.load("nothing", root=tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [("aaa", "held-out part has 1"), ("ab" * 60, "one batch needs 129"), ("", "empty")],
)
def test_short_texts_are_refused_before_a_run_exists(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "short.txt").write_text(content)
    with pytest.raises(DataError, match=words):
        trained(configured(tmp_path / "short.txt"), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_recipes_resolve_and_differ_only_where_they_say() -> None:
    assert [r.name for r in RECIPES if r.family == "lior"] == ["lior", "lior-shakespeare", "lior-smoke"]
    for recipe in RECIPES:
        config = configure(recipe.name).config
        assert config.family == recipe.family
        assert config.data.source == recipe.data
        assert recipe.trains
        assert recipe.expect


def test_every_key_changes_what_is_trained_or_is_refused(text: Path) -> None:
    """No dead keys: each leaf, changed, gives another network, other batches, another update, plan or reply."""
    changes = {
        "model.architecture": "causal_field", "model.pattern": "om", "model.blocks": 2, "model.d": 32,
        "model.n_osc": 32, "model.hidden": 32, "model.heads": 4, "model.window": 5, "model.fir": 2,
        "model.chunk": 8, "model.theta_range": "[0.3, 2.0]", "model.gamma_range": "[0.1, 0.5]",
        "model.out_scale": 0.25,
        "model.bank": "selective", "model.dropout": 0.3, "data.seq_len": 16, "data.batch": 2, "data.train_share": 0.8,
        "train.optim.lr": 0.01, "train.optim.betas": "[0.8, 0.9]", "train.optim.eps": 0.1,
        "train.optim.decay": 0.9, "train.optim.clip": 0.01, "train.schedule.warmup": 0.5, "train.schedule.floor": 0.9,
        "train.schedule.kind": "linear", "train.seed": 9, "train.precision": "bfloat16", "train.accumulate": 2,
    }  # fmt: skip

    conditional: set[str] = set()

    def trace(*more: str) -> torch.Tensor:
        config = configured(text, *more)
        work = launch._prepare(config)
        for progress in (0.2, 0.4, 1.0):
            work.learner.train_step(work.sampler.next(), progress=progress)
        return work.learner.flat.buffer.clone()

    plain = trace()
    for key, value in changes.items():
        other = trace(f"{key}={value}")
        assert other.shape != plain.shape or not torch.equal(other, plain), key
    for kind, key, value in (("cyclic", "cycles", 3), ("table", "table", "[[0.0, 1.0], [0.3, 0.5]]")):
        base = f"train.schedule.kind={kind}"
        assert not torch.equal(trace(base), trace(base, f"train.schedule.{key}={value}")), key
    reversible = ("model.bank=hamiltonian", "model.architecture=causal_field")
    wells = (*reversible, "model.wells=true")
    finite = (*wells, "train.echo.mode=symmetric")
    field = ("field.enabled=true",)
    chart = ("geometry.chart=shared",)
    kernel = ("model.bank=kernel",)
    segments = (*reversible, "train.echo.memory=segment")
    for base, key, value in (
        (reversible, "model.wells", "true"),
        (kernel, "model.reach", 50),
        (kernel, "model.terms", 6),
        (kernel, "model.power_sign", 1),
        (wells, "train.echo.mode", "symmetric"),
        (finite, "train.echo.kappa", 0.1),
        (reversible, "train.echo.fixed", "true"),
        (reversible, "train.echo.memory", "segment"),
        (segments, "train.echo.segment", 8),
        ((), "geometry.chart", "shared"),
        ((), "geometry.stress", "true"),
        (chart, "geometry.n", 4),
        (chart, "geometry.metric_mode", "block_rot"),
        ((*chart, "geometry.metric_mode=block_rot"), "geometry.block", 2),
        (chart, "geometry.frame_mode", "learned_lowrank"),
        (chart, "geometry.rotor_mode", "derived"),
        (chart, "geometry.rotor_layers", 2),
        (chart, "geometry.source", "curvature"),
        ((*chart, "geometry.frame_mode=learned_lowrank"), "geometry.rank", 2),
        ((*chart, "geometry.frame_mode=derived", "geometry.rotor_mode=off"), "geometry.frame_every", 1),
        ((), "model.score", "geometric"),
        (("model.score=geometric",), "model.rope", "true"),
        ((), "model.retrieval_fir", 3),
        ((), "field.enabled", "true"),
        (field, "field.size", "[3, 2]"),
        (field, "field.dim", 3),
        (field, "field.dynamics", "symplectic"),
        (field, "field.potential", "zero"),
        (field, "field.stiffness", 1.0),
        (field, "field.dt", 0.1),
        (field, "field.evidence", 0.9),
        (field, "field.memory", 0.9),
        (field, "field.eta", 10.0),
        (field, "field.adaptive", "true"),
        (field, "field.collapse_every", 1),
        ((*field, "field.collapse_every=1"), "field.collapse", "hard"),
        ((), "data.carried", 2),
        ((), "train.echo.nudge", "target_embedding"),
        ((), "train.echo.action", 0.5),
        (("train.echo.nudge=target_embedding",), "train.echo.pull", 0.5),
        ((), "train.spsa.groups", "[log_radius]"),
        (("train.spsa.groups=[log_radius]",), "train.spsa.samples", 2),
        (("train.spsa.groups=[log_radius]",), "train.spsa.epsilon", 0.05),
        ((), "data.tokenizer", "bpe"),
        (("data.tokenizer=bpe",), "data.bpe_vocab", 300),
    ):
        with_key = trace(*base, f"{key}={value}")
        plainly = trace(*base)
        assert with_key.shape != plainly.shape or not torch.equal(with_key, plainly), key
        conditional.add(key)
    elsewhere = {
        "family", "data.source", "data.unk", "data.workers", "data.stream", "data.field", "data.skip_bad",
        "data.shuffle", "data.first", "data.held_out", "train.budget.steps", "train.budget.tokens",
        "train.budget.cpu_s",
        "train.budget.seconds", "train.cadence.log_every", "train.cadence.eval_every", "train.cadence.save_every",
        "train.cadence.keep", "train.cadence.keep_every", "train.cadence.eval_growth", "train.cadence.samples",
        "train.cadence.eval_table", "train.cadence.eval_halve", "train.cadence.eval_least",
        "train.guard.on_nonfinite", "train.guard.rollbacks", "train.guard.patience", "train.guard.halve_after",
        "train.guard.min_gain", "train.guard.on_save_error", "train.tensorboard", "train.optim.ema",
        "train.echo.allow_biased", "train.schedule.cycles", "train.schedule.table", "version",
        "train.threads", "train.device", "train.strict_cuda", "train.cuda_graphs", "infer.temperature",
        "infer.top_k", "infer.top_p", "infer.max_tokens", "infer.gate", "infer.selector", "infer.repetition",
        "infer.inhibition", "infer.kernel", "infer.abstain", "infer.least_prob", "infer.doubt",
        "memory.window", "memory.capacity", "memory.k", "memory.share", "memory.prior",
        "memory.weighting", "memory.mixing", "memory.most", "field.pace",
    }  # fmt: skip
    assert set(configure("lior").origins) == set(changes) | elsewhere | conditional


def test_averaged_weights_are_evaluated_saved_and_used(text: Path, tmp_path: Path) -> None:
    report = trained(configured(text, "train.optim.ema=0.9", "train.accumulate=2"), tmp_path)
    model = launch.load("a", root=tmp_path)
    metrics = launch.evaluate("a", root=tmp_path)
    assert abs(metrics["val/loss"] - report.metrics["val/loss"]) < 1e-6
    saved = launch.read_checkpoint("a", tmp_path)
    name, value = next(iter(model.net.named_parameters()))
    assert torch.equal(value, saved.tensors[f"average.{name}"])
    assert not torch.equal(value, saved.tensors[f"model.{name}"])
    stored, measured = launch.verify("a", root=tmp_path)
    assert abs(stored - measured) < 1e-6


def test_samples_and_tensorboard(text: Path, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = configured(text, "train.cadence.samples=30", "train.tensorboard=true")
    report = trained(config, tmp_path)
    samples = sorted(p.name for p in (report.run / "samples").iterdir())
    assert samples == ["step-40.txt", "step-60.txt"]
    assert 1 <= len((report.run / "samples" / "step-60.txt").read_text()) <= 30
    read = events.EventAccumulator(str(report.run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    lines = [json.loads(line) for line in (report.run / "metrics.jsonl").read_text().splitlines()]
    for name in ("train/loss", "train/lr", "val/loss"):
        logged = [(r["step"], r[name]) for r in lines if name in r]
        shown = [(e.step, e.value) for e in read.Scalars(name)]
        assert [s for s, _ in shown] == [s for s, _ in logged]
        assert all(math.isclose(a, b, rel_tol=1e-6) for (_, a), (_, b) in zip(shown, logged, strict=True))
    assert "sample/text_summary" in read.Tags()["tensors"]
    assert read.Tags()["histograms"]
    assert set(read.Tags()["images"]) == {p.title for p in lior_pictures(launch.load("a", root=tmp_path))}
    (metadata,) = (report.run / "tensorboard").rglob("metadata.tsv")
    assert len(metadata.read_text().splitlines()) == launch.load("a", root=tmp_path).tokenizer.vocab_size


def test_configurations_of_older_versions_still_load() -> None:
    tree = to_json(LiorConfig())
    del tree["version"]
    tree["train"]["optim"] |= {"warmup": 0.2, "floor": 0.4}
    del tree["train"]["schedule"], tree["train"]["guard"], tree["train"]["accumulate"]
    found = from_json(LiorConfig, tree, origin="old")
    assert (found.train.schedule.warmup, found.train.schedule.floor) == (0.2, 0.4)
    assert found.version == 2
    with pytest.raises(ConfigError, match=r"`version` = 3.*reads 1 to 2"):
        from_json(LiorConfig, {**tree, "version": 3}, origin="newer")


def test_no_step_waits_for_the_device_between_records(text: Path, tmp_path: Path) -> None:
    """Reading a tensor's value is what makes a GPU wait: it happens at records, evaluations and saves alone."""
    from torch.utils._python_dispatch import TorchDispatchMode

    reads: list[int] = []
    config = configured(
        text, "train.cadence.log_every=20", "train.cadence.eval_every=60", "train.cadence.save_every=60"
    )

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._local_scalar_dense.default:
                reads[-1] += 1
            return func(*args, **(kwargs or {}))

    work = launch._prepare(config)
    step = work.learner.train_step

    def counted(batch, *, progress):
        reads.append(0)
        return step(batch, progress=progress)

    work.learner.train_step = counted
    with RunDirectory.create(tmp_path, "a", prefix="t", config=config) as directory, Watch():
        launch._fit(work, directory, SilentProgress(), None, World())
    assert len(reads) == 60
    assert [n + 1 for n, count in enumerate(reads) if count] == [20, 40, 60]


def test_byte_pairs_train_evaluate_and_talk(text: Path, tmp_path: Path) -> None:
    trained(configured(text, "data.tokenizer=bpe", "data.bpe_vocab=300"), tmp_path)
    model = launch.load("a", root=tmp_path)
    assert model.tokenizer.vocab_size == 300
    metrics = launch.evaluate("a", root=tmp_path)
    characters = len(text.read_text()) - int(len(text.read_text()) * 0.9)
    # The first token is read, not predicted.
    assert 0 < characters - metrics["val/characters"] <= 20
    nats = metrics["val/loss"] * metrics["val/tokens"] / metrics["val/characters"]
    assert math.isclose(metrics["val/bits_per_char"], nats / math.log(2), rel_tol=1e-9)
    stored, measured = launch.verify("a", root=tmp_path)
    assert abs(stored - measured) < 1e-6
    session = Session(model, Sampling(temperature=1.0), seed=3)
    session.feed("caf\u00e9 \U0001f600")
    said = "".join(session.reply(max_tokens=40))
    session.save(tmp_path / "talk.json")
    again = Session(model, Sampling(), seed=9)
    again.load(tmp_path / "talk.json")
    assert [role for role, _ in again.turns] == ["user", "model"]
    assert "".join(again.reply(max_tokens=30)) == "".join(session.reply(max_tokens=30))
    assert said


def test_a_field_and_a_derived_frame_are_saved_and_loaded(text: Path, tmp_path: Path) -> None:
    field = ("field.enabled=true", "field.size=[2, 2]", "field.dim=3", "model.pattern=rmrm")
    frame = (
        "geometry.chart=shared",
        "geometry.frame_mode=derived",
        "geometry.rotor_mode=off",
        "geometry.frame_every=2",
    )
    for n, overrides in enumerate((field, frame)):
        report = trained(configured(text, *overrides), tmp_path / str(n))
        metrics = launch.evaluate("a", root=tmp_path / str(n))
        assert abs(metrics["val/loss"] - report.metrics["val/loss"]) < 1e-6
    found = launch.evaluate("a", root=tmp_path / "0", protocol="field")
    assert found["val/loss"] != launch.evaluate("a", root=tmp_path / "0", protocol="carried")["val/loss"]
    # The field that was saved, whatever an evaluation does with copies of it.
    assert found["field/steps"] == 60
    assert 0 < found["field/entropy"] <= math.log(3)
    assert found["field/norm"] > 0


def test_averaged_weights_begin_a_run(text: Path, tmp_path: Path) -> None:
    trained(configured(text, "train.optim.ema=0.9"), tmp_path)
    source = launch.evaluate("a", root=tmp_path)["val/loss"]
    for name, ema in (("with", 0.9), ("without", 0.0)):
        config = configured(text, f"train.optim.ema={ema}", "train.optim.lr=1.0e-9", "train.budget={steps: 1}")
        progress = SilentProgress()
        report = launch.train(config, recipe="b", run=name, root=tmp_path, progress=progress, init_from="a")
        assert abs(report.metrics["val/loss"] - source) < 1e-4


def test_tokens_of_another_kind_do_not_begin_a_run(text: Path, tmp_path: Path) -> None:
    trained(configured(text, "data.unk=true"), tmp_path)
    for odd, fix in (("data.tokenizer=bpe", "tokenizer=char --set data.unk=true"), ("data.tokenizer=char", "unk=true")):
        config = configured(text, "data.unk=false", odd)
        with pytest.raises(ConfigError, match=f"add --set data.{fix}"):
            launch.train(config, recipe="b", run="b", root=tmp_path, progress=SilentProgress(), init_from="a")


def test_a_session_of_another_model_is_refused(text: Path, tmp_path: Path) -> None:
    trained(configured(text), tmp_path)
    model = launch.load("a", root=tmp_path)
    session = Session(model, Sampling(), seed=1)
    session.feed(model.tokenizer.decode([5, 6, 7, 8]))
    said = session.turns
    session.save(tmp_path / "talk.json")
    content = json.loads((tmp_path / "talk.json").read_text())
    for wrong in ([1, 2, 3, 4], [-1], [10**6]):
        (tmp_path / "bad.json").write_text(json.dumps(content | {"ids": [wrong]}))
        with pytest.raises(DataError, match="not a saved session"):
            session.load(tmp_path / "bad.json")
        assert session.turns == said


def test_streams_are_evaluated_with_and_without_memory(text: Path, tmp_path: Path) -> None:
    trained(configured(text), tmp_path)
    windows, carried, memory = (
        launch.evaluate("a", root=tmp_path, protocol=p, with_baselines=True) for p in ("windows", "carried", "memory")
    )
    # What learns while it reads has names of its own, and so has what stands beside it.
    assert set(memory) == {f"{name}_memory" for name in carried if name.startswith("val/")} | {"baseline/kn7_online"}
    assert len({windows["val/loss"], carried["val/loss"], memory["val/loss_memory"]}) == 3
    assert memory["baseline/kn7_online"] < carried["baseline/kn7"]
    with pytest.raises(ConfigError, match="wanted one of windows"):
        launch.evaluate("a", root=tmp_path, protocol="backwards")
