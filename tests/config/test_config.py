"""Merging and validating configs."""

import json
from pathlib import Path

import pytest
import yaml

from onehead_cli.app import run
from onehead_cli.config.fields import describe_fields
from onehead_cli.config.load import load_config, parse_assignments
from onehead_cli.config.sections import Config
from onehead_cli.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", [path.name for path in sorted(CONFIGS.glob("*.yaml"))])
def test_every_config_of_the_project_is_valid(name):
    load_config(CONFIGS / name)


@pytest.mark.parametrize("name", ["lite-quick", "lite-long", "reference-quick", "reference-long"])
def test_the_recipes_have_the_same_ingredients(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    for schedule in (config.teacher, config.student):
        assert schedule.boxes_from_masks and schedule.imagenet_teacher
    assert config.student.from_teachers
    assert config.distill.images == "all"


def test_the_defaults_need_nothing_of_the_data():
    """No key is set that stops at class folders with plain names, or at datasets without a class in common."""
    config = load_config()
    for schedule in (config.teacher, config.student):
        assert not schedule.boxes_from_masks and not schedule.imagenet_teacher
    assert config.model.frozen_stages == 0  # nor of the backbone


def test_reference_schedules():
    for name, teacher, student in (("quick", 30, 50), ("long", 100, 200)):
        config = load_config(CONFIGS / f"reference-{name}.yaml")
        assert (config.model.backbone, config.data.image_size) == ("efficientnet_b0", 512)
        assert (config.teacher.epochs, config.teacher.batch_size, config.teacher.lr) == (teacher, 16, 1e-4)
        assert (config.student.epochs, config.student.batch_size, config.student.lr) == (student, 4, 3e-4)
        assert config.distill.lambda_ == 2


def test_later_sources_win(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("student: {epochs: 3, lr: 0.1}\nseed: 4\n")
    config = load_config(str(path), {"student.epochs": 7, "distill.lambda": 0})
    assert (config.student.epochs, config.student.lr, config.seed, config.distill.lambda_) == (7, 0.1, 4, 0)


@pytest.mark.parametrize("text", ["null", "", "~"])
def test_null_unsets_what_may_be_unset(text, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("teacher: {cls: {epochs: 2}}\n")
    assert load_config(path, parse_assignments([f"teacher.cls.epochs={text}"])).teacher.of("cls").epochs == 15
    for key, said in (("student.lr", "must be a number"), ("foo.bar", "unknown key 'foo'"), ("data", "section")):
        with pytest.raises(ConfigError, match=said):
            load_config(path, parse_assignments([f"{key}={text}"]))


@pytest.mark.parametrize("key", ["threads", "seed", "teacher.cls.lr", "evaluation.nms_iou"])
def test_yes_is_no_number(key):
    with pytest.raises(ConfigError, match=f"{key} must be a number"):
        load_config(None, parse_assignments([f"{key}=yes"]))


def test_of_a_key_given_twice_the_place_of_the_last_holds(tmp_path, capsys):
    """What is given for all teachers replaces what was said of one, whatever came before that."""
    own, for_all = "teacher.cls.epochs", "teacher.epochs"
    twice = parse_assignments([f"{for_all}=9", f"{own}=5", f"{for_all}=3"])
    assert load_config(None, twice).teacher.of("cls").epochs == 3
    command = ["train-teacher", "--task", "cls", "--set", f"{for_all}=9", "--set", f"{own}=5", "--epochs", "3"]
    assert run([*command, "--show-config", "--json"]) == 0
    fields = {field["key"]: field["value"] for field in json.loads(capsys.readouterr().out)["fields"]}
    assert fields[for_all] == "3" and fields[own] == "None"


def test_a_teacher_has_its_own_schedule_until_one_is_given_for_all(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("teacher: {epochs: 9, lr: 0.5, cls: {epochs: 2, backbone_lr_factor: 0}}\n")

    def schedules(**given):
        teacher = load_config(path, {f"teacher.{key}": value for key, value in given.items()}).teacher
        return [(each.epochs, each.lr, each.backbone_lr_factor) for each in map(teacher.of, ("cls", "seg"))]

    assert schedules() == [(2, 0.5, 0.0), (9, 0.5, 0.1)]
    assert schedules(epochs=1) == [(1, 0.5, 0.0), (1, 0.5, 0.1)]
    assert schedules(epochs=1, **{"cls.epochs": 4}) == [(4, 0.5, 0.0), (1, 0.5, 0.1)]


def test_an_empty_section_means_its_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("student:\ndata:\n")
    assert load_config(path, {"data.root": "x"}).student == Config().student


def test_paths_in_a_file_are_relative_to_it(tmp_path):
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "c.yaml"
    path.write_text("data: {root: ../d, det_images: x}\noutput: /abs\ndistill: {teachers: t}\n")
    config = load_config(path, {"data.seg_root": "here"})
    assert config.data.root == tmp_path / "d"
    assert config.data.det_images == tmp_path / "sub" / "x"
    assert config.output == Path("/abs") and config.teachers_folder == tmp_path / "sub" / "t"
    assert config.data.seg_root == Path("here")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"student.epoch": 3}, ["student.epoch", "did you mean 'student.epochs'"]),
        ({"stutent.epochs": 3}, ["stutent", "did you mean 'student'"]),
        ({"data.batch_size": 3}, ["data.batch_size", "batch_size'?"]),
        ({"student.lr": -1}, ["student.lr", "greater than 0"]),
        ({"student.lr": float("nan")}, ["student.lr"]),
        ({"teacher.epochs": 0}, ["teacher.epochs", "greater than or equal to 1"]),
        ({"data.image_size": 100}, ["image_size", "multiple of 32"]),
        ({"model.detection_loss": "yolo"}, ["model.detection_loss", "quality"]),
        ({"data": 3}, ["data"]),
        ({"seed": 2**64}, ["seed", "less than"]),
        ({"data.image_size": 32}, ["image_size", "64"]),
        ({"student.batch_size": 10**9}, ["student.batch_size"]),
        ({f"student.fixed_weights.{t}": 0 for t in ("cls", "seg", "det")}, ["fixed_weights", "not all be 0"]),
    ],
)
def test_fault_53_bad_keys_and_values_are_one_line_that_names_them(overrides, words):
    """A value out of range or an unknown key is one line that names it and a known key nearby, with exit code 2."""
    with pytest.raises(ConfigError) as error:
        load_config(None, overrides)
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_key_that_was_removed_says_since_when_and_why(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\ndistill:\n  gate_masks: true\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value) == f"{path}: line 3: distill.gate_masks was removed in 0.2.0: it lost mIoU"
    key, words = "distill.gate_masks", "--set distill.gate_masks=true"
    with pytest.raises(ConfigError) as error:
        load_config(None, {key: True}, given={key: words})
    assert str(error.value) == f"{words}: distill.gate_masks was removed in 0.2.0: it lost mIoU"
    # Where it is false it meant nothing, and is still read.
    assert load_config(None, {key: False}) == Config()


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "!!python/object/apply:os.system ['true']", "\x00"])
def test_a_file_that_is_no_config(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_config(path)


def test_assignments_are_read_as_yaml():
    assert parse_assignments(["a.b=3", "c=null", "d=x y"]) == {"a.b": 3, "c": None, "d": "x y"}
    for bad in ("a", "=3", "a=[", "a=!!bool maybe", "a=2001-99-99"):
        with pytest.raises(ConfigError, match="--set"):
            parse_assignments([bad])


def test_every_field_has_a_type_a_unit_and_a_sentence():
    fields = describe_fields(Config())
    assert len(fields) > 60
    for field in fields:
        assert field.type and field.unit and field.meaning.endswith("."), field.key
        assert field.value == field.default


def test_a_config_survives_being_written_down():
    config = load_config(None, {"distill.lambda": 1.5, "data.root": "x"})
    written = yaml.safe_dump(config.model_dump(mode="json", by_alias=True))
    assert Config.model_validate(yaml.safe_load(written)) == config


@pytest.mark.parametrize("section", ["teacher", "student", "model"])
def test_a_value_in_place_of_a_section_is_refused(section):
    with pytest.raises(ConfigError, match=f"{section} must be a section"):
        load_config(None, {section: 5})


def test_the_help_names_how_a_new_network_is_read():
    from onehead_cli.tasks.detection.reader import FIRST_READING

    said = {field.key: field.meaning for field in describe_fields(Config())}
    for name, value in vars(FIRST_READING).items():
        shown = "true" if value is True else f"{value:g}"
        assert said[f"evaluation.{name}"].endswith(f"as in the checkpoint, or {shown} for a new one.")
