//! Tiling: a draft whose instructions need less memory at one time and compute the same bits.
//!
//! | what is cut | module | so that |
//! |---|---|---|
//! | rows of chains of convolutions and pools | [`bands`], [`rows`] | large activations never exist whole |
//! | output channels of convolutions and products | [`channels`] | the window for streamed weights is small |
//!
//! [`search`] decides which chains run in how many bands.

mod bands;
mod channels;
mod rows;
mod search;
#[cfg(test)]
mod tests;

use crate::draft::Draft;

/// How small a segment is to be cut. The default cuts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tiling {
    /// Bytes of weights one instruction reads, where it can be cut to that.
    pub weights: Option<u64>,
    /// Bytes of activations alive at one time. Where they cannot be brought so low, as low as they can.
    pub arena: Option<u64>,
    /// Bytes of activations alive at one time after that, brought about by spilling. Where they cannot be brought so low, as
    /// low as they can.
    pub spill: Option<u64>,
    /// Most bytes of scratch memory, which makes convolutions faster and changes the last bits. `None`: as many as are of use.
    pub scratch: Option<u64>,
}

/// Cuts a fused draft's rows until at most `bytes` of activations are alive at one time, or as few as can be.
pub(crate) fn rows(draft: &mut Draft, bytes: u64) {
    rows::give_rows(draft);
    search::fit(draft, bytes);
}

/// Cuts output channels into tiles of at most `bytes` of weights, as far as they can be.
pub(crate) fn channels(draft: &mut Draft, bytes: u64) {
    channels::split(draft, bytes);
}
