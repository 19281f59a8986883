//! Placement: which nodes run in the secure world, what crosses, what that costs, and what it protects in words.
//!
//! | step | function | from → to |
//! |---|---|---|
//! | read | [`prepare`] | model file → [`Model`]: typed, shaped, folded graph and its digest |
//! | look | [`inspect`] | `Model` + [`Profile`] → [`Inspection`]: nodes and the numbered cut table |
//! | decide | [`make`] | `Model` + [`Constraints`] + [`Profile`] → [`Plan`] |
//! | lower | [`lower_plan`] | `Model` + `Plan` → [`LoweredPlan`]: segments, value table, Programs |
//!
//! A [`Plan`] is a TOML file that a person reviews before anything is sealed. It names nodes, so it is as confidential as
//! the model itself; the package carries only [`Plan::public_words`].
#![forbid(unsafe_code)]

mod affine;
mod error;
mod image;
mod inspect;
mod least;
mod lowered;
mod make;
mod memory;
mod model;
mod placement;
mod plan;
mod shared;
mod spilling;
mod tiling;
mod time;
mod words;

pub use cordon_package::{Domain, Placement};
pub use error::PlanError;
pub use image::{Channels, Fit, ImageOptions};
pub use inspect::{CutRow, Inspection, NodeRow, inspect};
pub use lowered::{LoweredPlan, LoweredSegment, lower_plan};
pub use make::make;
pub use memory::{Predicted, SegmentCost, predict, predict_sealed};
pub use model::{Model, prepare};
pub use placement::{Bound, Constraints, Cuts, Protect, Stretch, classifier_cut};
pub use plan::{
    Crossing, Goal, Memory, ModelIdentity, OutputInfo, Plan, Role, SegmentPlan, ValueShape, WeightFormat, World,
};
pub use shared::{Shared, shared};

pub use cordon_protocol::Profile;
