//! From bytes to plaintext in three proof types: [`Parsed`] claims, [`Verified`] is the owner's word, [`Opened`] holds
//! the keys. Each is made by its checking function only, and the next step takes it.

use alloc::vec::Vec;

use zeroize::Zeroizing;

use crate::chunks::{LeafTable, LeafTableBuilder, SealedSection};
use crate::error::PackageError;
use crate::grant::Grant;
use crate::header::{self, Header, HeaderParts, header_length, signature_label};
use crate::keys::OwnerPublic;
use crate::limits::CHUNK_BYTES;
use crate::manifest::Manifest;
use crate::merkle::{self, Hash};
use crate::recipient::RecipientKey;
use crate::section::{Section, SectionKind};
use crate::stanza::{self, Binding, Broker, SegmentKey, Stanza};

/// What a verifier accepts.
#[derive(Clone, Copy)]
pub struct Trust<'a> {
    /// Pinned owners.
    pub owners: &'a [OwnerPublic],
    /// Unix time from a clock the verifier trusts; without one `not_after` is not checked, and
    /// [`Verified::is_expiry_checked`] says so.
    pub now: Option<u64>,
    /// Smallest version accepted of [`Parsed::claimed_name`] by [`Parsed::claimed_owner`].
    pub minimum_version: u64,
    /// Accept packages for platforms without hardware protection.
    pub dangerous_accept_development: bool,
}

impl<'a> Trust<'a> {
    /// Accepts any version of these owners' packages, but none marked development, and checks no clock.
    pub fn pinned(owners: &'a [OwnerPublic]) -> Self {
        Self { owners, now: None, minimum_version: 0, dangerous_accept_development: false }
    }
}

/// A well-formed header. Nothing it says is authentic.
pub struct Parsed(HeaderParts);

impl Parsed {
    /// Parses a header; `bytes` are exactly the [`header_length`] first bytes of the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, PackageError> {
        header::decode(bytes).map(Self)
    }

    /// Parses the header of a whole file, and checks that the file is as long as the header says and that padding is
    /// zero.
    pub fn parse_file(file: &[u8]) -> Result<Self, PackageError> {
        let len = header_length(file)?;
        let parsed = Self::parse(file.get(..len).ok_or(PackageError::Truncated)?)?;
        parsed.check_layout(file)?;
        Ok(parsed)
    }

    /// Who the header says signed it: for looking up trust before [`Self::verify`].
    pub fn claimed_owner(&self) -> &OwnerPublic {
        &self.0.header.owner
    }

    /// The name the header claims: for looking up the smallest accepted version before [`Self::verify`].
    pub fn claimed_name(&self) -> &str {
        &self.0.header.name
    }

    /// Length of the file according to the header.
    pub fn file_len(&self) -> u64 {
        self.0.file_len
    }

    /// Checks owner, signature, validity, version and development mark, in this order.
    pub fn verify(self, trust: &Trust<'_>) -> Result<Verified, PackageError> {
        let parts = self.0;
        let header = &parts.header;
        if !trust.owners.contains(&header.owner) {
            return Err(PackageError::UnpinnedOwner);
        }
        header.owner.verify(&signature_label(), &parts.signed, &parts.signature)?;
        check_expiry(trust.now, header.not_after)?;
        if header.version < trust.minimum_version {
            return Err(PackageError::OlderVersion { version: header.version, minimum: trust.minimum_version });
        }
        if header.development && !trust.dangerous_accept_development {
            return Err(PackageError::Development);
        }
        Ok(Verified { parts, now: trust.now, accept_development: trust.dangerous_accept_development })
    }

    fn check_layout(&self, file: &[u8]) -> Result<(), PackageError> {
        let len = u64::try_from(file.len()).map_err(|_| PackageError::Trailing)?;
        if len < self.0.file_len {
            return Err(PackageError::Truncated);
        }
        if len > self.0.file_len {
            return Err(PackageError::Trailing);
        }
        let mut end = self.0.header_len;
        for section in &self.0.header.sections {
            let start = to_usize(section.offset())?;
            if file.get(end..start).is_none_or(|padding| padding.iter().any(|b| *b != 0)) {
                return Err(PackageError::Trailing);
            }
            end = to_usize(section.leaves_offset().saturating_add(section.leaves_len()))?;
        }
        Ok(())
    }
}

/// A header signed by a pinned owner and acceptable here. Plain sections can be read with it.
pub struct Verified {
    parts: HeaderParts,
    /// As [`Trust::now`].
    now: Option<u64>,
    accept_development: bool,
}

impl Verified {
    /// The authentic header.
    pub fn header(&self) -> &Header {
        &self.parts.header
    }

    /// SHA-256 of the header with its signature: names this very package.
    pub fn digest(&self) -> &Hash {
        &self.parts.digest
    }

    /// Length of the whole file.
    pub fn file_len(&self) -> u64 {
        self.parts.file_len
    }

    /// False when the package has an end of validity but there was no clock to check it.
    pub fn is_expiry_checked(&self) -> bool {
        self.header().not_after.is_none() || self.now.is_some()
    }

    /// Recipients the package was sealed to, the owner included; devices added by a grant are not counted.
    pub fn recipients(&self) -> usize {
        self.parts.recipients
    }

    /// Key brokers that may release the keys.
    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.parts.stanzas.iter().filter_map(|s| match s {
            Stanza::Broker(broker) => Some(broker),
            _ => None,
        })
    }

    /// Starts reading a section's leaf hashes, for checking single chunks.
    pub fn leaf_table(&self, kind: SectionKind, segment: u16) -> Result<LeafTableBuilder, PackageError> {
        Ok(LeafTableBuilder::new(self.section(kind, segment)?))
    }

    /// Checks a whole section's stored chunks; for a plain section the result is its content.
    pub fn check_section<'a>(
        &self,
        kind: SectionKind,
        segment: u16,
        stored: &'a [u8],
    ) -> Result<&'a [u8], PackageError> {
        let section = self.section(kind, segment)?;
        if u64::try_from(stored.len()) != Ok(section.stored_len()) {
            return Err(section.damaged());
        }
        let stride = section.chunk(0).map_or(CHUNK_BYTES, |(_, len)| len);
        if merkle::root(stored.chunks(stride).map(merkle::leaf)) != *section.root() {
            return Err(section.damaged());
        }
        Ok(stored)
    }

    /// Checks and decodes the manifest section, against the header too.
    pub fn manifest(&self, stored: &[u8]) -> Result<Manifest, PackageError> {
        let manifest = Manifest::decode(self.check_section(SectionKind::Manifest, 0, stored)?, self.header().format)?;
        manifest.check_header(self.header())?;
        Ok(manifest)
    }

    /// Unwraps the segment keys sealed for the holder of `key`.
    pub fn open(self, key: &RecipientKey) -> Result<Opened, PackageError> {
        let keys = stanza::unwrap(&self.parts.stanzas, key, self.binding(), &self.segments())?;
        Ok(self.opened(keys, None))
    }

    /// Unwraps the segment keys that a grant of the same owner adds for the holder of `key`.
    pub fn open_with_grant(self, grant: &[u8], key: &RecipientKey) -> Result<Opened, PackageError> {
        let grant = Grant::verify(grant, &self)?;
        check_expiry(self.now, grant.not_after)?;
        if grant.development && !self.accept_development {
            return Err(PackageError::Development);
        }
        let keys = stanza::unwrap(&grant.stanzas, key, self.binding(), &self.segments())?;
        Ok(self.opened(keys, Some(&grant)))
    }

    /// Drops the wrapped keys: a small enclave has no room to spare.
    fn opened(mut self, keys: Vec<SegmentKey>, grant: Option<&Grant>) -> Opened {
        self.parts.stanzas.retain(|s| matches!(s, Stanza::Broker(_)));
        self.parts.stanzas.shrink_to_fit();
        let header = self.header();
        let ends = [header.not_after, grant.and_then(|grant| grant.not_after)];
        Opened {
            keys,
            grant: grant.map(|grant| grant.number),
            not_after: ends.into_iter().flatten().min(),
            development: header.development || grant.is_some_and(|grant| grant.development),
            verified: self,
        }
    }

    pub(crate) fn binding(&self) -> Binding<'_> {
        let header = &self.parts.header;
        Binding { owner: &header.owner, package_id: &header.package_id, description: &self.parts.description }
    }

    fn segments(&self) -> Vec<u16> {
        self.header().sealed_segments().collect()
    }

    fn section(&self, kind: SectionKind, segment: u16) -> Result<&Section, PackageError> {
        self.header().section(kind, segment).ok_or(PackageError::Misuse("the package has no such section"))
    }
}

/// A verified package with its segment keys.
pub struct Opened {
    verified: Verified,
    keys: Vec<SegmentKey>,
    grant: Option<u64>,
    not_after: Option<u64>,
    development: bool,
}

impl Opened {
    /// The verified package.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// The authentic header.
    pub fn header(&self) -> &Header {
        self.verified.header()
    }

    /// Number of the grant it was opened with.
    pub fn grant(&self) -> Option<u64> {
        self.grant
    }

    /// Last second of validity of the package and of the grant it was opened with, Unix time.
    pub fn not_after(&self) -> Option<u64> {
        self.not_after
    }

    /// False when there is an end of validity but there was no clock to check it.
    pub fn is_expiry_checked(&self) -> bool {
        self.not_after.is_none() || self.verified.now.is_some()
    }

    /// Whether the package, or the grant it was opened with, is for platforms without hardware protection.
    pub fn is_development(&self) -> bool {
        self.development
    }

    /// A reader for an encrypted section. `leaves` must be of this package.
    pub fn section(&self, leaves: LeafTable) -> Result<SealedSection, PackageError> {
        let section = leaves.section();
        if self.header().section(section.kind(), section.segment()) != Some(section) {
            return Err(PackageError::Misuse("the leaf table belongs to another package"));
        }
        let key = self
            .keys
            .iter()
            .find(|k| k.segment == section.segment() && section.kind().is_sealed())
            .ok_or(PackageError::Misuse("the section is not encrypted"))?;
        Ok(SealedSection::new(&self.header().package_id, &key.key, leaves))
    }

    /// Decrypts a whole section at once. For sections known to be small, and on machines with room.
    pub fn decrypt_section(
        &self,
        kind: SectionKind,
        segment: u16,
        stored: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, PackageError> {
        self.verified.check_section(kind, segment, stored)?;
        let mut builder = self.verified.leaf_table(kind, segment)?;
        let section = self.verified.section(kind, segment)?;
        let stride = section.chunk(0).map_or(CHUNK_BYTES, |(_, len)| len);
        let mut plain = Zeroizing::new(Vec::with_capacity(to_usize(section.plain_len())?));
        for chunk in stored.chunks(stride) {
            builder.push(&merkle::leaf(chunk))?;
        }
        let reader = self.section(builder.finish()?)?;
        let mut buffer = Zeroizing::new(Vec::with_capacity(stride));
        for (index, chunk) in (0..).zip(stored.chunks(stride)) {
            buffer.clear();
            buffer.extend_from_slice(chunk);
            plain.extend_from_slice(reader.decrypt_chunk(index, &mut buffer)?);
        }
        Ok(plain)
    }

    pub(crate) fn keys(&self) -> &[SegmentKey] {
        &self.keys
    }
}

fn check_expiry(now: Option<u64>, not_after: Option<u64>) -> Result<(), PackageError> {
    match (now, not_after) {
        (Some(now), Some(not_after)) if now > not_after => Err(PackageError::Expired { not_after }),
        _ => Ok(()),
    }
}

fn to_usize(n: u64) -> Result<usize, PackageError> {
    usize::try_from(n).map_err(|_| PackageError::Truncated)
}
