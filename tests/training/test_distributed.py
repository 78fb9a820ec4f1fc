"""Several processes on this machine: they agree with one, stop together, and none waits for ever."""

import json
import re
import signal
import time
from pathlib import Path

import agreement
import pytest
import torch
from processes import finished, in_turn, started
from runs import differences, lines, read

from onehead_cli.app import run

FOLDER = Path(__file__).parent
SMALL = ["--image-size", "64", "--backbone", agreement.BACKBONE, "--no-pretrained", "--lambda-distill", "0"]
SMALL += ["--set", "student.batch_size=3"]
EVALUATE = ["--split", "val,test", "--set", "evaluation.batch_size=4"]


def assert_near(a, b, tolerance, where=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_near(a[key], b[key], tolerance, f"{where}.{key}")
    else:
        a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
        torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance, msg=lambda text: f"{where}: {text}")


def wait_for_steps(path, count, processes):
    deadline = time.monotonic() + 90
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.05)


def test_fault_47_two_processes_agree_with_one(tiny_data, tmp_path):
    """Two processes compute what one does: gradients within 1e-5 in float32, weights within 1e-9 after 20 steps in
    float64, every score to the last bit."""
    one = agreement.everything(tiny_data)
    results = finished(2, [str(FOLDER / "agreement.py"), str(tiny_data), str(tmp_path)])
    assert [code for code, _, _ in results] == [0, 0], results
    two, other = (read(tmp_path / f"{rank}.pth") for rank in (0, 1))
    assert differences(two, other) == []

    gradients, theirs = one["gradients"], two["gradients"]
    assert gradients.keys() == theirs.keys()
    difference = sum((gradients[name] - theirs[name]).square().sum() for name in gradients).sqrt()
    norm = sum(gradient.square().sum() for gradient in gradients.values()).sqrt()
    assert norm > 0 and difference <= 1e-5 * norm
    assert one["student"]["gradient_cosine"]
    assert_near(one["student"], two["student"], 1e-9)
    assert_near(one["teacher"], two["teacher"], 1e-9)
    assert differences(one["evaluation"], two["evaluation"]) == []
    # A loss that is NaN in one process stops both, with the words of one: only the order of the images differs.
    assert "loss 'seg' is nan on the batch" in two["error"] and two["error"].count(".jpg") == 3
    assert sorted(re.findall(r"\w+", one["error"])) == sorted(re.findall(r"\w+", two["error"]))


@pytest.fixture(scope="module")
def chain(tiny_data, tmp_path_factory):
    """A student trained in two processes, evaluated, trained anew and stopped, and resumed: the folder and, for each
    command, what each process gave."""
    folder = tmp_path_factory.mktemp("chain")
    data = ["--data", str(tiny_data), "--device", "cpu"]
    train = ["train-unified", *data, *SMALL, "--epochs", "2"]
    evaluate = ["evaluate", *data, *EVALUATE, "--checkpoint", folder / "straight" / "all_best.pth"]
    local = ["train-teacher", "--task", "cls", *data, *SMALL[:5]]
    commands = {
        "train": [*train, "--output", folder / "straight", "--json"],
        "evaluate": [*evaluate, "--output", folder / "two", "--json"],
        "stop": ["stop:3", *train, "--output", folder / "stopped", "--quiet"],
        "local": [*local, "--output", folder / "local", "--epochs", "1", "--set", "model.batch_norm=train", "--quiet"],
        "resume": [*train, "--output", folder / "stopped", "--resume", "--set", "data.workers=1"],
    }
    return folder, dict(zip(commands, in_turn(2, list(commands.values()), folder), strict=True))


def test_results_and_files_come_from_the_first_process_alone(chain):
    folder, results = chain
    (code, out, err), other = results["train"]
    assert code == 0 and json.loads(out)["networks"]["all"]["epoch"] in (1, 2) and "all: epoch 2/2" in err
    assert other == (0, "", "")
    assert [r["step"] for r in lines(folder / "straight" / "all.jsonl") if r["kind"] == "step"] == [1, 2, 3, 4]
    assert not list((folder / "straight").glob("*.tmp"))


def test_two_processes_stop_together_and_resume_as_if_they_had_not(chain):
    folder, results = chain
    assert [code for code, _, _ in results["stop"]] == [143, 143]
    said = [line for _, _, err in results["stop"] for line in err.splitlines()]
    assert len(said) == 1 and "stopped at step 3 of 4 and saved" in said[0]
    assert [code for code, _, _ in results["resume"]] == [0, 0] and "resumed from" in results["resume"][0][2]
    a, b = (read(folder / name / "all_last.pth") for name in ("straight", "stopped"))
    a["config"], b["config"] = {}, {}  # another output folder, another number of readers
    assert a["origin"].pop("commit") and b["origin"].pop("commit")  # somebody may commit while the tests run
    assert a["training"]["step"] == 4 and differences(a, b) == []
    assert [r["step"] for r in lines(folder / "stopped" / "all.jsonl") if r["kind"] == "step"] == [1, 2, 3, 4]


def test_batch_norm_that_learns_from_each_process_alone_is_warned_about(chain):
    folder, results = chain
    (code, _, err), other = results["local"]
    assert code == 0 and other == (0, "", "")
    assert err.count("warning:") == 1 and "batch_norm=train: each process normalises the backbone by its own" in err
    weights = read(folder / "local" / "cls_last.pth")["training"]["model"]
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_report_of_two_processes_is_that_of_one(tiny_data, chain, capsys):
    folder, results = chain
    (code, out, err), other = results["evaluate"]
    assert code == 0 and other == (0, "", "") and "unified: 60/60" in err
    checkpoint = ["--checkpoint", str(folder / "straight" / "all_best.pth"), "--output", str(folder / "one")]
    assert run(["evaluate", "--data", str(tiny_data), "--device", "cpu", *EVALUATE, *checkpoint, "--json"]) == 0
    documents = [json.loads(out), json.loads(capsys.readouterr().out)]
    for document in documents:
        document.pop("warnings")  # these name the output folder
    assert documents[0] == documents[1] and documents[0]["unified"]["miou"] is not None
    tables = sorted(path.name for path in (folder / "one").glob("*.csv"))
    assert tables and all((folder / "one" / t).read_bytes() == (folder / "two" / t).read_bytes() for t in tables)


def test_fault_44_resuming_with_another_number_of_processes(tiny_data, chain, capsys):
    """A run is resumed with the number of processes that it started with; another number gives one line that names
    both."""
    output = chain[0] / "straight"
    before = (output / "all_last.pth").read_bytes()
    command = ["train-unified", "--data", str(tiny_data), "--device", "cpu", "--output", str(output), *SMALL]
    assert run([*command, "--epochs", "2", "--resume", "--quiet"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "was trained in 2 process(es), now there are 1: resume with 2" in message
    assert (output / "all_last.pth").read_bytes() == before


def test_fault_46_a_process_that_dies_or_hangs_ends_the_others(tiny_data, tmp_path):
    """When a process of a run dies or hangs, the others end within `distributed_timeout`, and one says so in a line."""
    command = ["-m", "onehead_cli", "train-unified", "--data", str(tiny_data), "--output", str(tmp_path), *SMALL]
    command += ["--device", "cpu", "--epochs", "1000", "--quiet"]
    with started(2, command) as processes:
        wait_for_steps(tmp_path / "all.jsonl", 2, processes)
        processes[0].send_signal(signal.SIGKILL)
        _, said = processes[1].communicate(timeout=60)  # far below the timeout: its connections are closed
    assert processes[1].returncode == 1 and said.count("\n") == 1
    assert "error: process 1 of 2 waited in vain for another, which ended" in said

    hangs = (
        "import time; from onehead_cli.runtime import launch\n"
        "from onehead_cli.config.sections import Config\n"
        "from onehead_cli.runtime.processes import session, sum_number\n"
        "with session(Config(device='cpu', distributed_timeout=3)):\n"
        "    assert sum_number(1.5) == 3\n"
        "    if launch.rank() == 1: time.sleep(100)\n"
        "    sum_number(1)\n"
    )
    with started(2, ["-c", hangs]) as processes:
        _, said = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 1 and "DistributedError: process 0 of 2 waited in vain" in said
    assert "imed out" in said


def test_an_error_of_one_process_alone_is_said_once_and_ends_all(tiny_data, tmp_path):
    """The data lack on the second machine: the first neither waits for it nor blames it in words of its own."""
    script = (
        "import sys; from onehead_cli.runtime import launch; from onehead_cli.app import run\n"
        f"data = [{str(tiny_data)!r}, {str(tmp_path / 'nowhere')!r}][launch.rank()]\n"
        "sys.exit(run([*sys.argv[1:], '--data', data]))\n"
    )
    train = ["train-unified", "--device", "cpu", "--epochs", "1", "--output", str(tmp_path / "out"), "--quiet"]
    first, second = finished(2, ["-c", script, *train, *SMALL])
    assert first == (1, "", "")
    assert second[0] == 1 and second[2].count("\n") == 1 and "nowhere" in second[2]


def test_a_signal_before_the_training_is_said_once_and_ends_all(tiny_data, tmp_path):
    """In the scan, for which the second process waits, there is nothing to save: the process ends at once."""
    script = (
        "import os, signal, sys, time; from onehead_cli import app; from onehead_cli.data.scan import bad_files\n"
        "def scan(*args):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
        "bad_files.scan_for_run = scan\n"
        "app.main(sys.argv[1:])\n"
    )
    train = ["train-unified", "--data", str(tiny_data), "--device", "cpu", "--output", str(tmp_path), "--quiet"]
    first, second = finished(2, ["-c", script, *train, *SMALL])
    assert first == (143, "", "error: stopped by SIGTERM\n")
    assert second == (1, "", "")
