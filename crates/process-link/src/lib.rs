//! What the host and the enclave of the process platform agree on besides the protocol.
//!
//! | module | what |
//! |---|---|
//! | [`ring`] | the memory they share, through which frames pass |
//! | [`stage`] | how far a start came |
//! | [`guard`] | names of the protections that only a Linux process has |
//! | [`profile`] | sizes and speeds that predictions rest on |
//!
//! The host's backend and the enclave's program are built together. `SPEC.md` beside this crate fixes the bytes all the same.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used, clippy::unreachable)
)]

extern crate alloc;

pub mod guard;
pub mod profile;
pub mod ring;
pub mod stage;

/// The platform's word.
pub const NAME: &str = "process";

#[cfg(test)]
mod tests {
    use super::*;

    /// The SPEC's tables are the law; the code is read against them.
    #[test]
    fn constants_agree_with_the_spec() {
        let spec = include_str!("../SPEC.md");
        for (name, value) in [
            ("RING_LAYOUT", u64::from(ring::LAYOUT)),
            ("RING_HEADER", ring::HEADER_BYTES as u64),
            ("RING_REPLY", profile::REPLY_PAYLOAD as u64),
        ] {
            let row = alloc::format!("| `{name}` | {value} |");
            assert!(spec.contains(&row), "SPEC.md lacks the row {row}");
        }
        for guard in guard::ALL {
            let row = alloc::format!("| `{}` |", guard.name());
            assert!(spec.contains(&row), "SPEC.md lacks the row {row}");
        }
        for stage in stage::Stage::ALL {
            let row = alloc::format!("| {} | {} |", stage.number(), stage.what());
            assert!(spec.contains(&row), "SPEC.md lacks the row {row}");
        }
    }
}
