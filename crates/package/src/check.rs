//! Everything that can be checked about a package in memory, in the order a device does it.

use zeroize::Zeroizing;

use crate::chunks::LeafTable;
use crate::error::PackageError;
use crate::manifest::Manifest;
use crate::open::{Opened, Parsed, Trust, Verified};
use crate::recipient::RecipientKey;
use crate::secret::SegmentSecret;
use crate::section::{Section, SectionKind};

/// A whole package, checked.
pub struct Checked {
    /// Everything but the secrets.
    pub manifest: Manifest,
    /// The header.
    pub verified: Verified,
}

/// Checks a file without a key: header, trust, layout, every section against its root, stored leaf hashes, manifest.
pub fn check_public(file: &[u8], trust: &Trust<'_>) -> Result<Checked, PackageError> {
    let verified = Parsed::parse_file(file)?.verify(trust)?;
    let sections = &verified.header().sections;
    let first = sections.first().ok_or(PackageError::Misuse("no manifest"))?;
    let manifest = verified.manifest(stored(file, first)?)?;
    for section in sections {
        let leaves = leaf_table(&verified, file, section)?;
        for index in 0..section.chunks() {
            leaves.check(index, chunk(file, section, index)?)?;
        }
    }
    Ok(Checked { manifest, verified })
}

/// Checks a file as [`check_public`] does, then opens it with `key` and decrypts every chunk.
pub fn check(file: &[u8], trust: &Trust<'_>, key: &RecipientKey) -> Result<(Manifest, Opened), PackageError> {
    let Checked { manifest, verified } = check_public(file, trust)?;
    let opened = verified.open(key)?;
    for section in opened.header().sections.iter().filter(|s| s.kind().is_sealed()) {
        if section.kind() == SectionKind::SegmentSecret {
            let plain = opened.decrypt_section(section.kind(), section.segment(), stored(file, section)?)?;
            SegmentSecret::decode(&plain, opened.header().format)?.check(&manifest, section.segment())?;
        } else {
            let reader = opened.section(leaf_table(opened.verified(), file, section)?)?;
            for index in 0..section.chunks() {
                let mut buffer = Zeroizing::new(chunk(file, section, index)?.to_vec());
                reader.decrypt_chunk(index, &mut buffer)?;
            }
        }
    }
    Ok((manifest, opened))
}

/// The stored chunks of a section of `file`.
pub fn stored<'a>(file: &'a [u8], section: &Section) -> Result<&'a [u8], PackageError> {
    range(file, section.offset(), section.stored_len())
}

/// The leaf hashes of a section of `file`, not checked yet.
pub fn leaves<'a>(file: &'a [u8], section: &Section) -> Result<&'a [u8], PackageError> {
    range(file, section.leaves_offset(), section.leaves_len())
}

/// One stored chunk of a section of `file`.
pub fn chunk<'a>(file: &'a [u8], section: &Section, index: u32) -> Result<&'a [u8], PackageError> {
    let (offset, len) = section.chunk(index).ok_or(PackageError::Misuse("the section has no such chunk"))?;
    range(file, offset, u64::try_from(len).unwrap_or(u64::MAX))
}

fn leaf_table(verified: &Verified, file: &[u8], section: &Section) -> Result<LeafTable, PackageError> {
    let mut table = verified.leaf_table(section.kind(), section.segment())?;
    table.push(leaves(file, section)?)?;
    table.finish()
}

fn range(file: &[u8], offset: u64, len: u64) -> Result<&[u8], PackageError> {
    let start = usize::try_from(offset).map_err(|_| PackageError::Truncated)?;
    let len = usize::try_from(len).map_err(|_| PackageError::Truncated)?;
    start.checked_add(len).and_then(|end| file.get(start..end)).ok_or(PackageError::Truncated)
}
