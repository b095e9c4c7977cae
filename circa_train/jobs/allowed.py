"""What the values of a configuration may be, as ``--help`` says it. The parts themselves check them; a test
compares what they take and refuse with what is written here.
"""

from __future__ import annotations

#: Words that a key may be, by its dotted name.
WORDS: dict[str, tuple[str, ...]] = {
    "fault.mode": ("poszero", "negpass"),
    "fault.direction": ("both", "zeroed", "passed"),
    "fault.overflow": ("raise", "wrap", "saturate"),
    "optim.optimizer": ("sgd", "adamw"),
    "optim.schedule": ("cosine", "triangular", "step", "constant"),
    "precision": ("float32", "bfloat16"),
    "curriculum": ("none", "rising", "random"),
    "reduction.granularity": ("pixel", "channel"),
    "reduction.unit": ("relus", "bytes"),
    "reduction.accounting": ("tables", "labels", "ot", "delphi"),
    "split": ("train", "validation", "test"),
    "rescaling": ("offset", "floor", "local"),
    "decide_on": ("validation", "test"),
    "verify.transport": ("memory", "socket"),
    "pi.offline": ("dealer", "homomorphic"),
    "tracker.mode": ("offline", "online", "disabled"),
    "run.device": ("auto", "cpu", "cuda", "cuda:0"),
}

#: Ranges of numbers, and other forms, in words.
FORMS: dict[str, str] = {
    "fault.k": "0 to 30, the bit length of the prime less one",
    "fault.prime": "an odd prime below 2^31",
    "fault.rate": "0 to 1",
    "fault.frac_bits": "0 to 30, auto, per_channel, or a file that has them by site",
    "fault.headroom_bits": "0 and more; null: 2 with per_channel, else 5",
    "fault.rescale_bits": "0 to 28; 0 rescales nothing",
    "fault.seed": "0 and more, below 2^63",
    "reduction.budget": "1 and more: the ReLUs, or the bytes of them, that are kept at most",
    "reduction.price": "null, or with unit=bytes a sign test, or the path of a file of one per site",
    "gates": "null, or 1 and more: AND gates per sign test, on average",
    "budget": "0 to 1: the share of accuracy that may be lost",
    "margin": "0 and more: standard errors of the loss",
    "draws.count": "1 and more",
    "draws.until_width": "null, or more than 0: the width of the interval that is wanted",
    "verify.samples": "1 and more, or all",
    "verify.sites": "all, a name, a list of names, or how many",
}

#: Options of groups that a script has and yet refuses, by script.
REFUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {"fault": ("checkpoint",)},
    "cost": {"fault": ("checkpoint", "uniform", "bit_window")},
    "verify": {"fault": ("none", "uniform", "bit_window")},
    "equalize": {"fault": ("none",)},
    "search": {"fault": ("none", "uniform", "bit_window", "file", "python")},
    "export": {"fault": ("uniform", "bit_window", "python")},
}

#: Values beside these words that one script takes.
MORE: dict[str, dict[str, tuple[str, ...]]] = {
    "verify": {"split": ("vectors (of an export folder)",)},
    "evaluate": {"rescaling": ("null (the one of the export folder)",)},
}
