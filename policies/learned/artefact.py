"""What a learned policy's artefact says, and loading it only when everything in it fits.

An artefact is `weights.safetensors` and `metadata.json`, bound by one SHA-256 (core.artefact). Safetensors holds numbers and
nothing that runs. Metadata says what the weights are for: kind, observation layout, chemistries, what the policy was made to
know. Not here: the layouts themselves (policies.learned.layout), storage in GridFS (stores.mongo.artefacts), making one
(training.artefacts).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from pydantic import ValidationError as PydanticError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from core.artefact import MAX_BYTES, ArtefactError, ArtefactFiles
from core.devices import Chemistry
from policies.learned.network import Mlp, network_of

WEIGHTS, METADATA, DIGEST = "weights.safetensors", "metadata.json", "SHA256"


class NetworkShape(BaseModel):
    """A multilayer perceptron: its widths from input to output."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: tuple[int, ...] = Field(min_length=2)
    activation: Literal["silu", "tanh", "relu"] = "silu"
    prefix: str = ""


class Metadata(BaseModel):
    """`metadata.json`. Unknown keys are refused: a newer format has another name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["pulsebms-artefact/1"] = "pulsebms-artefact/1"
    kind: Literal["energy_value", "residual", "actor", "load_chain"]
    """energy_value: worth of stored energy by level; residual: correction of the MPC's; actor: the action itself; load_chain: how
    a site's load moves, no network (policies.learned.load_chain)."""
    layout: str
    """Name and version of the observation layout that the network was made on."""
    networks: dict[str, NetworkShape]
    chemistries: tuple[Chemistry, ...] = Field(min_length=1)
    information: tuple[str, ...] = ()
    """What the policy was made to see, in the names of serving's eligibility."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What a policy of this kind needs beside the weights, such as horizon and gate."""
    plant: dict[str, float] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    """What it reached on validation."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Config, data hash, versions, seed, seconds."""


@dataclass(frozen=True)
class Artefact:
    """Verified metadata and tensors. Made by `open_artefact`, or by training."""

    metadata: Metadata
    tensors: Mapping[str, NDArray[np.float32]]
    files: ArtefactFiles

    @cached_property
    def sha256(self) -> str:
        """Over weights and metadata."""
        return self.files.sha256

    def network(self, name: str) -> Mlp:
        """One of its networks; raises ArtefactError when there is none of that name or its tensors do not fit."""
        shape = self.metadata.networks.get(name)
        if shape is None:
            raise ArtefactError(f"artefact {self.sha256[:12]}: no network {name!r}; it has {sorted(self.metadata.networks)}")
        return network_of(self.tensors, shape.widths, shape.activation, shape.prefix, f"artefact {self.sha256[:12]}")


def open_artefact(
    files: ArtefactFiles,
    *,
    sha256: str | None = None,
    layout: str | None = None,
    chemistries: tuple[Chemistry, ...] = (),
    source: str = "artefact",
) -> Artefact:
    """Verify hash, metadata, shapes, layout version and chemistries. Raises ArtefactError naming what does not fit."""
    if sha256 is not None and files.sha256 != sha256:
        raise ArtefactError(f"{source}: sha256: got {files.sha256}, expected {sha256}")
    try:
        metadata = Metadata.model_validate_json(files.metadata)
    except PydanticError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "metadata"
        raise ArtefactError(f"{source}: {METADATA}: {where}: {first['msg']}") from None
    try:
        tensors = load_tensors(files.weights)
    except SafetensorError as error:
        raise ArtefactError(f"{source}: {WEIGHTS}: {error}") from None
    if layout is not None and metadata.layout != layout:
        raise ArtefactError(f"{source}: layout: got {metadata.layout!r}, expected {layout!r}")
    missing = [chemistry.value for chemistry in chemistries if chemistry not in metadata.chemistries]
    if missing:
        covered = ", ".join(chemistry.value for chemistry in metadata.chemistries)
        raise ArtefactError(f"{source}: chemistry: made for {covered}, not for {', '.join(missing)}")
    artefact = Artefact(metadata, tensors, files)
    for name in metadata.networks:
        artefact.network(name)
    return artefact


def read_artefact(directory: Path, *, sha256: str | None = None, layout: str | None = None) -> Artefact:
    """The artefact of a directory, checked against the hash given or else the one beside it. Raises ArtefactError."""
    parts = []
    for name in (METADATA, WEIGHTS):
        path = directory / name
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ArtefactError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_BYTES}")
            parts.append(path.read_bytes())
        except OSError as error:
            raise ArtefactError(f"{path}: {error.strerror or error}") from None
    if sha256 is None:
        try:
            sha256 = (directory / DIGEST).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ArtefactError(f"{directory / DIGEST}: {error}") from None
    return open_artefact(ArtefactFiles(*parts), sha256=sha256, layout=layout, source=str(directory))


def canonical(metadata: Metadata) -> bytes:
    """The bytes of the metadata, the same for the same content. Raises ValueError for a number that is not finite."""
    return json.dumps(metadata.model_dump(mode="json"), sort_keys=True, indent=1, allow_nan=False).encode()


def sha256_of(*parts: bytes) -> str:
    """Of bytes one after the other; for data that a training used."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
