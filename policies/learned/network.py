"""The forward pass of a multilayer perceptron in NumPy: what a controller runs, without torch.

Linear layers with SiLU (x sigmoid(x); Elfwing et al., Neural Networks 107 (2018) 3) or tanh between them, nothing after the last.
Not here: training (training.value_network), where the numbers come from (policies.learned.artefact).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.artefact import ArtefactError

FloatArray = NDArray[np.float64]
Array32 = NDArray[np.float32]
Activation = Literal["silu", "tanh", "relu"]
ACTIVATIONS: tuple[Activation, ...] = ("silu", "tanh", "relu")


@dataclass(frozen=True, slots=True)
class Mlp:
    """Layers as (weight (out, in), bias (out,)), float32."""

    layers: tuple[tuple[Array32, Array32], ...]
    activation: Activation = "silu"

    @property
    def inputs(self) -> int:
        """Width of the input."""
        return int(self.layers[0][0].shape[1])

    @property
    def outputs(self) -> int:
        """Width of the output."""
        return int(self.layers[-1][0].shape[0])

    def __call__(self, x: NDArray[np.floating]) -> Array32:
        """Outputs (..., outputs) of inputs (..., inputs)."""
        y = np.asarray(x, dtype=np.float32)
        last = len(self.layers) - 1
        for k, (weight, bias) in enumerate(self.layers):
            y = y @ weight.T + bias
            if k < last:
                y = _activate(y, self.activation)
        return y

    def tensors(self, prefix: str = "") -> dict[str, Array32]:
        """By name: `{prefix}{k}.weight`, `{prefix}{k}.bias`."""
        named: dict[str, Array32] = {}
        for k, (weight, bias) in enumerate(self.layers):
            named[f"{prefix}{k}.weight"], named[f"{prefix}{k}.bias"] = weight, bias
        return named


def _activate(y: Array32, activation: Activation) -> Array32:
    if activation == "tanh":
        return np.asarray(np.tanh(y), dtype=np.float32)
    if activation == "relu":
        return np.asarray(np.maximum(y, 0.0), dtype=np.float32)
    # sigmoid(y) by tanh, which saturates where exp would overflow
    return np.asarray(y * (0.5 * np.tanh(0.5 * y) + 0.5), dtype=np.float32)


def network_of(tensors: Mapping[str, Array32], widths: Sequence[int], activation: str, prefix: str = "", source: str = "") -> Mlp:
    """The network of named tensors; raises ArtefactError naming the tensor that is missing, of another shape or not finite."""
    if activation not in ACTIVATIONS:
        raise ArtefactError(f"{source}: activation: got {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    if len(widths) < 2:
        raise ArtefactError(f"{source}: widths: got {list(widths)}, expected input and output at least")
    layers = []
    for k, (inner, outer) in enumerate(pairwise(widths)):
        found = []
        for name, shape in ((f"{prefix}{k}.weight", (outer, inner)), (f"{prefix}{k}.bias", (outer,))):
            value = tensors.get(name)
            if value is None:
                raise ArtefactError(f"{source}: tensor {name}: missing, expected shape {shape}")
            if value.shape != shape:
                raise ArtefactError(f"{source}: tensor {name}: got shape {value.shape}, expected {shape}")
            if not np.isfinite(value).all():
                raise ArtefactError(f"{source}: tensor {name}: holds a number that is not finite")
            found.append(np.ascontiguousarray(value, dtype=np.float32))
        layers.append((found[0], found[1]))
    return Mlp(tuple(layers), activation)
