#!/usr/bin/env python3
"""Writes vectors/secret_weight_in_normal_segment.onnx: three products, of which the first and the second use one weight.
A plan that puts only the first inside must not be sealed. Needs the Python package onnx 1.22.0."""
import pathlib
import numpy as np
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
weights = [numpy_helper.from_array(rng.standard_normal((4, 4), dtype=np.float32), name) for name in ("shared", "last")]
nodes = [
    helper.make_node("MatMul", ["x", "shared"], ["p"], "one"),
    helper.make_node("Tanh", ["p"], ["q"], "tanh1"),
    helper.make_node("MatMul", ["q", "shared"], ["r"], "two"),
    helper.make_node("Tanh", ["r"], ["s"], "tanh2"),
    helper.make_node("MatMul", ["s", "last"], ["y"], "three"),
]
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])
graph = helper.make_graph(nodes, "shared", [value("x")], [value("y")], weights)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="")
target = pathlib.Path(__file__).parent.parent / "vectors" / "secret_weight_in_normal_segment.onnx"
target.write_bytes(model.SerializeToString(deterministic=True))
