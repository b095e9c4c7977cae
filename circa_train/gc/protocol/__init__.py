"""Two parties, one ReLU layer: garbling, oblivious transfer, multiplication, messages and transport."""
