//! Cordon's trusted engine: [`program::Program`] → `Prepared` → `step`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod program;
