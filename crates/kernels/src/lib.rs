//! Compute kernels of Cordon's trusted engine: pure functions over slices, no allocation, no I/O.
//!
//! One set of kernels serves every TEE and the host's tests. Everything is safe Rust written so that the compiler
//! vectorises it; `src/arch/` holds the only `unsafe`: the calls into code compiled for CPU features found at run time,
//! the vector operations such code consists of, and the hand-over of borrowed tasks to threads.
//!
//! The caller validates shapes once (the `is_valid` and `*_len` methods of [`geometry`]) and passes slices of those
//! lengths. A violated precondition may panic; it is never undefined behaviour. So modules that compute index freely, and each
//! says so at its top; everything else denies whatever could panic.
#![no_std]
#![deny(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod arch;
pub mod cast;
pub mod conv;
pub mod conv_nd;
mod conv_tile;
mod depthwise;
pub mod elementwise;
pub mod gemm;
mod gemm_tile;
pub mod geometry;
pub mod half;
mod lanes;
mod lengths;
pub mod math;
mod matmul;
pub mod movement;
pub mod normalize;
pub mod parallel;
pub mod peak;
mod planes;
pub mod pool;
pub mod quant;
pub mod reduce;
mod strided;
#[cfg(test)]
mod test_support;
mod tile;
mod unary;
pub mod winograd;
mod zip;

pub use arch::{KernelSet, prefetch};
