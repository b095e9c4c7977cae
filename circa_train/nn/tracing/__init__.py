"""From a network to its graph, in which every ReLU call is found, or the network is refused with the reason.

    trace          the graph, the same for training and evaluation
    relu_calls     the sites in it, by name        recognition    what computes a ReLU, however it is written
    leaves         what is a single step         boundaries, functions, modes, options
                                                 what a trace would drop
    in_place       who else reads an input         preserving     the given network stays as it was
"""
