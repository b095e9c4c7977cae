"""Garbled circuits for one ReLU layer at a time, and the two-party protocol around them. Never imports torch.

    circuits     boolean circuits, their arithmetic, the sign test as a circuit, Circa's four ReLU circuits
    aes          the hash that garbling rests on, the engines that run circuits through it, secrets, memory
    protocol     garbling, oblivious transfer, multiplication of shares, messages, sessions; both parties
    accounting   gates and bytes of one ReLU

Both parties are assumed honest but curious: they follow the protocol and must learn nothing but their shares
from it.
"""
