//! Plan → package, and proof that the package computes what the model computes.
//!
//! | step | function | what |
//! |---|---|---|
//! | contents | [`Contents::new`] | manifest, Programs, weights, normal models; refuses a secret that is also public |
//! | write | [`write()`] | streams the sections into a file, encrypted and signed |
//! | check | [`golden`] | runs the sections in an enclave and compares every crossing and output with the plain model |
//! | all | [`seal`] | the three above; the file appears only if the check passed |
#![forbid(unsafe_code)]

mod contents;
mod error;
mod golden;
mod probes;
mod scratch;
mod steps;
mod write;

pub use contents::Contents;
pub use error::SealError;
pub use golden::{Compared, Golden, TOLERANCE, golden};
pub use probes::{Probe, seeded};
pub use scratch::{Scratch, ScratchDevice};
pub use steps::{STEPS, Steps};
pub use write::{Identity, Sealed, seal, write};
