"""Boolean circuits (``circuit``, ``arithmetic``), and the four ReLU circuits of Circa (``relu``)."""
