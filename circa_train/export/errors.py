"""The error that every refusal of this package is."""

from __future__ import annotations


class ExportError(ValueError):
    """A network that cannot be exported, or an export folder that is damaged; the message names the layer or
    the file.
    """
