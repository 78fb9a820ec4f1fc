"""What an export, and those that read its file, refuse in one line."""

from __future__ import annotations

import copy
import importlib
import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exporting import error_of, export, report
from PIL import Image
from tiny import SMALL

from onehead_cli.app import run
from onehead_cli.checkpoint import exported as files
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.config.load import load_config
from onehead_cli.errors import CheckpointError, ConfigError
from onehead_cli.events import SILENT
from onehead_cli.export import build, measure
from onehead_cli.prediction.predictor import Predictor
from onehead_cli.runner import with_checksum


@pytest.fixture(scope="module")
def graphs(small_student):
    """What an export of the small student begins with, made once: it takes most of the time."""
    checkpoint, config = load_checkpoint(small_student), load_config(None)
    readings = build.readings_of(checkpoint, config.evaluation, SILENT)
    model = checkpoint.model()
    network = build.network_graph(model, list(readings), 64, folded=True)
    maps = {task: torch.zeros(1, model.channels[task], 4, 4) for task in readings}
    return network, build.reading_graph(maps, readings, side=64, fit="resize")


@pytest.fixture
def quick(graphs, monkeypatch):
    """Lets an export of the small student begin with copies of its graphs."""
    for name, graph in zip(("network_graph", "reading_graph"), graphs, strict=True):
        monkeypatch.setattr(build, name, lambda *args, graph=graph, **options: copy.deepcopy(graph))


def test_fault_55_an_exported_file_that_says_something_else(small_student, quick, tmp_path, monkeypatch, capsys):
    """A file that differs from its checkpoint by more than rounding is not written; the differences are named, an older
    file stays, and the exit code is 10."""
    file = tmp_path / "student.onnx"
    file.write_bytes(b"an older one")
    real = build.network_graph

    def wrong(*args, **options):
        network = real(*args, **options)
        for initializer in network.graph.initializer:
            weights = onnx.numpy_helper.to_array(initializer)
            if weights.ndim == 4 and weights.shape[2] == 1:
                initializer.CopyFrom(onnx.numpy_helper.from_array(weights * np.float32(1.1), initializer.name))
        return network

    monkeypatch.setattr(build, "network_graph", wrong)
    assert export(file, "--checkpoint", small_student, "--data", tmp_path) == 10
    said = error_of(capsys)
    assert "not written" in said and "cls probability is" in said and "limit 1e-05" in said
    assert file.read_bytes() == b"an older one" and sorted(path.name for path in tmp_path.iterdir()) == [
        "student.export.json",
        "student.onnx",
    ]
    document = report(file)
    assert not document["written"] and not all(each["ok"] for each in document["agreement"])


def test_nan_is_no_agreement():
    assert not measure.Agreement("cls", "probability", float("nan"), 1.0, more_is_better=False).ok
    assert not measure.Agreement("cls", "top1_equal", float("nan"), 0.5, more_is_better=True).ok


def predict_with(file, folder):
    Image.new("RGB", (30, 30)).save(folder / "a.png")
    return run(["predict", str(folder / "a.png"), "--checkpoint", str(file), "--output", str(folder / "out")])


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "text", "another program's", "gone"])
def test_fault_100_a_damaged_or_foreign_file(how, exported, tmp_path, capsys):
    """A .onnx file that is cut off, changed by a bit, or of another program is refused in one line by all that read
    it."""
    content = bytearray(exported.read_bytes())
    if how == "another program's":
        value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
        graph.output[0].name = "y"
        content = bytearray(onnx.helper.make_model(graph).SerializeToString())
    elif how == "flipped":
        content[1_000_000] ^= 4
    file = tmp_path / "student.onnx"
    if how != "gone":
        file.write_bytes({"cut": content[:-5000], "empty": b"", "text": b"hello"}.get(how, bytes(content)))
    assert predict_with(file, tmp_path) == 1
    said = error_of(capsys)
    assert str(file) in said and ("no such file" if how == "gone" else "its checksum does not match") in said


def test_fault_101_a_file_of_another_version(exported, tmp_path, capsys):
    """A file that another version of onehead exported is refused with the name of that version."""
    model = onnx.load_from_string(exported.read_bytes()[:-76])
    metadata = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps({**metadata, "export_format": 9, "onehead": "7.0"})
    file = tmp_path / "later.onnx"
    file.write_bytes(with_checksum(model.SerializeToString()))
    assert predict_with(file, tmp_path) == 1
    assert "exported by another version of onehead (7.0)" in error_of(capsys)


def test_fault_102_a_disk_that_fills(small_student, quick, tmp_path, monkeypatch, capsys):
    """If the disk is full, an older file stays whole, nothing half-written is left, and one line names the file."""
    import errno

    from onehead_cli.files import atomic

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "student.onnx"
    file.write_bytes(b"an older one")
    monkeypatch.setattr(atomic.os, "fsync", full)
    assert export(file, "--checkpoint", small_student, "--data", tmp_path) == 1
    assert f"{file}: cannot be written (No space left on device); any older file is untouched" in error_of(capsys)
    assert file.read_bytes() == b"an older one" and not report(file)["written"]
    assert "No space left" in report(file)["reason"]
    assert {path.name for path in tmp_path.iterdir()} == {"student.onnx", "student.export.json"}


def test_fault_103_data_of_other_classes(exported, tiny_data, tmp_path, capsys):
    """Data with classes other than the network's are not used to calibrate int8 or to evaluate an exported file; a
    float file is written without the drop check, and a warning says so."""
    assert export(tmp_path / "a.onnx", "--int8", "--data", tiny_data) == 1
    assert "classes" in error_of(capsys) and not (tmp_path / "a.onnx").exists()
    command = [
        "evaluate",
        "--no-report",
        "--checkpoint",
        str(exported),
        "--data",
        str(tiny_data),
        "--output",
        str(tmp_path),
    ]
    assert run([*command, "--quiet"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: cls classes of the split test differ")


def test_floats_are_written_beside_data_of_other_classes(small_student, quick, tiny_data, tmp_path, capsys):
    """A file in floats needs no data: it is written, and why nothing was measured on val is said."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    for split in ("train", "val", "test"):
        folder = sorted((data / "imagenette-160" / split).iterdir())[0]
        folder.rename(folder.with_name("n00000000"))
    command = ["export", "--checkpoint", str(small_student), "--data", str(data), "--output", str(tmp_path / "a.onnx")]
    assert run([*command, "--quiet"]) == 0
    assert "warning: no drop check: cls classes of the split val differ" in capsys.readouterr().err
    assert report(tmp_path / "a.onnx")["written"] and report(tmp_path / "a.onnx")["drop"] == {}


def test_fault_104_bad_images_to_calibrate_by(small_student, tiny_data, tmp_path, capsys):
    """An image that cannot be read is left out of the calibration and of the measurement, and named; if none can be
    read, nothing is written."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    images = [path for path in data.rglob("*.jp*g") if "train" in path.parts and "imagenette-160" in path.parts]
    for path in images:
        path.write_bytes(b"")
    assert export(tmp_path / "a.onnx", "--int8", "--checkpoint", small_student, "--data", data) == 1
    error = error_of(capsys)
    assert error == f"error: cls train: none of its images can be used ({len(images)})\n"
    assert report(tmp_path / "a.onnx")["reason"] in error and not report(tmp_path / "a.onnx")["written"]
    assert not (tmp_path / "a.onnx").exists()


def test_bad_images_among_good_ones_are_left_out(small_student, quick, tiny_data, tmp_path, monkeypatch, capsys):
    """One bad image of train, one of val and one bad label are named, and the other images do."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    bad = [sorted((data / "imagenette-160" / split).rglob("*.jp*g"))[0] for split in ("train", "val")]
    bad.append(sorted((data / "mini_voc_seg" / "val" / "SegmentationClass").iterdir())[0])
    for path in bad:
        path.write_bytes(b"\xff\xd8")
    seen = []
    monkeypatch.setattr(build, "to_int8", lambda network, images: seen.extend(images) or network)
    assert export(tmp_path / "a.onnx", "--int8", "--checkpoint", small_student, "--data", data) == 0
    said = capsys.readouterr().err
    assert all(f"warning: {path}: " in said for path in bad) and "3 of " in said
    assert len(seen) == report(tmp_path / "a.onnx")["calibration_images"] and len(seen) > 10
    assert report(tmp_path / "a.onnx")["drop"].keys() == {"cls", "seg", "det"}


def test_fault_105_a_runtime_without_an_operator(exported, tmp_path, monkeypatch, capsys):
    """A runtime that has no kernel for an operator of the file gives one line with its message."""

    class Session:
        def __init__(self, *args, **options):
            raise RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no kernel for NonMaxSuppression(11)\nmore")

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    assert predict_with(exported, tmp_path) == 1
    assert "onnxruntime cannot load it ([ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no kernel for NonMax" in error_of(
        capsys
    )


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_fault_106_what_is_not_installed(missing, exported, tmp_path, monkeypatch, capsys):
    """Without the extra, exporting and reading an exported file say what to install."""
    real = importlib.import_module

    def import_module(name, *args):
        if name == missing:
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", import_module)
    assert export(tmp_path / "a.onnx") == 2
    assert f"pip install 'onehead[export]' ({missing} is missing)" in error_of(capsys)
    if missing == "onnxruntime":
        monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
        assert predict_with(exported, tmp_path) == 2
        assert "to read an exported file, pip install 'onehead[export]'" in error_of(capsys)


class Session:
    """onnxruntime's, with outputs that are not the file's."""

    def __init__(self, real, **changes):
        self.real, self.changes = real, changes

    def run(self, names, feed):
        found = dict(zip(names, self.real.run(names, feed), strict=True))
        return [self.changes.get(name, lambda value: value)(found[name]) for name in names]


@pytest.mark.parametrize(
    ("output", "change", "said"),
    [
        ("probabilities", lambda value: value * np.nan, "its outputs are not finite"),
        ("scores", lambda value: value + np.inf, "its outputs are not finite"),
        ("mask", lambda value: value | 255, "gives a pixel no class"),
    ],
)
def test_outputs_that_are_no_numbers_are_one_line(output, change, said, exported):
    network = files.load_exported(exported, threads=1)
    predictor = Predictor(network, load_config(None))
    predictor._runner._session = Session(network.session, **{output: change})
    with pytest.raises(CheckpointError, match=said):
        predictor.predict_one(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


def test_a_layer_that_cannot_be_exported_is_one_line(small_student, quick, tmp_path, monkeypatch, capsys):
    def refuse(*args, **options):
        raise torch.onnx.errors.OnnxExporterError("no \x1b[96mtranslation\x1b[0m of aten.odd\nand more lines")

    monkeypatch.setattr(build, "network_graph", refuse)
    assert export(tmp_path / "a.onnx", "--checkpoint", small_student, "--data", tmp_path) == 1
    assert "cannot be exported (OnnxExporterError: no translation of aten.odd)" in error_of(capsys)
    assert not report(tmp_path / "a.onnx")["written"] and "aten.odd" in report(tmp_path / "a.onnx")["reason"]


def test_a_coco_file_replaces_nothing_else(exported, tmp_path, capsys):
    """A glob after --coco names an image; a missing folder is made; a run that reads nothing keeps the old file."""
    image, broken, old = tmp_path / "a.png", tmp_path / "broken.png", tmp_path / "old.json"
    Image.new("RGB", (30, 30)).save(image)
    broken.write_bytes(b"x")
    old.write_text("{}")
    content = image.read_bytes()
    common = ["--checkpoint", str(exported), "--output", str(tmp_path / "out"), "--quiet"]
    assert run(["predict", str(image), "--coco", str(image), *common]) == 2
    assert "the name of a COCO file ends in .json" in error_of(capsys) and image.read_bytes() == content
    assert run(["predict", str(broken), "--coco", str(old), *common]) == 1 and old.read_text() == "{}"
    assert run(["predict", str(image), "--coco", str(tmp_path / "new" / "found.json"), *common]) == 0
    assert json.loads((tmp_path / "new" / "found.json").read_text())["images"][0]["file_name"] == str(image)


def test_one_process_evaluates_a_file(exported, tmp_path, monkeypatch):
    from onehead_cli.evaluation import compare

    monkeypatch.setattr(compare, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="an exported file is evaluated in one process"):
        compare.compare(
            load_config(None), checkpoint_path=exported, tasks=None, splits=["val"], relative=False, reporter=SILENT
        )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--int8", "--weights", "float16"], "--int8 stores 8-bit weights: leave --weights float16 out"),
        (["--calibration-images", "5"], "--calibration-images needs --int8"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(more, said, tmp_path, capsys):
    assert export(tmp_path / "a.onnx", *more) == 2
    assert said in error_of(capsys)
    assert run(["predict", "a.png", "--coco-masks"]) == 2
    assert "--coco-masks needs --coco FILE" in error_of(capsys)


def test_fault_107_a_name_that_is_none_of_a_file(tmp_path, capsys):
    """A name without .onnx, or a folder that cannot be made, is refused before anything is computed."""
    assert export(tmp_path / "student.pt") == 2
    assert "the name of an exported file ends in .onnx" in error_of(capsys)
    (tmp_path / "folder.onnx").mkdir()
    assert export(tmp_path / "folder.onnx") == 2
    assert "a folder has this name" in error_of(capsys)
    (tmp_path / "file").touch()
    assert export(tmp_path / "file" / "student.onnx") == 1
    assert str(tmp_path / "file") in error_of(capsys)


def test_a_file_is_no_checkpoint_to_train_from(exported, tiny_data, tmp_path, capsys):
    command = ["train-teacher", "--task", "cls", "--data", str(tiny_data), "--output", str(tmp_path), *SMALL]
    assert run([*command, "--set", f"model.start_from={exported}"]) == 1
    assert str(exported) in error_of(capsys)
    assert run(["export", "--checkpoint", str(exported), "--output", str(tmp_path / "again.onnx")]) == 1
    assert str(exported) in error_of(capsys)
