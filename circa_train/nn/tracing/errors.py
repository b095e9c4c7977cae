"""What a conversion refuses with."""

from __future__ import annotations


class ConversionError(ValueError):
    """A network cannot be converted; the message says where, why, and what to do."""
