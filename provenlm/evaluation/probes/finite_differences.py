"""Compare gradients by autograd with central finite differences in float64.

Up to MAX_ELEMENTS elements of a tensor are perturbed one by one. In a larger tensor as many are sampled, and the whole tensor is
also perturbed along a random direction, so that every element takes part.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from provenlm.core.audit import AuditTable

MAX_ELEMENTS = 24
STEP_SIZE = 1e-5
# Of the norm of the whole gradient: below it finite differences are rounding errors (the bias of keys has no gradient at all).
ZERO_GRADIENT_FRACTION = 1e-7


@dataclass(frozen=True)
class GradientComparison:
    """Hold both derivatives of one tensor.

    There is one for each sampled element, and one along a random direction if not all were sampled.
    """

    name: str
    num_elements: int
    num_checked: int
    autograd: Tensor
    finite_differences: Tensor

    @property
    def relative_error(self) -> float:
        """Return the norm of the difference relative to that of the finite differences."""
        return relative_error(self.autograd, self.finite_differences)

    @property
    def cosine(self) -> float:
        """Return the cosine similarity of both gradients."""
        return cosine_similarity(self.autograd, self.finite_differences)


@dataclass(frozen=True)
class GradcheckResult:
    """Hold the comparisons of all tensors with a gradient.

    `zero_gradient` names the tensors without one by either method.
    """

    comparisons: Sequence[GradientComparison]
    zero_gradient: Sequence[str]

    @property
    def relative_error(self) -> float:
        """Return the relative error of all derivatives as one vector."""
        return relative_error(*self._concatenated())

    @property
    def cosine(self) -> float:
        """Return the cosine similarity of all derivatives as one vector."""
        return cosine_similarity(*self._concatenated())

    @property
    def worst(self) -> GradientComparison:
        """Return the comparison with the largest relative error."""
        return max(self.comparisons, key=lambda comparison: comparison.relative_error)

    @property
    def min_cosine(self) -> float:
        """Return the smallest cosine similarity of a tensor."""
        return min(comparison.cosine for comparison in self.comparisons)

    def _concatenated(self) -> tuple[Tensor, Tensor]:
        return torch.cat([s.autograd for s in self.comparisons]), torch.cat([s.finite_differences for s in self.comparisons])


def compare_gradients(
    scalar_fn: Callable[[], Tensor], tensors: Mapping[str, Tensor], seed: int, max_elements: int = MAX_ELEMENTS
) -> GradcheckResult:
    """Compare the gradients of `scalar_fn()` with respect to `tensors`.

    At most `max_elements` elements of each tensor are perturbed one by one. The tensors are float64 leaves. ValueError for another dtype,
    or if no tensor has a gradient.
    """
    if not_float64 := [name for name, tensor in tensors.items() if tensor.dtype != torch.float64]:
        raise ValueError(f"{not_float64[0]} must be float64, got {tensors[not_float64[0]].dtype}")
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        gradients = torch.autograd.grad(scalar_fn(), list(tensors.values()), allow_unused=True)
    comparisons = [
        _compare_tensor(scalar_fn, name, t, g, generator, max_elements)
        for (name, t), g in zip(tensors.items(), gradients, strict=True)
    ]
    threshold = ZERO_GRADIENT_FRACTION * max(float(max(s.autograd.norm(), s.finite_differences.norm())) for s in comparisons)
    nonzero = [s for s in comparisons if max(s.autograd.norm(), s.finite_differences.norm()) > threshold]
    if not nonzero:
        raise ValueError("no tensor has a gradient")
    return GradcheckResult(nonzero, [s.name for s in comparisons if s not in nonzero])


def comparison_table(result: GradcheckResult, name: str, description: str) -> AuditTable:
    """Return a table with one row for each compared tensor."""
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
    columns = ("tensor", "elements", "checked", "autograd norm", "finite-difference norm", "relative error", "cosine")
    return AuditTable(name, description, columns, rows)


def relative_error(estimate: Tensor, reference: Tensor) -> float:
    """Return the norm of `estimate` - `reference` relative to the norm of `reference`."""
    return float((estimate - reference).norm() / reference.norm().clamp_min(1e-300))


def cosine_similarity(a: Tensor, b: Tensor) -> float:
    """Return the cosine similarity of two vectors, 0 if one of them is 0."""
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms else 0.0


def _compare_tensor(
    scalar_fn: Callable[[], Tensor],
    name: str,
    tensor: Tensor,
    autograd_gradient: Tensor | None,
    generator: torch.Generator,
    max_elements: int,
) -> GradientComparison:
    gradient = torch.zeros_like(tensor) if autograd_gradient is None else autograd_gradient
    indices = torch.randperm(tensor.numel(), generator=generator)[:max_elements]
    vectors = torch.nn.functional.one_hot(indices, tensor.numel()).to(torch.float64)
    if tensor.numel() > max_elements:
        direction = torch.randn(tensor.numel(), generator=generator, dtype=torch.float64)
        vectors = torch.cat([vectors, (direction / direction.norm())[None]])
    numeric = torch.stack([_central_difference(scalar_fn, tensor, vector.view_as(tensor)) for vector in vectors])
    return GradientComparison(name, tensor.numel(), len(indices), vectors @ gradient.detach().flatten(), numeric)


@torch.no_grad()
def _central_difference(scalar_fn: Callable[[], Tensor], tensor: Tensor, direction: Tensor) -> Tensor:
    """Return the central difference of `scalar_fn()` along `direction`.

    `tensor` is restored bit for bit.
    """
    original = tensor.clone()
    values = []
    for sign in (1, -1):
        tensor.copy_(original + sign * STEP_SIZE * direction)
        values.append(scalar_fn().detach())
    tensor.copy_(original)
    return (values[0] - values[1]) / (2 * STEP_SIZE)
