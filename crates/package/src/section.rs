//! Sections of a package: what they hold and where they lie.

use core::fmt;

use cordon_codec::{DecodeError, Reader, Writer};

use crate::error::PackageError;
use crate::format::Format;
use crate::limits::{
    CHUNK_BYTES, HASH_BYTES, MAX_MANIFEST_BYTES, MAX_SECRET_BYTES, MAX_SECTION_BYTES, MAX_SEGMENTS, PAGE_BYTES,
    TAG_BYTES,
};
use crate::merkle::Hash;

/// Encoded size of one entry of the section table.
pub(crate) const SECTION_ENTRY_BYTES: usize = 1 + 2 + 8 + HASH_BYTES;
const CHUNK: u64 = wide(CHUNK_BYTES);
const TAG: u64 = wide(TAG_BYTES);
const HASH: u64 = wide(HASH_BYTES);

#[expect(clippy::as_conversions, reason = "usize has at most 64 bits; TryFrom is not const")]
const fn wide(n: usize) -> u64 {
    n as u64
}

/// What a section holds. The order of the variants is the order in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SectionKind {
    /// The public description of segments and values. Exactly one, with segment 0.
    Manifest,
    /// Encrypted: a secure segment's Programs, weight table, names and labels.
    SegmentSecret,
    /// Encrypted: a secure segment's secret weights.
    Weights,
    /// Plain: weights both worlds read. At most one, with segment 0.
    PublicWeights,
    /// Plain: a normal segment's ONNX model.
    NormalModel,
    /// Plain: a normal segment's weights, page-aligned, the model's external data.
    NormalData,
    /// Plain: what a later version added for readers that know its code, 128 or more. It is checked like any other, and not
    /// looked into.
    Optional(u8),
}

/// From this code on, a kind of section that a reader does not know is skipped.
const OPTIONAL: u8 = 128;

impl SectionKind {
    /// Whether its chunks are encrypted.
    pub fn is_sealed(self) -> bool {
        matches!(self, Self::SegmentSecret | Self::Weights)
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Manifest => 1,
            Self::SegmentSecret => 2,
            Self::Weights => 3,
            Self::PublicWeights => 4,
            Self::NormalModel => 5,
            Self::NormalData => 6,
            Self::Optional(code) => code,
        }
    }

    fn from_code(code: u8, format: Format) -> Result<Self, PackageError> {
        Ok(match code {
            1 => Self::Manifest,
            2 => Self::SegmentSecret,
            3 => Self::Weights,
            4 => Self::PublicWeights,
            5 => Self::NormalModel,
            6 => Self::NormalData,
            OPTIONAL.. if format >= Format::V2 => Self::Optional(code),
            _ => return Err(PackageError::Unsupported("a kind of section")),
        })
    }

    fn max_bytes(self) -> u64 {
        match self {
            Self::Manifest => MAX_MANIFEST_BYTES,
            Self::SegmentSecret => MAX_SECRET_BYTES,
            _ => MAX_SECTION_BYTES,
        }
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifest => "the manifest",
            Self::SegmentSecret => "the secret part",
            Self::Weights => "the weights",
            Self::PublicWeights => "the public weights",
            Self::NormalModel => "the model",
            Self::NormalData => "the model data",
            Self::Optional(_) => "an optional section",
        })
    }
}

/// One section, its sizes within the limits. Offsets and chunk sizes follow from the plaintext length, so no other
/// field can contradict it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    kind: SectionKind,
    segment: u16,
    plain_len: u64,
    root: Hash,
    offset: u64,
}

impl Section {
    pub(crate) fn new(kind: SectionKind, segment: u16, plain_len: u64, root: Hash) -> Result<Self, DecodeError> {
        if plain_len == 0 {
            return Err(DecodeError::Invalid("section length"));
        }
        if plain_len > kind.max_bytes() {
            return Err(DecodeError::TooLong("section length"));
        }
        let whole_package = matches!(kind, SectionKind::Manifest | SectionKind::PublicWeights);
        if segment >= if whole_package { 1 } else { MAX_SEGMENTS } {
            return Err(DecodeError::Invalid("section segment"));
        }
        Ok(Self { kind, segment, plain_len, root, offset: 0 })
    }

    /// What it holds.
    pub fn kind(&self) -> SectionKind {
        self.kind
    }

    /// The segment it belongs to, 0 where it belongs to the package.
    pub fn segment(&self) -> u16 {
        self.segment
    }

    /// Bytes before encryption; at least one.
    pub fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// Root over the stored chunks.
    pub fn root(&self) -> &Hash {
        &self.root
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u32 {
        // At most 2^40 / 2^16 = 2^24.
        u32::try_from(self.plain_len.div_ceil(CHUNK)).unwrap_or(u32::MAX)
    }

    /// Offset in the file of the first chunk.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of all stored chunks.
    pub fn stored_len(&self) -> u64 {
        self.plain_len.saturating_add(u64::from(self.chunks()).saturating_mul(self.tag_len()))
    }

    /// Offset in the file of the leaf hashes, [`Self::leaves_len`] bytes.
    pub fn leaves_offset(&self) -> u64 {
        self.offset.saturating_add(self.stored_len())
    }

    /// Bytes of the leaf hashes.
    pub fn leaves_len(&self) -> u64 {
        u64::from(self.chunks()).saturating_mul(HASH)
    }

    /// Offset in the file and stored length of one chunk; `None` past the last.
    pub fn chunk(&self, index: u32) -> Option<(u64, usize)> {
        let before = u64::from(index).saturating_mul(CHUNK);
        let plain = self.plain_len.checked_sub(before).filter(|rest| *rest > 0)?.min(CHUNK);
        let stride = CHUNK.saturating_add(self.tag_len());
        let offset = self.offset.saturating_add(u64::from(index).saturating_mul(stride));
        Some((offset, usize::try_from(plain.saturating_add(self.tag_len())).ok()?))
    }

    /// A root and nothing else that differs: for the sealer, which learns roots last.
    pub(crate) fn set_root(&mut self, root: Hash) {
        self.root = root;
    }

    pub(crate) fn encode(&self, w: &mut Writer) {
        w.u8(self.kind.code()).u16(self.segment).u64(self.plain_len).raw(&self.root);
    }

    pub(crate) fn decode(r: &mut Reader<'_>, format: Format) -> Result<Self, PackageError> {
        let kind = SectionKind::from_code(r.u8("section kind")?, format)?;
        let segment = r.u16("section segment")?;
        let plain_len = r.u64("section length")?;
        Ok(Self::new(kind, segment, plain_len, r.array("section root")?)?)
    }

    fn tag_len(&self) -> u64 {
        if self.kind.is_sealed() { TAG } else { 0 }
    }

    fn end(&self) -> u64 {
        self.leaves_offset().saturating_add(self.leaves_len())
    }

    /// The error about bytes that are not this section's.
    pub fn damaged(&self) -> PackageError {
        PackageError::Digest { kind: self.kind, segment: self.segment }
    }

    pub(crate) fn chunk_error(&self, index: u32) -> PackageError {
        PackageError::Chunk { kind: self.kind, segment: self.segment, index }
    }
}

/// Gives every section its place behind a header of `header_len` bytes; returns the length of the file.
pub(crate) fn place(sections: &mut [Section], header_len: usize) -> u64 {
    let mut end = u64::try_from(header_len).unwrap_or(u64::MAX);
    for section in sections {
        let align = if section.kind == SectionKind::NormalData { PAGE_BYTES } else { 1 };
        section.offset = end.checked_next_multiple_of(align).unwrap_or(u64::MAX);
        end = section.end();
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_contiguous_and_data_is_page_aligned() {
        let mut sections = [
            Section::new(SectionKind::Manifest, 0, 10, [0; 32]).expect("ok"),
            Section::new(SectionKind::Weights, 1, CHUNK_BYTES as u64 + 1, [0; 32]).expect("ok"),
            Section::new(SectionKind::NormalData, 1, 3, [0; 32]).expect("ok"),
        ];
        let end = place(&mut sections, 100);
        assert_eq!(sections[0].offset(), 100);
        assert_eq!(sections[1].offset(), 100 + 10 + 32);
        assert_eq!(sections[1].chunk(1), Some((142 + 65_552, 17)));
        assert_eq!(sections[1].chunk(2), None);
        assert_eq!(sections[2].offset() % PAGE_BYTES, 0);
        assert_eq!(end, sections[2].offset() + 35);
    }

    #[test]
    fn impossible_sections_are_refused() {
        let section = |kind, segment, len| Section::new(kind, segment, len, [0; 32]);
        assert_eq!(section(SectionKind::Weights, 0, 0), Err(DecodeError::Invalid("section length")));
        assert_eq!(section(SectionKind::Weights, 0, u64::MAX), Err(DecodeError::TooLong("section length")));
        assert!(section(SectionKind::Weights, 0, MAX_SECTION_BYTES).is_ok());
        assert!(section(SectionKind::Weights, MAX_SEGMENTS, 1).is_err());
        assert!(section(SectionKind::Manifest, 1, 1).is_err());
    }
}
