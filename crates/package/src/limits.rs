//! The numbers of the format. SPEC.md states each of them in its table of limits; a test compares the two.

/// Bytes a package begins with.
pub const MAGIC: [u8; 8] = *b"\x89CORDON\n";
/// Bytes a grant begins with.
pub const GRANT_MAGIC: [u8; 8] = *b"\x89CGRANT\n";
/// Version of the format that is written.
pub const FORMAT: u16 = 2;
/// Oldest version that is read.
pub const OLDEST_FORMAT: u16 = 1;
/// Suite 1: Ed25519, HPKE base mode with DHKEM(X25519, HKDF-SHA256) / HKDF-SHA256 / AES-256-GCM, AES-256-GCM chunks,
/// HKDF-SHA256 working keys, SHA-256 trees.
pub const SUITE: u16 = 1;

/// Magic, format, suite and length of the header.
pub const PREFIX_BYTES: usize = 16;
/// An Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Header, from the first byte to the end of the signature.
pub const MAX_HEADER_BYTES: usize = 1 << 20;
/// Grant file.
pub const MAX_GRANT_BYTES: usize = 1 << 20;
/// Segments of a package.
pub const MAX_SEGMENTS: u16 = 64;
/// Sections of a package.
pub const MAX_SECTIONS: u32 = 256;
/// Stanzas of a package or grant.
pub const MAX_STANZAS: u32 = 256;
/// Body of one stanza.
pub const MAX_STANZA_BYTES: u32 = 1 << 16;
/// Names and URIs, in UTF-8 bytes.
pub const MAX_STRING_BYTES: u32 = 1024;
/// Key id of a `broker` stanza.
pub const MAX_KEY_ID_BYTES: u32 = 64;

/// Extensions of one structure.
pub const MAX_EXTENSIONS: u32 = 64;
/// Bytes of one extension.
pub const MAX_EXTENSION_BYTES: u32 = 1 << 16;

/// Plaintext bytes of every chunk but a section's last, which may be shorter.
pub const CHUNK_BYTES: usize = 1 << 16;
/// AES-GCM tag behind every encrypted chunk.
pub const TAG_BYTES: usize = 16;
/// A SHA-256 digest.
pub const HASH_BYTES: usize = 32;
/// Plaintext of any section.
pub const MAX_SECTION_BYTES: u64 = 1 << 40;
/// Alignment of `NormalData` in the file.
pub const PAGE_BYTES: u64 = 4096;

/// Manifest section.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// Shape variants of a manifest.
pub const MAX_VARIANTS: u8 = 16;
/// Values of a manifest.
pub const MAX_VALUES: u32 = 4096;
/// Extents of one value.
pub const MAX_RANK: u32 = 8;
/// Elements of one value.
pub const MAX_ELEMENTS: u64 = 1 << 31;
/// The plan in words, in UTF-8 bytes.
pub const MAX_PLAN_TEXT_BYTES: u32 = 1 << 16;
/// Height, width and resize target of preprocessing.
pub const MAX_IMAGE_SIDE: u32 = 8192;
/// Decimals of a rounded output.
pub const MAX_DECIMALS: u8 = 6;

/// Segment-secret section.
pub const MAX_SECRET_BYTES: u64 = 1 << 26;
/// Programs of one segment.
pub const MAX_PROGRAMS: u32 = 16;
/// Node names of one segment, or labels of one output.
pub const MAX_NAMES: u32 = 1 << 17;

/// Owners a device file may pin.
pub const MAX_PINNED_OWNERS: usize = 64;
/// A device file or any other key text.
pub const MAX_KEY_TEXT_BYTES: usize = 1 << 16;

/// The `location` that the external data of a normal segment's model names.
pub const NORMAL_DATA_LOCATION: &str = "model.data";
