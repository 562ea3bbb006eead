"""Artefacts: what was written is what is loaded, anything else is a named error; NumPy's forward pass equals torch's."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.artefact import MAX_BYTES, ArtefactError, ArtefactFiles, unbundle
from core.devices import Chemistry
from core.errors import InputError
from policies.learned.artefact import DIGEST, METADATA, WEIGHTS, open_artefact, read_artefact
from policies.learned.network import Mlp
from training.artefacts import make_artefact, network_of_torch, write_artefact

TORCH = {"silu": torch.nn.SiLU, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}


def module(activation="silu", inputs=5, hidden=16, outputs=3, seed=0):
    torch.manual_seed(seed)
    made = TORCH[activation]
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, hidden), made(), torch.nn.Dropout(0.5), torch.nn.Linear(hidden, hidden), made(),
        torch.nn.Linear(hidden, outputs),
    ).eval()  # fmt: skip


def artefact(**changes):
    said = {"kind": "actor", "layout": "test/1", "chemistries": (Chemistry.LFP,), "metrics": {"score": 0.5}} | changes
    return make_artefact({"actor": network_of_torch(module(), "silu")}, **said)


@pytest.mark.parametrize("activation", ["silu", "tanh", "relu"])
@pytest.mark.parametrize("seed", range(3))
def test_forward_pass_equals_torch(activation, seed):
    net = module(activation, inputs=40, hidden=128, outputs=40, seed=seed)
    x = np.random.default_rng(seed).normal(0, 3, (500, 40)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    found = network_of_torch(net, activation)(x)
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=5))
def test_forward_pass_is_finite_whatever_comes_in(x):
    assert np.isfinite(network_of_torch(module(), "silu")(np.array(x))).all()


def test_written_is_what_is_read(tmp_path):
    made = artefact()
    found = read_artefact(write_artefact(made, tmp_path / "a"))
    assert found.sha256 == made.sha256
    assert found.metadata == made.metadata
    x = np.linspace(-1, 1, 5)
    assert np.array_equal(found.network("actor")(x), made.network("actor")(x))


def test_same_content_same_hash():
    assert artefact().sha256 == artefact().sha256
    assert artefact().sha256 != artefact(layout="test/2").sha256


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([WEIGHTS, METADATA]), st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_is_found(tmp_path_factory, name, place, flip):
    folder = write_artefact(artefact(), tmp_path_factory.mktemp("a"))
    data = bytearray((folder / name).read_bytes())
    data[place % len(data)] ^= flip
    (folder / name).write_bytes(data)
    with pytest.raises(ArtefactError, match="sha256"):
        read_artefact(folder)


def test_bundle_goes_there_and_back():
    files = artefact().files
    assert unbundle(files.bundle(), files.sha256) == files
    with pytest.raises(ArtefactError, match="sha256"):
        unbundle(files.bundle() + b"x", files.sha256)


def test_a_bundle_that_lies_about_its_length():
    data = (10**9).to_bytes(8, "little") + b"{}"
    with pytest.raises(ArtefactError, match="no bundle"):
        unbundle(data, __import__("hashlib").sha256(data).hexdigest())


def test_too_large_is_refused():
    with pytest.raises(InputError, match="size"):
        ArtefactFiles(b"{}", b"x" * MAX_BYTES).bundle()


def changed(made, **changes):
    said = json.loads(made.files.metadata) | changes
    return ArtefactFiles(json.dumps(said).encode(), made.files.weights)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"networks": {"actor": {"widths": [5, 16, 16, 4], "prefix": "actor."}}}, "shape"),
        ({"networks": {"actor": {"widths": [5, 16, 16, 16, 3], "prefix": "actor."}}}, "shape|missing"),
        ({"networks": {"actor": {"widths": [5, 16, 16, 3], "prefix": "other."}}}, "missing"),
        ({"networks": {"actor": {"widths": [5, 16, 16, 3], "prefix": "actor.", "activation": "gelu"}}}, "activation"),
        ({"format": "pulsebms-artefact/9"}, "format"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"chemistries": []}, "chemistries"),
        ({"kind": "oracle"}, "kind"),
    ],
)
def test_metadata_that_do_not_fit_are_named(changes, named):
    with pytest.raises(ArtefactError, match=named):
        open_artefact(changed(artefact(), **changes))


def test_layout_chemistry_and_hash_are_verified():
    made = artefact()
    with pytest.raises(ArtefactError, match="layout: got 'test/1', expected 'test/2'"):
        open_artefact(made.files, layout="test/2")
    with pytest.raises(ArtefactError, match="chemistry: made for LFP, not for NMC"):
        open_artefact(made.files, chemistries=(Chemistry.LFP, Chemistry.NMC))
    with pytest.raises(ArtefactError, match="sha256"):
        open_artefact(made.files, sha256="0" * 64)


def test_weights_that_are_no_safetensors():
    with pytest.raises(ArtefactError, match=WEIGHTS):
        open_artefact(ArtefactFiles(artefact().files.metadata, b"\x80\x04pickle"))


def test_numbers_that_are_not_finite_are_no_artefact():
    layers = network_of_torch(module(), "silu").layers
    broken = (layers[0][0] * np.nan, layers[0][1])
    with pytest.raises(ArtefactError, match="not finite"):
        make_artefact({"actor": Mlp((broken, *layers[1:]))}, kind="actor", layout="t", chemistries=(Chemistry.LFP,))


def test_missing_files_are_named(tmp_path):
    folder = write_artefact(artefact(), tmp_path / "a")
    (folder / DIGEST).unlink()
    with pytest.raises(ArtefactError, match=DIGEST):
        read_artefact(folder)
    with pytest.raises(ArtefactError, match="No such file"):
        read_artefact(tmp_path / "nowhere")


def test_a_write_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    folder = write_artefact(artefact(), tmp_path / "a")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_artefact(artefact(layout="test/2"), folder)
    assert read_artefact(folder).metadata.layout == "test/1"
    assert sorted(path.name for path in folder.iterdir()) == sorted([WEIGHTS, METADATA, DIGEST])
