"""Networks, and where they meet faults: the stochastic activation, the conversion, and the plain models."""
