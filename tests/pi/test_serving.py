"""The server that stays, TLS on its line, and the work of scripts/infer.py against it."""

from __future__ import annotations

import datetime
import ipaddress
import threading

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from circa_train.gc.protocol import Listener, connect
from circa_train.jobs.infer import read_pictures
from circa_train.jobs.job import run
from circa_train.jobs.serve import address_of, check_offline
from circa_train.jobs.settings import RunConfig
from circa_train.jobs.two_party import EmulateConfig, InferConfig, TwoPartyConfig
from circa_train.pi import Client, Server, Stores, client_tls, serve_clients, server_tls
from circa_train.pi.session import dealer_beside

PATIENCE = 300.0


@pytest.fixture
def serving(networks, tmp_path):
    """A function that starts a server for so many clients: its port; what it reported is in ``reports``."""
    reports, threads, open_ones = [], [], []

    def start(name, connections=1, tls=None):
        network = networks(name)
        beside = dealer_beside(network)
        dealer = beside.__enter__()
        listener = Listener(timeout=PATIENCE, tls=tls)
        open_ones.extend([listener, beside])
        server = Server(
            network, Stores(tmp_path / "stores", "server"), dealer=dealer, own_dealer=True, timeout=PATIENCE
        )
        threads.append(
            threading.Thread(
                target=serve_clients,
                args=(server, listener),
                kwargs={"connections": connections, "report": reports.append},
            )
        )
        threads[-1].start()
        return listener.address[1]

    start.reports = reports
    yield start
    for thread in threads:
        thread.join(timeout=PATIENCE)
        assert not thread.is_alive()
    for each in open_ones:
        each.__exit__(None, None, None)


def test_the_job_infers_compares_and_records(serving, folders, tmp_path, capsys):
    folder = str(folders("chain"))
    config = InferConfig(
        images=folder,
        port=serving("chain"),
        compare=folder,
        batch_size=2,
        limit=2,
        pi=TwoPartyConfig(stores=str(tmp_path / "stores"), timeout=PATIENCE),
        emulate=EmulateConfig(latency=0.001),
        run=RunConfig(again=True),
    )
    result = run("infer", config, tmp_path / "run")["result"]
    assert result["compared"] == {"images": 2, "equal": 2}
    assert result["bytes_equal_the_model"]
    assert result["and_gates"] == 21 * result["relus"] > 0  # k = 10 of 31 bits
    seconds = result["online_seconds"]
    assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"]
    assert result["round_trips"] == 1 + len(
        {row["place"] for row in result["layers"] if "trip" in row["place"]}
    )
    assert np.array(result["logits"]).shape == (2, 4)
    assert set(result["seconds"]) >= {"offline", "online"}
    printed = capsys.readouterr().out
    assert "inference" in printed
    assert "trip 0" in printed
    assert serving.reports[-1].startswith("client 1: ended")


def test_the_job_insists_on_an_architecture(serving, folders, tmp_path):
    config = InferConfig(
        images=str(folders("chain")),
        port=serving("chain"),
        architecture="00" * 31 + "01",
        pi=TwoPartyConfig(stores=str(tmp_path / "stores"), timeout=PATIENCE),
    )
    with pytest.raises(ConnectionError, match="another network"):
        run("infer", config, tmp_path / "run")


def test_pictures_come_from_files_folders_arrays_and_exports(networks, folders, tmp_path):
    architecture = networks("chain").architecture
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    (tmp_path / "many").mkdir()
    for number, each in enumerate(pixels):
        Image.fromarray(np.moveaxis(each, 0, 2)).save(tmp_path / "many" / f"{number}.png")
    np.save(tmp_path / "all.npy", pixels)
    assert np.array_equal(read_pictures(str(tmp_path / "many"), architecture), pixels)
    assert np.array_equal(read_pictures(str(tmp_path / "many" / "1.png"), architecture), pixels[1:])
    assert np.array_equal(read_pictures(str(tmp_path / "all.npy"), architecture), pixels)
    vectors = networks("chain").vectors["images"]
    assert np.array_equal(read_pictures(str(folders("chain")), architecture), vectors)
    Image.new("RGB", (9, 8)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match="resize"):
        read_pictures(str(tmp_path / "wide.png"), architecture)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="no picture"):
        read_pictures(str(tmp_path / "text.png"), architecture)


@pytest.mark.parametrize("latency", [0.0, 0.001])
def test_a_client_before_its_server_is_told_what_to_do(tmp_path, latency):
    with Listener() as listener:
        port = listener.address[1]
    config = InferConfig(
        str(tmp_path), port=port, wait=0.3, emulate=EmulateConfig(latency=latency), run=RunConfig(again=True)
    )
    with pytest.raises(ConnectionError, match=r"no party listens at .*scripts/serve\.py .*wait=60"):
        run("infer", config, tmp_path / "run")


def test_the_client_quantizes_as_the_export_does(networks):
    """The folder's own inputs come from its own images."""
    network = networks("projection")

    class Offline(Client):
        def __init__(self, architecture):
            self.architecture = architecture

    found = Offline(network.architecture).quantize(network.vectors["images"])
    assert np.array_equal(found, network.vectors["inputs"])


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:70000", "host:x"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="host:port"):
        address_of(text)


def test_an_unknown_way_to_prepare_is_refused():
    with pytest.raises(ValueError, match=r"pi\.offline"):
        check_offline(TwoPartyConfig(offline="magic"))
    assert address_of("localhost:7767") == ("localhost", 7767)


def self_signed(folder, name, addresses=()):
    """Files of a self-signed certificate, and of its key."""
    key, day = ec.generate_private_key(ec.SECP256R1()), datetime.timedelta(days=1)
    named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(named).issuer_name(named).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - day).not_valid_after(now + 2 * day)
    if addresses:
        there = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        builder = builder.add_extension(x509.SubjectAlternativeName(there), critical=False)
    signed = builder.sign(key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.key").write_bytes(private)
    return str(folder / f"{name}.pem"), str(folder / f"{name}.key")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"), "server", ["127.0.0.1"])


def test_an_inference_in_tls(serving, certificate, networks, inputs, tmp_path):
    port = serving("chain", tls=server_tls(*certificate))
    transport = connect(("127.0.0.1", port), PATIENCE, tls=client_tls(certificate[0]))
    client = Client(transport, Stores(tmp_path / "stores", "client"), timeout=PATIENCE)
    assert client.infer(client.prepare(1), inputs("chain")[:1]).shape == (1, 4)
    client.end()


def test_a_client_without_tls_gets_nothing(serving, certificate, tmp_path):
    port = serving("chain", connections=1, tls=server_tls(*certificate))
    with pytest.raises((ConnectionError, TimeoutError)):
        Client(connect(("127.0.0.1", port), 30.0), Stores(tmp_path / "stores", "client"))
    with pytest.raises(ConnectionError, match="TLS"):  # the server's authority is not the one expected
        connect(("127.0.0.1", port), PATIENCE, tls=client_tls(self_signed(tmp_path, "other")[0]))
    last = connect(("127.0.0.1", port), PATIENCE, tls=client_tls(certificate[0]))
    last.close()
