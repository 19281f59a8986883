//! What threads may never change.

use crate::testing::{OneNode, load, noise};
use cordon_engine::KernelSet;
use cordon_native::with_threads;

/// Every instruction large enough that its kernel cuts it, where it can: convolutions of all kinds, element-wise,
/// pooling, products, normalisation.
fn network() -> OneNode {
    OneNode::new("Conv", 13)
        .input(noise(&[1, 3, 64, 64], 1))
        .constant(noise(&[48, 3, 3, 3], 2))
        .ints("pads", &[1, 1, 1, 1])
        .then("Relu")
        .then("Conv")
        .constant(noise(&[48, 1, 5, 5], 3))
        .int("group", 48)
        .ints("pads", &[2, 2, 2, 2])
        .then("Conv")
        .constant(noise(&[64, 48, 1, 1], 4))
        .then("Sigmoid")
        .then("Conv")
        .constant(noise(&[64, 64, 3, 3], 5))
        .ints("strides", &[2, 2])
        .ints("pads", &[1, 1, 1, 1])
        .then("MaxPool")
        .ints("kernel_shape", &[3, 3])
        .ints("strides", &[2, 2])
        .ints("pads", &[1, 1, 1, 1])
        .then("Flatten")
        .then("Gemm")
        .constant(noise(&[16384, 250], 6))
        .constant(noise(&[250], 7))
        .then("Softmax")
        .int("axis", 1)
}

/// Attention over 197 positions, as a vision transformer has it.
fn attention() -> OneNode {
    OneNode::new("MatMul", 13)
        .input(noise(&[6, 197, 64], 1))
        .constant(noise(&[6, 64, 197], 2))
        .then("Softmax")
        .int("axis", -1)
        .then("MatMul")
        .constant(noise(&[6, 197, 64], 3))
        .then("Tanh")
        .then("Transpose")
        .ints("perm", &[1, 0, 2])
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (index, build) in [network(), attention()].into_iter().enumerate() {
        let lowered = build.lower().expect("lowers");
        for set in KernelSet::all_available() {
            let run = |threads| {
                let mut native = load(&lowered, with_threads(set, threads));
                native.run(build.inputs()).expect("runs").remove(0).data
            };
            let one = run(1);
            for threads in [2, 3, 16] {
                assert!(run(threads) == one, "network {index}, {} kernels, {threads} threads", set.name());
            }
        }
    }
}
