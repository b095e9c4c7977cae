"""The compiled CPU kernel: one pass over a site's tensor on torch's own threads. ``launch`` is its door."""
