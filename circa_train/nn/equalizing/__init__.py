"""The network's own freedom of scale: relu(c z) = c relu(z), so a channel may be made c times as large where
it is made, and divided by c where it is read.

    ties        which channels must share a scale, and which must keep it
    walk        through the traced graph with an example
    rules       what each step does to a channel's scale          layers   where scales go in and out
    groups      the answer, by name                               scaling  the scales go into the weights
    report      what was done, and what not
"""
