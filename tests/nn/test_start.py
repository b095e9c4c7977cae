"""Nobody who does not compile waits for torch's compiler, whose import takes seven seconds of each script."""

import subprocess
import sys

_PROGRAM = """
import sys
import torch
from circa_train import TruncatedSign, build_model, fit_frac_bits, with_stochastic_relus
from circa_train.evaluation import evaluate
from circa_train.jobs import evaluate as job
network = build_model("resnet8", num_classes=3, image_size=8)
images, labels = torch.rand(4, 3, 8, 8), torch.arange(4) % 3
fitted = fit_frac_bits(network, [images])
converted = with_stochastic_relus(network, TruncatedSign(12), frac_bits=fitted.frac_bits)
evaluate(converted, [(images, labels)], draws=2)
assert "torch._dynamo" not in sys.modules, "torch's compiler was imported"
assert "scipy.stats" not in sys.modules, "two seconds for one quantile"
print("light")
"""


def test_an_evaluation_imports_no_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True)
    assert done.stdout == "light\n", done.stderr
