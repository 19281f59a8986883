//! Graph segment → [`Program`](cordon_engine::program::Program): one operator table, fusions, weight packing, arena planner.
//!
//! | step | module | what |
//! |---|---|---|
//! | lower each node | [`ops`], [`context`] | engine instructions over virtual tensors |
//! | fuse | `fuse` | batch-norm and bias into weights, activations and residual adds into `Conv2d` and `Dense` |
//! | tile | `tile` | rows and output channels in pieces, where memory is small |
//! | spill | `spill`, `pieces` | values that wait outside, where tiling is not enough |
//! | place | `arena` | lifetimes → offsets |
//! | emit | `emit` | `Program`, weight table, weight stream |
#![forbid(unsafe_code)]

mod arena;
mod broadcast;
mod concat;
mod constant;
pub mod context;
mod draft;
mod emit;
mod error;
mod fuse;
mod half;
mod layout;
pub mod ops;
mod pieces;
mod segment;
mod spill;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod threads_tests;
mod tile;
mod val;
mod weights;
mod work;

pub use arena::ArenaReport;
pub use broadcast::{Broadcast, broadcast_dims};
pub use emit::Lowered;
pub use error::LowerError;
pub use ops::facts::{AffineIn, Bytes, Elements, Elementwise, Facts, facts, is_affine, is_layer, weights};
pub use ops::{Operator, OperatorTable, supported};
pub use segment::{LowerOptions, Untiled, lower, lower_graph, lower_untiled, unsupported_reason};
pub use tile::Tiling;
pub use work::{Work, describe};
