"""How many bits may be dropped, and where, within an accuracy budget? See
:mod:`circa_train.search.engine`.
"""

from __future__ import annotations

from circa_train.search.answer import Answer, fault_file, summary, write_fault_file
from circa_train.search.engine import SearchResult, search
from circa_train.search.judging import Judgement
from circa_train.search.settings import SearchSettings

__all__ = [
    "Answer",
    "Judgement",
    "SearchResult",
    "SearchSettings",
    "fault_file",
    "search",
    "summary",
    "write_fault_file",
]
