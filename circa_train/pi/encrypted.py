"""Linear layers prepared by homomorphic encryption, over the line: nobody is trusted with anybody's masks.

Per connection the client sends its public key; per linear layer and image its share c, encrypted, and the
server answers with an encryption of W c - t under a part t that it has just drawn
(:mod:`circa_train.pi.homomorphic`).
"""

from __future__ import annotations

import numpy as np

from circa_train.export.layers import Conv2d, Layer
from circa_train.gc.aes import Randomness, to_field
from circa_train.gc.protocol import MessageKind
from circa_train.pi import homomorphic
from circa_train.pi.architecture import Architecture
from circa_train.pi.he_messages import KEY_BYTES, traffic
from circa_train.pi.line import Line
from circa_train.pi.linear import Values
from circa_train.pi.linear_shape import LinearShape
from circa_train.pi.network import Network


class EncryptedServer:
    """The server's side of a connection; waits for the client's key."""

    def __init__(self, line: Line, network: Network) -> None:
        self._line, self._network = line, network
        self._prime = network.architecture.prime
        key = line.receive(MessageKind.CIPHERTEXTS, KEY_BYTES).payload.tobytes()
        self._server = homomorphic.Server(key, self._prime)
        self._random = Randomness(None, "parts of linear layers")

    def part(self, layer: Layer, images: int) -> Values:
        """Serve one linear layer of a batch; returns the server's part t, (images, *layer.shape)."""
        shape = shape_of(layer, self._network.architecture)
        up = traffic(shape).bytes_up
        weight = self._network.tensors[f"{layer.name}.weight"]
        drawn = to_field(self._random.blocks(images * int(np.prod(layer.shape))), self._prime)
        part: Values = drawn.reshape(images, *layer.shape)
        for each in part:
            request = self._line.receive(MessageKind.CIPHERTEXTS, up).payload.tobytes()
            self._line.send(MessageKind.CIPHERTEXTS, self._server.answer(shape, weight, each, request))
        return part


class EncryptedClient:
    """The client's side of a connection; sends its key."""

    def __init__(self, line: Line, architecture: Architecture) -> None:
        self._line, self._architecture = line, architecture
        self._client = homomorphic.Client(architecture.prime)
        line.send(MessageKind.CIPHERTEXTS, self._client.public_key)

    def prepare(self, layer: Layer, share: Values) -> Values:
        """W c - t for the client's share c of the layer's input, (n, *input shape)."""
        shape = shape_of(layer, self._architecture)
        down = traffic(shape).bytes_down
        self._line.enter("offline", layer.name)
        results = []
        for each in share:
            self._line.send(MessageKind.CIPHERTEXTS, self._client.request(shape, each))
            answer = self._line.receive(MessageKind.CIPHERTEXTS, down).payload.tobytes()
            results.append(self._client.result(shape, answer))
        return np.stack(results)


def shape_of(layer: Layer, architecture: Architecture) -> LinearShape:
    """A linear layer's shape as the encryption knows it."""
    weight = architecture.shapes[f"{layer.name}.weight"]
    if not isinstance(layer, Conv2d):
        return LinearShape.matrix(weight[0], weight[1])
    channels, height, width = architecture.layer(layer.inputs[0]).shape
    kernel = (weight[2], weight[3])
    return LinearShape(
        channels, height, width, weight[0], kernel, layer.stride, layer.padding, layer.dilation, layer.groups
    )
