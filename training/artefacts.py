"""Making artefacts: from trained networks to verified files. Reading them is policies.learned.artefact's, which serving has
too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from core.artefact import ArtefactFiles
from policies.learned.artefact import DIGEST, METADATA, WEIGHTS, Artefact, Metadata, NetworkShape, canonical, open_artefact
from policies.learned.network import Activation, Mlp
from training.files import write_whole


def network_of_torch(module: Any, activation: Activation) -> Mlp:  # noqa: ANN401 - torch is not needed to import this
    """The NumPy network of a torch.nn.Sequential: its Linear layers in order. Dropout and the like do nothing when acting."""
    layers = []
    for part in module:
        if type(part).__name__ == "Linear":
            weight, bias = (value.detach().cpu().numpy().astype(np.float32) for value in (part.weight, part.bias))
            layers.append((weight, bias))
    return Mlp(tuple(layers), activation)


def make_artefact(networks: Mapping[str, Mlp], **metadata: Any) -> Artefact:  # noqa: ANN401 - the fields of Metadata
    """An artefact, verified as one that was read would be. Raises ArtefactError when tensors are not finite."""
    shapes, tensors = {}, {}
    for name, network in networks.items():
        widths = (network.inputs, *(int(weight.shape[0]) for weight, _ in network.layers))
        shapes[name] = NetworkShape(widths=widths, activation=network.activation, prefix=f"{name}.")
        tensors.update(network.tensors(f"{name}."))
    return artefact_of_tensors(tensors, networks=shapes, **metadata)


def artefact_of_tensors(tensors: Mapping[str, NDArray[np.float32]], **metadata: Any) -> Artefact:  # noqa: ANN401 - as above
    """An artefact of tensors that may be no networks, verified likewise."""
    said = Metadata(**({"networks": {}} | metadata))
    return open_artefact(ArtefactFiles(canonical(said), save_tensors(dict(tensors))), layout=said.layout)


def write_artefact(artefact: Artefact, directory: Path) -> Path:
    """Write an artefact's files, each whole or not at all; the digest, without which nothing is loaded, last.

    Raises OSError (disk full): an artefact that was there before then either stays or no longer passes its hash.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in (
        (WEIGHTS, artefact.files.weights),
        (METADATA, artefact.files.metadata),
        (DIGEST, artefact.sha256.encode() + b"\n"),
    ):
        write_whole(directory / name, data)
    return directory
