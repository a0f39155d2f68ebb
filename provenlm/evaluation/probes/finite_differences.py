"""A scalar and the tensors that it depends on in, its gradient by autograd beside its gradient by finite differences out.

Central differences in float64, step 1e-5. Up to ELEMENTS elements of a tensor are moved one by one; of a larger tensor so many are
drawn, and the whole tensor is moved once along a random direction, so that no element goes unasked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from provenlm.core.audit import AuditTable

MAX_ELEMENTS = 24
STEP_SIZE = 1e-5
ZERO_GRADIENT_FRACTION = (
    1e-7  # of the length of the whole gradient: below it finite differences are rounding (a key's bias has no gradient at all)
)


@dataclass(frozen=True)
class GradientComparison:
    """What both ways say of one tensor: a derivative for each element that was looked at, and one along a direction where some were not."""

    name: str
    num_elements: int
    num_checked: int
    autograd: Tensor
    finite_differences: Tensor

    @property
    def relative_error(self) -> float:
        """Length of the difference over the length of what finite differences say."""
        return relative_error(self.autograd, self.finite_differences)

    @property
    def cosine(self) -> float:
        return cosine_similarity(self.autograd, self.finite_differences)


@dataclass(frozen=True)
class GradcheckResult:
    """`slopes` of the tensors that move the scalar; `flat` names those that do not, by either way."""

    comparisons: Sequence[GradientComparison]
    zero_gradient: Sequence[str]

    @property
    def relative_error(self) -> float:
        """Relative error of everything that was looked at, as one vector."""
        return relative_error(*self._concatenated())

    @property
    def cosine(self) -> float:
        return cosine_similarity(*self._concatenated())

    @property
    def worst(self) -> GradientComparison:
        """The tensor with the largest relative error."""
        return max(self.comparisons, key=lambda comparison: comparison.relative_error)

    @property
    def min_cosine(self) -> float:
        return min(comparison.cosine for comparison in self.comparisons)

    def _concatenated(self) -> tuple[Tensor, Tensor]:
        return torch.cat([s.autograd for s in self.comparisons]), torch.cat([s.finite_differences for s in self.comparisons])


def compare_gradients(scalar_fn: Callable[[], Tensor], tensors: Mapping[str, Tensor], seed: int) -> GradcheckResult:
    """Ask both ways for the slope of `value()` in each of `tensors`, which are float64 leaves that it is computed from.

    ValueError for another type, or where nothing moves the value at all.
    """
    if not_float64 := [name for name, tensor in tensors.items() if tensor.dtype != torch.float64]:
        raise ValueError(f"finite differences need float64, {not_float64[0]} is not")
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        gradients = torch.autograd.grad(scalar_fn(), list(tensors.values()), allow_unused=True)
    comparisons = [
        _compare_tensor(scalar_fn, name, t, g, generator) for (name, t), g in zip(tensors.items(), gradients, strict=True)
    ]
    threshold = ZERO_GRADIENT_FRACTION * max(float(max(s.autograd.norm(), s.finite_differences.norm())) for s in comparisons)
    nonzero = [s for s in comparisons if max(s.autograd.norm(), s.finite_differences.norm()) > threshold]
    if not nonzero:
        raise ValueError("no tensor moves the value: there is no slope to compare")
    return GradcheckResult(nonzero, [s.name for s in comparisons if s not in nonzero])


def comparison_table(result: GradcheckResult, name: str, description: str) -> AuditTable:
    rows = [
        (
            s.name,
            s.num_elements,
            s.num_checked,
            float(s.autograd.norm()),
            float(s.finite_differences.norm()),
            s.relative_error,
            s.cosine,
        )
        for s in result.comparisons
    ]
    columns = ("tensor", "elements", "looked at", "length by autograd", "by differences", "relative error", "cosine")
    return AuditTable(name, description, columns, rows)


def relative_error(estimate: Tensor, reference: Tensor) -> float:
    return float((estimate - reference).norm() / reference.norm().clamp_min(1e-300))


def cosine_similarity(a: Tensor, b: Tensor) -> float:
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms else 0.0


def _compare_tensor(
    scalar_fn: Callable[[], Tensor], name: str, tensor: Tensor, autograd_gradient: Tensor | None, generator: torch.Generator
) -> GradientComparison:
    gradient = torch.zeros_like(tensor) if autograd_gradient is None else autograd_gradient
    indices = torch.randperm(tensor.numel(), generator=generator)[:MAX_ELEMENTS]
    vectors = torch.nn.functional.one_hot(indices, tensor.numel()).to(torch.float64)
    if tensor.numel() > MAX_ELEMENTS:
        direction = torch.randn(tensor.numel(), generator=generator, dtype=torch.float64)
        vectors = torch.cat([vectors, (direction / direction.norm())[None]])
    numeric = torch.stack([_central_difference(scalar_fn, tensor, vector.view_as(tensor)) for vector in vectors])
    return GradientComparison(name, tensor.numel(), len(indices), vectors @ gradient.detach().flatten(), numeric)


@torch.no_grad()
def _central_difference(scalar_fn: Callable[[], Tensor], tensor: Tensor, direction: Tensor) -> Tensor:
    """The central difference of `value()` along `move`; the tensor is as before afterwards, bit for bit."""
    original = tensor.clone()
    values = []
    for sign in (1, -1):
        tensor.copy_(original + sign * STEP_SIZE * direction)
        values.append(scalar_fn().detach())
    tensor.copy_(original)
    return (values[0] - values[1]) / (2 * STEP_SIZE)
