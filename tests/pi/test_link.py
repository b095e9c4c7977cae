"""The emulated line: its law in numbers, and that bytes pass it unchanged."""

from __future__ import annotations

import socket
import threading

import pytest

from circa_train.pi.link import LineSpeed, emulated


def test_bytes_take_their_turn_and_half_a_round_trip():
    speed = LineSpeed(bandwidth=8e6, latency=0.04)  # a megabyte per second
    assert speed.arrival(free=0, now=10, size=500_000) == pytest.approx((10.5, 10.52))
    assert speed.arrival(free=10.5, now=10.1, size=500_000) == pytest.approx((11.0, 11.02))  # waits its turn
    assert LineSpeed(None, 0.5).arrival(free=0, now=1, size=10**9) == pytest.approx((1, 1.25))


@pytest.mark.parametrize(("bandwidth", "latency"), [(0, 0), (-1, 0), (1e6, -0.1), (1e6, 1e9)])
def test_impossible_lines_are_refused(bandwidth, latency):
    with pytest.raises(ValueError, match="bandwidth|latency"):
        LineSpeed(bandwidth, latency)


def test_bytes_pass_in_both_directions_and_so_does_the_end():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def echo():
            connection, _ = listening.accept()
            with connection:
                while piece := connection.recv(1000):
                    connection.sendall(piece)

        thread = threading.Thread(target=echo)
        thread.start()
        sent = bytes(range(256)) * 2000
        with (
            emulated(listening.getsockname(), LineSpeed(1e9, 0.001)) as address,
            socket.create_connection(address) as connection,
        ):
            threading.Thread(target=connection.sendall, args=(sent,)).start()
            received = bytearray()
            while len(received) < len(sent):
                received += connection.recv(1 << 16)
            assert bytes(received) == sent
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_no_line_is_emulated_where_none_is_asked_for():
    with emulated(("host", 1), LineSpeed()) as address:
        assert address == ("host", 1)
