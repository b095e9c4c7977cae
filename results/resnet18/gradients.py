"""How much steeper is the loss with the faults than without? The norm of its gradient on one batch of 64
training images at the trained weights, in training mode, as `optim=truncation` has it: faults with a scale
per channel, and the network without faults as teacher.

    python results/resnet18/gradients.py runs/resnet18/train/base-RUN/best.pt
"""

from __future__ import annotations

import copy
import sys

import torch
import torch.nn.functional as F

from circa_train import TruncatedSign, with_stochastic_relus
from circa_train.checkpoint import load_network
from circa_train.data import Augmentation, Batches, load_data
from circa_train.nn import fit_scales

SHARE, TEMPERATURE = 0.9, 4.0
IMAGES, CALIBRATION = 64, 256

network = load_network(sys.argv[1])
data = load_data("imagefolder:data/cifar10_jpeg")
normal = {"mean": data.mean, "std": data.std}
images, labels, _ = next(
    iter(Batches(data.train, IMAGES, **normal, shuffle=True, augment=Augmentation(crop=4, flip=True)))
)
calibration, _, _ = next(iter(Batches(data.train, CALIBRATION, **normal, shuffle=True, epoch=1)))
with torch.no_grad():
    taught = F.log_softmax(copy.deepcopy(network).eval()(images) / TEMPERATURE, 1)

for k in (None, 16, 18, 20, 22, 24):
    trained = copy.deepcopy(network).eval()
    if k is not None:
        spec = TruncatedSign(k, "negpass")
        scales = fit_scales(trained, [calibration], spec)
        trained = with_stochastic_relus(trained, spec, frac_bits=scales, overflow="wrap")
    logits = trained.train()(images)
    answer = F.log_softmax(logits / TEMPERATURE, 1)
    distilled = F.kl_div(answer, taught, log_target=True, reduction="batchmean") * TEMPERATURE**2
    loss = (1 - SHARE) * F.cross_entropy(logits, labels) + SHARE * distilled
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in trained.parameters() if p.grad is not None]).norm()
    name = "exact ReLUs" if k is None else f"NegPass, k = {k}"
    print(f"{name}: loss {loss.item():.2f}, norm of its gradient {norm.item():.1f}")
