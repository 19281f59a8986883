//! What the normal world and the enclave say to each other.
//!
//! The normal world sends one [`Command`] per frame and gets one [`Reply`]; the enclave never calls out. Everything that
//! comes from the other side is hostile input: it is decoded with the bounded reader of `cordon-codec`, and no length in it
//! is believed before it is compared with the bytes that are there. Replies carry numbers and fixed codes, never text, so
//! an error cannot carry a secret out. `SPEC.md` beside this crate fixes the bytes.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used))]

extern crate alloc;

mod command;
mod evidence;
pub mod frame;
mod memory;
mod profile;
mod protection;
mod ranked;
mod refusal;
mod reply;
mod window;

pub use command::{Command, Part, Payload, Supply};
pub use evidence::{
    Binding, Bound, DevelopmentEvidence, EvidenceKind, MAX_BINDING_BYTES, MAX_NONCES, Nonce, Purpose, Serve, flag,
};
pub use memory::MemoryUse;
pub use profile::{Profile, SLACK, Speed};
pub use protection::{Guard, Protection, Reason, State};
pub use ranked::{Entry, Ranked};
pub use refusal::{Code, Refusal};
pub use reply::{Expiry, Form, Greeting, LoadReport, Reply};
pub use window::Window;

/// The highest protocol version this crate speaks.
pub const VERSION: u16 = 2;

/// The oldest protocol version this crate still speaks. Host and enclave are built together.
pub const OLDEST_VERSION: u16 = 2;

/// The most payload bytes one frame carries, on any platform (design rule 5). A platform may offer less.
pub const PAYLOAD_LIMIT: usize = 1 << 20;

/// The most bytes of a stored chunk of a spilled value, and the distance of chunks in the spill area.
pub const SPILL_CHUNK: usize = 65_552;

/// The most chunks of the spill area.
pub const MAX_SPILL_CHUNKS: u32 = 16_384;

/// Plaintext bytes of a piece of streamed weights; only the last of a segment's is shorter.
pub const PIECE: usize = 8_192;

/// Bytes a piece takes in the store: a tag, then the ciphertext.
pub const STORED_PIECE: usize = PIECE + 16;

/// The most bytes of the store that a command brings: a TEE may map that much beside a full heap.
pub const STORE_WINDOW: usize = 1 << 20;

/// Bytes of the store that hold a segment's weights.
pub fn stored_weights(plain_len: u64) -> u64 {
    plain_len.div_ceil(PIECE as u64).saturating_mul(STORED_PIECE as u64)
}

/// The most threads an enclave computes with.
pub const MAX_THREADS: usize = 16;

/// The most requests that are open in an enclave at once.
pub const MAX_OPEN_REQUESTS: usize = 8;

/// The version both sides speak, given the ranges they offer; the highest common one.
pub fn negotiate(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let lowest = ours.0.max(theirs.0);
    let highest = ours.1.min(theirs.1);
    (lowest <= highest).then_some(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation_takes_the_highest_common_version() {
        assert_eq!(negotiate((1, 3), (2, 5)), Some(3));
        assert_eq!(negotiate((1, 1), (1, 9)), Some(1));
        assert_eq!(negotiate((2, 3), (4, 5)), None);
        assert_eq!(negotiate((1, 3), (3, 1)), None, "an empty range never matches");
    }

    /// The SPEC's table of constants is the law; the code is read against it.
    #[test]
    fn constants_agree_with_the_spec() {
        let spec = include_str!("../SPEC.md");
        for (name, value) in [
            ("VERSION", u64::from(VERSION)),
            ("OLDEST_VERSION", u64::from(OLDEST_VERSION)),
            ("PAYLOAD_LIMIT", PAYLOAD_LIMIT as u64),
            ("SPILL_CHUNK", SPILL_CHUNK as u64),
            ("MAX_SPILL_CHUNKS", u64::from(MAX_SPILL_CHUNKS)),
            ("PIECE", PIECE as u64),
            ("STORED_PIECE", STORED_PIECE as u64),
            ("STORE_WINDOW", STORE_WINDOW as u64),
            ("MAX_NONCES", u64::from(MAX_NONCES)),
            ("MAX_THREADS", MAX_THREADS as u64),
            ("MAX_OPEN_REQUESTS", MAX_OPEN_REQUESTS as u64),
            ("SLACK", SLACK),
            ("HEAD_LIMIT", frame::HEAD_LIMIT as u64),
        ] {
            let row = alloc::format!("| `{name}` | {value} |");
            assert!(spec.contains(&row), "SPEC.md lacks the row {row}");
        }
        for code in Code::ALL {
            let row = alloc::format!("| {} | `{}` |", code.number(), code.name());
            assert!(spec.contains(&row), "SPEC.md lacks the row {row}");
        }
        for kind in EvidenceKind::ALL {
            let row = alloc::format!("| {} | `{}` |", kind.number(), kind.name());
            assert!(spec.contains(&row), "SPEC.md lacks the row {row}");
        }
        for guard in Guard::ALL {
            let row = alloc::format!("| `{}` |", guard.name());
            assert!(spec.contains(&row), "SPEC.md lacks the row {row}");
        }
        for reason in Reason::ALL {
            let row = alloc::format!("| {} | `{}` |", reason.number(), reason.name());
            assert!(spec.contains(&row), "SPEC.md lacks the row {row}");
        }
    }
}
