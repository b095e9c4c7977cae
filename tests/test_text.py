"""Tables of text, cell by cell."""

from __future__ import annotations

import pytest

from circa_train.text import aligned

ROWS = [["site", "k", "note"], ["relu1", "12", ""], ["a", "3", "long note"]]


def test_columns_line_up_left_and_right() -> None:
    assert aligned(ROWS, left=1).splitlines() == [
        "site    k       note",
        "relu1  12",
        "a       3  long note",
    ]
    assert aligned(ROWS).splitlines() == ["site   k   note", "relu1  12", "a      3   long note"]
    assert aligned(ROWS, left=0).splitlines()[2] == "    a   3  long note"


def test_no_row_is_no_text_and_rows_of_other_lengths_are_an_error() -> None:
    assert aligned([]) == ""
    with pytest.raises(ValueError, match="shorter"):
        aligned([["a", "b"], ["a"]])
