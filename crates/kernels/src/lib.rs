//! Compute kernels of Cordon's trusted engine: pure functions over slices, no allocation, no I/O.
//!
//! One set of kernels serves every TEE and the host's tests. Everything is safe Rust written so that the compiler
//! vectorises it; `src/arch/` holds the only `unsafe`: the calls into code compiled for CPU features found at run time.
#![no_std]

extern crate alloc;

pub mod geometry;
