"""A scalar and the tensors that it depends on in, its gradient by autograd beside its gradient by finite differences out.

Central differences in float64, step 1e-5. Up to ELEMENTS elements of a tensor are moved one by one; of a larger tensor so many are
drawn, and the whole tensor is moved once along a random direction, so that no element goes unasked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from provenlm.core.audit import Table

ELEMENTS = 24
STEP = 1e-5
FLAT = 1e-7  # of the length of the whole gradient: below it finite differences are rounding (a key's bias has no gradient at all)


@dataclass(frozen=True)
class Slope:
    """What both ways say of one tensor: a derivative for each element that was looked at, and one along a direction where some were not."""

    name: str
    elements: int
    looked: int
    autograd: Tensor
    differences: Tensor

    @property
    def error(self) -> float:
        """Length of the difference over the length of what finite differences say."""
        return relative_error(self.autograd, self.differences)

    @property
    def cosine(self) -> float:
        return cosine(self.autograd, self.differences)


@dataclass(frozen=True)
class Compared:
    """`slopes` of the tensors that move the scalar; `flat` names those that do not, by either way."""

    slopes: Sequence[Slope]
    flat: Sequence[str]

    @property
    def error(self) -> float:
        """Relative error of everything that was looked at, as one vector."""
        return relative_error(*self._joined())

    @property
    def cosine(self) -> float:
        return cosine(*self._joined())

    @property
    def worst(self) -> Slope:
        """The tensor with the largest relative error."""
        return max(self.slopes, key=lambda slope: slope.error)

    @property
    def least_cosine(self) -> float:
        return min(slope.cosine for slope in self.slopes)

    def _joined(self) -> tuple[Tensor, Tensor]:
        return torch.cat([s.autograd for s in self.slopes]), torch.cat([s.differences for s in self.slopes])


def compare(value: Callable[[], Tensor], tensors: Mapping[str, Tensor], seed: int) -> Compared:
    """Ask both ways for the slope of `value()` in each of `tensors`, which are float64 leaves that it is computed from.

    ValueError for another type, or where nothing moves the value at all.
    """
    if wrong := [name for name, tensor in tensors.items() if tensor.dtype != torch.float64]:
        raise ValueError(f"finite differences need float64, {wrong[0]} is not")
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        found = torch.autograd.grad(value(), list(tensors.values()), allow_unused=True)
    slopes = [_slope(value, name, t, g, generator) for (name, t), g in zip(tensors.items(), found, strict=True)]
    least = FLAT * max(float(max(s.autograd.norm(), s.differences.norm())) for s in slopes)
    moving = [s for s in slopes if max(s.autograd.norm(), s.differences.norm()) > least]
    if not moving:
        raise ValueError("no tensor moves the value: there is no slope to compare")
    return Compared(moving, [s.name for s in slopes if s not in moving])


def table(compared: Compared, name: str, meaning: str) -> Table:
    rows = [
        (s.name, s.elements, s.looked, float(s.autograd.norm()), float(s.differences.norm()), s.error, s.cosine)
        for s in compared.slopes
    ]
    columns = ("tensor", "elements", "looked at", "length by autograd", "by differences", "relative error", "cosine")
    return Table(name, meaning, columns, rows)


def relative_error(one: Tensor, truth: Tensor) -> float:
    return float((one - truth).norm() / truth.norm().clamp_min(1e-300))


def cosine(one: Tensor, other: Tensor) -> float:
    lengths = float(one.norm() * other.norm())
    return float(one @ other) / lengths if lengths else 0.0


def _slope(value: Callable[[], Tensor], name: str, tensor: Tensor, found: Tensor | None, generator: torch.Generator) -> Slope:
    gradient = torch.zeros_like(tensor) if found is None else found
    places = torch.randperm(tensor.numel(), generator=generator)[:ELEMENTS]
    moves = torch.nn.functional.one_hot(places, tensor.numel()).to(torch.float64)
    if tensor.numel() > ELEMENTS:
        direction = torch.randn(tensor.numel(), generator=generator, dtype=torch.float64)
        moves = torch.cat([moves, (direction / direction.norm())[None]])
    numeric = torch.stack([_difference(value, tensor, move.view_as(tensor)) for move in moves])
    return Slope(name, tensor.numel(), len(places), moves @ gradient.detach().flatten(), numeric)


@torch.no_grad()
def _difference(value: Callable[[], Tensor], tensor: Tensor, move: Tensor) -> Tensor:
    """The central difference of `value()` along `move`; the tensor is as before afterwards, bit for bit."""
    before = tensor.clone()
    ends = []
    for sign in (1, -1):
        tensor.copy_(before + sign * STEP * move)
        ends.append(value().detach())
    tensor.copy_(before)
    return (ends[0] - ends[1]) / (2 * STEP)
