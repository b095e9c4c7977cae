"""Loaders on files written here in the official layouts: what comes out, what is missing, what is damaged."""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import pickle
import struct
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from circa_train.data import DataError, data_names, load_data, tiny_imagenet
from circa_train.data.digits import enlarge

RANDOM = np.random.default_rng(0)


def picture(path, size=(8, 8), mode="RGB", colour=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if colour is not None else 0).save(path)


# --- digits and synthetic
# -----------------------------------------------------------------------------------------


def test_digits_have_a_fixed_test_set_and_documented_statistics():
    one, other = load_data("digits", seed=0), load_data("digits", seed=1)
    assert (len(one.train), len(one.validation), len(one.test)) == (1294, 144, 359)
    assert torch.equal(one.test.images, other.test.images)
    assert not torch.equal(one.validation.images, other.validation.images)
    assert (one.num_classes, one.image_size, one.channels) == (10, 32, 1)
    pixels = torch.cat([one.train.images, one.validation.images]).double() / 255
    assert pixels.mean().item() == pytest.approx(one.mean[0], abs=5e-4)
    assert pixels.std().item() == pytest.approx(one.std[0], abs=5e-4)


def test_digits_are_enlarged_smoothly():
    digit = np.zeros((1, 8, 8))
    digit[0, 3, :] = 16
    large = enlarge(digit)[0, 0].astype(int)
    assert large.shape == (32, 32)
    assert (large == large[:, :1]).all()
    # A row of 16 falls to both sides by an eighth, three eighths, ... of 255.
    assert large[8:20, 0].tolist() == [0, 0, 32, 96, 159, 223, 223, 159, 96, 32, 0, 0]


def test_synthetic_data_have_the_asked_shape_and_are_the_same_each_time():
    name = "synthetic:classes=3,size=12,channels=2,images=90"
    one, again = load_data(name), load_data(name)
    assert torch.equal(one.train.images, again.train.images)
    assert one.train.images.shape[1:] == (2, 12, 12)
    assert (one.num_classes, len(one.train) + len(one.validation), len(one.test)) == (3, 90, 22)


def test_synthetic_data_can_be_learned():
    data = load_data("synthetic")
    flat = data.train.images.flatten(1).double()
    means = torch.stack([flat[data.train.labels == label].mean(0) for label in range(10)])
    nearest = torch.cdist(data.test.images.flatten(1).double(), means).argmin(1)
    # Chance is 10%; 5 sigma above it, for 500 images, is 17%.
    assert (nearest == data.test.labels).double().mean() > 0.5


@pytest.mark.parametrize(
    "name", ["synthetic:depth=3", "synthetic:size=x", "synthetic:classes=1", "synthetic:size=0"]
)
def test_wrong_synthetic_names_are_refused(name):
    with pytest.raises(DataError, match="synthetic data"):
        load_data(name)


# --- CIFAR
# --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """Ten images per official file; torchvision's table of MD5 sums is set to these files."""
    datasets = pytest.importorskip("torchvision.datasets")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    written = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data = RANDOM.integers(0, 256, (20, 3072), dtype=np.uint8)
        written[name] = data
        content = {"batch_label": name, "labels": [i % 10 for i in range(20)], "data": data, "filenames": []}
        (folder / name).write_bytes(pickle.dumps(content))
    names = [f"class {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names, "num_vis": 3072}))

    def md5(name):
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    monkeypatch.setattr(
        datasets.CIFAR10, "train_list", [[f"data_batch_{i}", md5(f"data_batch_{i}")] for i in range(1, 6)]
    )
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5("test_batch")]])
    monkeypatch.setattr(
        datasets.CIFAR10,
        "meta",
        {"filename": "batches.meta", "key": "label_names", "md5": md5("batches.meta")},
    )
    return tmp_path, written


def test_cifar10_files_are_read(cifar10):
    root, written = cifar10
    data = load_data("cifar10", root=root)
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 10, 20)
    assert torch.equal(data.test.images, torch.from_numpy(written["test_batch"]).reshape(-1, 3, 32, 32))
    assert data.test.labels.tolist() == [i % 10 for i in range(20)]
    assert torch.bincount(data.validation.labels).tolist() == [1] * 10
    assert data.class_names[3] == "class 3"
    assert data.mean == (0.4914, 0.4822, 0.4465)
    again = load_data("cifar10", root=root)  # from the cache
    assert torch.equal(again.train.images, data.train.images)


def test_a_damaged_cifar_file_is_named_and_never_unpickled(cifar10):
    root, _ = cifar10
    path = root / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="data_batch_3 is damaged"):
        load_data("cifar10", root=root)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "tiny_imagenet"])
def test_a_missing_set_says_the_command_and_the_layout(tmp_path, name):
    if name.startswith("cifar"):
        pytest.importorskip("torchvision")
    with pytest.raises(DataError) as caught:
        load_data(name, root=tmp_path)
    message = str(caught.value)
    assert f"load_data('{name}', root='{tmp_path}', download=True)" in message
    assert str(tmp_path) in message.split("or ", 1)[1]
    assert not list(tmp_path.iterdir())  # nothing was fetched


# --- Fashion-MNIST
# ------------------------------------------------------------------------------------------------


def write_idx(path, array, *, compressed):
    content = (
        struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )
    path = path.with_name(path.name + ".gz") if compressed else path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if compressed else content)
    return path


@pytest.mark.parametrize(
    ("place", "compressed"), [("FashionMNIST/raw", False), ("fashion-mnist", True), (".", True)]
)
def test_fashion_mnist_files_are_read_and_padded(tmp_path, place, compressed):
    images = RANDOM.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    labels = (np.arange(30) % 10).astype(np.uint8)
    for part in ("train", "t10k"):
        write_idx(tmp_path / place / f"{part}-images-idx3-ubyte", images, compressed=compressed)
        write_idx(tmp_path / place / f"{part}-labels-idx1-ubyte", labels, compressed=compressed)
    data = load_data("fashion_mnist", root=tmp_path)
    assert data.test.images.shape == (30, 1, 32, 32)
    assert torch.equal(data.test.images[:, 0, 2:-2, 2:-2], torch.from_numpy(images))
    assert int(data.test.images.sum()) == int(images.sum())
    assert data.test.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("damage", [lambda c: c[:-5], lambda c: b"\0" * 40, lambda c: c[:6], lambda c: b""])
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_fashion_mnist_files_are_named(tmp_path, damage, compressed):
    paths = {}
    for part in ("train", "t10k"):
        for kind, array in (
            ("images-idx3", np.zeros((3, 28, 28), np.uint8)),
            ("labels-idx1", np.zeros(3, np.uint8)),
        ):
            name = f"{part}-{kind}-ubyte"
            paths[name] = write_idx(tmp_path / name, array, compressed=compressed)
    path = paths["t10k-images-idx3-ubyte"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.* is damaged"):
        load_data("fashion_mnist", root=tmp_path)


# --- TinyImageNet
# -------------------------------------------------------------------------------------------------

WNIDS = ("n02", "n01", "n03")


@pytest.fixture
def tiny(tmp_path):
    place = tmp_path / "tiny-imagenet-200"
    for number, wnid in enumerate(WNIDS):
        for i in range(6):
            grey = i == 0
            picture(place / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", (64, 64), "L" if grey else "RGB",
                    50 * number if grey else (50 * number, 9, 200))
    lines = [f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t0\t62\t62\n" for i in range(9)]
    for i in range(9):
        picture(place / "val" / "images" / f"val_{i}.JPEG", (64, 64), colour=(80 * (i % 3), 0, 0))
    (place / "val" / "val_annotations.txt").write_text("".join(lines))
    (place / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (place / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tsalamander\nn99\tunused\n")
    return tmp_path


def test_tiny_imagenet_is_read_with_its_validation_images_as_test_set(tiny):
    data = load_data("tiny_imagenet", root=tiny, validation_fraction=1 / 6)
    assert (len(data.train), len(data.validation), len(data.test)) == (15, 3, 9)
    assert data.train.images.shape[1:] == (3, 64, 64)
    assert data.class_names == ("salamander", "goldfish, Carassius auratus", "n03")
    assert data.test.labels.tolist() == [0, 1, 2] * 3
    assert (data.test.images[:, 0].float().mean((1, 2)) / 80).round().tolist() == [0, 1, 2] * 3
    everything = torch.cat([data.train.images, data.validation.images])
    grey = (everything[:, 0] == everything[:, 1]).flatten(1).all(1) & (
        everything[:, 1] == everything[:, 2]
    ).flatten(1).all(1)
    assert int(grey.sum()) == 3


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: (p / "val/images/val_4.JPEG").unlink(), "val_4.JPEG is missing"),
        (lambda p: (p / "train/n01/images/n01_2.JPEG").write_bytes(b"no image"), "n01_2.JPEG"),
        (
            lambda p: (p / "val/val_annotations.txt").write_text("val_0.JPEG n01\n"),
            "val_annotations.txt is damaged",
        ),
        (
            lambda p: (p / "val/val_annotations.txt").write_text("../../x\tn01\n"),
            "val_annotations.txt is damaged",
        ),
        (lambda p: (p / "wnids.txt").unlink(), "wnids.txt"),
        (lambda p: (p / "wnids.txt").write_text("n01\nn77\n"), "n77.* has no images"),
        (lambda p: picture(p / "train/n03/images/n03_1.JPEG", (32, 32)), "n03_1.JPEG is 32x32"),
    ],
)
def test_damaged_tiny_imagenet_is_refused_by_name(tiny, damage, said):
    damage(tiny / "tiny-imagenet-200")
    with pytest.raises(DataError, match=said):
        load_data("tiny_imagenet", root=tiny)


def archive_of(folder, path):
    with zipfile.ZipFile(path, "w") as members:
        for file in sorted(folder.rglob("*")):
            members.write(file, file.relative_to(folder.parent))
    return hashlib.md5(path.read_bytes()).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path_factory, monkeypatch):
    """A folder, and the address on this machine where its files are served."""
    folder = tmp_path_factory.mktemp("server")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_tiny_imagenet_is_fetched_checked_and_unpacked_on_request(
    tiny, server, tmp_path_factory, monkeypatch
):
    folder, address = server
    served = folder / "tiny-imagenet-200.zip"
    monkeypatch.setattr(tiny_imagenet, "MD5", archive_of(tiny / "tiny-imagenet-200", served))
    monkeypatch.setattr(tiny_imagenet, "URL", f"{address}/{served.name}")
    root = tmp_path_factory.mktemp("fresh")
    (root / served.name).write_bytes(served.read_bytes()[:100])  # an earlier, broken download
    assert len(load_data("tiny_imagenet", root=root, download=True).test) == 9
    assert sorted(p.name for p in root.iterdir()) == [
        ".circa_cache",
        "tiny-imagenet-200",
        "tiny-imagenet-200.zip",
    ]


def test_a_wrong_or_hostile_archive_is_refused_and_leaves_nothing(tmp_path):
    archive = tmp_path / "tiny.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("../evil.txt", "x")
    place = tmp_path / "in" / "tiny-imagenet-200"
    place.parent.mkdir()
    with pytest.raises(DataError, match=r"tiny\.zip is damaged: its MD5"):
        tiny_imagenet.unpack(archive, place, "0" * 32)
    with pytest.raises(DataError, match="outside its folder"):
        tiny_imagenet.unpack(archive, place, hashlib.md5(archive.read_bytes()).hexdigest())
    assert not list(place.parent.iterdir())
    assert not (tmp_path / "evil.txt").exists()


def test_a_failed_download_says_so_and_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match="could not fetch file:"):
        tiny_imagenet.fetch((tmp_path / "none.zip").as_uri(), tmp_path / "out.zip")
    assert not list(tmp_path.iterdir())


# --- ImageFolder
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pets"
    for part, count in (("train", 10), ("test", 2)):
        for number, name in enumerate(("cat", "dog")):
            for i in range(count):
                picture(root / part / name / f"{i}.png", colour=(100 * number, i, 7))
    return root


def load_folder(folder, **options):
    return load_data(f"imagefolder:{folder}", root=folder.parent / "data", **options)


def test_an_image_folder_is_read_with_statistics_of_its_training_split(folder):
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    data = load_folder(folder, validation_fraction=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 4, 4)
    assert data.class_names == ("cat", "dog")
    assert data.test.images[:, 0, 0, 0].tolist() == [0, 0, 100, 100]
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-9)
    assert load_folder(folder, limit=2, validation_fraction=0.2).mean == data.mean


def test_given_statistics_win_and_must_fit(folder):
    assert load_folder(folder, mean=(0.1, 0.2, 0.3), std=(1, 1, 1)).mean == (0.1, 0.2, 0.3)
    for options in (
        {"mean": (0.1,), "std": (1,)},
        {"mean": (0.1, 0.2, 0.3)},
        {"mean": (0, 0, 0), "std": (1, 1, 0)},
    ):
        with pytest.raises(ValueError, match="mean and std"):
            load_folder(folder, **options)


def test_val_is_the_test_set_or_the_validation_split(folder):
    os.rename(folder / "test", folder / "val")
    assert len(load_folder(folder).test) == 4
    for name in ("cat", "dog"):
        picture(folder / "test" / name / "0.png")
    data = load_folder(folder)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 4, 2)


def test_image_size_scales_and_cuts(folder):
    wide = Image.new("RGB", (40, 20), (0, 0, 255))
    wide.paste((255, 0, 0), (10, 0, 30, 20))
    wide.save(folder / "test" / "cat" / "0.png")
    with pytest.raises(DataError, match=r"0\.png is 40x20 and the first image 8x8"):
        load_folder(folder)
    data = load_folder(folder, image_size=10)
    assert data.image_size == 10
    assert (data.test.images[0, 0, :, 1:-1] == 255).all()  # the red middle; at its edges the scaling mixes
    assert not data.test.images[0, 2, :, 1:-1].any()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: os.rename(p / "train", p / "training"), "no folder .*train"),
        (lambda p: os.rename(p / "test", p / "testing"), "neither 'test' nor 'val'; move"),
        (lambda p: os.rename(p / "test/dog", p / "test/wolf"), "differ in the classes dog, wolf"),
        (lambda p: (p / "train/empty").mkdir(), "empty has no images"),
        (lambda p: (p / "train/dog/3.png").write_bytes((p / "train/dog/3.png").read_bytes()[:40]), "3.png"),
        (lambda p: picture(p / "train/cat/0.png", (9, 8)), "0.png is 9x8; images must be square"),
    ],
)
def test_a_wrong_image_folder_is_refused_by_name(folder, damage, said):
    damage(folder)
    with pytest.raises(DataError, match=said):
        load_folder(folder)


# --- load_data
# ----------------------------------------------------------------------------------------------------


def test_limit_bounds_every_split():
    data = load_data("digits", limit=20)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [20, 20, 20]
    assert torch.bincount(data.test.labels).tolist() == [2] * 10


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("mnist", {}, "no data set 'mnist'; there are digits, synthetic"),
        ("digits", {"limit": 0}, "limit"),
        ("digits", {"image_size": 16}, "'digits' has its own size"),
        ("digits", {"validation_fraction": 0}, "validation_fraction"),
    ],
)
def test_wrong_requests_are_refused(name, options, said):
    with pytest.raises(ValueError, match=said):
        load_data(name, **options)
    assert "digits" in data_names()


# --- image files as they are found


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    levels = np.array([0, 127, 128, 129, 257, 3500, 40500, 65535], np.uint16)
    for suffix in ("png", "tif"):
        root = tmp_path / suffix
        for part in ("train", "test"):
            for name in "ab":
                (root / part / name).mkdir(parents=True)
                for i in range(4):
                    Image.fromarray(np.tile(levels, (8, 1))).save(root / part / name / f"{i}.{suffix}")
        data = load_data(f"imagefolder:{root}", root=tmp_path / "data")
        assert data.test.images[0, :, 0].tolist() == [[0, 0, 0, 1, 1, 14, 158, 255]] * 3


def test_sixteen_bit_pgm_is_scaled(folder):
    for path in folder.rglob("*.png"):
        path.unlink()
        path.with_suffix(".pgm").write_bytes(b"P5 2 2 65535 " + struct.pack(">4H", 0, 257, 40500, 65535))
    assert load_folder(folder).test.images[0, 0].tolist() == [[0, 1], [158, 255]]


@pytest.mark.parametrize(("dtype", "said"), [(np.float32, "floating-point"), (np.int32, "32-bit")])
def test_pixels_that_do_not_say_what_is_white_are_refused(folder, dtype, said):
    Image.fromarray(np.full((8, 8), 0.5).astype(dtype)).save(folder / "train" / "cat" / "x.tif")
    with pytest.raises(DataError, match=rf"x\.tif has {said} pixels.*8 or 16 bits"):
        load_folder(folder)


def test_hidden_files_and_folders_are_no_part_of_the_data(folder):
    counted = len(load_folder(folder).train)
    for hidden in (".ipynb_checkpoints/0.png", ".0.png", "__MACOSX/0.png", "more/.hidden/0.png"):
        picture(folder / "train" / "cat" / hidden)
    (folder / "train" / "cat" / "._0.png").write_bytes(b"\0\5\x16\7" * 20)
    picture(folder / "train" / ".trash" / "0.png")
    picture(folder / "train" / "__MACOSX" / "cat" / "0.png")
    assert len(load_folder(folder).train) == counted


def test_links_are_followed_once(folder, tmp_path):
    counted = len(load_folder(folder).test)
    picture(tmp_path / "elsewhere" / "0.png")
    (folder / "test" / "cat" / "linked.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    (folder / "test" / "dog" / "linked").symlink_to(tmp_path / "elsewhere")
    assert len(load_folder(folder).test) == counted + 2
    (folder / "test" / "cat" / "gone.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(DataError, match=r"gone\.png has the name of an image and is a link to nothing"):
        load_folder(folder)
    (folder / "test" / "cat" / "gone.png").unlink()
    (folder / "test" / "cat" / "round").symlink_to(folder / "test" / "cat")
    with pytest.raises(DataError, match="round is a link to .* whose images are there already"):
        load_folder(folder)


def test_odd_names_are_named(folder):
    (folder / "test" / "cat" / "film.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"film\.gif is an image of a kind that is not read"):
        load_folder(folder)
    (folder / "test" / "cat" / "film.gif").unlink()
    for name in (b"two\nlines.png", b"latin\xe9.png"):
        path = os.path.join(os.fsencode(folder / "train" / "dog"), name)
        with open(path, "wb"):
            pass
        with pytest.raises(DataError, match=r"dog holds '(two\\nlines|latin\\udce9)\.png'.*rename it"):
            load_folder(folder)
        os.unlink(path)
    picture(folder / "train" / "cat" / "Ä b'c,%.JPG")
    assert len(load_folder(folder).train) + len(load_folder(folder).validation) == 21
    os.mkfifo(folder / "train" / "cat" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png .* is no regular file"):
        load_folder(folder)


def test_a_gzip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    from circa_train.data import fashion_mnist

    monkeypatch.setattr(fashion_mnist, "_MAX_BYTES", 1000)
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", np.zeros((30, 28, 28), np.uint8), compressed=True)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.zeros(30, np.uint8), compressed=True)
    with pytest.raises(DataError, match="more than 1000 bytes"):
        load_data("fashion_mnist", root=tmp_path)


def test_companions_of_a_mac_and_names_outside_are_no_images_of_tiny_imagenet(tiny):
    place = tiny / "tiny-imagenet-200"
    (place / "train/n01/images/._n01_0.JPEG").write_bytes(b"\0\5\x16\7" * 20)
    data = load_data("tiny_imagenet", root=tiny)
    assert len(data.train) + len(data.validation) == 18
    (place / "wnids.txt").write_text("../train/n01\n")
    with pytest.raises(DataError, match=r"'\.\./train/n01' is no name of a class"):
        load_data("tiny_imagenet", root=tiny)
