//! Tensors in files: `.npy`, `.npz` and serialised `TensorProto` (`.pb`).
