"""Two parties end with the logits that the definition gives under their masks, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from circa_train.pi.accounting import connection_bytes, offline_bytes, online_bytes
from circa_train.pi.clear import logits_under
from circa_train.pi.session import infer_in_memory, together
from circa_train.pi.walk import Walk

NAMES = ("projection", "padded", "mixed", "reduced", "chain", "exact")


@pytest.mark.parametrize("name", NAMES)
def test_the_logits_are_those_of_the_definition(name, networks, inputs):
    outcome = infer_in_memory(networks(name), inputs(name))
    assert np.array_equal(outcome.logits, outcome.expected)
    assert outcome.client.sent
    assert sum(outcome.client.sent.values()) == sum(outcome.server.received.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_definition_is_the_reader_of_the_folder(name, networks):
    """Under the masks of the folder's own vectors, the definition gives the folder's own logits."""
    network = networks(name)
    vectors = {key: value.astype(np.int64) for key, value in network.vectors.items()}
    masks = {key.removeprefix("mask."): value for key, value in vectors.items() if key.startswith("mask.")}
    relus = {layer.name for layer in network.architecture.layers if layer.kind == "relu"}
    truncated = {name for name in relus if network.architecture.tests[name].mode != "exact"}
    for layer in network.architecture.layers:  # a rescaling has the mask of the ReLU that it reads
        if layer.kind == "rescale":
            masks[layer.name] = _mask_of(network, layer.inputs[0], masks, truncated, masks[layer.name])
    logits = logits_under(network.architecture, network.tensors, vectors["inputs"], masks)
    assert np.array_equal(logits, vectors["logits.offset"])


def _mask_of(network, name, masks, truncated, own):
    from circa_train.pi.walk import moved

    def origin(layer):
        if layer.name in truncated:
            return masks[layer.name]
        return np.full((len(own), *layer.shape), -1)

    found = moved(network.architecture, name, origin)
    return np.where(found < 0, own, found)


def test_many_inferences_over_one_connection_differ_in_their_masks(networks, inputs):
    network, x = networks("padded"), inputs("padded")

    def converse(client):
        found = []
        for images in (2, 1, 2):
            number = client.prepare(images, keep_masks=True)
            masks = client.masks
            found.append((client.infer(number, x[:images]), masks))
        return found

    found, _ = together(network, converse)
    for logits, masks in found:
        expected = logits_under(network.architecture, network.tensors, x[: len(logits)], masks)
        assert np.array_equal(logits, expected)
    assert not np.array_equal(found[0][1]["relu"], found[2][1]["relu"])


def test_preparations_may_wait_and_be_used_in_any_order(networks, inputs):
    network, x = networks("chain"), inputs("chain")

    def converse(client):
        first = client.prepare(1, keep_masks=True), client.masks
        second = client.prepare(1, keep_masks=True), client.masks
        return [(client.infer(number, x[:1]), masks) for number, masks in (second, first)]

    for logits, masks in together(network, converse)[0]:
        assert np.array_equal(logits, logits_under(network.architecture, network.tensors, x[:1], masks))


def test_nothing_of_it_imports_torch():
    code = (
        "import circa_train.pi.session, circa_train.pi.server, circa_train.pi.client, sys\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_traffic_is_the_accounting_to_the_byte(name, networks, inputs):
    network, x = networks(name), inputs(name)
    walk = Walk(network.architecture)

    def converse(client):
        for images in (2, 1):
            client.infer(client.prepare(images), x[:images])
        return client.line.traffic

    found, server = together(network, converse)
    expected = connection_bytes(walk, described=True, preparations=2, inferences=2)
    for images in (2, 1):
        for part in (offline_bytes(walk, images), online_bytes(walk, images)):
            expected.add(part)
    assert dict(found.sent) == dict(expected.sent)
    assert dict(found.received) == dict(expected.received)
    for phase in ("setup", "offline", "online"):
        assert server.of(phase) == found.of(phase)[::-1]
