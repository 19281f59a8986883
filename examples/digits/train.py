#!/usr/bin/env python3
"""Trains the demo's network on scikit-learn's handwritten digits and writes digits.onnx, labels.txt and images/.

Plain numpy, so that the whole training fits on one page and needs no GPU framework. Every random choice is seeded.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt && venv/bin/python train.py
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
SIDE = 32  # the 8x8 scans are enlarged to 32x32, the size LeNet-5 used
MEAN, STD = 0.3, 0.35  # of the enlarged training images, rounded; part of the preprocessing stated in README.md
EPOCHS, BATCH, RATE, MOMENTUM, DECAY = 14, 32, 0.05, 0.9, 5e-4
EPSILON = 1e-5
rng = np.random.default_rng(20)


def enlarge(scan):
    """One 8x8 scan with grey levels 0..16 to a 32x32 image with grey levels 0..255, as the PNG files hold it."""
    small = Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def preprocess(images):
    """(n, 32, 32) grey levels to the network's input (n, 1, 32, 32)."""
    return ((images.astype(np.float32) / 255 - MEAN) / STD)[:, None].astype(np.float32)


# --- layers: forward returns (output, what backward needs) ---------------------------------------------------------


def patches(x, k=3, pad=1):
    """(n, c, h, w) to (n, h * w, c * k * k)."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))  # (n, c, h, w, k, k)
    return np.ascontiguousarray(windows.transpose(0, 2, 3, 1, 4, 5)).reshape(n, h * w, c * k * k)


def conv(x, weight):
    n, _, h, w = x.shape
    columns = patches(x)
    out = columns @ weight.reshape(len(weight), -1).T
    return out.transpose(0, 2, 1).reshape(n, len(weight), h, w), (columns, x.shape)


def conv_backward(grad, weight, saved):
    columns, (n, c, h, w) = saved
    flat = grad.reshape(n, len(weight), h * w).transpose(0, 2, 1)
    d_weight = np.tensordot(flat, columns, axes=([0, 1], [0, 1])).reshape(weight.shape)
    # Correlating with the flipped kernel, input and output channels exchanged, is the transposed convolution.
    flipped = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    d_x, _ = conv(grad, np.ascontiguousarray(flipped))
    return d_x, d_weight


def batch_norm(x, p, name, training):
    scale, bias = (p[f"{name}.{part}"][None, :, None, None] for part in ("scale", "bias"))
    if training:
        mean, var = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
        for part, now in (("mean", mean), ("var", var)):
            p[f"{name}.{part}"] = 0.9 * p[f"{name}.{part}"] + 0.1 * now
    else:
        mean, var = p[f"{name}.mean"], p[f"{name}.var"]
    inverse = (1 / np.sqrt(var + EPSILON))[None, :, None, None]
    normal = (x - mean[None, :, None, None]) * inverse
    return normal * scale + bias, (normal, inverse, scale)


def batch_norm_backward(grad, saved):
    normal, inverse, scale = saved
    axes = (0, 2, 3)
    d_scale, d_bias = (grad * normal).sum(axis=axes), grad.sum(axis=axes)
    g = grad * scale
    d_x = inverse * (g - g.mean(axis=axes, keepdims=True) - normal * (g * normal).mean(axis=axes, keepdims=True))
    return d_x, d_scale, d_bias


def max_pool(x):
    n, c, h, w = x.shape
    tiles = x.reshape(n, c, h // 2, 2, w // 2, 2)
    out = tiles.max(axis=(3, 5))
    return out, tiles == out[:, :, :, None, :, None]


def max_pool_backward(grad, mask):
    share = mask / mask.sum(axis=(3, 5), keepdims=True)
    n, c, h, _, w, _ = mask.shape
    return (share * grad[:, :, :, None, :, None]).reshape(n, c, 2 * h, 2 * w)


# --- the network -----------------------------------------------------------------------------------------------------

BLOCKS = [("block1", 1, 16), ("block2", 16, 32), ("block3", 32, 32), ("block4", 32, 64)]  # each: conv, norm, relu, pool
DENSE = [("hidden", 256, 64), ("logits", 64, 10)]


def initial():
    p = {}
    for name, ic, oc in BLOCKS:
        p[f"{name}.weight"] = rng.normal(0, np.sqrt(2 / (9 * ic)), (oc, ic, 3, 3))
        p[f"{name}.scale"], p[f"{name}.bias"] = np.ones(oc), np.zeros(oc)
        p[f"{name}.mean"], p[f"{name}.var"] = np.zeros(oc), np.ones(oc)
    for name, n_in, n_out in DENSE:
        p[f"{name}.weight"] = rng.normal(0, np.sqrt(2 / n_in), (n_out, n_in))
        p[f"{name}.bias"] = np.zeros(n_out)
    return {key: value.astype(np.float32) for key, value in p.items()}


def forward(p, x, training=False):
    saved = []
    for name, _, _ in BLOCKS:
        x, convolved = conv(x, p[f"{name}.weight"])
        x, normed = batch_norm(x, p, name, training)
        positive = x > 0
        x, pooled = max_pool(x * positive)
        saved.append((convolved, normed, positive, pooled))
    features = x.reshape(len(x), -1)
    hidden = np.maximum(features @ p["hidden.weight"].T + p["hidden.bias"], 0)
    return hidden @ p["logits.weight"].T + p["logits.bias"], (saved, features, hidden, x.shape)


def gradients(p, x, labels):
    logits, (saved, features, hidden, shape) = forward(p, x, training=True)
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    grad = probability
    grad[np.arange(len(x)), labels] -= 1
    grad /= len(x)
    d = {"logits.weight": grad.T @ hidden, "logits.bias": grad.sum(axis=0)}
    grad = (grad @ p["logits.weight"]) * (hidden > 0)
    d["hidden.weight"], d["hidden.bias"] = grad.T @ features, grad.sum(axis=0)
    grad = (grad @ p["hidden.weight"]).reshape(shape)
    for (name, _, _), (convolved, normed, positive, pooled) in zip(reversed(BLOCKS), reversed(saved)):
        grad = max_pool_backward(grad, pooled) * positive
        grad, d[f"{name}.scale"], d[f"{name}.bias"] = batch_norm_backward(grad, normed)
        grad, d[f"{name}.weight"] = conv_backward(grad, p[f"{name}.weight"], convolved)
    return d


def augment(x):
    """Shifts each image by up to two pixels, wrapping over the empty border."""
    return np.stack([np.roll(image, rng.integers(-2, 3, 2), axis=(1, 2)) for image in x])


def accuracy(p, x, labels):
    return float((forward(p, x)[0].argmax(axis=1) == labels).mean())


def train(x, labels):
    p = initial()
    velocity = {key: np.zeros_like(value) for key, value in p.items()}
    steps = EPOCHS * (len(x) // BATCH)
    step = 0
    for epoch in range(EPOCHS):
        order = rng.permutation(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            pick = order[start : start + BATCH]
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for key, grad in gradients(p, augment(x[pick]), labels[pick]).items():
                decay = DECAY * p[key] if key.endswith("weight") else 0
                velocity[key] = MOMENTUM * velocity[key] - rate * (grad + decay)
                p[key] = (p[key] + velocity[key]).astype(np.float32)
            step += 1
        print(f"epoch {epoch + 1}/{EPOCHS}: train accuracy {accuracy(p, x[:300], labels[:300]):.3f}", flush=True)
    return p


# --- files -----------------------------------------------------------------------------------------------------------


def to_onnx(p):
    nodes, value = [], "image"
    for name, _, _ in BLOCKS:
        nodes += [
            helper.make_node("Conv", [value, f"{name}.weight"], [f"{name}.conv.out"], f"{name}.conv",
                             kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization",
                             [f"{name}.conv.out"] + [f"{name}.{part}" for part in ("scale", "bias", "mean", "var")],
                             [f"{name}.norm.out"], f"{name}.norm", epsilon=EPSILON),
            helper.make_node("Relu", [f"{name}.norm.out"], [f"{name}.relu.out"], f"{name}.relu"),
            helper.make_node("MaxPool", [f"{name}.relu.out"], [f"{name}.out"], f"{name}.pool",
                             kernel_shape=[2, 2], strides=[2, 2]),
        ]
        value = f"{name}.out"
    nodes += [
        helper.make_node("Flatten", [value], ["features"], "flatten"),
        helper.make_node("Gemm", ["features", "hidden.weight", "hidden.bias"], ["hidden.out"], "hidden", transB=1),
        helper.make_node("Relu", ["hidden.out"], ["hidden.relu.out"], "hidden.relu"),
        helper.make_node("Gemm", ["hidden.relu.out", "logits.weight", "logits.bias"], ["logits"], "logits", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, key) for key, array in p.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
                              producer_name="examples/digits/train.py")
    onnx.checker.check_model(model, full_check=True)
    return model


def main():
    digits = load_digits()
    images = np.stack([enlarge(scan) for scan in digits.images])
    train_at, test_at = train_test_split(np.arange(len(images)), test_size=0.2, random_state=0, stratify=digits.target)
    x, labels = preprocess(images), digits.target
    p = train(x[train_at], labels[train_at])
    right = int(round(accuracy(p, x[test_at], labels[test_at]) * len(test_at)))
    print(f"test accuracy: {right}/{len(test_at)} = {right / len(test_at):.4f}")
    onnx.save(to_onnx(p), HERE / "digits.onnx")
    (HERE / "labels.txt").write_text("".join(f"{word}\n" for word in
                                             "zero one two three four five six seven eight nine".split()))
    (HERE / "images").mkdir(exist_ok=True)
    for digit in range(10):  # the first test image of each class, whatever the network makes of it
        first = next(index for index in test_at if labels[index] == digit)
        Image.fromarray(images[first]).save(HERE / "images" / f"{digit}.png", optimize=True)


if __name__ == "__main__":
    main()
