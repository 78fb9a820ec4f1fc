"""One image read from Python, whatever it comes as; `tests/install` runs docs/api.md."""

import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import onehead_cli
from onehead_cli import engine
from onehead_cli.config.load import load_config
from onehead_cli.errors import ConfigError, DataError


def test_an_image_is_read_alike_from_a_file_from_pillow_and_from_an_array(tmp_path):
    network = onehead_cli.load()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    records = [network.predict(image).record() for image in (pixels, Image.fromarray(pixels), tmp_path / "a.png")]
    assert records[0] == records[1] == records[2] and (records[0]["width"], records[0]["height"]) == (60, 40)
    assert set(network.tasks) == network.classes.keys()
    # Pillow would clip 16 bits, and leaves an image as its pixels lie.
    deep = tmp_path / "deep.png"
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(deep)
    turned, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(turned, exif=exif)
    for path, width in ((deep, 60), (turned, 40)):
        with Image.open(path) as image:
            assert network.predict(image).record() == network.predict(path).record()
        assert network.predict(path).record()["width"] == width
    # What was changed since is taken as it lies, also where it still has the orientation; so is 32-bit grey.
    with Image.open(turned) as image:
        upright = image.rotate(-90, expand=True)
    assert network.predict(upright).record()["width"] == 40
    deep = Image.fromarray(pixels[..., 0].astype(np.int32))
    assert network.predict(deep).record() == network.predict(pixels[..., 0]).record()
    grey = network.predict(pixels[..., 0]).record()
    assert grey == network.predict(np.repeat(pixels[..., :1], 3, 2)).record()


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_an_array_that_is_no_image_is_refused_in_one_line(wrong):
    with pytest.raises(DataError, match="an image is uint8"):
        onehead_cli.load().predict(wrong)


def test_one_name_alone_is_a_list_of_one(tiny_data, trained, tmp_path):
    config = load_config(None, {"data.root": tiny_data, "output": tmp_path, "evaluation.resamples": 10})
    student = trained / "all_best.pth"
    for path in (student, str(student)):
        found = engine.evaluate(config, checkpoint=student, tasks="cls", splits="val", against=path, report=False)
        assert list(found.unified) == ["cls"] and [each.diff for each in found.drops] == [0]
    photograph = tmp_path / "a.png"
    Image.new("RGB", (30, 30)).save(photograph)
    for images in (photograph, str(photograph)):
        assert len(list(engine.predict(config, images=images, checkpoint=student))) == 1


@pytest.mark.parametrize("tasks", ["sge", ["cls", "sge"]])
def test_a_task_that_is_not_there_is_not_passed_over(tasks, tiny_data, trained, tmp_path):
    config = load_config(None, {"data.root": tiny_data, "output": tmp_path})
    with pytest.raises(ConfigError, match=r"sge: not among data\.tasks, which names cls, seg, det"):
        engine.evaluate(config, checkpoint=trained / "all_best.pth", tasks=tasks, splits="val")


def test_training_runs_in_another_thread_too(tiny_data, tmp_path):
    """As under a web server; signals are then left to the program."""
    keys = {"model.backbone": "mobilenetv3_small_050", "model.pretrained": False, "data.image_size": 64}
    config = load_config(None, {"data.root": tiny_data, "output": tmp_path, "teacher.epochs": 1, **keys})
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        [result] = pool.submit(engine.train_teacher, config, tasks="cls").result()
    assert result.epoch == 1 and signal.getsignal(signal.SIGTERM) == before
