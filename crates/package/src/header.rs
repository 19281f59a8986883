//! The signed header: what anyone may read about a package before trusting it.

use alloc::string::String;
use alloc::vec::Vec;

use cordon_codec::{DecodeError, Reader, Writer};
use sha2::{Digest, Sha256};

use crate::error::PackageError;
use crate::extensions;
use crate::format::Format;
use crate::keys::{OwnerPublic, label};
use crate::limits::{MAGIC, MAX_HEADER_BYTES, MAX_SECTIONS, MAX_STRING_BYTES, PREFIX_BYTES, SIGNATURE_BYTES, SUITE};
use crate::merkle::Hash;
use crate::policy::OutputPolicies;
use crate::section::{self, SECTION_ENTRY_BYTES, Section, SectionKind};
use crate::stanza::{self, Stanza};

/// The description of a package: every field the owner's signature fixes but the wrapped keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// What the file is written in.
    pub format: Format,
    /// Drawn for every seal.
    pub package_id: [u8; 32],
    /// Who signed.
    pub owner: OwnerPublic,
    /// What rollback protection counts versions of, per owner.
    pub name: String,
    /// Version of `name`.
    pub version: u64,
    /// Last second of validity, Unix time.
    pub not_after: Option<u64>,
    /// Requests a device may serve.
    pub max_requests: Option<u64>,
    /// Sealed to a platform without hardware protection; real platforms refuse it.
    pub development: bool,
    /// Applied inside the enclave.
    pub output_policies: OutputPolicies,
    /// In the order of the file.
    pub sections: Vec<Section>,
}

impl Header {
    /// The section of a kind and segment.
    pub fn section(&self, kind: SectionKind, segment: u16) -> Option<&Section> {
        self.sections.iter().find(|s| s.kind() == kind && s.segment() == segment)
    }

    /// Secure segments, ascending: those that have a key.
    pub fn sealed_segments(&self) -> impl Iterator<Item = u16> {
        self.sections.iter().filter(|s| s.kind() == SectionKind::SegmentSecret).map(Section::segment)
    }

    /// The description's bytes, in the format that is written.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.package_id).raw(self.owner.as_bytes()).string(&self.name).u64(self.version);
        w.option(self.not_after, |w, v| {
            w.u64(v);
        });
        w.option(self.max_requests, |w, v| {
            w.u64(v);
        });
        w.bool(self.development);
        self.output_policies.encode(&mut w);
        w.list(self.sections.iter(), |w, section| section.encode(w));
        extensions::write_none(&mut w);
        w.finish()
    }

    fn decode(bytes: &[u8], format: Format) -> Result<Self, PackageError> {
        let mut r = Reader::new(bytes);
        let header = Self {
            format,
            package_id: r.array("package id")?,
            owner: OwnerPublic::from_bytes(r.array("owner")?),
            name: r.string(MAX_STRING_BYTES, "name")?,
            version: r.u64("version")?,
            not_after: r.option("not_after", |r| r.u64("not_after"))?,
            max_requests: r.option("max_requests", |r| r.u64("max_requests"))?,
            development: r.bool("development")?,
            output_policies: OutputPolicies::decode(&mut r, format)?,
            sections: r.list(SECTION_ENTRY_BYTES, MAX_SECTIONS, "sections", |r| Section::decode(r, format))?,
        };
        extensions::skip(&mut r, format)?;
        r.finish()?;
        header.check()?;
        Ok(header)
    }

    /// Rules between fields. The order of sections is strict, so a package has one encoding and no section twice.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        if self.name.is_empty() {
            return Err(DecodeError::Invalid("name"));
        }
        let key = |s: &Section| (s.kind(), s.segment());
        let ascending = self.sections.iter().zip(self.sections.iter().skip(1)).all(|(a, b)| key(a) < key(b));
        if !ascending || self.sections.first().map(Section::kind) != Some(SectionKind::Manifest) {
            return Err(DecodeError::Invalid("order of sections"));
        }
        for section in &self.sections {
            let needs = match section.kind() {
                SectionKind::Weights => SectionKind::SegmentSecret,
                SectionKind::NormalData => SectionKind::NormalModel,
                SectionKind::NormalModel if self.section(SectionKind::SegmentSecret, section.segment()).is_some() => {
                    return Err(DecodeError::Invalid("a segment both secure and normal"));
                }
                _ => continue,
            };
            if self.section(needs, section.segment()).is_none() {
                return Err(DecodeError::Invalid("a section without the one it belongs to"));
            }
        }
        Ok(())
    }
}

/// Digest that wrapped keys are bound to.
pub(crate) fn description_digest(format: Format, description: &[u8]) -> Hash {
    Sha256::new()
        .chain_update(label("cordon/1 description"))
        .chain_update(format.code().to_le_bytes())
        .chain_update(SUITE.to_le_bytes())
        .chain_update(description)
        .finalize()
        .into()
}

/// Label of the owner's signature over a header.
pub(crate) fn signature_label() -> [u8; 32] {
    label("cordon/1 header signature")
}

/// Length of a header, from the file's first [`PREFIX_BYTES`] bytes: how much to read before [`crate::Parsed::parse`].
pub fn header_length(prefix: &[u8]) -> Result<usize, PackageError> {
    let mut r = Reader::new(prefix);
    if prefix.len() < PREFIX_BYTES {
        return Err(if MAGIC.starts_with(prefix) || prefix.starts_with(&MAGIC) {
            PackageError::Truncated
        } else {
            PackageError::BadMagic
        });
    }
    if r.array("magic")? != MAGIC {
        return Err(PackageError::BadMagic);
    }
    versions(&mut r)?;
    let len = usize::try_from(r.u32("header length")?).unwrap_or(usize::MAX);
    if len > MAX_HEADER_BYTES {
        return Err(DecodeError::TooLong("header length").into());
    }
    if len < PREFIX_BYTES.saturating_add(SIGNATURE_BYTES) {
        return Err(DecodeError::Invalid("header length").into());
    }
    Ok(len)
}

/// Format and suite, as they stand behind the magic bytes of packages and grants.
pub(crate) fn versions(r: &mut Reader<'_>) -> Result<Format, PackageError> {
    let format = Format::from_code(r.u16("format")?)?;
    match r.u16("suite")? {
        SUITE => Ok(format),
        suite => Err(PackageError::UnsupportedSuite(suite)),
    }
}

/// The parts of a header's bytes.
pub(crate) struct HeaderParts {
    pub(crate) header: Header,
    pub(crate) description: Hash,
    pub(crate) stanzas: Vec<Stanza>,
    /// How many of them are for devices, also after those have been dropped.
    pub(crate) recipients: usize,
    /// Digest of what the signature covers.
    pub(crate) signed: Hash,
    pub(crate) signature: [u8; SIGNATURE_BYTES],
    /// Digest of the header with its signature.
    pub(crate) digest: Hash,
    pub(crate) header_len: usize,
    pub(crate) file_len: u64,
}

/// Decodes a header that fills `bytes`. Nothing in the result is authentic yet.
pub(crate) fn decode(bytes: &[u8]) -> Result<HeaderParts, PackageError> {
    let header_len = header_length(bytes)?;
    if bytes.len() < header_len {
        return Err(PackageError::Truncated);
    }
    if bytes.len() > header_len {
        return Err(PackageError::Misuse("give the header's bytes only"));
    }
    let (signed, signature) =
        bytes.split_last_chunk::<SIGNATURE_BYTES>().ok_or(DecodeError::Invalid("header length"))?;
    let mut r = Reader::new(signed);
    r.take(MAGIC.len(), "magic")?;
    let format = versions(&mut r)?;
    r.u32("header length")?;
    let description = r.bytes(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX), "description")?;
    let mut header = Header::decode(description, format)?;
    let stanzas = stanza::decode(&mut r, header.sealed_segments().count())?;
    r.finish()?;
    let file_len = section::place(&mut header.sections, header_len);
    Ok(HeaderParts {
        description: description_digest(format, description),
        recipients: stanzas.iter().filter(|s| matches!(s, Stanza::X25519 { .. })).count(),
        stanzas,
        signed: Sha256::digest(signed).into(),
        signature: *signature,
        digest: Sha256::digest(bytes).into(),
        header_len,
        file_len,
        header,
    })
}

/// Length of the header that [`encode`] will make.
pub(crate) fn encoded_len(description: usize, stanzas: usize) -> usize {
    PREFIX_BYTES.saturating_add(4).saturating_add(description).saturating_add(stanzas).saturating_add(SIGNATURE_BYTES)
}

/// Everything before the signature.
pub(crate) fn encode(description: &[u8], stanzas: &[Stanza], header_len: usize) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(&MAGIC).u16(Format::WRITTEN.code()).u16(SUITE).count(header_len).bytes(description);
    stanza::encode(&mut w, stanzas);
    w.finish()
}
