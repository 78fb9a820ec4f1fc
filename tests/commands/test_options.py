"""A flag that sets a field, of the config or of prepare-data's settings, says what the field says, and sets it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin

import pytest
import typer

from onehead_cli import engine
from onehead_cli.app import app, run
from onehead_cli.commands.options import TaskChoice
from onehead_cli.config.sections import Config
from onehead_cli.data.prepare.settings import (
    Check,
    Local,
    Official,
    Plan,
    PrepareSettings,
    Preview,
    Synthetic,
    Verify,
)
from onehead_cli.registry import TASKS

COMMANDS = typer.main.get_command(app).commands
FLAGS = {info.name: getattr(info.callback, "flags", {}) for info in app.registered_commands}

#: What is of the run and not of the experiment.
PLAIN = {
    *("--task", "--split", "--checkpoint", "--resume", "--relative", "--strict", "--runs"),
    *("--score-threshold", "--overlays", "--masks", "--config", "--set", "--show-config", "--json", "--quiet"),
    *("--source", "--dry-run", "--verify", "--preview", "--coco-masks", "--coco-ids"),
    *("--against", "--report", "--seeds"),
    *("--weights", "--int8", "--calibration-images", "--runner"),
}
#: Named as fields are, and yet none of them: a profile's batch is of one image whatever the config says, an export
#: writes a file, and so does predict.
NO_FIELD = {("profile", "--batch-size"), ("export", "--output"), ("predict", "--coco")}

ALL = [(name, flag) for name, flags in FLAGS.items() for flag in flags.values()]
CONFIGURED = [(name, flag) for name, flag in ALL if name != "prepare-data"]

#: What to give for each of prepare-data's modes.
MODES = {
    Synthetic: ["--source", "synthetic"],
    Local: ["--source", "local", "--coco", "a", "--voc", "b", "--imagenette", "c"],
    Official: [],
    Plan: ["--dry-run"],
    Verify: ["--verify"],
    Check: ["--check", "there"],
    Preview: ["--preview"],
}


def field_at(command, key):
    """A field as pydantic knows it, and its default."""
    if command == "prepare-data":
        info = next(mode.model_fields[key] for mode in MODES if key in mode.model_fields)
        return info, info.get_default()
    *sections, last = key.split(".")
    section = Config()
    for name in sections:
        section = getattr(section, name)
    [(name, info)] = [(n, i) for n, i in type(section).model_fields.items() if (i.alias or n) == last]
    return info, getattr(section, name)


def option_of(command, flag):
    [option] = [option for option in COMMANDS[command].params if flag in option.opts]
    return option


def type_of(command, parameter):
    """What Typer is told to read an option as."""
    [callback] = [info.callback for info in app.registered_commands if info.name == command]
    return get_args(inspect.signature(callback).parameters[parameter].annotation)[0]


def test_every_command_is_walked():
    assert set(COMMANDS) == set(FLAGS) and len(COMMANDS) >= 6
    assert all(FLAGS[name] for name in COMMANDS) and set(get_args(PrepareSettings)) == set(MODES)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_sets_a_field_or_is_of_the_run(command):
    setting = {flag.name for flag in FLAGS[command].values()}
    for option in COMMANDS[command].params:
        if option.param_type_name == "argument" or option.opts == ["--help"]:
            continue
        [name] = [name for name in option.opts if name.startswith("--")]
        assert (name in setting) != (name in PLAIN or (command, name) in NO_FIELD), name


@pytest.mark.parametrize(("command", "flag"), ALL, ids=lambda value: getattr(value, "name", value))
def test_a_flag_says_what_its_field_says(command, flag):
    info, default = field_at(command, flag.field.key)
    option = option_of(command, flag.name)
    meaning, _, shown = option.help.partition("  [default: ")
    unit = info.json_schema_extra["unit"]
    assert meaning == info.description
    if isinstance(default, bool):
        assert shown == ("on]" if default else "off]") and option.is_flag
        assert option.secondary_opts == ([f"--no-{flag.name[2:]}"] if default else [])
    elif isinstance(default, int | float):
        assert shown == (f"{default}]" if unit == "-" else f"{default} {unit}]")
    elif isinstance(default, tuple):
        assert shown == ",".join(map(str, default)) + "]"
    elif info.is_required() or default == {}:
        assert shown == ""
    else:
        assert shown == ("unset]" if default is None else f"{default}]")
    # What holds where the flag is left out is for the settings to say: a YAML file may come between.
    assert option.default is None and not option.required
    kinds = [info.annotation]
    if get_origin(info.annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(info.annotation) if kind is not type(None)]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if words:
        assert option.metavar.split("|")[-len(words) :] == words
    [kind] = kinds if len(kinds) == 1 else [str]
    # Several values stand in one text, and names with values in several.
    read = {tuple: str, dict: list[str], Literal: str}.get(get_origin(kind), kind)
    assert type_of(command, option.name) == read | None


@pytest.mark.parametrize(("command", "flag"), CONFIGURED, ids=lambda value: getattr(value, "name", value))
def test_a_flag_reaches_its_field_and_no_other(command, flag, capsys):
    def fields(*more):
        needed = {"train-teacher": ["--task", "all"], "predict": ["x.jpg"]}.get(command, [])
        assert run([command, *needed, "--show-config", "--json", *more]) == 0
        return {field["key"]: field["value"] for field in json.loads(capsys.readouterr().out)["fields"]}

    _, default = field_at(command, flag.field.key)
    if isinstance(default, bool):
        given, expected = [f"--no-{flag.name[2:]}" if default else flag.name], str(not default)
    else:
        expected = {"data.image_size": "96", "device": "cpu"}.get(flag.field.key)
        expected = expected or ("3" if flag.type is int else "0.5" if flag.type is float else "mine")
        given = [flag.name, expected]
    before, after = fields(), fields(*given)
    assert {key for key in before if before[key] != after[key]} == {flag.field.key}
    assert after[flag.field.key] == expected


@pytest.mark.parametrize(
    ("mode", "key"),
    [(mode, key) for mode in MODES for key in mode.model_fields],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_a_flag_of_prepare_data_reaches_its_field_and_no_other(mode, key, monkeypatch):
    class Captured(Exception):
        pass

    def capture(settings, *, reporter):
        raise Captured(settings)

    def settings_of(*more):
        with pytest.raises(Captured) as caught:
            run(["prepare-data", *MODES[mode], *more])
        [settings] = caught.value.args
        assert type(settings) is mode
        return dict(settings)

    monkeypatch.setattr(engine, "prepare_data", capture)
    texts = {
        "sizes": ("11,12,13", (11, 12, 13)),
        "categories": ("dog, cat", ("dog", "cat")),
        "base_urls": ("voc=http://x/", {"voc": "http://x/"}),
        "seed": ("3", 3),
        "image_size": ("96", 96),
    }
    [flag] = [flag for flag in FLAGS["prepare-data"].values() if flag.field.key == key]
    text, expected = texts.get(key, ("mine", Path("mine")))
    if mode.model_fields[key].annotation is bool:
        text, expected = None, True
    before, after = settings_of(), settings_of(flag.name, *([text] if text else []))
    assert before | {key: expected} == after and before != after


def test_the_schedule_of_a_command_is_that_of_what_it_trains():
    for command, section in (("train-teacher", "teacher"), ("train-unified", "student")):
        keys = {flag.name: flag.field.key for flag in FLAGS[command].values()}
        assert [keys[name] for name in ("--epochs", "--batch-size", "--lr")] == [
            f"{section}.{name}" for name in ("epochs", "batch_size", "lr")
        ]
    assert {flag.name: flag.field.key for flag in FLAGS["predict"].values()}["--batch-size"] == "evaluation.batch_size"


def test_the_later_of_file_assignment_and_flag_holds(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text("student: {epochs: 3, lr: 0.1, batch_size: 5}\n")
    args = [
        "train-unified",
        "--config",
        str(path),
        "--set",
        "student.epochs=4",
        "--set",
        "student.lr=0.2",
        "--lr",
        "0.3",
    ]
    assert run([*args, "--show-config"]) == 0
    shown = capsys.readouterr().out
    assert "student.epochs = 4 " in shown and "student.lr = 0.3 " in shown and "student.batch_size = 5 " in shown


@pytest.mark.parametrize("command", ["train-teacher", "evaluate"])
def test_the_tasks_to_choose_from_are_those_there_are(command):
    assert type_of(command, "task") is TaskChoice and list(TaskChoice) == [*TASKS, "all"]
