//! The trusted engine in this process: the same engine and kernels as an enclave's, nothing protected. For tests, references
//! and profiles on the owner's machine.
//!
//! | use | item | what |
//! |---|---|---|
//! | load, run | [`Native`] | a Program with its weights resident |
//! | threads | [`with_threads`] | pools that live as long as the process |
#![forbid(unsafe_code)]

mod error;
mod native;
mod threads;

pub use error::NativeError;
pub use native::Native;
pub use threads::with_threads;
