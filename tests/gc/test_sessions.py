"""Sessions: what does not belong here and now is refused, nobody is held, and secrets stay in one process."""

from __future__ import annotations

import datetime
import ipaddress
import multiprocessing
import pickle
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gc_cases import boundary_pairs, plain

from circa_train.field import to_centred
from circa_train.gc.aes.randomness import Randomness
from circa_train.gc.circuits.relu import ReluCircuit
from circa_train.gc.protocol.beaver import TrustedDealer
from circa_train.gc.protocol.channel import Channel
from circa_train.gc.protocol.garbling import Garbler
from circa_train.gc.protocol.messages import Due, Message, MessageKind, overhead
from circa_train.gc.protocol.ot import EvaluatorTransfer, GarblerTransfer
from circa_train.gc.protocol.parties import client, run_party, server
from circa_train.gc.protocol.transport import Listener, connect, memory_pair

RELU = ReluCircuit(k=3, prime=251)


class Line:
    """A transport that lets its user look at and replace what arrives, message by message."""

    def __init__(self, inner, replace=lambda number, data: data):
        self._inner, self._replace, self._count = inner, replace, 0
        self.seen = []

    def send(self, data):
        self._inner.send(data)

    def receive(self, limit=1 << 31):
        data = bytes(self._inner.receive(1 << 31))
        self.seen.append(data)
        self._count += 1
        return self._replace(self._count - 1, data)

    def close(self):
        self._inner.close()


def run(to_server=lambda number, data: data, to_client=lambda number, data: data, seed=5):
    """Both parties of 24 ReLUs in chunks of 8: (the server's share or error, the client's, their lines)
    """
    server_share, mask = np.arange(24) * 10 % 251, np.arange(24) * 7 % 251
    deals = TrustedDealer(251, seed).deal_on_demand()
    ends = memory_pair(timeout=20)
    lines = [Line(ends[0], to_server), Line(ends[1], to_client)]
    parties = [
        server(RELU, server_share, deals[0], seed=1, kernel="numpy", chunk=8),
        client(RELU, mask, deals[1], seed=2, kernel="numpy", chunk=8),
    ]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(run_party, *pair) for pair in zip(parties, lines, strict=True)]
        results = [job.exception() or job.result()[0] for job in running]
    return *results, lines


def test_no_message_of_another_session_is_accepted_though_all_else_is_the_same():
    *_, recorded = run()
    assert [len(line.seen) for line in recorded] == [1 + 2 * 3, 2 + 3 * 3]
    for number in (0, 1, 6):
        old = recorded[0].seen[number]
        ended = run(to_server=lambda n, data, number=number, old=old: old if n == number else data)
        assert any("another connection" in str(error) for error in ended[:2]), number
        assert isinstance(ended[0], (ValueError, ConnectionError)), number
    for number in (0, 1, 4, 10):
        old = recorded[1].seen[number]
        ended = run(to_client=lambda n, data, number=number, old=old: old if n == number else data)
        assert isinstance(ended[1], ValueError), number
        assert "another connection" in str(ended[1]), number


def test_a_message_of_an_earlier_chunk_is_refused():
    cases = (("to_server", 4, "OPENING"), ("to_client", 7, "OPENING"), ("to_client", 5, "TABLES"))
    for to, first, message in cases:
        kept = []

        def replace(number, data, kept=kept, first=first, to=to):
            kept.append(data)
            period = 2 if to == "to_server" else 3
            return kept[number - period] if number == first else data

        ended = run(**{to: replace})
        error = ended[0 if to == "to_server" else 1]
        assert isinstance(error, ValueError), (to, first, error)
        assert message in str(error)
        assert "played again" in str(error)


def test_an_opening_says_which_chunk_it_is_of():
    *_, lines = run()
    openings = [Message.without_payload(data) for data in lines[0].seen[2::2]]
    assert [message.kind for message in openings] == [MessageKind.OPENING] * 3
    assert [message.first_instance for message in openings] == [0, 8, 16]
    assert {message.circuit for message in openings} == {RELU.circuit.fingerprint}


def test_a_party_is_not_its_own_peer():
    here, there = memory_pair(timeout=5)
    channel = Channel(here)
    channel.send(Message(MessageKind.BASE_OT_POINT, np.zeros(32, np.uint8)))
    there.send(there.receive())
    with pytest.raises(ValueError, match="own session"):
        channel.receive(Due(MessageKind.BASE_OT_POINT, 32))


def test_a_session_begins_with_one_message_of_each():
    here, _ = memory_pair(timeout=5)
    channel = Channel(here)
    message = Message(MessageKind.BASE_OT_POINT, np.zeros(32, np.uint8))
    channel.send(message)
    with pytest.raises(RuntimeError, match="then waits for one"):
        channel.send(message)


def test_the_kind_that_is_due_bounds_the_length():
    """32 bytes are due; a frame of 2 GiB is refused at its announcement, and an honest one that differs in
    the circuit says so.
    """
    with Listener(timeout=10) as listener:
        theirs = connect(listener.address, timeout=10)
        mine = listener.accept()
    theirs._socket.sendall((1 << 31).to_bytes(8, "little") + bytes(100))
    with pytest.raises(ConnectionError, match="2147483648 bytes was announced where at most 112 are due"):
        Channel(mine).receive(Due(MessageKind.BASE_OT_POINT, 32))
    theirs.close()
    mine.close()
    here, there = memory_pair(timeout=5)
    there.send(Message(MessageKind.TABLES, np.zeros(99, np.uint8), b"another!").to_bytes())
    with pytest.raises(ValueError, match="another circuit"):
        Channel(here).receive(Due(MessageKind.TABLES, 32, b"this one"))
    there.send(Message(MessageKind.TABLES, np.zeros(99, np.uint8), b"this one").to_bytes())
    with pytest.raises(ConnectionError, match=f"{99 + overhead()} bytes was announced where at most"):
        Channel(here).receive(Due(MessageKind.TABLES, 32, b"this one"))


def test_one_byte_at_a_time_does_not_hold_a_party():
    with Listener(timeout=0.3) as listener:
        theirs = connect(listener.address, timeout=5)
        mine = listener.accept()
    stop = threading.Event()

    def drip():
        theirs._socket.sendall((100).to_bytes(8, "little"))
        while not stop.wait(0.05):
            theirs._socket.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"of 100 bytes that were due for 0\.3 s"):
        mine.receive(1000)
    assert time.monotonic() - started < 2
    stop.set()
    thread.join()
    mine.close()
    theirs.close()


def test_a_peer_that_reads_one_byte_at_a_time_does_not_hold_the_sender():
    with Listener(timeout=0.3) as listener:
        theirs = connect(listener.address, timeout=5)
        mine = listener.accept()
    stop = threading.Event()

    def sip():
        while not stop.wait(0.05):
            theirs._socket.recv(1)

    thread = threading.Thread(target=sip)
    thread.start()
    with pytest.raises(TimeoutError, match=r"did not take 30000000 bytes within 0\.3 s"):
        mine.send(bytes(30_000_000))
    stop.set()
    thread.join()
    mine.close()
    theirs.close()


# --- forks


def in_a_fork(work):
    """What ``work`` returns in a forked child, or the text of its error."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def child():
        try:
            there.send(work())
        except Exception as error:
            there.send(f"{type(error).__name__}: {error}")

    process = context.Process(target=child)
    process.start()
    result = here.recv()
    process.join()
    return result


def transfers():
    garbler = GarblerTransfer(Garbler(seed=7, kernel="numpy").offset, Randomness(7, "g", "numpy"))
    evaluator = EvaluatorTransfer(Randomness(7, "e", "numpy"))
    evaluator.setup(garbler.setup(evaluator.hello()))
    return garbler, evaluator


@pytest.mark.parametrize("seed", [None, 1])
def test_a_forked_process_shares_no_stream_of_secrets(seed):
    random, garbler = Randomness(seed, kernel="numpy"), Garbler(seed=seed, kernel="numpy")
    batch = garbler.garble(RELU.circuit, 4)
    sender, receiver = transfers()
    dealt, _ = TrustedDealer(251, seed).deal(4)
    on_demand, _ = TrustedDealer(251, seed).deal_on_demand()
    message, _ = receiver.extend(np.zeros(8, bool))
    uses = {
        "blocks": lambda: random.blocks(1),
        "child": lambda: random.child("x"),
        "secret": lambda: random.secret("x"),
        "garble": lambda: garbler.garble(RELU.circuit, 4),
        "labels": lambda: batch.input_labels(np.zeros((RELU.circuit.garbler_inputs, 4), bool)),
        "extend": lambda: receiver.extend(np.zeros(8, bool)),
        "answer": lambda: sender.extend(message, 8),
        "triples": lambda: dealt.take(1),
        "triples on demand": lambda: on_demand.take(1),
    }
    for name, use in uses.items():
        assert "RuntimeError" in in_a_fork(lambda use=use: str(use())), name
        assert "in the process that uses it" in in_a_fork(lambda use=use: str(use())), name
        use()  # and here it goes on


def test_what_a_forked_process_makes_or_is_handed_works_there():
    sent = pickle.dumps(TrustedDealer(251, 1).deal_on_demand()[1])
    for use in (
        lambda: Randomness(5, kernel="numpy").blocks(1).tolist(),
        lambda: pickle.loads(sent).take(2).a.tolist(),
    ):
        assert in_a_fork(use) == use()


# --- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Files of a self-signed certificate for 127.0.0.1 and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "circa test")])
    today = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "certificate.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "certificate.pem", folder / "key.pem"


def contexts(certificate, *, client_shows=True):
    """(server's, client's) contexts, each asking for the other's certificate."""
    pair = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in pair:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate[0])
    pair[0].load_cert_chain(*certificate)
    if client_shows:
        pair[1].load_cert_chain(*certificate)
    return pair


def test_the_protocol_runs_in_tls(certificate):
    for_server, for_client = contexts(certificate)
    server_share, mask = boundary_pairs(fuzz=100)
    relu = ReluCircuit(k=12)
    deals = TrustedDealer(relu.prime).deal_on_demand()
    with Listener(timeout=20, tls=for_server) as listener, ThreadPoolExecutor(1) as pool:

        def other():
            transport = connect(listener.address, timeout=20, tls=for_client)
            return run_party(client(relu, mask, deals[1], kernel="numpy", chunk=64), transport)

        running = pool.submit(other)
        transport = listener.accept()
        assert isinstance(transport._socket, ssl.SSLSocket)
        share, _ = run_party(server(relu, server_share, deals[0], kernel="numpy", chunk=64), transport)
        y = to_centred((share + running.result()[0]) % relu.prime, relu.prime)
    assert (y == plain(relu, server_share, mask) * to_centred(server_share - mask, relu.prime)).all()


def meet(for_server, for_client):
    """What either side of a TLS connection hears: (listener's error, connecting side's error)."""

    def there(address):
        transport = connect(address, timeout=1, tls=for_client)
        try:
            transport.receive(100)
        finally:
            transport.close()

    with Listener(timeout=5, tls=for_server) as listener, ThreadPoolExecutor(1) as pool:
        running = pool.submit(there, listener.address)
        try:
            listener.accept().close()
            mine = None
        except (ConnectionError, TimeoutError) as error:
            mine = error
        return mine, running.exception()


def test_strangers_are_refused_in_tls(certificate, tmp_path):
    for_server, for_client = contexts(certificate)
    mine, _ = meet(for_server, contexts(certificate, client_shows=False)[1])
    assert "did not agree on TLS" in str(mine)
    trusting_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    mine, theirs = meet(for_server, trusting_nobody)
    assert isinstance(theirs, ConnectionError)
    assert "did not agree on TLS" in str(mine)
    mine, theirs = meet(for_server, None)  # one that speaks no TLS
    assert isinstance(theirs, (ConnectionError, TimeoutError))
    with pytest.raises(ValueError, match="PROTOCOL_TLS_SERVER"):
        Listener(tls=for_client)
    with pytest.raises(ValueError, match="PROTOCOL_TLS_CLIENT"):
        connect(("127.0.0.1", 1), tls=for_server)
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ValueError, match="takes any certificate"):
        connect(("127.0.0.1", 1), tls=anybody)


def test_a_silent_peer_does_not_hold_the_handshake(certificate):
    for_server, _ = contexts(certificate)
    with Listener(timeout=0.2, tls=for_server) as listener:
        silent = connect(listener.address, timeout=5)
        with pytest.raises(TimeoutError, match="come to terms on TLS"):
            listener.accept()
        silent.close()
