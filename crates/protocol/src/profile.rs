//! What is known of a platform before one of its enclaves runs. Plans are made for it, predictions rest on it, and where a
//! number binds the enclave's program too, both take it from the same place.

use crate::frame::area;

/// Secure memory that the service keeps free of resident weights on every platform: heads of frames, ranked outputs, the
/// small objects of requests.
pub const SLACK: u64 = 64 * 1024;

/// One platform's figures. Bytes are of secure memory unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// The platform's word, which a plan names.
    pub platform: &'static str,
    /// All there is; `None` where the host gives an enclave as much as it likes.
    pub memory: Option<u64>,
    /// Most that an enclave with one thread takes before it loads anything, frames besides.
    pub fixed: u64,
    /// How much less [`Self::fixed_bytes`] may come to.
    pub fixed_range: u64,
    /// What each further thread takes.
    pub thread: u64,
    /// Threads that predictions are made for.
    pub threads: usize,
    /// Most threads.
    pub max_threads: usize,
    /// Most payload bytes of a command.
    pub payload: usize,
    /// Most payload bytes of a reply.
    pub reply: usize,
    /// How fast it computes.
    pub speed: Speed,
}

/// How fast a platform computes, roughly: only the order of predicted times decides between ways to cut a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Products and sums per second of one thread: what whole networks reach.
    pub flops: f64,
    /// Bytes per second that instructions read and write besides.
    pub moved: f64,
    /// Bytes per second that strided copies read and write, elements of four bytes.
    pub copied: f64,
    /// Seconds of a step besides the instruction's work.
    pub step: f64,
    /// Bytes per second that Winograd's transforms make of input and products.
    pub transformed: f64,
    /// The same of weights.
    pub transformed_weights: f64,
    /// Bytes of weights per second that one thread reads from the store and decrypts.
    pub decrypted: f64,
    /// Seconds that a load from the store takes besides its pieces.
    pub load: f64,
    /// Bytes per second of a spilled value on its way out and back, both counted.
    pub spilled: f64,
}

impl Profile {
    /// Most that an enclave with so many threads takes before it loads anything.
    pub const fn fixed_bytes(&self, threads: usize) -> u64 {
        let frames = area(self.payload).saturating_add(area(self.reply)) as u64;
        let helpers = self.thread.saturating_mul(threads.saturating_sub(1) as u64);
        self.fixed.saturating_add(helpers).saturating_add(frames)
    }
}
