//! Graph segment → [`Program`](cordon_engine::program::Program): one operator table, fusions, weight packing, arena planner.
//!
//! | step | module | what |
//! |---|---|---|
//! | lower each node | [`ops`], [`context`] | engine instructions over virtual tensors |
//! | fuse | `fuse` | batch-norm and bias into weights, activations and residual adds into `Conv2d` and `Dense` |
//! | place | `arena` | lifetimes → offsets |
//! | emit | `emit` | `Program`, weight table, weight stream |
#![forbid(unsafe_code)]

mod arena;
mod broadcast;
pub mod context;
mod draft;
mod emit;
mod error;
mod fuse;
mod layout;
mod local;
pub mod ops;
mod segment;
#[cfg(test)]
mod testing;
mod weights;
mod work;

pub use arena::ArenaReport;
pub use broadcast::{Broadcast, broadcast_dims};
pub use emit::Lowered;
pub use error::LowerError;
pub use local::{Local, run_lowered};
pub use ops::{Operator, OperatorTable, supported};
pub use segment::{LowerOptions, lower, lower_graph, unsupported_reason};
pub use work::{Work, describe};
