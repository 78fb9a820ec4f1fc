"""The properties of test_reader_properties.py, in `make soak` for minutes on new examples."""

import pytest
import test_reader_properties as properties
from fuzz import fuzz


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("holds", "contents"),
    [
        (properties.test_any_annotation_file_is_read_or_refused_in_one_line, properties.json_files),
        (properties.test_any_class_list_is_read_or_refused_in_one_line, properties.yaml_files),
        (properties.test_any_config_is_read_or_refused_in_one_line, properties.yaml_files),
    ],
    ids=["JSON", "class list", "config"],
)
def test_any_file_is_read_or_refused_in_one_line(holds, contents, tmp_path, soak, record_property):
    def once(content):
        holds.hypothesis.inner_test(tmp_path, content)

    record_property("examples", fuzz(once, contents, soak=soak, few=10))
