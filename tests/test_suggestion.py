"""A suggestion is made where a word is near, and only there."""

import pytest
import timm
from hypothesis import given, settings
from hypothesis import strategies as st

from onehead_cli.app import run
from onehead_cli.suggestion import did_you_mean, nearest

KNOWN = [
    "train",
    "val",
    "test",
    "epochs",
    "weight_decay",
    "batch_size",
    "train-teacher",
    "predict",
    "fit",
    "lr",
    "seed",
]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("epoch", ["epochs"]),  # one letter too few, too many, another, two swapped
        ("epocchs", ["epochs"]),
        ("eposhs", ["epochs"]),
        ("epcohs", ["epochs"]),
        ("eochz", ["epochs"]),  # two edits
        ("predctt", ["predict"]),
        ("valid", ["val"]),  # a short form of it
        ("validation", ["val"]),
        ("tset", ["test"]),
        ("Epochs", ["epochs"]),
        ("LR", ["lr"]),
        ("batch-size", ["batch_size"]),
        ("batchsize", ["batch_size"]),
        ("decay_weight", ["weight_decay"]),  # parts and letters in another order
        ("hecops", ["epochs"]),
        ("decay", ["weight_decay"]),  # a part left out
        ("teacher", ["train-teacher"]),
        ("vaxyl", []),
        ("foo", []),  # two edits of a short word are another word
        ("fat", ["fit"]),
        ("foot", []),
        ("vla", ["val"]),
        ("vxx", []),
        ("xx", []),
        ("l", []),
        ("ehpoczz", []),  # three edits
        ("predxyz", []),
        ("", []),
        ("x" * 10_000, []),
    ],
)
def test_both_sides_of_the_limit(word, meant):
    assert nearest(word, KNOWN) == meant


def test_another_task_is_no_misspelt_one():
    assert nearest("depth", ["cls", "seg", "det"]) == nearest("pose", ["cls", "seg", "det"]) == []


def test_all_that_are_equally_near_are_named_up_to_three():
    assert did_you_mean("tast", ["test", "task", "foo"]) == "; did you mean 'test' or 'task'?"
    assert did_you_mean("part", ["port", "pert", "part1", "parts", "party"]).count("'") == 6
    assert did_you_mean("zzz", ["test"]) == "" == did_you_mean("zzz", [])


letters = st.text("ab-", max_size=6)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(word=letters, name=letters)
def test_two_edits_are_counted_as_by_trying_all(word, name):
    """Against all words that one edit, and one more, can make."""

    def edited(text):
        cuts = [(text[:i], text[i:]) for i in range(len(text) + 1)]
        yield from (a + b[1:] for a, b in cuts if b)
        yield from (a + c + b[1:] for a, b in cuts if b for c in "ab")
        yield from (a + c + b for a, b in cuts for c in "ab")
        yield from (a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1)

    word, name = word.replace("-", ""), name.replace("-", "")
    once = {word, *edited(word)}
    both = once | {twice for one in once for twice in edited(one)}
    within = both if min(len(word), len(name)) >= 5 else once
    begins = len(name) >= 3 and word.startswith(name)
    expected = word == name or (len(word) >= 3 and (name in within or begins or sorted(word) == sorted(name)))
    assert bool(nearest(word, [name])) == expected


def error_of(capsys, *args):
    assert run([*args]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("args", "near", "far"),
    [
        (["train-unified", "--set", "{}=1"], ("student.epoch", "student.epochs"), "student.foo"),
        (["train-unified", "--set", "{}=1"], ("stutent.epochs", "student"), "foo.epochs"),
        (["train-unified", "--set", "{}=1"], ("data.lambda", "distill.lambda"), "foo"),
        (["train-unified", "--set", "{}=1"], ("distill_lambda", "distill.lambda"), "distill_foo"),
        (["train-unified", "{}"], ("--epoch", "--epochs"), "--foo"),
        (["train-unified", "{}"], ("--batch_size", "--batch-size"), "--zzz"),
        (["{}"], ("trainunified", "train-unified"), "foo"),
        (["{}"], ("pretict", "predict"), "validate"),
        (["train-teacher", "--task", "{}"], ("dett", "det"), "foo"),
        (["train-teacher", "--task", "cls", "--set", "data.tasks={}"], ("sge", "seg"), "foo"),
        (["train-teacher", "--task", "cls", "--device", "{}"], ("cdua", "cuda"), "tpux"),
        (["prepare-data", "--base-url", "{}=http://x/"], ("cocoo", "coco"), "foo"),
    ],
)
def test_fault_83_a_suggestion_only_where_it_is_near(args, near, far, capsys):
    """A misspelt command, flag, key, task, split or backbone is answered with the known one that is one or two edits
    away, or lacks a part or has them in another order; a word that is similar to none gets no suggestion."""
    word, meant = near
    assert f"did you mean '{meant}'?" in error_of(capsys, *(arg.format(word) for arg in args))
    said = error_of(capsys, *(arg.format(far) for arg in args))
    assert "did you mean" not in said and far.partition(".")[0] in said


def test_a_key_without_its_section_names_every_section_that_has_it(capsys):
    said = error_of(capsys, "train-unified", "--set", "epochs=3")
    assert "did you mean 'teacher.epochs' or 'student.epochs'?" in said


def test_splits_and_backbones(tiny_data, tmp_path, capsys):
    evaluate = ["evaluate", "--data", str(tiny_data), "--output", str(tmp_path), "--split"]
    assert "--split valid: no such split; did you mean 'val'?" in error_of(capsys, *evaluate, "test,valid")
    assert run([*evaluate, "foo"]) == 1
    assert "did you mean" not in capsys.readouterr().err
    train = ["train-teacher", "--task", "cls", "--data", str(tiny_data), "--output", str(tmp_path), "-q", "--backbone"]
    assert "did you mean 'resnet50'" in error_of(capsys, *train, "resnett50")
    assert "timm has no 'foo'\n" in error_of(capsys, *train, "foo")
    assert timm.is_model("resnet50")
