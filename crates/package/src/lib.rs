//! The `.cordon` package: format, sealing, opening. `SPEC.md` beside this crate is the format's definition; every
//! failing vector in `vectors/` names one defect a reader must refuse.
//!
//! Pure functions over bytes; no I/O, no clock, no randomness of its own.
//!
//! # Reading
//!
//! | step | call | result proves |
//! |---|---|---|
//! | how much to read | [`header_length`] of the first 16 bytes | nothing |
//! | parse | [`Parsed::parse`], or [`Parsed::parse_file`] with the layout of the whole file | well-formed |
//! | verify | [`Parsed::verify`] with [`Trust`] | [`Verified`]: a pinned owner signed it, valid here and now |
//! | plain sections | [`Verified::manifest`], [`Verified::check_section`], [`Verified::leaf_table`] → [`LeafTable::check`] | the owner's bytes |
//! | open | [`Verified::open`], [`Verified::open_with_grant`] with [`RecipientKey`] | [`Opened`]: the segment keys |
//! | encrypted sections | [`Opened::section`] of a [`LeafTable`] → [`SealedSection::decrypt_chunk`] | the owner's secret bytes |
//!
//! A small enclave keeps 32 bytes for each 64 KiB chunk (the [`LeafTable`]) and one chunk. A reader with the whole file
//! in memory may call [`check`] or [`Opened::decrypt_section`].
//!
//! # Writing
//!
//! [`Sealer`] streams sections into a [`Sink`] and yields the header last; [`seal_to_vec`] does it in memory.
//! [`write_grant`] adds recipients later.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::panic,
        clippy::expect_used,
        clippy::unwrap_used
    )
)]

extern crate alloc;

mod aead;
mod check;
mod chunks;
mod error;
mod extensions;
mod format;
mod grant;
mod header;
mod image;
mod keys;
pub mod limits;
mod manifest;
pub mod merkle;
mod open;
mod placement;
mod policy;
mod random;
mod recipient;
mod rules;
mod secret;
mod section;
mod stanza;
mod text;
mod write;

pub use aead::{Aead, ChunkAead, NONCE_BYTES};
pub use check::{Checked, check, check_public, chunk, leaves, stored};
pub use chunks::{LeafTable, LeafTableBuilder, SealedSection};
pub use cordon_onnx_types::ElemType;
pub use error::PackageError;
pub use format::Format;
pub use grant::{GrantRequest, write_grant};
pub use header::{Header, header_length};
pub use image::{Channels, Fit, ImageLayout, Preprocessing};
pub use keys::{DeviceFile, OwnerKey, OwnerPublic};
pub use limits::{NORMAL_DATA_LOCATION, TAG_BYTES};
pub use manifest::{Manifest, Normalisation, OutputInfo, SegmentInfo, ValueInfo};
pub use open::{Opened, Parsed, Trust, Verified};
pub use placement::{Domain, Placement};
pub use policy::{OutputPolicies, OutputPolicy};
pub use random::Random;
pub use recipient::{DeviceKey, PlatformKind, Recipient, RecipientKey};
pub use secret::{Labels, ProgramKind, SealedProgram, SegmentSecret};
pub use section::{Section, SectionKind};
pub use stanza::Broker;
pub use write::{SealRequest, Sealer, SectionPlan, Sink, seal_to_vec};

/// Whose code decrypts chunks: `aes-gcm`, or with the feature `fast-aead` `ring`.
pub const CHUNK_CIPHER: &str = <aead::ChunkAead as aead::Aead>::NAME;
