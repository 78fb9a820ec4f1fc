"""What is passed over in a folder of images, by kind."""

from collections import Counter

from onehead_cli.data.passed_over import in_words, passed_over


def test_each_kind_of_thing_in_a_folder(tmp_path):
    for name in ("a.jpg", "B.PNG", "c.webp", "d.gif", "e.GIF", "README", ".hidden.gif"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dead.jpg").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "live.jpg").symlink_to("a.jpg")
    found = {path.name: passed_over(path) for path in tmp_path.iterdir()}
    assert found == {
        "a.jpg": None,
        "B.PNG": None,
        "c.webp": None,
        "live.jpg": None,
        ".hidden.gif": None,
        "d.gif": ".gif",
        "e.GIF": ".gif",
        "README": "file without a suffix",
        "folder.jpg": "sub-folder",
        "dead.jpg": "link to nothing",
        "loop": "link to nothing",
    }
    counts = Counter(sorted(filter(None, found.values())))
    assert in_words(counts) == "2 .gif, 1 file without a suffix, 2 links to nothing, 1 sub-folder"
    assert in_words({".gif": 0}) == ""
