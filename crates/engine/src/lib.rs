//! Cordon's trusted engine: [`Program`] → [`Unloaded`] → [`Prepared`] → [`Prepared::step`].
//!
//! A `Program` comes from the owner's compiler, but through the normal world: it is authenticated by the package and
//! still trusted in nothing. [`Unloaded::new`] checks every region, tile, stride and window once and allocates all
//! memory; [`Unloaded::finish`] returns a type that guarantees that all weights came. From then on a step neither allocates
//! nor panics, executes at most one instruction, and the sequence of steps depends on the Program alone, never on data.
//!
//! The engine does no I/O. It asks for what it needs through [`Step`] and is answered through [`Reply`], so the same code
//! runs behind a ring in a process and behind repeated commands in a trusted application.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used))]

extern crate alloc;

mod dispatch;
mod encoding;
mod error;
mod limits;
mod memory;
mod prepared;
pub mod program;
mod share;
mod stream;
mod unloaded;
mod validate;
mod value;
mod weights;
mod wire;

pub use cordon_kernels::parallel::{Compute, Parallel, Pool, Rest, Serial, Task};
pub use cordon_kernels::{KernelSet, prefetch};
pub use error::{EngineError, Place};
pub use limits::{Limits, MemoryReport, Prediction};
pub use prepared::{Moved, Prepared, Reply, Step};
pub use program::{Program, WeightTable};
pub use share::share;
pub use stream::{CHUNK, PIECE, PIECES_PER_STEP};
pub use unloaded::Unloaded;
pub use value::ValueRef;
pub use weights::{PieceSource, Residency};
