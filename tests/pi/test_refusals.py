"""A peer that dies, lies or has something else is refused by name on both sides, and nothing comes out."""

from __future__ import annotations

import shutil
import socket
import struct
import threading
import time

import numpy as np
import pytest

from circa_train.export.layers import ExportError
from circa_train.gc.protocol import Listener, NobodyListens, connect, memory_pair
from circa_train.pi import handshake
from circa_train.pi.architecture import Architecture, ArchitectureError
from circa_train.pi.clear import logits_under
from circa_train.pi.client import Client
from circa_train.pi.dealer import Dealer, ask_for_server
from circa_train.pi.handshake import Refused
from circa_train.pi.network import load_network
from circa_train.pi.server import Server
from circa_train.pi.serving import serve_clients
from circa_train.pi.session import dealer_beside, together
from circa_train.pi.stores import StoreError, Stores

GONE = (ConnectionError, TimeoutError, ValueError)


class Faulty:
    """A transport whose party does something wrong at its message number ``at``."""

    def __init__(self, transport, at, what):
        self._transport, self._at, self._what, self.sent = transport, at, what, 0

    def send(self, data):
        self.sent += 1
        if self.sent - 1 != self._at:
            self._transport.send(data)
        elif self._what == "dies":
            self._transport.close()
            raise ConnectionError("this party was told to die")
        elif self._what == "garbage":
            self._transport.send(bytes(len(data)))
        elif self._what == "flips a bit":
            self._transport.send(data[:-1] + bytes([data[-1] ^ 1]))
        elif self._what == "repeats":
            self._transport.send(data)
            self._transport.send(data)
        elif self._what == "leaves out":
            pass

    def receive(self, limit):
        return self._transport.receive(limit)

    def close(self):
        self._transport.close()

    sent_bytes = property(lambda self: self._transport.sent_bytes)
    received_bytes = property(lambda self: self._transport.received_bytes)


#: Seconds for a message. Whoever dies is noticed at once, so no test waits for it, however slow the machine.
PATIENCE = 300.0


def attempt(network, x, folder, dealer, at, what, who, timeout=PATIENCE):
    """(how the server ended, how the client ended, messages that the faulty party sent, seconds)."""
    here, there = memory_pair(timeout)
    ends = {"server": here, "client": there}
    ends[who] = Faulty(ends[who], at, what)
    ended = {}

    def serve():
        try:
            server = Server(
                network, Stores(folder, "server"), dealer=dealer, own_dealer=True, timeout=timeout
            )
            ended["server"] = server.serve(ends["server"])
        except BaseException as error:
            ended["server"] = error

    thread = threading.Thread(target=serve)
    thread.start()
    begun = time.monotonic()
    try:
        client = Client(ends["client"], Stores(folder, "client"), timeout=timeout)
        number = client.prepare(1)
        ended["client"] = client.infer(number, x)
        client.end()
    except BaseException as error:
        ended["client"] = error
        ends["client"].close()
    thread.join(timeout=PATIENCE)
    assert not thread.is_alive()
    return ended["server"], ended["client"], getattr(ends[who], "sent", 0), time.monotonic() - begun


@pytest.fixture(scope="module")
def chain(networks, inputs):
    with dealer_beside(networks("chain")) as dealer:
        yield networks("chain"), inputs("chain")[:1], dealer


@pytest.fixture(scope="module")
def counts(chain, tmp_path_factory):
    """How many messages either party sends when nothing is wrong."""
    network, x, dealer = chain
    found = {}
    for who in ("server", "client"):
        server, client, found[who], _ = attempt(
            network, x, tmp_path_factory.mktemp(who), dealer, None, "", who
        )
        assert not isinstance(server, BaseException)
        assert isinstance(client, np.ndarray)
    return found


@pytest.mark.parametrize("what", ["dies", "garbage", "flips a bit", "repeats"])
@pytest.mark.parametrize("who", ["server", "client"])
def test_a_party_that_goes_wrong_at_some_message(who, what, chain, counts, tmp_path):
    """At a few messages of every phase; all of them in the slow test."""
    network, x, dealer = chain
    for at in sorted({0, counts[who] // 3, counts[who] - 3}):
        check_both_ends(attempt(network, x, tmp_path / str(at), dealer, at, what, who), at)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["dies", "garbage", "flips a bit", "repeats"])
@pytest.mark.parametrize("who", ["server", "client"])
def test_a_party_that_goes_wrong_at_any_message(who, what, chain, counts, tmp_path):
    network, x, dealer = chain
    for at in range(counts[who] - 1):  # behind the last one nothing is due that could be wrong
        check_both_ends(attempt(network, x, tmp_path / str(at), dealer, at, what, who), at)


def check_both_ends(outcome, at):
    server, client, _, seconds = outcome
    assert isinstance(client, GONE) or isinstance(server, GONE), at
    if isinstance(client, np.ndarray):  # only what follows the logits went wrong
        assert isinstance(server, GONE)
    for end in (server, client):
        if isinstance(end, BaseException):
            assert isinstance(end, GONE), (at, repr(end))
            assert str(end)
    assert seconds < PATIENCE  # nobody waited for the deadline


def test_a_party_that_stays_silent_is_given_up(chain, counts, tmp_path):
    network, x, dealer = chain
    at = counts["server"] // 2
    server, client, _, _ = attempt(network, x, tmp_path, dealer, at, "leaves out", "server", timeout=1.0)
    assert isinstance(client, GONE)
    assert isinstance(server, GONE)


def test_another_version_is_refused_by_both(chain, tmp_path, monkeypatch):
    network, x, dealer = chain
    real = handshake.Greeting.send

    def older(self, line):
        real(handshake.Greeting(self.offline, self.architecture, self.parameters, version=7), line)

    monkeypatch.setattr(handshake.Greeting, "send", older)
    server, client, _, _ = attempt(network, x, tmp_path, dealer, None, "", "client")
    assert isinstance(server, Refused)
    assert isinstance(client, Refused)
    assert "version 7" in str(client)


@pytest.mark.parametrize("what", ["architecture", "parameters", "offline"])
def test_another_network_is_refused_by_both_with_its_digest(what, networks, tmp_path):
    network, other = networks("chain"), networks("exact")
    here, there = memory_pair(PATIENCE)
    server = Server(network, Stores(tmp_path, "server"), dealer=("127.0.0.1", 1))
    ended = []

    def serve():
        with pytest.raises(Refused) as caught:
            server.serve(here)
        ended.append(str(caught.value))

    thread = threading.Thread(target=serve)
    thread.start()
    wanted = {
        "architecture": {"architecture": other.architecture},
        "parameters": {"parameters": bytes(range(32))},
        "offline": {"offline": "homomorphic"},
    }
    with pytest.raises(Refused) as caught:
        Client(there, Stores(tmp_path, "client"), **wanted[what])
    thread.join()
    for text in (str(caught.value), *ended):
        assert ("homomorphic" if what == "offline" else f"its {what} have the digest") in text


@pytest.mark.parametrize("length", [1 << 62, 1 << 40, (1 << 31) - 1])
def test_a_giant_length_is_refused_without_taking_memory(length, networks, tmp_path):
    server = Server(networks("chain"), Stores(tmp_path, "server"), dealer=("127.0.0.1", 1))
    with Listener(timeout=60) as listener, socket.create_connection(listener.address) as stranger:
        transport = listener.accept()
        stranger.sendall(struct.pack("<Q", length) + b"x" * 100)
        with pytest.raises(ConnectionError, match="announced"):
            server.serve(transport)


def test_another_program_is_refused(networks, tmp_path):
    server = Server(networks("chain"), Stores(tmp_path, "server"), dealer=("127.0.0.1", 1))
    with Listener(timeout=60) as listener, socket.create_connection(listener.address) as stranger:
        transport = listener.accept()
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(200))
        with pytest.raises((ConnectionError, ValueError)):
            server.serve(transport)


def test_an_inference_needs_a_preparation_that_neither_party_has_used(chain, inputs):
    network, x, _ = chain

    def converse(client):
        number = client.prepare(1)
        client.infer(number, x)
        with pytest.raises(StoreError, match="was used"):
            client.infer(number, x)
        return None

    together(network, converse)


def test_a_server_refuses_a_preparation_that_it_has_used(chain, tmp_path):
    """Also if the client has copied its own store and its marks back."""
    network, x, _ = chain

    def converse(client):
        number = client.prepare(1)
        path = client._stores.path(number)
        shutil.copy(path, tmp_path / "copy")
        client.infer(number, x)
        shutil.copy(tmp_path / "copy", path)
        (path.parent / "spent-client" / number.hex()).unlink()
        client.infer(number, x)

    with pytest.raises(Refused, match="no unused preparation"):
        together(network, converse)


def test_the_dealer_answers_each_party_once(networks):
    network, number = networks("chain"), bytes(range(16))
    with dealer_beside(network) as dealer:
        digest = network.architecture.digest
        assert ask_for_server(dealer, number, digest, 1, 60.0)
        with pytest.raises(ConnectionError, match="dealer refused"):
            ask_for_server(dealer, number, digest, 1, 60.0)
        with pytest.raises(ConnectionError, match="dealer refused"):
            ask_for_server(dealer, bytes(16), bytes(32), 1, 60.0)
    seeds = [Dealer(network)._seed(number, 1) for _ in range(2)]
    assert seeds[0] != seeds[1]  # another dealer has other secrets


def test_a_dealer_that_is_not_there_is_named_with_what_to_do():
    with socket.socket() as taken:  # a port that is bound, and listens to nobody
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(NobodyListens, match=r"the dealer is not there: .*scripts/deal\.py.*pi\.dealer="):
            ask_for_server(taken.getsockname(), bytes(16), bytes(32), 1, 1.0)


def test_two_clients_at_once_do_not_mix(networks, inputs, tmp_path):
    network, x = networks("chain"), inputs("chain")
    found = {}
    with dealer_beside(network) as dealer, Listener(timeout=PATIENCE) as listener:
        server = Server(network, Stores(tmp_path, "server"), dealer=dealer, own_dealer=True)
        serving = threading.Thread(target=serve_clients, args=(server, listener), kwargs={"connections": 2})
        serving.start()
        together_ = threading.Barrier(2)

        def one(name):
            client = Client(connect(listener.address, PATIENCE), Stores(tmp_path / name, "client"))
            together_.wait()
            rounds = []
            for _ in range(2):
                number = client.prepare(1, keep_masks=True)
                together_.wait()
                rounds.append((client.infer(number, x[:1]), client.masks))
            client.end()
            found[name] = rounds

        threads = [threading.Thread(target=one, args=(name,)) for name in ("one", "two")]
        for thread in (*threads,):
            thread.start()
        for thread in (*threads, serving):
            thread.join(timeout=PATIENCE)
    for rounds in found.values():
        for logits, masks in rounds:
            expected = logits_under(network.architecture, network.tensors, x[:1], masks)
            assert np.array_equal(logits, expected)
    assert len(found) == 2


FILES = ["manifest.json", "weights.safetensors", "vectors.safetensors", "network.onnx", "README.md",
         "reader.py", "SHA256SUMS"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_folder_damaged_in_any_file_is_refused_before_anything_is_sent(name, folders, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(folders("chain"), folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ExportError):
        load_network(folder)


def hostile(value, path, new):
    """A copy of JSON values with one of them replaced."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = hostile(value[path[0]], path[1:], new)
    return copy


HOSTILE = {
    "no prime": (("prime",), 15),
    "a giant prime": (("prime",), 2**61 - 1),
    "a layer that reads itself": (("layers", 1, "inputs"), ["one"]),
    "a giant shape": (("layers", 0, "shape"), [1 << 30, 1 << 30, 8]),
    "an image of another shape": (("layers", 0, "shape"), [3, 9, 9]),
    "a negative stride": (("layers", 1, "stride"), [-1, 1]),
    "no stride": (("layers", 1, "stride"), [0, 0]),
    "giant padding": (("layers", 1, "padding"), [1 << 40, 1 << 40]),
    "an unknown kind": (("layers", 1, "kind"), "exec"),
    "weights of another shape": (("shapes", "one.weight"), [4, 3, 5, 5]),
    "a weight without a layer": (("shapes", "nobody.weight"), [4]),
    "text for a number": (("unit", 0), "22"),
    "an output that is not there": (("output",), "nowhere"),
    "no standard deviation": (("preprocessing", "std"), [0, 0, 0]),
    "a mode that is none": (("layers", 5, "mode"), "both"),
    "everything else": ((), [1, 2, 3]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_architecture_that_contradicts_itself_is_refused(what, networks):
    value = networks("chain").architecture.value
    path, new = HOSTILE[what]
    if what == "a weight without a layer":
        value = value | {"shapes": value["shapes"] | {"nobody.weight": [4]}}
    if what == "a mode that is none":
        place = next(i for i, layer in enumerate(value["layers"]) if layer["kind"] == "relu")
        path = ("layers", place, "mode")
    with pytest.raises(ArchitectureError):
        Architecture.from_value(hostile(value, path, new))


@pytest.mark.parametrize("text", [b"", b"[", b"[" * 100_000, b'{"prime": NaN}', b"\xff\xfe", b"null"])
def test_what_is_no_architecture_is_refused(text):
    with pytest.raises(ArchitectureError):
        Architecture.from_json(text)


def test_an_architecture_travels_unchanged(networks):
    for name in ("mixed", "reduced"):
        architecture = networks(name).architecture
        again = Architecture.from_json(architecture.to_json())
        assert again.digest == architecture.digest
        assert again.value == architecture.value
