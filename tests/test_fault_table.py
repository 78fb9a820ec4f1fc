"""docs/FAULTS.md is what the tests say, and no fault is without its test."""

from __future__ import annotations

from collections import Counter

from fault_table import TABLE, fault_tests, table

_NUMBERS = {*range(1, 90), *range(100, 109)}


def test_every_fault_has_one_test_that_says_what_happens() -> None:
    tests = fault_tests()
    assert Counter(test.number for test in tests) == Counter(_NUMBERS)
    assert [test.name for test in tests if not test.behaviour.endswith(".") or "|" in test.behaviour] == []


def test_the_table_in_the_docs_is_the_generated_one() -> None:
    assert TABLE.read_text(encoding="utf-8") == table(), "run `python tests/fault_table.py`"
