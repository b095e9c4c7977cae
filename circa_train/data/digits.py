"""scikit-learn's handwritten digits, which need no download: 1,797 images of 8x8 pixels and 17 grey levels.

They are a copy of the test part of the UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
1998), enlarged here to 32x32 so that networks for CIFAR run on them. A fifth of the images, always the same,
is the test set.
"""

from __future__ import annotations

import numpy as np
import torch

from circa_train.data.images import DataError, Decoded, ImageSet
from circa_train.data.splitting import split

SIDE = 32
TEST_FRACTION = 0.2
TEST_SEED = 0
# Of the enlarged images outside the test set, rounded.
MEAN, STD = (0.305,), (0.324,)


def decode() -> Decoded:
    """The digits as (N, 1, 32, 32); ``train`` is everything outside the test set."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(f"data set 'digits' ships with scikit-learn, which does not import here ({error}); "
                        "pip install scikit-learn") from error
    bunch = load_digits()
    everything = ImageSet(
        torch.from_numpy(enlarge(bunch.images)), torch.from_numpy(bunch.target.astype(np.int64))
    )
    train, test = split(everything, TEST_FRACTION, TEST_SEED)
    return Decoded(train, test, tuple(str(digit) for digit in range(10)))


def enlarge(digits: np.ndarray) -> np.ndarray:
    """(N, 8, 8) with levels 0 to 16 -> uint8 (N, 1, 32, 32), bilinear between pixel centres, edges repeated.

    All weights are multiples of 1/64, so the result is the same on every machine.
    """
    factor = SIDE // digits.shape[1]
    centres = np.clip((np.arange(SIDE) + 0.5) / factor - 0.5, 0, digits.shape[1] - 1)
    below = np.minimum(centres.astype(int), digits.shape[1] - 2)
    weights = np.zeros((SIDE, digits.shape[1]))
    weights[np.arange(SIDE), below] = 1 - (centres - below)
    weights[np.arange(SIDE), below + 1] = centres - below
    enlarged = np.einsum("ri,nij,cj->nrc", weights, digits, weights)
    return np.rint(enlarged * (255 / 16)).astype(np.uint8)[:, None]
