"""Configs and options as people write them: keys twice, other encodings, `~` and `$NAME`, one value for a list."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onehead_cli import engine
from onehead_cli.app import run
from onehead_cli.config.load import load_config
from onehead_cli.config.sections import Config
from onehead_cli.config.yaml_text import line_of, parse_yaml, read_yaml
from onehead_cli.data.mask_folders import read_mask_classes
from onehead_cli.errors import ConfigError, DataError
from onehead_cli.wording import is_one_line

PROPERTY = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def own(tmp_path):
    """A config file as it is written there."""

    def write(content):
        path = tmp_path / "own.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def error_of(capsys, *args):
    assert run([*map(str, args)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said.removeprefix("error: ").strip()


def shown(capsys, key, *args):
    """The value of a field as --show-config has it."""
    assert run(["train-unified", "--show-config", *map(str, args)]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{key} = ")]
    return line.removeprefix(f"{key} = ").rpartition("  (")[0].strip()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("student:\n  epochs: 3\n  lr: 0.1\n  epochs: 30\n", "'epochs' is written twice, at lines 2 and 4"),
        ("data: {root: x}\nseed: 1\ndata:\n  image_size: 64\n", "'data' is written twice, at lines 1 and 3"),
        ("seed: 1\n\n\nseed: 1\n", "'seed' is written twice, at lines 1 and 4"),
        ('seed: 1\n"seed": 2\n', "'seed' is written twice, at lines 1 and 2"),
        ("student: {epochs: 3, epochs: 4}\n", "'epochs' is written twice, at line 1"),
        ("data:\r\n  root: x\r\n  root: y\r\n", "'root' is written twice, at lines 2 and 3"),
        ("student: &a {lr: 1, lr: 2}\nteacher: *a\n", "'lr' is written twice, at line 1"),
        (
            "student:\n  fixed_weights:\n    cls: 1\n    seg: 1\n    cls: 2\n",
            "'cls' is written twice, at lines 3 and 5",
        ),
    ],
)
def test_fault_80_a_key_that_is_written_twice(text, words, own, capsys):
    """A key or a section that is written twice in a YAML file, at any depth, is refused with both lines, because the
    first would be ignored."""
    path = own(text)
    assert error_of(capsys, "train-unified", "--config", path) == f"{path}: {words}"


def test_what_is_merged_may_be_written_again(own):
    text = "teacher: &a\n  epochs: 3\n  lr: 0.5\nstudent:\n  <<: *a\n  epochs: 9\nseed: 1\n"
    config = load_config(own(text))
    assert (config.teacher.epochs, config.student.epochs, config.student.lr) == (3, 9, 0.5)
    two = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\nd:\n  <<: *a\n  <<: *b\ne: [*a, *a]\n"
    assert parse_yaml(two) == yaml.safe_load(two)
    assert parse_yaml("1: a\n'1': b\n") == {1: "a", "1": "b"}
    for same in ("1: a\n0x1: b\n", "true: a\nyes: b\n", "1: a\n1.0: b\n"):  # one key in Python
        with pytest.raises(ValueError, match="written twice, at lines 1 and 2"):
            parse_yaml(same)


def test_class_lists_and_assignments_are_read_the_same_way(tmp_path, capsys):
    (tmp_path / "classes.yaml").write_text("0: ground\n1: cat\n1: dog\n")
    with pytest.raises(DataError, match=r"classes\.yaml: "):
        read_mask_classes(Config().data.model_copy(update={"seg_classes": tmp_path / "classes.yaml"}))
    said = error_of(capsys, "train-unified", "--set", "student={epochs: 1, epochs: 2}")
    assert said == "--set student={epochs: 1, epochs: 2}: 'epochs' is written twice, at line 1"


@st.composite
def written(draw, depth=0, line=1, indent=0):
    """Lines of a mapping and the lines of each key that stands twice in its mapping, in the order of the second."""
    lines, seen, repeated = [], {}, []
    for _ in range(draw(st.integers(1, 4))):
        key = draw(st.sampled_from(["data", "student", "root", "epochs", "x y", "1", "~"]))
        here = line + len(lines)
        if key in seen:
            repeated.append((seen[key], here))
        seen[key] = here
        if depth < 3 and draw(st.booleans()):
            lines.append(f"{' ' * indent}{key}:")
            below, found = draw(written(depth=depth + 1, line=here + 1, indent=indent + 2))
            lines += below
            repeated += found
        else:
            value = draw(st.sampled_from(["1", "[1, two]", "abc", "'x'", "null", "1.5", "{}", "2001-01-01", "true"]))
            lines.append(f"{' ' * indent}{key}: {value}")
    return lines, repeated


@PROPERTY
@given(drawn=written(), newline=st.sampled_from(["\n", "\r\n"]), mark=st.booleans())
def test_keys_twice_wrong_types_and_depths_are_one_line(own, drawn, newline, mark):
    """A file is refused for a key that stands twice exactly where one does; for anything else in one line too."""
    lines, repeated = drawn
    path = own(("\ufeff" if mark else "") + newline.join(lines) + newline)
    try:
        load_config(path)
    except ConfigError as error:
        message = str(error)
        assert message.startswith(f"{path}: ") and is_one_line(message)
        assert ("is written twice" in message) == bool(repeated)
        if repeated:
            assert any(message.endswith(f"at lines {a} and {b}") for a, b in repeated)
    else:
        assert not repeated


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf\r\n", "the file is empty"),
        ("seed: 1\n".encode("utf-16"), "not in UTF-8 but in UTF-16; save it as UTF-8"),
        ("seed: 1\n".encode("utf-16-be"), "not valid YAML at line 1: '\\x00' is not allowed"),
        ("seed: 1\n# caf\xe9\n".encode("latin-1"), "line 2 is not UTF-8; save the file as UTF-8"),
        (b"student:\n\tepochs: 3\n", "a tab at line 2, where YAML allows only spaces"),
        (b"student:\n  epochs:\t3\n", "a tab at line 2, where YAML allows only spaces"),
        (b"seed: [1\n", "not valid YAML at line 2 (expected ',' or ']', but got '<stream end>')"),
        (b"- a\n", "expected sections such as 'data:' and 'student:', found list"),
        (b"data.root: x\n", "line 1: unknown key 'data.root' with a dot in it; write 'root:' below 'data:'"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(content, words, own, capsys):
    path = own(content)
    assert error_of(capsys, "train-unified", "--config", path) == f"{path}: {words}"


def test_a_folder_is_no_config(tmp_path, capsys):
    assert error_of(capsys, "train-unified", "--config", tmp_path) == f"{tmp_path}: a folder, not a YAML file"


def test_what_editors_put_into_files_does_no_harm(own):
    for content in (b"\xef\xbb\xbfseed: 7\n", b"seed: 7\r\ndevice: cpu\r\n", b"# nothing\nseed: 7", b"seed: 7 \n\n\n"):
        assert load_config(own(content)).seed == 7
    assert load_config(own(b"# all by default\n")) == Config()


def test_fault_81_home_and_variables_in_paths(own, tmp_path, monkeypatch, capsys):
    """`~`, `$NAME` and `${NAME}` in a path of a config, of --set or of a flag are filled in; a variable that is not set
    is one line that names it; a folder with such characters in its name is used as it is."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DATA", str(tmp_path / "d"))
    monkeypatch.delenv("NOPE", raising=False)
    config = load_config(
        own(
            "data: {root: ~/a, det_images: '$DATA/x/{split}', cls_root: '${DATA}y'}\nmodel: {start_from: $DATA/n.pth}\n"
        )
    )
    assert (config.data.root, config.data.det_images) == (home / "a", tmp_path / "d/x/{split}")
    assert (config.data.cls_root, config.model.start_from) == (tmp_path / "dy", tmp_path / "d/n.pth")
    for args in (["--data=~/a"], ["--set", "data.root=~/a"], ["--data", "$HOME/a"], ["--set", "data={root: ~/a}"]):
        assert shown(capsys, "data.root", *args) == str(home / "a")
    assert error_of(capsys, "evaluate", "--data", "$NOPE/a") == "--data $NOPE/a: the variable NOPE is not set"
    assert (
        error_of(capsys, "evaluate", "--checkpoint", "${NOPE}") == "--checkpoint ${NOPE}: the variable NOPE is not set"
    )
    path = own("seed: 1\ndata:\n  root: ${NOPE}/a\n")
    said = f"{path}: line 3: data.root: the variable NOPE is not set"
    assert error_of(capsys, "evaluate", "--config", path) == said
    monkeypatch.setenv("NOPE", "")
    assert error_of(capsys, "evaluate", "--config", path).endswith("data.root: the variable NOPE is empty")
    for name in ("cost$NOPE", "~", "~user", "100$", "$$", "a~b"):
        (tmp_path / name).mkdir()
        assert shown(capsys, "data.root", "--data", f"{name}/new") == f"{name}/new"
        assert load_config(own(f"data: {{root: '{name}'}}")).data.root == tmp_path / name
    assert shown(capsys, "output", "--output", "plain$/b~") == "plain$/b~"


def test_the_paths_of_prepare_data_and_of_the_config_itself(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tiny_data))
    (tmp_path / "own.yaml").write_text("seed: 5\n")
    monkeypatch.setenv("OWN", str(tmp_path))
    assert shown(capsys, "seed", "--config=$OWN/own.yaml") == "5"
    seen = []
    monkeypatch.setattr(engine, "prepare_data", lambda settings, *, reporter: seen.append(settings) or 1 / 0)
    for args in (["--verify", "--data=~"], ["--check", "~"], ["--preview", "--data", "$HOME", "--preview-dir=~/p"]):
        with pytest.raises(ZeroDivisionError):
            run(["prepare-data", *args])
    verify, check, preview = seen
    assert verify.root == check.path == preview.root == tiny_data and preview.folder == tiny_data / "p"
    said = error_of(capsys, "prepare-data", "--check", "$NOWHERE")
    assert said == "--check $NOWHERE: the variable NOWHERE is not set"


def test_a_list_of_one_and_lists_with_spaces(own, tiny_data, tmp_path, capsys):
    for text, expected in (
        ("data: {tasks: det}", ("det",)),
        ("data: {tasks: 'det, cls'}", ("cls", "det")),
        ("data:\n  tasks: [seg, det]", ("seg", "det")),
    ):
        assert load_config(own(text)).data.tasks == expected
    for value, expected in (
        ("det", "[det]"),
        ("cls,det", "[cls, det]"),
        ("[seg]", "[seg]"),
        ("[cls, det]", "[cls, det]"),
    ):
        assert shown(capsys, "data.tasks", "--set", f"data.tasks={value}") == expected
        assert shown(capsys, "data.tasks", "--set", *f"data.tasks={value}".split()) == expected
    for value, expected in (("64", "[64]"), ("64,96", "[64, 96]"), ("[64, 96]", "[64, 96]")):
        assert shown(capsys, "data.sizes", "--set", f"data.sizes={value}") == expected
    for bad in ("data.sizes=64;96", "data.sizes={}", "data.tasks=3"):
        assert "data." in error_of(capsys, "train-unified", "--set", bad)
    where = ["--data", str(tmp_path / "data"), "-q"]
    assert (
        run(["prepare-data", "--source", "synthetic", "--sizes", "12,", "10,", "11", "--image-size", "64", *where]) == 0
    )
    assert len(list((tmp_path / "data/mini_coco_det/train").iterdir())) == 12
    for split in (["val,test"], ["val, test"], ["val,", "test"]):
        args = ["evaluate", "--data", str(tmp_path), "--output", str(tmp_path), "--task", "cls", "--split", *split]
        assert run(args) == 1
        assert "imagenette-160/val" in capsys.readouterr().err


#: Flag or assignment -> the field and the limit in its error.
BAD_VALUES = [
    (["--epochs", "0"], "student.epochs must be greater than or equal to 1"),
    (["--lr", "-1"], "student.lr must be greater than 0"),
    (["--lr", "nan"], "student.lr must be a finite number"),
    (["--batch-size", "2000"], "student.batch_size must be less than or equal to 1024"),
    (["--image-size", "100"], "data.image_size must be a multiple of 32 from 64 to 2048, not 100"),
    (["--image-size", "32"], "data.image_size must be greater than or equal to 64"),
    (["--lambda-distill", "-1"], "distill.lambda must be greater than or equal to 0"),
    (["--seed", "-1"], "seed must be greater than or equal to 0"),
    (["--device", "vulkan"], "device must be 'auto', 'cpu', 'cuda' or 'mps'"),
    (["--set", "student.epochs=0"], "student.epochs must be greater than or equal to 1"),
    (["--set", "student.epochs=2.5"], "student.epochs must be a whole number"),
    (["--set", "student.epochs=many"], "student.epochs must be a whole number"),
    (["--set", "student.lr=fast"], "student.lr must be a number"),
    (["--set", "data.skip_bad=maybe"], "data.skip_bad must be true or false"),
    (["--set", "data.val_split=2024"], "data.val_split must be text; put it in quotes"),
    (["--set", "data.root=[a]"], "data.root must be a path"),
    (["--set", "data=3"], "data must be a section, with keys below it"),
    (["--set", "data.sizes=[64, 65]"], "data.sizes must be a multiple of 32 from 64 to 2048, not 65"),
    (["--set", "student.fixed_weights={cls: 0, seg: 0, det: 0}"], "student.fixed_weights must not all be 0"),
    (["--set", "seed.x=3"], "unknown key 'seed.x'"),
]


@pytest.mark.parametrize(("given", "words"), BAD_VALUES, ids=[" ".join(given) for given, _ in BAD_VALUES])
def test_fault_82_an_error_names_where_the_value_came_from(given, words, own, capsys):
    """A value out of range is blamed on the flag, the --set or the file and line that gave it, and the limit is stated,
    whatever the other two contain."""
    path = own("student:\n  epochs: 3\n  lr: 0.1\ndata:\n  image_size: 64\n")
    assert error_of(capsys, "train-unified", "--config", path, *given) == f"{' '.join(given)}: {words}"
    # What the flag replaces is not to blame, and what is fine in a flag neither.
    own("student:\n  epochs: 0\ndata:\n  image_size: 100\n")
    said = error_of(capsys, "train-unified", "--config", path, "--epochs", "3", "--set", "student.lr=0.5")
    assert said == f"{path}: line 4: data.image_size must be a multiple of 32 from 64 to 2048, not 100"


@pytest.mark.parametrize("command", ["train-teacher", "train-unified", "evaluate", "profile", "predict"])
def test_every_flag_with_a_limit_is_blamed_by_its_name(command, capsys):
    from onehead_cli.app import app

    [info] = [info for info in app.registered_commands if info.name == command]
    needed = {"train-teacher": ["--task", "all"], "predict": ["x.jpg"]}.get(command, [])
    flags = [flag for flag in info.callback.flags.values() if flag.type in (int, float)]
    for flag in flags:
        said = error_of(capsys, command, *needed, flag.name, "-7")
        assert said.startswith(f"{flag.name} -7: {flag.field.key} must be greater than"), said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# a\nstudent:\n  lr: 0.1\n  epochs: 0\n", "line 4: student.epochs must be greater than or equal to 1, not 0"),
        ("student: {lr: fast}\n", "line 1: student.lr must be a number, not 'fast'"),
        (
            "teacher: &a\n  epochs: no\nstudent:\n  <<: *a\n",
            "line 2: teacher.epochs must be a number, not False",
        ),
        ("data:\n  tasks:\n  - cls\n  - depth\n", "line 4: data.tasks must be 'cls', 'seg' or 'det', not 'depth'"),
        ("seed: 1\nstudent: 3\n", "line 2: student must be a section, with keys below it, not 3"),
        ("seed: 1\nstudents:\n  lr: 1\n", "line 2: unknown key 'students'; did you mean 'student'?"),
        ("model:\n  start_from: [a]\n", "line 2: model.start_from must be"),
    ],
)
def test_a_file_is_blamed_with_the_line(text, words, own, capsys):
    path = own(text)
    assert error_of(capsys, "train-unified", "--config", path).startswith(f"{path}: {words}")


def test_a_flag_below_what_is_no_section_blames_what_is_none(own, capsys):
    path = own("seed: 1\nstudent: 3\n")
    said = error_of(capsys, "train-unified", "--config", path, "--epochs", "3")
    assert said == f"{path}: line 2: student must be a section, with keys below it"
    said = error_of(capsys, "train-unified", "--set", "student=3", "--epochs", "3")
    assert said == "--set student=3: student must be a section, with keys below it"


def test_lines_are_found_through_lists_and_merges():
    text = "a: &a\n  x: 1\nb:\n  <<: *a\n  y: 2\nc:\n- p\n- q: 3\nd: &d {e: *a}\n"
    assert [line_of(text, keys) for keys in (["a", "x"], ["b", "x"], ["b", "y"], ["c", 1, "q"], ["b", "z"], ["z"])] == [
        2,
        2,
        5,
        8,
        3,
        None,
    ]


def test_a_yaml_file_that_is_gone_or_unreadable(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="no such file"):
        load_config(Path(os.fspath(tmp_path)) / "no.yaml")


@pytest.mark.parametrize("key", ["", ".", "data.", ".root", "data..root"])
def test_a_key_with_an_empty_part_is_no_key(capsys, key):
    assert error_of(capsys, "evaluate", "--set", f"{key}=x") == f"--set {key}=x: write it as section.key=value"
