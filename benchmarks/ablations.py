"""What each mode of lior does to held-out loss: every mode alone against the default, equal updates or CPU time.

    python benchmarks/ablations.py [--steps 300 | --cpu-seconds 60] [--seeds 1 2 3] [NAME ...]

The text is tinyshakespeare, batch 8 windows of 128 characters; the loss is that of the whole held-out part. A mode
helps if its mean is below the default by more than the spread of the seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from holonomy.cli.process import tune_process
from holonomy.recipes import configure, launch
from holonomy.train.monitor import SilentProgress

NEVER = 1_000_000
"""Updates between evaluations: only the end is evaluated."""
LOWRANK = ("geometry.frame_mode=learned_lowrank",)
DERIVED = ("geometry.frame_mode=derived",)
SHARED, PER_HEAD = ("geometry.chart=shared",), ("geometry.chart=per_head",)
FIELD = ("field.enabled=true",)
CAUSAL = ("model.architecture=causal_field",)
VARIANTS: dict[str, tuple[str, ...]] = {
    "default": (),
    "causal_field": CAUSAL,
    "field_transformer": ("model.architecture=field_transformer",),
    "geometric scores": ("model.score=geometric",),
    "geometric scores, rotary": ("model.score=geometric", "model.rope=true"),
    "filtered queries and keys": ("model.retrieval_fir=3",),
    "selective bank": ("model.bank=selective",),
    "coupled bank": ("model.bank=coupled",),
    "kernel bank": ("model.bank=kernel",),
    "hamiltonian bank": ("model.bank=hamiltonian",),
    "hamiltonian bank, wells": ("model.bank=hamiltonian", "model.wells=true"),
    "undamped": ("model.gamma_range=[0.0001, 0.001]",),
    "settling units for the last map": ("model.pattern=omrmomoe",),
    "biquaternions for one oscillator": ("model.pattern=omrmqmom",),
    "octonions for one oscillator": ("model.pattern=omrmcmom",),
    "hamiltonian block for one oscillator": ("model.pattern=omrmhmom",),
    "probe for retrieval": ("model.pattern=ompmomom",),
    "field, dissipative": FIELD,
    "field, symplectic": (*FIELD, "field.dynamics=symplectic"),
    "field, unitary": (*FIELD, "field.dynamics=unitary"),
    "field, adaptive": (*FIELD, "field.adaptive=true"),
    "shorter paths of hidden states": ("train.echo.action=0.1",),
    "pull to the target's vector": ("train.echo.nudge=target_embedding",),
    "radius and interval by SPSA": ("train.spsa.groups=[log_radius, log_interval]",),
    "carried states": ("data.carried=8",),
    "stress": ("geometry.stress=true",),
    "per-head chart, rotor": PER_HEAD,
    "per-head chart, blocks": (*PER_HEAD, "geometry.metric_mode=block_rot"),
    "per-head chart, low rank": (*PER_HEAD, *LOWRANK, "geometry.rotor_mode='off'"),
    "per-head chart, derived frame": (*PER_HEAD, *DERIVED, "geometry.rotor_mode='off'"),
    "shared chart, rotor": SHARED,
    "shared chart, rotor started derived": (*SHARED, "geometry.rotor_mode=derived"),
    "shared chart, blocks": (*SHARED, "geometry.metric_mode=block_rot"),
    "shared chart, low rank": (*SHARED, *LOWRANK, "geometry.rotor_mode='off'"),
    "shared chart, low rank and rotor": (*SHARED, *LOWRANK),
    "shared chart, derived frame": (*SHARED, *DERIVED, "geometry.rotor_mode='off'"),
    "shared chart, derived frame as rotors": (*SHARED, *DERIVED, "geometry.rotor_mode=derived"),
    "shared chart, curvature": (*SHARED, "geometry.source=curvature"),
    "shared chart, curvature by SPSA": (*SHARED, "geometry.source=curvature", "train.spsa.groups=[heights]"),
}


def trained(overrides: tuple[str, ...], seed: int, budget: dict[str, float], root: Path) -> tuple[float, float, int]:
    """Held-out loss, CPU-seconds and updates of one run."""
    unlimited = dict.fromkeys(("steps", "tokens", "cpu_s", "seconds"))
    config = configure(
        "lior-shakespeare",
        overrides=overrides,
        options={
            "train.budget": ("--steps", unlimited | budget),
            "train.seed": ("--seed", seed),
            "train.cadence.eval_every": ("", NEVER),
            "train.cadence.save_every": ("", NEVER),
        },
    ).config
    report = launch.train(config, recipe="ablation", run=None, root=root, progress=SilentProgress())
    return report.metrics["val/loss"], report.cpu_seconds, report.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="variants; all of them by default")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--cpu-seconds", type=float, help="instead of steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    given = parser.parse_args()
    tune_process(threads=1)
    budget = {"cpu_s": given.cpu_seconds} if given.cpu_seconds else {"steps": given.steps}
    print(f"{'variant':38}{'nats/char':>12}{'spread':>9}{'CPU-s':>8}{'updates':>9}", flush=True)
    for name in given.names or VARIANTS:
        with tempfile.TemporaryDirectory() as root:
            found = [trained(VARIANTS[name], seed, budget, Path(root) / str(seed)) for seed in given.seeds]
        losses = [loss for loss, _, _ in found]
        spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
        seconds = statistics.mean(s for _, s, _ in found)
        steps = statistics.mean(n for _, _, n in found)
        print(f"{name:38}{statistics.mean(losses):12.4f}{spread:9.4f}{seconds:8.1f}{steps:9.0f}", flush=True)


if __name__ == "__main__":
    main()
