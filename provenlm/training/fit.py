"""The one training loop: a net, its objectives and batches in, a frozen Step out for every update.

The loop owns no disk, no bar and no schedule of checkpoints: whoever asks for the next step decides about those.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from provenlm.core import digest, rng
from provenlm.core.errors import UserError
from provenlm.training import optimizers as optim
from provenlm.training import randomness, schedules
from provenlm.training.batches import Batches
from provenlm.training.checkpoint import Checkpoint
from provenlm.training.objective import IGNORE, Batch, Objective
from provenlm.training.settings import Settings
from provenlm.training.step import Monitor, Step


@dataclass
class Trained:
    """What lives through a run: the net, an optimizer list for each objective, and how far we are."""

    model: nn.Module
    objectives: Sequence[Objective]
    optimizers: list[list[torch.optim.Optimizer]]
    settings: Settings
    step: int = 0
    position: int = 0  # rows drawn

    @property
    def names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.model.named_parameters()}

    def snapshot(self) -> Checkpoint:
        """Everything that decides what comes next. Tensors are not copied: write them before the next step."""
        remembered = {
            f"{objective.name}/{name}": tensor
            for objective, own in zip(self.objectives, self.optimizers, strict=True)
            for name, tensor in optim.state(own, self.names).items()
        }
        torch_random, random_facts = randomness.take()
        facts = {"step": self.step, "position": self.position, "random": random_facts, **_fixed(self.settings)}
        return Checkpoint({"model": self.model.state_dict(), "optimizer": remembered, "random": torch_random}, facts)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what `snapshot` saw. UserError if that was under other settings or another number of threads."""
        for key, value in _fixed(self.settings).items():
            if checkpoint.facts[key] != value:
                raise UserError(f"the checkpoint was made with {key} {checkpoint.facts[key]}, this run has {value}; start anew")
        self.model.load_state_dict(dict(checkpoint.tensors["model"]))
        for objective, own in zip(self.objectives, self.optimizers, strict=True):
            prefix = f"{objective.name}/"
            mine = {k.removeprefix(prefix): v for k, v in checkpoint.tensors["optimizer"].items() if k.startswith(prefix)}
            optim.restore(own, self.names, mine)
        self.step, self.position = checkpoint.facts["step"], checkpoint.facts["position"]
        randomness.give_back(dict(checkpoint.tensors["random"]), checkpoint.facts["random"])  # last: what came before may draw


def _fixed(settings: Settings) -> dict[str, object]:
    """What must be the same for a resumed run to give the same bits."""
    return {"threads": torch.get_num_threads(), "settings": digest.of_json(asdict(settings))}


def fit(
    model: nn.Module,
    objectives: Sequence[Objective],
    batches: Batches,
    monitors: Sequence[Monitor],
    settings: Settings,
    resume: Checkpoint | None,
) -> Iterator[Step]:
    """Train `model` where it lies (its device) and yield after every step; the last has a reason in `stop`.

    Each step draws one batch and every objective descends on it in turn. With `resume` the run continues after the step
    that the checkpoint was taken at and gives the bits that it would have given had it never stopped.
    """
    run = Trained(model, objectives, [optim.optimizers_for(objective, settings.optimizer) for objective in objectives], settings)
    randomness.seed_all(rng.seed_of(settings.seed, "steps"))
    if resume is not None:
        run.restore(resume)
    while run.step < settings.steps:
        step = _step(run, batches)
        reasons = [reason for monitor in monitors if (reason := monitor.observe(step))]
        if not reasons and run.step == settings.steps:
            reasons = [f"all {settings.steps} steps done"]
        yield replace(step, stop="; ".join(reasons)) if reasons else step
        if reasons:
            return


def _step(run: Trained, batches: Batches) -> Step:
    """Draw a batch, let every objective descend on it, and look at held-out data when it is time."""
    settings, begin = run.settings, time.perf_counter()
    device = next(run.model.parameters()).device
    batch = batches.take(run.position, settings.batch)
    drawn = time.perf_counter()
    share = schedules.share(settings.schedule, run.step, settings.steps)
    run.model.train()
    terms: dict[str, float] = {}
    norms = []
    for objective, own in zip(run.objectives, run.optimizers, strict=True):
        optim.set_rates(own, share)
        descended, norm = _descend(objective, own, batch, settings, device)
        terms |= descended if len(run.objectives) == 1 else {f"{objective.name}.{k}": v for k, v in descended.items()}
        norms.append(norm)
    run.step += 1
    run.position += settings.batch
    ended = time.perf_counter()
    return Step(
        number=run.step,
        terms=terms,
        held_out=_held_out(run, batches) if _due(settings, run.step) else None,
        share=share,
        grad_norm=math.hypot(*norms),
        targets=_targets(batch),
        positions=batch.inputs_BT.numel(),
        epochs=run.position / len(batches.rows),
        seconds=ended - begin,
        data_seconds=drawn - begin,
        applied=_finite(terms, norms),
        stop=None,
        snapshot=run.snapshot,
    )


def _descend(
    objective: Objective, own: Sequence[torch.optim.Optimizer], batch: Batch, settings: Settings, device: torch.device
) -> tuple[dict[str, float], float]:
    """One update of one objective's parameters; (its terms, its gradient norm). What is not finite is not applied.

    Each pass counts by its share of the whole batch's targets, so the gradient does not depend on how the batch is cut.
    """
    parameters = [p for group in objective.parameters.values() for p in group if p.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    sums: dict[str, Tensor] = {}
    for part, share in _parts(batch, settings.micro_batch):
        terms = _terms(objective, _to(part, device), settings)
        (terms["loss"] * share).backward()  # type: ignore[no-untyped-call]
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.detach() * share
    clip = settings.optimizer.clip
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if clip is None else clip).item()
    found = {name: value.item() for name, value in sums.items()}
    if _finite(found, [norm]):
        for optimizer in own:
            optimizer.step()
    return found, norm


def _terms(objective: Objective, batch: Batch, settings: Settings) -> Mapping[str, Tensor]:
    with torch.autocast(batch.inputs_BT.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        return objective.loss(batch)


def _parts(batch: Batch, rows: int) -> Iterator[tuple[Batch, float]]:
    """The batch in parts of `rows` rows, each with its share of the targets; a part without any is left out."""
    whole = _targets(batch)
    for first in range(0, len(batch.inputs_BT), rows):
        part = Batch(batch.inputs_BT[first : first + rows], batch.targets_BT[first : first + rows])
        if count := _targets(part):
            yield part, count / whole


def _targets(batch: Batch) -> int:
    return int((batch.targets_BT != IGNORE).sum())


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.inputs_BT.to(device), batch.targets_BT.to(device))


def _finite(terms: Mapping[str, float], norms: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in (*terms.values(), *norms))


def _due(settings: Settings, step: int) -> bool:
    wanted = settings.held_out
    return wanted is not None and (step % wanted.every == 0 or step == 1 or step == settings.steps)


@torch.no_grad()
def _held_out(run: Trained, batches: Batches) -> dict[str, float]:
    """Terms of the first objective on the held-out batches, by target, without dropout; random states are as before afterwards."""
    device = next(run.model.parameters()).device
    run.model.eval()
    with torch.random.fork_rng(enabled=True):
        return mean_terms(lambda batch: _terms(run.objectives[0], _to(batch, device), run.settings), batches.held_out)


def mean_terms(loss: Callable[[Batch], Mapping[str, Tensor]], batches: Sequence[Batch]) -> dict[str, float]:
    """Each term's mean over all targets of `batches`."""
    whole = sum(map(_targets, batches))
    sums: dict[str, float] = {}
    for batch in batches:
        for name, value in loss(batch).items():
            sums[name] = sums.get(name, 0.0) + value.item() * _targets(batch) / whole
    return sums
