"""What an attack counts, and what it found: nothing is a success but a named error, or the right result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts of one or several attacks; they add up.

    Attributes:
        counts: how many attempts, by what was attacked: the rows of the table.
        outcomes: how often each kind of answer came: shows whether an attack reached what it aims at.
        wrong, hung, raised: a line for every wrong result, every attempt that took too long, and every error
            that is none of those promised. Empty if all held.
    """

    counts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)

    def __iadd__(self, other: Tally) -> Tally:
        self.counts.update(other.counts)
        self.outcomes.update(other.outcomes)
        self.wrong += other.wrong
        self.hung += other.hung
        self.raised += other.raised
        return self

    @property
    def held(self) -> bool:
        """Whether nothing was found."""
        return not (self.wrong or self.hung or self.raised)

    def findings(self, limit: int = 20) -> str:
        """The lines of what was found, at most ``limit`` of each kind."""
        kinds = (("wrong result", self.wrong), ("hang", self.hung), ("traceback", self.raised))
        return "\n".join(f"{kind}: {line}" for kind, lines in kinds for line in lines[:limit])

    def table(self) -> str:
        """The counts as text."""
        rows = [
            *self.counts.items(),
            ("wrong results", len(self.wrong)), ("hangs", len(self.hung)), ("tracebacks", len(self.raised)),
        ]  # fmt: skip
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {count:>9,}" for name, count in rows)
