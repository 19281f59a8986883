"""Exports the networks of the golden tests to ONNX, seeded.

Weights are random; batch-norm statistics are those of random inputs, then perturbed, and biases and the scales of layer
norms are drawn, so a fold that forgets a mean, a variance or a bias changes the output, and no two layers share a constant,
which exporters store once: in a trained network they would not. Each network is written four times: by the TorchScript
exporter (opset 17, one file) and by the dynamo exporter (opset 20, external data), with a fixed and a dynamic batch; the
Darknet networks, which are exported on demand only, once: by the TorchScript exporter with a fixed batch.

Usage: models.py FOLDER [NETWORK …] [--darknet]
"""

import os
import pathlib
import shutil
import sys
import time
import warnings

import torch
import torchvision
from torch import nn

import darknet

SEED = 20261120


class Vgg7(nn.Sequential):
    """The seven-layer VGG for 32x32 images, with batch normalisation."""

    def __init__(self):
        layers, channels = [], 3
        for width in (128, 256, 512):
            for _ in range(2):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, nn.Flatten(), nn.Linear(512 * 4 * 4, 10))


class AlexNet32(nn.Sequential):
    """AlexNet scaled to 32x32 images."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 64, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 192, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(), nn.Linear(256 * 2 * 2, 4096), nn.ReLU(),
            nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10),
        )


def from_torchvision(name):
    return lambda: getattr(torchvision.models, name)(weights=None)


NETWORKS = {
    "squeezenet1_1": (from_torchvision("squeezenet1_1"), 224),
    "vgg7": (Vgg7, 32),
    "alexnet32": (AlexNet32, 32),
    "mobilenet_v2": (from_torchvision("mobilenet_v2"), 224),
    "efficientnet_b0": (from_torchvision("efficientnet_b0"), 224),
    "densenet121": (from_torchvision("densenet121"), 224),
    "resnet50": (from_torchvision("resnet50"), 224),
    "alexnet": (from_torchvision("alexnet"), 224),
    "vit_b_16": (from_torchvision("vit_b_16"), 224),
    "vgg16": (from_torchvision("vgg16"), 224),
}


def build(name):
    make, size = (NETWORKS | darknet.NETWORKS)[name]
    torch.manual_seed(SEED)
    model = make()
    randomise(model, size)
    return model.eval(), torch.randn(1, 3, size, size)


def randomise(model, size):
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    layer_norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif not parameter.any():
                # torchvision starts the vision transformer's head at zero: the output would not depend on the input.
                parameter.normal_(0, 0.05)
        for norm in layer_norms:
            norm.weight.uniform_(0.5, 1.5)
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.momentum = None  # the plain average over the batches seen
        if norms:
            model.train()
            model(torch.randn(4, 3, size, size))
        for norm in norms:
            norm.running_mean += 0.3 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.6, 1.6)


def export(model, image, folder, dynamo, dynamic):
    folder.mkdir(parents=True)
    names = {"input_names": ["input"], "output_names": ["output"]}
    if dynamo:
        shapes = {"dynamic_shapes": ({0: torch.export.Dim("batch", min=1, max=64)},)} if dynamic else {}
        # An example batch of 1 would make the exporter treat the batch as the constant 1.
        example = image.expand(2, -1, -1, -1).contiguous() if dynamic else image
        torch.onnx.export(
            model, (example,), folder / "model.onnx", dynamo=True, opset_version=20, external_data=True,
            verbose=False, **shapes, **names,
        )
        if not (folder / "model.onnx.data").exists():
            raise SystemExit(f"{folder}: the exporter wrote no external data")
    else:
        axes = {"dynamic_axes": {"input": {0: "batch"}, "output": {0: "batch"}}} if dynamic else {}
        torch.onnx.export(
            model, (image,), os.fspath(folder / "model.onnx"), dynamo=False, opset_version=17, **axes, **names,
        )


def main(root, wanted):
    warnings.filterwarnings("ignore")
    names = [network for name in wanted for network in (darknet.NETWORKS if name == "--darknet" else [name])]
    for name in names or NETWORKS:
        done = root / name
        if done.exists():
            continue
        start = time.monotonic()
        model, image = build(name)
        partial = root / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        for exporter, dynamo in (("torchscript17", False), ("dynamo20", True)):
            for batch, dynamic in (("fixed", False), ("dynamic", True)):
                if name in NETWORKS or not (dynamo or dynamic):
                    export(model, image, partial / f"{exporter}-{batch}", dynamo, dynamic)
        partial.rename(done)
        print(f"{name}: exported in {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
