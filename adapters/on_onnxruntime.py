"""The real network of an exported folder on ONNX Runtime (pypi.org/project/onnxruntime), beside its integers.

    python adapters/on_onnxruntime.py FOLDER [images]

No secrets, no parties: ``network.onnx`` runs in float32 on the images of the test vectors. Its logits must be
those that the manifest records (``vectors.real_logits``) up to float32's rounding, which may sum in another
order; and the integer network's with exact ReLUs (``exact.floor``) up to what integers round: within the
manifest's ``integer_error``, or what an export is refused beyond. Folders before format 3 record neither.
"""

from pathlib import Path

import numpy as np
import onnxruntime
from running import Laps, main, open_network, report

#: Of the largest logit: float32 has 24 bits, and a layer sums up some ten thousand products.
ROUNDING = 1e-3

#: Of the largest logit: what an export is refused beyond, unless it was told to accept more.
INTEGERS = 0.25


def run(folder, images=20):
    manifest, _, vectors = open_network(folder, images, "exact.floor")
    if manifest["format"] < 3:
        raise NotImplementedError(f"{folder} is of format {manifest['format']}: real_logits came with 3")
    pixels, output, laps = vectors["images"] / 255.0, manifest["output"], Laps()
    channels = -1, *[1] * (pixels.ndim - 2)
    mean, std = (np.reshape(manifest["input"][key], channels) for key in ("mean", "std"))
    model = str(Path(folder) / "network.onnx")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    laps.end("start")
    given = {session.get_inputs()[0].name: ((pixels - mean) / std).astype(np.float32)}
    (logits,) = session.run(None, given)
    laps.end("network.onnx")
    accepted = max(INTEGERS, 2 * manifest["integer_error"])
    recorded = np.array(manifest["vectors"]["real_logits"])[: len(logits)]
    integers = vectors["exact.floor"] * np.divide(*output["factor"]) * 2.0 ** -output["frac_bits"]
    differences = {
        "real_logits": (abs(logits - recorded) / abs(logits).max(), ROUNDING),
        "exact.floor": (abs(logits - integers) / abs(logits).max(), accepted),
    }
    far = np.stack([difference > most for difference, most in differences.values()]).any(0)
    largest = {name: float(difference.max()) for name, (difference, _) in differences.items()}
    runtime, nothing = f"ONNX Runtime {onnxruntime.__version__}", np.zeros_like(far)
    what = "network.onnx"
    return report(runtime, 1, what, far, nothing, manifest, laps.seconds, {}, largest_difference=largest)


if __name__ == "__main__":
    main(run)
