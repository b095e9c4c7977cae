"""What the server receives online is uniform, and says nothing of the image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from circa_train.gc.protocol import MessageKind
from circa_train.pi.line import Line
from circa_train.pi.session import together

BINS = 16

#: Of a chi-square test that is asked about 40 times, a wrong alarm in a billion.
LEVEL = 1e-9 / 40


@pytest.fixture(scope="module")
def openings(networks):
    """Words that the server received online, by image and place: uint32 (batch, words)."""
    network, found = networks("chain"), {}
    shape = network.architecture.input_shape
    images = {"dark": np.full((24, *shape), -2048), "bright": np.full((24, *shape), 2047)}
    real = Line.receive

    with pytest.MonkeyPatch.context() as patch:
        for name, x in images.items():
            seen: dict[str, list[np.ndarray]] = {}

            def receive(self, kind, size, seen=seen, **about):
                message = real(self, kind, size, **about)
                if self.phase == "online" and kind in (MessageKind.ANSWER, MessageKind.SHARES):
                    words = message.payload.view("<u4").copy()
                    seen.setdefault(f"{kind.name} {self.place}", []).append(words)
                return message

            patch.setattr(Line, "receive", receive)
            together(network, lambda client, x=x: client.infer(client.prepare(len(x)), x))
            found[name] = {key: np.concatenate(parts) for key, parts in seen.items()}
    return network.architecture.prime, found


def statistic(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


def test_opened_values_are_uniform_whatever_the_image(openings):
    prime, found = openings
    for name, by_place in found.items():
        answers = {key: words for key, words in by_place.items() if not key.endswith(" fc")}
        assert len(answers) >= 3
        for key, words in answers.items():
            counts = np.bincount(words.astype(np.int64) * BINS // prime, minlength=BINS)
            value = statistic(counts, len(words) / BINS)
            assert value < chi2.isf(LEVEL, BINS - 1), (name, key, counts.tolist())
            low = np.bincount(words % BINS, minlength=BINS)  # p mod 16 = 1: as good as uniform
            assert statistic(low, len(words) / BINS) < chi2.isf(LEVEL, BINS - 1), (name, key, low.tolist())


def test_opened_values_of_two_images_are_alike(openings):
    """A two-sample test by place; and no value is what it was for the other image."""
    prime, found = openings
    for key, words in found["dark"].items():
        other = found["bright"][key]
        if key.endswith(" fc"):
            continue
        counts = [np.bincount(w.astype(np.int64) * BINS // prime, minlength=BINS) for w in (words, other)]
        value = sum(statistic(c, (counts[0] + counts[1]) / 2) for c in counts)
        assert value < chi2.isf(LEVEL, BINS - 1), key
        # equal words are as rare as among uniform ones: n / p of them, so none but once in 10^4 runs
        assert (words == other).sum() <= 3


def test_the_test_would_see_a_mask_that_is_not_uniform():
    """A 32-bit draw reduced modulo p favours the lower residues by half."""
    prime = 2138816513
    draws = np.random.default_rng(0).integers(0, 2**32, 20_000) % (prime // 2)
    counts = np.bincount(draws * BINS // prime, minlength=BINS)
    assert statistic(counts, len(draws) / BINS) > chi2.isf(LEVEL, BINS - 1)
