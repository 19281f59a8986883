//! A package file on the host: mapped, checked for damage, read by section.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cordon_package::{
    Checked, Header, Manifest, Parsed, Section, SectionKind, Trust, Verified, check_public, chunk, leaves,
};
use cordon_protocol::Part;

use crate::error::RuntimeError;

/// A mapped package whose public parts are undamaged.
///
/// The host takes the owner's name from the package itself, so this check finds damage, not forgery: whom to trust is
/// decided inside the enclave, against the owners the device pins.
pub struct PackageFile {
    bytes: Bytes,
    header_len: usize,
    manifest: Manifest,
    verified: Verified,
    path: PathBuf,
}

impl PackageFile {
    /// Maps and checks a file, and that this version runs it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RuntimeError> {
        let path = path.as_ref().to_path_buf();
        let file = File::open(&path).map_err(|source| RuntimeError::io(&path, source))?;
        let bytes = cordon_mapped::file(&file).map_err(|source| RuntimeError::io(&path, source))?;
        let owners = [*Parsed::parse_file(&bytes)?.claimed_owner()];
        let trust = Trust { now: now(), dangerous_accept_development: true, ..Trust::pinned(&owners) };
        let Checked { manifest, verified } = check_public(&bytes, &trust)?;
        manifest.check_runnable(verified.header())?;
        let header_len = cordon_package::header_length(&bytes)?;
        Ok(Self { bytes, header_len, manifest, verified, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The public manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The signed header.
    pub fn header(&self) -> &Header {
        self.verified.header()
    }

    /// The header's bytes, as the enclave reads them.
    pub fn header_bytes(&self) -> &[u8] {
        &self.bytes[..self.header_len]
    }

    /// The plain content of a public section, without a copy.
    pub fn public(&self, kind: SectionKind, segment: u16) -> Option<Bytes> {
        let section = self.header().section(kind, segment)?;
        if kind.is_sealed() {
            return None;
        }
        let start = usize::try_from(section.offset()).ok()?;
        let len = usize::try_from(section.plain_len()).ok()?;
        Some(self.bytes.slice(start..start.checked_add(len)?))
    }

    /// Appends leaves or stored chunks of a section to `out`.
    pub fn supply(
        &self,
        section: u32,
        part: Part,
        first: u32,
        count: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), RuntimeError> {
        let section = self.section(section)?;
        match part {
            Part::Leaves => {
                let all = leaves(&self.bytes, section)?;
                let range = (first as usize * 32).checked_add(count as usize * 32).map(|end| first as usize * 32..end);
                let wanted = range.and_then(|range| all.get(range));
                out.extend_from_slice(wanted.ok_or(RuntimeError::Protocol("leaves the section does not have"))?);
            }
            Part::Chunks => {
                for index in first..first.saturating_add(count) {
                    out.extend_from_slice(chunk(&self.bytes, section, index)?);
                }
            }
        }
        Ok(())
    }

    fn section(&self, index: u32) -> Result<&Section, RuntimeError> {
        let section = self.header().sections.get(index as usize);
        section.ok_or(RuntimeError::Protocol("a section the package does not have"))
    }
}

fn now() -> Option<u64> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}
