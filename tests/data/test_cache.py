"""The cache of decoded images: used once written, rebuilt when the source changes or the cache is damaged."""

from __future__ import annotations

import os

import pytest
import torch

from circa_train.data.cache import FOLDER, cached
from circa_train.data.images import Decoded, ImageSet


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.bin"
    path.write_bytes(b"1234")
    return path


class Decoder:
    """Counts how often it runs."""

    def __init__(self, validation=False):
        self.runs = 0
        self.validation = validation

    def __call__(self):
        self.runs += 1
        part = ImageSet(torch.arange(48, dtype=torch.uint8).reshape(4, 3, 2, 2), torch.arange(4))
        return Decoded(part, part.subset(torch.tensor([2])), ("a", "ä"), part if self.validation else None)


def folders(root):
    return sorted((root / FOLDER).iterdir())


@pytest.mark.parametrize("validation", [False, True])
def test_the_second_time_nothing_is_decoded(tmp_path, source, validation):
    decode = Decoder(validation)
    first, again = (cached(tmp_path, "x", [source], {}, decode) for _ in range(2))
    assert decode.runs == 1
    for loaded in (first, again):
        assert torch.equal(loaded.train.images, decode().train.images)
        assert loaded.test.labels.tolist() == [2]
        assert loaded.class_names == ("a", "ä")
        assert (loaded.validation is not None) == validation
    assert len(folders(tmp_path)) == 1


def test_writing_to_the_images_does_not_reach_the_file(tmp_path, source):
    decode = Decoder()
    cached(tmp_path, "x", [source], {}, decode).train.images.zero_()
    assert cached(tmp_path, "x", [source], {}, decode).train.images.any()
    assert decode.runs == 1


def test_a_changed_source_or_option_is_decoded_again(tmp_path, source):
    decode = Decoder()
    cached(tmp_path, "x", [source], {}, decode)
    cached(tmp_path, "x", [source], {"image_size": 3}, decode)
    assert decode.runs == 2
    os.utime(source, ns=(1, 1))
    cached(tmp_path, "x", [source], {}, decode)
    assert decode.runs == 3
    source.write_bytes(b"12345")
    os.utime(source, ns=(1, 1))
    cached(tmp_path, "x", [source], {}, decode)
    assert decode.runs == 4


def flip_last_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_last_bit(folder / "train.npy"),
        lambda folder: flip_last_bit(folder / "test_labels.npy"),
        lambda folder: (folder / "test.npy").write_bytes((folder / "test.npy").read_bytes()[:-8]),
        lambda folder: (folder / "train_labels.npy").unlink(),
        lambda folder: (folder / "index.json").write_text("{"),
        lambda folder: (folder / "index.json").write_text("[" * 100_000),
        lambda folder: (folder / "index.json").write_text(
            (folder / "index.json").read_text().replace('"a"', '"b"')
        ),
        lambda folder: (folder / "index.json").write_text("[]"),
        lambda folder: (folder / "index.json").unlink(),
    ],
)
def test_a_damaged_cache_is_rebuilt(tmp_path, source, damage):
    decode = Decoder()
    cached(tmp_path, "x", [source], {}, decode)
    damage(folders(tmp_path)[0])
    with pytest.warns(UserWarning, match="is damaged; decoding"):
        loaded = cached(tmp_path, "x", [source], {}, decode)
    assert torch.equal(loaded.train.images, decode().train.images)
    runs = decode.runs
    cached(tmp_path, "x", [source], {}, decode)
    assert decode.runs == runs


def test_without_a_place_for_the_cache_the_data_still_come(tmp_path, source):
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="decoded again next time"):
        assert len(cached(tmp_path, "x", [source], {}, Decoder()).train) == 4


def test_an_interrupted_decoding_leaves_nothing(tmp_path, source):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "x", [source], {}, interrupted)
    assert not (tmp_path / FOLDER).exists()


def test_a_cache_that_another_process_finished_first_is_used(tmp_path, source):
    def meanwhile():
        cached(tmp_path, "x", [source], {}, Decoder())
        return Decoder()()

    assert len(cached(tmp_path, "x", [source], {}, meanwhile).train) == 4
    assert len(folders(tmp_path)) == 1
