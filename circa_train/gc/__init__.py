"""Garbled circuits for one ReLU layer at a time, and the two-party protocol around them. Never imports torch.

    circuit, arithmetic, relu       boolean circuits, and the four ReLU circuits of Circa
    aes, hashing, kernels           the AES permutation and the tweakable hash
    kernel_numpy                    the kernel for every machine
    kernel_numba                    the compiled one: fusion plans it, passes loop, lanes are its instructions
    memory, randomness, messages    where blocks live, where secrets come from, what is sent
    garbling                        half gates; garbler and evaluator share nothing but messages
    base_ot, ot, beaver             oblivious transfer, multiplication of shares
    transport, channel, parties     the whole ReLU between two parties, in memory or over a socket
    local, session                  both parties under one roof: garbling alone, or the whole protocol
    accounting                      gates and bytes of one ReLU
    speed                           rates beside the AES ceiling of the same run

Both parties are assumed honest but curious: they follow the protocol and must learn nothing but their shares
from it.
"""
