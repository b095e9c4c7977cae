"""A store serves once, and only what it was made for; damage is found before anything of it is used."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from circa_train.pi.stores import StoreError, Stores

NUMBER, OTHER = bytes(range(16)), bytes(16)
ABOUT = {"architecture": "ab", "images": 2}
LAYOUT = (("a", "<u8", (3, 2)), ("b", "<u4", (5,)), ("c", "u1", (3,)))
ARRAYS = {
    "a": np.arange(6, dtype=np.uint64).reshape(3, 2),
    "b": np.arange(5, dtype=np.uint32),
    "c": np.array([1, 0, 1], dtype=np.uint8),
}


@pytest.fixture
def stores(tmp_path):
    made = Stores(tmp_path / "stores", "client")

    def fill(store):
        store.put_value({"key": "00"})
        store.put(LAYOUT, ARRAYS)

    made.make(NUMBER, ABOUT, fill)
    return made


def read(stores, number=NUMBER, about=ABOUT):
    with stores.use(number, about) as store:
        return store.take_value(), store.take(LAYOUT)


def test_what_was_put_in_comes_out(stores):
    value, arrays = read(stores)
    assert value == {"key": "00"}
    assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)
    assert not stores.path(NUMBER).exists()


def test_a_store_is_not_used_twice(stores):
    read(stores)
    with pytest.raises(StoreError, match="was used"):
        read(stores)


def test_a_store_that_was_copied_back_is_refused(stores, tmp_path):
    copy = tmp_path / "copy"
    shutil.copy(stores.path(NUMBER), copy)
    read(stores)
    shutil.copy(copy, stores.path(NUMBER))
    with pytest.raises(StoreError, match="copied back"):
        read(stores)


def test_two_that_open_one_store_do_not_both_get_it(stores, tmp_path):
    with stores.use(NUMBER, ABOUT), pytest.raises(StoreError, match="was used"):
        read(stores)


def test_a_number_is_given_once(stores):
    with pytest.raises(StoreError, match="already"):
        stores.make(NUMBER, ABOUT, lambda store: None)
    read(stores)
    with pytest.raises(StoreError, match="already"):
        stores.make(NUMBER, ABOUT, lambda store: None)


def test_a_store_of_something_else_is_refused_and_not_spent(stores):
    with pytest.raises(StoreError, match="images differ"):
        read(stores, about=ABOUT | {"images": 3})
    read(stores)


def test_a_store_under_another_number_is_refused(stores):
    stores.path(NUMBER).rename(stores.path(OTHER))
    with pytest.raises(StoreError, match="damaged"):
        read(stores, OTHER)


def test_there_must_be_one(stores):
    with pytest.raises(StoreError, match="there is no store"):
        read(stores, OTHER)


def test_every_cut_is_found_before_use(stores):
    content = stores.path(NUMBER).read_bytes()
    for length in range(0, len(content), 13):
        stores.path(NUMBER).write_bytes(content[:length])
        with pytest.raises(StoreError), stores.use(NUMBER, ABOUT):
            pytest.fail(f"a store cut to {length} of {len(content)} bytes was opened")


def test_every_changed_byte_is_found_before_that_record_is_used(stores, tmp_path):
    content = stores.path(NUMBER).read_bytes()
    for place in range(0, len(content), 11):
        other = Stores(tmp_path / f"at{place}", "client")
        other.path(NUMBER).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(StoreError):
            read_all(other)


def read_all(stores):
    with stores.use(NUMBER, ABOUT) as store:
        store.take_value()
        store.take(LAYOUT)
        store.take_value()


def test_a_preparation_that_fails_leaves_nothing(tmp_path):
    stores = Stores(tmp_path, "server")

    def fail(store):
        store.put(LAYOUT, ARRAYS)
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        stores.make(NUMBER, ABOUT, fail)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_stores_are_their_owners_alone(stores):
    assert stores.path(NUMBER).stat().st_mode & 0o077 == 0
    assert stores.path(NUMBER).parent.stat().st_mode & 0o077 == 0
