"""How many bits may be dropped, and where, within an accuracy budget? See
:mod:`circa_train.search.engine`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.search.answer import Answer, fault_file, summary, write_fault_file
    from circa_train.search.engine import SearchResult, search_truncation
    from circa_train.search.judging import Judgement
    from circa_train.search.settings import SearchSettings

__all__ = [
    "Answer",
    "Judgement",
    "SearchResult",
    "SearchSettings",
    "fault_file",
    "search_truncation",
    "summary",
    "write_fault_file",
]

__getattr__, __dir__ = face(
    __name__,
    {
        "Answer": "answer",
        "Judgement": "judging",
        "SearchResult": "engine",
        "SearchSettings": "settings",
        "fault_file": "answer",
        "search_truncation": "engine",
        "summary": "answer",
        "write_fault_file": "answer",
    },
)
