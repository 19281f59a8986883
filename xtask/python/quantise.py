"""Makes 8-bit variants of the networks `models.py` exported: NETWORK/qdq-int8/model.onnx.

ONNX Runtime's static quantiser in QDQ format: weights int8 and one scale per output channel, activations uint8, ranges
by calibration on seeded noise. The weights are random, so accuracy means nothing here; the arithmetic is that of any
network so quantised. `alexnet32` has int8 activations instead, so that the golden tests see both.

Usage: quantise.py FOLDER NETWORK …
"""

import logging
import os
import pathlib
import shutil
import sys
import tempfile
import time

import numpy
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

SEED = 20261121
SAMPLES = 4
SIGNED = ["alexnet32"]


class Noise(CalibrationDataReader):
    """Seeded noise of the model's input shape."""

    def __init__(self, model):
        [value] = onnx.load(model, load_external_data=False).graph.input
        self.name = value.name
        self.shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        self.random = numpy.random.default_rng(SEED)
        self.left = SAMPLES

    def get_next(self):
        self.left -= 1
        if self.left < 0:
            return None
        return {self.name: self.random.standard_normal(self.shape).astype(numpy.float32)}


def quantise(name, source, target):
    with tempfile.TemporaryDirectory() as scratch:
        prepared = os.path.join(scratch, "model.onnx")
        quant_pre_process(os.fspath(source), prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            os.fspath(target),
            Noise(prepared),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8 if name in SIGNED else QuantType.QUInt8,
        )


def main(root, wanted):
    logging.getLogger().setLevel(logging.ERROR)
    for name in wanted:
        done = root / name / "qdq-int8"
        if done.exists():
            continue
        start = time.monotonic()
        partial = root / name / "qdq-int8.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        quantise(name, root / name / "torchscript17-fixed" / "model.onnx", partial / "model.onnx")
        partial.rename(done)
        print(f"{name}: quantised in {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
