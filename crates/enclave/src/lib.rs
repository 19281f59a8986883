//! The trusted service, the same on every TEE: [`Enclave::handle`] takes a command frame and makes the reply frame.
//!
//! | state | what is taken | file |
//! |---|---|---|
//! | idle | `LoadBegin`, `Provision` | `service.rs` |
//! | loading | exactly what was asked for last | `load.rs`, `load/weights.rs`, `sections.rs` |
//! | ready | requests: every secure segment once, in order | `request.rs` |
//! | running | exactly what was asked for last | `run.rs`, `wait.rs` |
//!
//! What a platform is lies behind [`Platform`]. The enclave never calls the normal world, and everything it is given is
//! hostile. Values leave through `Outbound` only, whose constructor takes a `Crossing`, and crossings are made from the
//! signed manifest only (design rule 7); the output policy stands in the same door. Beside it only ciphertext leaves, of
//! activations (`spill.rs`) and weights (`streamed.rs`) that have no room inside.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used))]

extern crate alloc;

mod attest;
mod crossing;
mod fleeting;
mod load;
mod mode;
mod model;
mod platform;
mod policy;
mod refuse;
mod request;
mod retained;
mod run;
mod sections;
mod service;
mod spill;
mod store;
mod streamed;
mod wait;

pub use platform::{CounterId, Platform, PlatformError};
pub use service::Enclave;
pub use store::Store;
