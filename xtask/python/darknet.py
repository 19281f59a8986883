"""The networks of DarkneTZ's large-model experiments: Darknet's own architectures, as PyTorch modules.

Layer by layer after the public cfg files (github.com/pjreddie/darknet, cfg/), written in their notation. Three things
differ from a bit-exact port: weights are random, the epsilon of batch normalisation stands inside the root as ONNX has
it, and a shortcut between unequal widths is a padded addition (Darknet adds the common channels).

Usage: darknet.py    counts parameters and multiplications and compares them with the published figures.
"""

import torch
from torch import nn
from torch.nn import functional


def conv(inputs, outputs, kernel, stride=1, leaky=True):
    """`cN kK sS`: "same" padding, no bias, batch normalisation, leaky(0.1)."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return layers + [nn.LeakyReLU(0.1)] if leaky else layers


class Darknet(nn.Sequential):
    """A chain in the cfg files' order: `c16k3`, `c64k7s2`, `m2`, `avg`, and the units below."""

    def __init__(self, words, leaky_classifier=False, average_first=False):
        layers, channels = [], 3
        for word in words.split():
            if word == "m2":
                layers.append(nn.MaxPool2d(2))
            elif word.startswith("c"):
                width, _, rest = word[1:].partition("k")
                kernel, _, stride = rest.partition("s")
                layers += conv(channels, int(width), int(kernel), int(stride or 1))
                channels = int(width)
            else:
                unit = UNITS[word[0]](channels, *map(int, word[1:].split(",")))
                layers.append(unit)
                channels = unit.width
        classifier = [nn.Conv2d(channels, 1000, 1)] + ([nn.LeakyReLU(0.1)] if leaky_classifier else [])
        average = [nn.AdaptiveAvgPool2d(1)]
        layers += average + classifier if average_first else classifier + average
        super().__init__(*layers, nn.Flatten(), nn.Softmax(1))


class Residual(nn.Module):
    """`r`: Darknet-53's unit, 1x1 to half the width and 3x3 back, then a linear shortcut."""

    def __init__(self, inputs):
        super().__init__()
        self.width = inputs
        self.body = nn.Sequential(*conv(inputs, inputs // 2, 1), *conv(inputs // 2, inputs, 3))

    def forward(self, x):
        return self.body(x) + x


class Bottleneck(nn.Module):
    """`bF,S`: ResNet-50's unit without a projection; the shortcut adds the common channels, every S-th pixel."""

    def __init__(self, inputs, filters, stride):
        super().__init__()
        self.width, self.stride, self.missing = 4 * filters, stride, 4 * filters - inputs
        self.body = nn.Sequential(
            *conv(inputs, filters, 1), *conv(filters, filters, 3, stride), *conv(filters, self.width, 1, leaky=False)
        )

    def forward(self, x):
        shortcut = x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x
        if self.missing:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.missing))
        return functional.leaky_relu(self.body(x) + shortcut, 0.1)


class DenseUnit(nn.Module):
    """`d`: DenseNet's unit in conv-BN-activation order; the new channels come first (`route -1,-3`)."""

    def __init__(self, inputs, growth):
        super().__init__()
        self.width = inputs + growth
        self.body = nn.Sequential(*conv(inputs, 4 * growth, 1), *conv(4 * growth, growth, 3))

    def forward(self, x):
        return torch.cat((self.body(x), x), 1)


UNITS = {"r": lambda inputs, _: Residual(inputs), "b": Bottleneck, "d": DenseUnit}


def repeat(count, words):
    return " ".join([words] * count)


TINY = "c16k3 m2 c32k3 m2 c16k1 c128k3 c16k1 c128k3 m2 c32k1 c256k3 c32k1 c256k3 m2 c64k1 c512k3 c64k1 c512k3 c128k1"
REFERENCE = "c16k3 m2 c32k3 m2 c64k3 m2 c128k3 m2 c256k3 m2 c512k3 m2 c1024k3"
EXTRACTION = (
    f"c64k7s2 m2 c192k3 m2 c128k1 c256k3 c256k1 c512k3 m2 {repeat(4, 'c256k1 c512k3')} c512k1 c1024k3 m2 "
    f"{repeat(2, 'c512k1 c1024k3')}"
)
DARKNET19 = (
    "c32k3 m2 c64k3 m2 c128k3 c64k1 c128k3 m2 c256k3 c128k1 c256k3 m2 "
    f"{repeat(2, 'c512k3 c256k1')} c512k3 m2 {repeat(2, 'c1024k3 c512k1')} c1024k3"
)
DARKNET53 = "c32k3 " + " ".join(
    f"c{2 * f}k3s2 {repeat(n, 'r0')}" for f, n in ((32, 1), (64, 2), (128, 8), (256, 8), (512, 4))
)
RESNET50 = "c64k7s2 m2 " + " ".join(
    f"b{f},{stride} {repeat(n - 1, f'b{f},1')}" for f, n, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
)
DENSENET201 = f"c64k7s2 m2 {repeat(6, 'd32')} c128k1 m2 {repeat(12, 'd32')} c256k1 m2 {repeat(48, 'd32')} c512k1 m2 " + (
    repeat(32, "d32")
)

NETWORKS = {
    "tiny_darknet": (lambda: Darknet(TINY), 224),
    "darknet_reference": (lambda: Darknet(REFERENCE, average_first=True), 256),
    "extraction": (lambda: Darknet(EXTRACTION, leaky_classifier=True), 224),
    "darknet19": (lambda: Darknet(DARKNET19), 256),
    "darknet53": (lambda: Darknet(DARKNET53, average_first=True), 256),
    "darknet53_448": (lambda: Darknet(DARKNET53, average_first=True), 448),
    "resnet50_darknet": (lambda: Darknet(RESNET50, average_first=True), 256),
    "densenet201_darknet": (lambda: Darknet(DENSENET201), 256),
}

# Parameters as Darknet stores them (a convolution with batch normalisation has a bias and three vectors) and millions of
# multiply-adds, counted from the cfg files.
PUBLISHED = {
    "tiny_darknet": (1_046_488, 491.5),
    "darknet_reference": (7_323_480, 482.3),
    "extraction": (23_455_400, 4259.3),
    "darknet19": (20_856_776, 3645.4),
    "darknet53": (41_645_640, 9285.1),
    "darknet53_448": (41_645_640, 28433.6),
    "resnet50_darknet": (22_825_896, 4870.6),
    "densenet201_darknet": (17_206_440, 5424.0),
}


def count(name):
    """Parameters and millions of multiply-adds of a network, from its modules."""
    make, size = NETWORKS[name]
    with torch.device("meta"):
        model = make().eval()
        parameters = sum(p.numel() for p in model.parameters())
        parameters += sum(b.numel() for key, b in model.named_buffers() if key.endswith(("running_mean", "running_var")))
        multiplications = 0

        def add(module, _, out):
            nonlocal multiplications
            multiplications += module.weight[0].numel() * out.numel()

        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(add)
        model(torch.empty(1, 3, size, size))
    return parameters, multiplications / 1e6


def main():
    wrong = 0
    for name, (parameters, millions) in PUBLISHED.items():
        is_parameters, is_millions = count(name)
        right = is_parameters == parameters and abs(is_millions - millions) < 0.1
        wrong += not right
        print(f"{name:20} {is_parameters:11,} parameters {is_millions:8.1f} MMAC{'' if right else '  DIFFERS'}")
    raise SystemExit(f"{wrong} networks differ from the published counts" if wrong else 0)


if __name__ == "__main__":
    main()
