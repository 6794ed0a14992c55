"""The learner of a ternary configuration: autograd through the autoencoder and its losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.core.learner import Json, Metrics, Replicas, State
from holonomy.data.ternary_ops import OperationBatch, OperationSpace
from holonomy.learn.autograd import GradientLearner
from holonomy.learn.compiling import CheckedCompilation
from holonomy.learn.echo import check_tensors
from holonomy.models.ternary import losses_pair, losses_radial
from holonomy.models.ternary.config import TernaryConfig
from holonomy.models.ternary.controller import GradNorm, WeightController
from holonomy.models.ternary.curriculum import GROUPS, Curriculum
from holonomy.models.ternary.losses import LossContext, LossResult, LossStack, build_stack, mean_entropy
from holonomy.models.ternary.model import TernaryOutput, TernaryVAE, build_model
from holonomy.models.ternary.posterior import gaussian_kl
from holonomy.optim.schedules import learning_rate

COMPILED = 1e-5
"""Largest difference that compiling may make, relative to the largest value of a tensor."""
TERM_MODULES = (losses_pair, losses_radial)
"""Modules whose import makes their terms known."""


class TernaryNet(nn.Module):
    """Everything that the losses train: the autoencoder, parameters of losses, and their log deviations.

    Args:
        vae: the autoencoder.
        stack: the losses.
        weighed: weigh each loss by a learnt deviation s: L / (2 s^2) + log s (Kendall, Gal & Cipolla 2018).
    """

    def __init__(self, vae: TernaryVAE, stack: LossStack, *, weighed: bool) -> None:
        super().__init__()
        self.vae, self.stack = vae, stack
        self.resting: tuple[nn.Module, ...] = ()
        device = vae.space.index.device
        names = stack.names if weighed else []
        self.deviation = nn.ParameterDict({name: nn.Parameter(torch.zeros((), device=device)) for name in names})

    def train(self, mode: bool = True) -> TernaryNet:
        """As every module; parts that rest stay as in evaluation."""
        super().train(mode)
        for module in self.resting:
            module.eval()
        return self


class TernaryLearner(GradientLearner):
    """Trains the autoencoder on batches of operations.

    Noise, pairs and triples of a step follow from the seed and the number of the step.

    Args:
        config: the whole configuration.
        space: the operations.
        replicas: processes whose gradients are averaged; None is this one alone.
    """

    module: TernaryNet

    def __init__(self, config: TernaryConfig, space: OperationSpace, *, replicas: Replicas | None = None) -> None:
        self.config, self.space, self.steps = config, space, 0
        vae = build_model(config, space)
        self.stack = _seeded_stack(config, space)
        self.decode_B = "align" in self.stack.names
        optim = config.train.optim
        self.curriculum = Curriculum(config.curriculum) if config.curriculum.enabled else None
        self.controller = _seeded_controller(config, self.stack, space)
        parts = (*vae.encoder.values(), *vae.projection.values(), vae.decoder)
        self.compilation = CheckedCompilation(parts, tolerance=COMPILED) if config.train.compile else None
        self.kept: dict[str, Tensor] = {}
        self._validation: OperationBatch | None = None
        net = TernaryNet(vae, self.stack, weighed=config.weighting.kind == "uncertainty")
        super().__init__(
            net,
            _groups(net, config),
            betas=optim.betas,
            eps=optim.eps,
            clip=optim.clip,
            schedule=lambda progress: learning_rate(progress, config.train.schedule, optim.lr),
            fused=space.index.device.type in ("cpu", "cuda"),
            replicas=replicas,
        )

    @property
    def vae(self) -> TernaryVAE:
        """The autoencoder."""
        return self.module.vae

    @property
    def notes(self) -> list[str]:
        """What the user should know; see `holonomy.core.learner.Learner`."""
        return [] if self.compilation is None else self.compilation.notes

    def setup(self, example_batch: OperationBatch) -> None:
        """Compiles what is to be compiled, and holds it to the plain model on this batch."""
        if self.compilation is None:
            return
        params = [p for p in self.vae.parameters() if p.requires_grad]

        def trial() -> list[Tensor]:
            out, _ = self.outputs(example_batch, self.generator(0))
            size = out.logits.square().mean() + sum((s.u.square().mean() for s in (out.A, out.B)), out.logits.sum() * 0)
            gradients = torch.autograd.grad(size, params, allow_unused=True)
            return [out.logits.detach(), out.A.u.detach(), *(g for g in gradients if g is not None)]

        self.compilation.begin(trial)

    def generator(self, step: int) -> torch.Generator:
        """Randomness of a step."""
        return torch.Generator().manual_seed((self.config.train.seed << 32) + step)

    def context(self, batch: OperationBatch, generator: torch.Generator) -> LossContext:
        """What the losses see of a batch."""
        return LossContext(self.space, batch.index, generator, batch.unbias)

    def outputs(self, batch: OperationBatch, generator: torch.Generator) -> tuple[TernaryOutput, LossContext]:
        """The model's output with the noise of learning, and the context of the losses."""
        out = self.vae(self.vae.table_of(batch.index), generator=generator, decode_B=self.decode_B)
        return out, self.context(batch, generator)

    def phase(self, progress: float) -> int:
        """0 for structure, 1 for geometry."""
        return int(progress >= self.config.phases.geometry_start)

    def objective(self, batch: OperationBatch, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The weighted losses of the batch."""
        generator, phase = self.generator(self.steps), self.phase(progress)
        if self.controller is not None and self.steps % self.config.weighting.every == 0:
            if isinstance(self.controller, GradNorm):
                losses, norms = self.shared_norms(batch, self.controller.groups, phase=phase)
                self.controller.learn(torch.stack([*losses.values()]), torch.stack([*norms.values()]))
            else:
                self._teach(self.controller, batch, phase)
        out, context = self.outputs(batch, generator)
        factors: dict[str, Tensor | float] = dict(self.curriculum.factors(progress)) if self.curriculum else {}
        if self.controller is not None:
            for group, factor in self.controller.factors().items():
                for name in GROUPS[group]:
                    factors[name] = factors.get(name, 1.0) * factor
        deviation = self.module.deviation
        for name in deviation:
            factors[name] = factors.get(name, 1.0) * torch.exp(-2 * deviation[name]) / 2
        total, metrics = self.stack(out, context, phase=phase, factors=factors)
        if isinstance(self.controller, WeightController) and self.controller.exchange:
            share = metrics["exchange"] = self.controller.share
            for name, value in self._pairs_of_A(out, context, phase, share).items():
                total = total + factors.get(name, 1.0) * value
        for name, _, weight in self.stack.active(phase):
            if name in deviation:
                total = total + weight * deviation[name]
        self.steps += 1
        shown = {f"train/{name}": value for name, value in metrics.items()}
        return total, shown if self.compilation is None else {**shown, "perf/compiled": float(self.compilation.active)}

    def signals(self, out: TernaryOutput, values: Mapping[str, LossResult]) -> Tensor:
        """What the controller sees: radii, entropies and divergences of both streams, pair and radial loss."""

        def loss_of(group: str) -> Tensor:
            found = [values[name].value.detach() for name in GROUPS[group] if name in values]
            return torch.stack(found).sum().clamp_min(0) if found else out.logits.new_zeros(())

        def divergence(mean: Tensor, logvar: Tensor | None) -> Tensor:
            return mean.new_zeros(()) if logvar is None else gaussian_kl(mean, logvar).sum(-1).mean()

        entropy = mean_entropy(out.logits)
        other = entropy if out.logits_B is None else mean_entropy(out.logits_B)
        a, b = out.A, out.B
        kl = [divergence(s.mean, s.logvar) for s in (a, b)]
        seen = [a.rho.mean(), b.rho.mean(), entropy, other, *kl, loss_of("pair"), loss_of("radial")]
        return torch.stack(seen).detach()

    def _pairs_of_A(self, out: TernaryOutput, context: LossContext, phase: int, share: Tensor) -> dict[str, Tensor]:
        """Configured pair losses of stream A, whose points have a share of stream B."""
        mixed = out.exchanged(share)
        found = ((n, w * term(mixed, context).value) for n, term, w in self.stack.active(phase) if n in GROUPS["pair"])
        return dict(found)

    def _grouped(self, out: TernaryOutput, values: Mapping[str, LossResult], phase: int) -> dict[str, Tensor]:
        """Configured losses of the groups that there are, 0 for those that rest in this phase."""
        grouped = {}
        for group in groups_of(self.stack):
            found = [values[n].value * w for n, _, w in self.stack.active(phase) if n in GROUPS[group]]
            grouped[group] = torch.stack(found).sum() if found else out.logits.new_zeros(())
        return grouped

    def shared_norms(
        self, batch: OperationBatch, groups: Sequence[str], *, phase: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Configured losses of groups, and the norms of their gradients at the last layer that all losses share."""
        shared = [p for n, p in self.vae.encoder.named_parameters() if n.split(".")[1] == "head" and p.requires_grad]
        out, context = self.outputs(batch, self.generator(2**31 + self.steps))
        found = self._grouped(out, self.stack.values(out, context, phase=phase), phase)
        losses = {group: found[group] for group in groups}
        norms = {group: _flat_gradient(value, shared).norm() for group, value in losses.items()}
        return {group: value.detach() for group, value in losses.items()}, norms

    def _teach(self, controller: WeightController, batch: OperationBatch, phase: int) -> None:
        """One update of the controller, from gradients of the groups and of an independent batch."""
        trunk = [p for p in (*self.vae.encoder.parameters(), *self.vae.projection.parameters()) if p.requires_grad]
        fixed = self._validation
        self._validation = batch
        if fixed is None or not trunk:
            return

        seed = 2**31 + self.steps
        generator = self.generator(seed)
        held_out = _flat_gradient(self.stack(*self.outputs(fixed, generator), phase=phase)[0], trunk)
        out, context = self.outputs(batch, generator)
        values = self.stack.values(out, context, phase=phase)
        signals = self.signals(out, values)
        controller.observe(signals)
        losses, mixing = self._grouped(out, values, phase), None
        if controller.exchange:
            share, zero = controller.share, out.logits.new_zeros(())

            def costs(share: Tensor) -> Tensor:
                # The same pairs for every share.
                again = self.context(batch, self.generator(seed))
                return sum(self._pairs_of_A(out, again, phase, share).values(), zero)

            none, most = costs(zero), costs(torch.full_like(share, controller.exchange))
            losses["pair"] = losses["pair"] + costs(share)
            mixing = _flat_gradient(most - none, trunk)
        controller.learn(signals, {g: _flat_gradient(v, trunk) for g, v in losses.items()}, held_out, mixing=mixing)

    def part(self, name: str) -> dict[str, Tensor]:
        """Parameters of `encoder_A` or `encoder_B`: the encoder of a stream and, where that learns, its projection."""
        stream = name.removeprefix("encoder_") if self.config.model.sharing == "separate" else "A"
        learnt = (f"projection.{stream}.",) if self.config.model.projection.learnable else ()
        prefixes = (f"encoder.{stream}.", *learnt)
        return {n: p for n, p in self.vae.named_parameters() if n.startswith(prefixes)}

    def modules_of(self, name: str) -> dict[str, nn.Module]:
        """Modules of `encoder_A`, `encoder_B` or `decoder` by their prefix in the autoencoder."""
        if name == "decoder":
            return {"decoder.": self.vae.decoder}
        stream = name.removeprefix("encoder_")
        return {f"encoder.{stream}.": self.vae.encoder[stream], f"projection.{stream}.": self.vae.projection[stream]}

    def rest(self, name: str, source: Mapping[str, Tensor] | None) -> None:
        """Takes a part from the tensors of another autoencoder, if given, and lets it learn no more.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape differs; nothing was changed.
        """
        modules = self.modules_of(name)
        if source is not None:
            wanted = {prefix + n: p for prefix, m in modules.items() for n, p in m.state_dict().items()}
            known = _of_part(source, name, tuple(modules))
            check_tensors(wanted, known)
            for prefix, module in modules.items():
                module.load_state_dict({n: known[prefix + n] for n in module.state_dict()})
        for module in modules.values():
            module.requires_grad_(False).eval()
        self.module.resting = (*self.module.resting, *modules.values())

    def set_frozen(self, name: str, frozen: bool) -> None:
        """Freezes a part or lets it go; moments and schedule of the optimiser stay."""
        for param in self.part(name).values():
            param.requires_grad_(not frozen)

    def keep_coverage(self) -> None:
        """Remembers the path that coverage is measured along."""
        path = {**self.part("encoder_A"), **{f"decoder.{n}": p for n, p in self.vae.decoder.named_parameters()}}
        self.kept = {name: param.detach().clone() for name, param in path.items()}

    def restore_coverage(self) -> bool:
        """Goes back to the path that was remembered, if any was."""
        named = dict(self.vae.named_parameters())
        with torch.no_grad():
            for name, value in self.kept.items():
                named[name].copy_(value)
        return bool(self.kept)

    def eval_step(self, batch: OperationBatch) -> Metrics:
        """Weighted losses of a batch without noise; nothing changes."""
        self.module.eval()
        with torch.no_grad():
            out = self.vae(self.vae.table_of(batch.index), decode_B=self.decode_B)
            total, _ = self.stack(out, self.context(batch, self.generator(0)))
        self.module.train()
        return Metrics(total, batch.count)

    def state(self) -> State:
        """As for every gradient learner, and what steers it."""
        state = super().state() | {"steps": self.steps}
        if self.curriculum is not None:
            state["curriculum"] = self.curriculum.state()
        state |= {f"kept.{name}": value for name, value in self.kept.items()}
        if self.controller is not None:
            state |= {f"controller.{name}": value for name, value in self._controller_tensors().items()}
            state["validation"] = [] if self._validation is None else self._validation.index.tolist()
        return state

    def _controller_tensors(self) -> dict[str, Tensor]:
        """Parameters, running means and moments of the controller."""
        assert self.controller is not None
        found = {name: value.detach() for name, value in self.controller.state_dict(keep_vars=True).items()}
        for name, param in self.controller.named_parameters():
            known = self.controller.optimiser.state.get(param, {})
            zeros = {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param), "step": torch.zeros(())}
            found |= {f"{name}.{key}": known.get(key, zero).detach() for key, zero in zeros.items()}
        return found

    def load_state(self, state: Mapping[str, Tensor | Json]) -> None:
        """Copies a state in, exactly.

        Raises:
            CheckpointError: as for every gradient learner, or it has no number of steps.
        """
        rest = dict(state)
        steps = rest.pop("steps", None)
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise CheckpointError(f"the stored state has `steps` = {steps!r}, wanted a number of updates")
        curriculum = rest.pop("curriculum", None)
        validation = rest.pop("validation", None)
        kept = {k.removeprefix("kept."): rest.pop(k) for k in list(rest) if k.startswith("kept.")}
        controller = {k: rest.pop(k) for k in list(rest) if k.startswith("controller.")}
        if self.controller is not None:
            wanted = {f"controller.{name}": value for name, value in self._controller_tensors().items()}
            check_tensors(wanted, {k: v for k, v in controller.items() if isinstance(v, Tensor)})
        elif controller or validation is not None:
            raise CheckpointError("the stored state has a controller of weights, which this model does not have")
        if self.curriculum is not None:
            self.curriculum.load_state(None if isinstance(curriculum, Tensor) else curriculum)
        super().load_state(rest)
        self.steps = steps
        self.kept = {name: value.clone() for name, value in kept.items() if isinstance(value, Tensor)}
        if self.controller is not None:
            self._load_controller(controller, validation)

    def _load_controller(self, tensors: Mapping[str, Tensor | Json], validation: Tensor | Json) -> None:
        assert self.controller is not None
        found = {k.removeprefix("controller."): v for k, v in tensors.items() if isinstance(v, Tensor)}
        with torch.no_grad():
            for name, value in self.controller.state_dict(keep_vars=True).items():
                value.copy_(found[name])
            for name, param in self.controller.named_parameters():
                if float(found[f"{name}.step"]):
                    moments = {key: found[f"{name}.{key}"].clone() for key in ("exp_avg", "exp_avg_sq", "step")}
                    self.controller.optimiser.state[param] = moments
        self._validation = None
        if isinstance(validation, list) and validation:
            index = torch.tensor(validation, device=self.space.index.device)
            self._validation = OperationBatch(index, torch.ones(len(index), device=index.device), len(index))


def groups_of(stack: LossStack) -> list[str]:
    """Groups of losses that a stack has a member of."""
    return [group for group, names in GROUPS.items() if any(name in stack.names for name in names)]


def _flat_gradient(value: Tensor, params: list[nn.Parameter]) -> Tensor:
    """Gradient by all parameters as one vector, 0 where a loss does not depend on them; the graph stays."""
    if not params or not value.requires_grad:
        return value.new_zeros(sum(p.numel() for p in params))
    found = torch.autograd.grad(value, params, retain_graph=True, allow_unused=True)
    whole = [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]
    return torch.cat([g.flatten() for g in whole])


def _of_part(source: Mapping[str, Tensor], name: str, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Tensors of a part; encoder B of a tied run is its encoder A."""
    found = {n: t for n, t in source.items() if n.startswith(prefixes)}
    if name == "encoder_B" and not found:
        tied = {n.replace(".A.", ".B.", 1): t for n, t in source.items() if ".A." in n}
        return {n: t for n, t in tied.items() if n.startswith(prefixes)}
    return found


def offers(config: TernaryConfig) -> frozenset[str]:
    """What the model of a configuration gives to losses; see `LossTerm.needs`."""
    model = config.model
    given = {
        "logvar": model.posterior != "point",
        "centre": model.posterior == "wrapped_normal",
        "logits": model.decoder != "stepwise",
        "logits_B": model.sharing == "separate" and model.decode_from == "A",
        "hyperbolic": model.geometry == "hyperbolic",
    }
    return frozenset(name for name, there in given.items() if there)


def _seeded_stack(config: TernaryConfig, space: OperationSpace) -> LossStack:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed + 1)
        return build_stack(
            config.loss,
            space,
            max_radius=config.model.projection.max_radius,
            latent_dim=config.model.latent_dim,
            offers=offers(config),
        )


def _seeded_controller(
    config: TernaryConfig, stack: LossStack, space: OperationSpace
) -> WeightController | GradNorm | None:
    weighting, device = config.weighting, space.index.device
    if weighting.kind not in ("controller", "gradnorm"):
        return None
    groups = groups_of(stack)
    if weighting.kind == "gradnorm":
        # A prior is no task: its gradient is a thousandth of the others', and all weight would go to make up for that.
        groups = [group for group in groups if group != "prior"]
        if len(groups) < 2:
            raise ConfigError(
                f"`weighting.kind` is gradnorm, which balances losses; there is {', '.join(groups) or 'none'}: "
                "turn on one of another group, or set it to fixed"
            )
        return GradNorm(groups, lr=weighting.lr, restoring=weighting.restoring).to(device)
    if weighting.exchange and "pair" not in groups:
        raise ConfigError("`weighting.exchange` is about pair losses, and none is on; raise loss.padic_triplet.weight")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed + 2)
        return WeightController(groups, limit=weighting.limit, lr=weighting.lr, exchange=weighting.exchange).to(device)


def _groups(net: TernaryNet, config: TernaryConfig) -> list[dict[str, object]]:
    """Parameter groups: encoders and curvature have learning rates of their own."""
    optim, vae = config.train.optim, net.vae
    encoders, curvature = list(vae.encoder.parameters()), list(vae.curvature.parameters())
    apart = {id(p) for p in (*encoders, *curvature)}
    rest = [p for p in net.parameters() if id(p) not in apart and p.requires_grad]
    groups: list[dict[str, object]] = [
        {"params": encoders, "weight_decay": optim.decay, "lr_scale": optim.encoder_scale},
        {"params": rest, "weight_decay": optim.decay},
    ]
    if curvature:
        scale = config.model.curvature.lr_scale
        groups.append({"params": curvature, "weight_decay": 0.0, "lr_scale": scale})
    return groups
