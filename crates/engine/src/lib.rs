//! Cordon's trusted engine: [`Program`] → [`Prepared`] → [`Prepared::step`].
//!
//! A `Program` comes from the owner's compiler, but through the normal world: it is authenticated by the package and
//! still trusted in nothing. [`Prepared::new`] checks every region, tile, stride and window once and allocates all
//! memory; from then on a step neither allocates nor panics, executes at most one instruction, and the sequence of steps
//! depends on the Program alone, never on data.
//!
//! The engine does no I/O. It asks for what it needs through [`Step`] and is answered through [`Reply`], so the same code
//! runs behind a ring in a process and behind repeated commands in a trusted application.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod dispatch;
mod encoding;
mod error;
mod memory;
mod prepared;
pub mod program;
mod share;
mod validate;
mod weights;
mod wire;

pub use cordon_kernels::parallel::{Compute, Parallel, Pool, Rest, Serial, Task};
pub use cordon_kernels::{KernelSet, prefetch};
pub use error::{EngineError, Place};
pub use prepared::{Limits, MemoryReport, Moved, Prediction, Prepared, Reply, Residency, Step, ValueRef};
pub use program::{Program, WeightTable};
pub use share::share;
pub use weights::Source;

/// Plaintext bytes of one weight chunk; only the last of a stream is shorter.
pub const CHUNK: usize = 65_536;

/// Most chunks one [`Step::NeedChunks`] asks for, so that a step moves at most 1 MiB.
pub const CHUNKS_PER_STEP: u32 = 16;

/// Plaintext bytes of one piece of streamed weights; only the last of a stream is shorter. Smaller ones waste less at the
/// ends of tiles, and two of them lie in a core's nearest cache; of larger ones more of the time is decryption.
pub const PIECE: usize = 8_192;

/// Most pieces one [`Step::NeedPieces`] asks for, so that a step moves at most 1 MiB.
pub const PIECES_PER_STEP: u32 = 128;
