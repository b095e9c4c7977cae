"""How many bits may be dropped, and where? Within an accuracy budget: see :mod:`circa_train.search.engine`;
for a number of AND gates: :mod:`circa_train.search.by_gates`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.search.answer import Answer, fault_file, write_fault_file
    from circa_train.search.by_gates import allocate_gates
    from circa_train.search.engine import SearchResult, search_truncation
    from circa_train.search.frame import Allocated
    from circa_train.search.judging import Judgement
    from circa_train.search.settings import SearchSettings
    from circa_train.search.words import summary

__all__ = [
    "Allocated",
    "Answer",
    "Judgement",
    "SearchResult",
    "SearchSettings",
    "allocate_gates",
    "fault_file",
    "search_truncation",
    "summary",
    "write_fault_file",
]

__getattr__, __dir__ = face(
    __name__,
    {
        "Allocated": "frame",
        "Answer": "answer",
        "Judgement": "judging",
        "SearchResult": "engine",
        "SearchSettings": "settings",
        "allocate_gates": "by_gates",
        "fault_file": "answer",
        "search_truncation": "engine",
        "summary": "words",
        "write_fault_file": "answer",
    },
)
