"""A path of the set of kept outputs in many small equal steps, written out for fully connected networks.

Nothing of the library: the Gram matrix ``JJᵀ`` is the sum over layers of ``(δδᵀ) ∘ (aaᵀ)``, with ``a`` the
inputs of a layer and ``δ`` the derivatives of the outputs at its pre-activations.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layers:
    """Weight matrices ``(out, in)`` without biases, and the activation between them."""

    shapes: tuple[tuple[int, int], ...]
    activation: Activation
    slope: Activation

    def split(self, w: Tensor) -> list[Tensor]:
        parts = torch.split(w, [rows * columns for rows, columns in self.shapes])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def forward(self, w: Tensor, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Outputs, the input of each layer, and the slopes of the hidden activations."""
        inputs, slopes, matrices = [x], [], self.split(w)
        for W in matrices[:-1]:
            z = inputs[-1] @ W.T
            inputs.append(self.activation(z))
            slopes.append(self.slope(z))
        return inputs[-1] @ matrices[-1].T, inputs, slopes

    def deltas(self, w: Tensor, slopes: list[Tensor], n: int) -> list[Tensor]:
        """``∂f/∂z`` of every layer, ``(n, c, width)``."""
        matrices = self.split(w)
        c = self.shapes[-1][0]
        found = [torch.eye(c, dtype=w.dtype).expand(n, c, c)]
        for W, slope in zip(reversed(matrices[1:]), reversed(slopes), strict=True):
            found.append(found[-1] @ W * slope.unsqueeze(1))
        return found[::-1]


def slope_of_path(net: Layers, w: Tensor, x: Tensor, rhs: Callable[[Tensor, list[Tensor], Tensor], Tensor]):
    """``-J⁺ r`` with ``r`` from outputs, deltas and first weight matrix."""
    n = len(x)
    f, inputs, slopes = net.forward(w, x)
    deltas = net.deltas(w, slopes, n)
    c = f.shape[1]
    K = sum(
        (d.reshape(n * c, -1) @ d.reshape(n * c, -1).T)
        * (a @ a.T).repeat_interleave(c, 0).repeat_interleave(c, 1)
        for d, a in zip(deltas, inputs, strict=True)
    )
    y = torch.cholesky_solve(
        rhs(f, deltas, net.split(w)[0]).reshape(-1, 1), torch.linalg.cholesky(K)
    ).reshape(n, c)
    return -torch.cat(
        [(torch.einsum("nc,nco->no", y, d).T @ a).flatten() for d, a in zip(deltas, inputs, strict=True)]
    )


def dense_path(
    net: Layers,
    w: Tensor,
    x: Tensor,
    dx: Tensor,
    steps: int,
    *,
    report: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """The end of ``w' = -J⁺ J_x Δx`` from ``w``: Heun's method, then Gauss-Newton steps onto the set.

    Args:
        net: The layers.
        w: Where it starts, on the set.
        x: All points.
        dx: Change of all points, zero rows for those that stay.
        steps: Of equal length.
        report: Called with each step's number.
    """
    kept, _, _ = net.forward(w, x)
    h = 1.0 / steps

    def moving(_f: Tensor, deltas: list[Tensor], W: Tensor) -> Tensor:
        return torch.einsum("nco,od,nd->nc", deltas[0], W, dx)

    def off(f: Tensor, _deltas: list[Tensor], _W: Tensor) -> Tensor:
        return f - kept

    for k in range(steps):
        at, end = x + k * h * dx, x + (k + 1) * h * dx
        first = slope_of_path(net, w, at, moving)
        second = slope_of_path(net, w + h * first, end, moving)
        w = w + 0.5 * h * (first + second)
        w = w + slope_of_path(net, w, end, off)
        report(k)
    for _ in range(4):
        w = w + slope_of_path(net, w, x + dx, off)
    return w
