//! Sealing. Sections stream through: their lengths are known beforehand, their roots only afterwards, and the length of
//! the header follows from neither. So the caller leaves [`Sealer::header_len`] bytes free, feeds every section in
//! order, and writes the header into the gap last.

use alloc::vec::Vec;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::chunks::ChunkCipher;
use crate::error::PackageError;
use crate::format::Format;
use crate::header::{self, Header, description_digest, signature_label};
use crate::keys::OwnerKey;
use crate::limits::{
    CHUNK_BYTES, MAX_HEADER_BYTES, MAX_KEY_ID_BYTES, MAX_SECTIONS, MAX_STANZAS, MAX_STRING_BYTES, TAG_BYTES,
};
use crate::merkle::{self, Hash};
use crate::policy::{OutputPolicies, OutputPolicy};
use crate::random::{Random, Stretched, draw};
use crate::recipient::Recipient;
use crate::section::{self, Section, SectionKind};
use crate::stanza::{self, Binding, Broker, SegmentKey, Stanza};

/// Where sealed bytes go, in the order of the file.
pub trait Sink {
    /// Takes all of `bytes`, or fails with [`PackageError::Sink`] and remembers why.
    fn write(&mut self, bytes: &[u8]) -> Result<(), PackageError>;
}

impl Sink for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), PackageError> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// A section to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SectionPlan {
    /// What it holds.
    pub kind: SectionKind,
    /// Its segment; 0 for the package's own.
    pub segment: u16,
    /// Plaintext bytes, at least one.
    pub plain_len: u64,
}

/// What to seal, and for whom.
#[derive(Clone, Copy)]
pub struct SealRequest<'a> {
    /// Not empty.
    pub name: &'a str,
    /// Version of `name`.
    pub version: u64,
    /// Last second of validity, Unix time.
    pub not_after: Option<u64>,
    /// Requests a device may serve.
    pub max_requests: Option<u64>,
    /// Applied inside the enclave, one for each of the model's outputs; none where all are full.
    pub output_policies: &'a [OutputPolicy],
    /// Devices. The owner is a recipient of every package without being listed.
    pub recipients: &'a [Recipient],
    /// Key brokers.
    pub brokers: &'a [Broker],
    /// In the order of the file: ascending kind, then segment; the manifest first.
    pub sections: &'a [SectionPlan],
}

/// A package being written.
pub struct Sealer<'a> {
    owner: &'a OwnerKey,
    recipients: &'a [Recipient],
    brokers: &'a [Broker],
    header: Header,
    header_len: usize,
    file_len: u64,
    keys: Vec<SegmentKey>,
    /// Index of the section that the next bytes belong to.
    current: usize,
    /// End of what the sink has got.
    position: u64,
    leaves: Vec<Hash>,
    cipher: Option<ChunkCipher>,
    buffer: Zeroizing<Vec<u8>>,
}

impl<'a> Sealer<'a> {
    /// Draws the package id and segment keys and lays the file out.
    pub fn new(request: &SealRequest<'a>, owner: &'a OwnerKey, random: &mut dyn Random) -> Result<Self, PackageError> {
        check_request(request)?;
        let sections = request
            .sections
            .iter()
            .map(|plan| Section::new(plan.kind, plan.segment, plan.plain_len, Hash::default()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut header = Header {
            format: Format::WRITTEN,
            package_id: *draw(random)?,
            owner: owner.public(),
            name: request.name.into(),
            version: request.version,
            not_after: request.not_after,
            max_requests: request.max_requests,
            development: request.recipients.iter().any(|r| r.platform().is_development()),
            output_policies: OutputPolicies::new(request.output_policies),
            sections,
        };
        header.check()?;
        let mut keys = Vec::new();
        for segment in header.sealed_segments() {
            keys.push(SegmentKey { segment, key: draw(random)? });
        }
        let x25519 = request.recipients.len().saturating_add(1);
        let stanzas = stanza::encoded_len(x25519, keys.len(), request.brokers);
        let header_len = header::encoded_len(header.encode().len(), stanzas);
        if header_len > MAX_HEADER_BYTES {
            return Err(PackageError::TooManyRecipients);
        }
        let file_len = section::place(&mut header.sections, header_len);
        Ok(Self {
            owner,
            recipients: request.recipients,
            brokers: request.brokers,
            header,
            header_len,
            file_len,
            keys,
            current: 0,
            position: u64::try_from(header_len).unwrap_or(u64::MAX),
            leaves: Vec::new(),
            cipher: None,
            buffer: Zeroizing::new(Vec::with_capacity(CHUNK_BYTES.saturating_add(TAG_BYTES))),
        })
    }

    /// Bytes to leave free at the beginning of the file.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Length of the finished file.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The header as far as it is known: everything but the roots.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The section that the next bytes belong to; `None` when all are complete.
    pub fn current(&self) -> Option<&Section> {
        self.header.sections.get(self.current)
    }

    /// Takes the next plaintext bytes of the current section, in pieces of any size that do not reach beyond it.
    pub fn push(&mut self, mut plain: &[u8], sink: &mut dyn Sink) -> Result<(), PackageError> {
        while !plain.is_empty() {
            let section =
                self.current().ok_or(PackageError::Misuse("more bytes than the sections were said to have"))?;
            let index = u32::try_from(self.leaves.len()).unwrap_or(u32::MAX);
            let (_, stored) = section.chunk(index).ok_or(PackageError::Misuse("the section is complete"))?;
            let tag = if section.kind().is_sealed() { TAG_BYTES } else { 0 };
            let missing = stored.saturating_sub(tag).saturating_sub(self.buffer.len());
            let (now, later) = plain.split_at(missing.min(plain.len()));
            if !later.is_empty() && index.saturating_add(1) == section.chunks() {
                return Err(PackageError::Misuse("a piece reaches beyond its section"));
            }
            self.buffer.extend_from_slice(now);
            plain = later;
            if now.len() == missing {
                self.end_chunk(index, sink)?;
            }
        }
        Ok(())
    }

    /// The header, once every section is complete: belongs at the beginning of the file.
    pub fn finish(mut self, random: &mut dyn Random) -> Result<Vec<u8>, PackageError> {
        if self.current().is_some() {
            return Err(PackageError::Misuse("a section is not complete"));
        }
        let description = self.header.encode();
        let digest = description_digest(self.header.format, &description);
        let binding = Binding { owner: &self.header.owner, package_id: &self.header.package_id, description: &digest };
        let mut rng = Stretched::new(random)?;
        let owner = self.owner.recipient_key().public_bytes();
        let recipients = core::iter::once(&owner).chain(self.recipients.iter().map(Recipient::public_key));
        let mut stanzas = recipients
            .map(|recipient| Stanza::wrap(recipient, binding, &self.keys, &mut rng))
            .collect::<Result<Vec<_>, _>>()?;
        stanzas.extend(self.brokers.iter().cloned().map(Stanza::Broker));
        let mut bytes = header::encode(&description, &stanzas, self.header_len);
        let signature = self.owner.sign(&signature_label(), &Sha256::digest(&bytes).into());
        bytes.extend_from_slice(&signature);
        self.buffer.clear();
        if bytes.len() == self.header_len {
            Ok(bytes)
        } else {
            Err(PackageError::Misuse("the header's length was computed wrongly"))
        }
    }

    fn end_chunk(&mut self, index: u32, sink: &mut dyn Sink) -> Result<(), PackageError> {
        let section = self.header.sections.get_mut(self.current).ok_or(PackageError::Misuse("no section"))?;
        if index == 0 {
            let padding = section.offset().saturating_sub(self.position);
            sink.write(&alloc::vec![0; usize::try_from(padding).unwrap_or(0)])?;
            self.cipher = if section.kind().is_sealed() {
                let key = self.keys.iter().find(|k| k.segment == section.segment());
                let key = key.ok_or(PackageError::Misuse("an encrypted section of a segment without a secret part"))?;
                Some(ChunkCipher::new(&self.header.package_id, &key.key, section))
            } else {
                None
            };
        }
        if let Some(cipher) = &self.cipher {
            let tag = cipher.encrypt(index, &mut self.buffer)?;
            self.buffer.extend_from_slice(&tag);
        }
        self.leaves.push(merkle::leaf(&self.buffer));
        sink.write(&self.buffer)?;
        self.buffer.clear();
        if index.saturating_add(1) == section.chunks() {
            section.set_root(merkle::root(self.leaves.iter().copied()));
            sink.write(self.leaves.as_flattened())?;
            self.position = section.leaves_offset().saturating_add(section.leaves_len());
            self.leaves.clear();
            self.current = self.current.saturating_add(1);
        }
        Ok(())
    }
}

/// Seals sections that are in memory, `contents` in the order of `request.sections`.
pub fn seal_to_vec(
    request: &SealRequest<'_>,
    contents: &[&[u8]],
    owner: &OwnerKey,
    random: &mut dyn Random,
) -> Result<Vec<u8>, PackageError> {
    let mut sealer = Sealer::new(request, owner, random)?;
    let mut file = alloc::vec![0; sealer.header_len()];
    for content in contents {
        sealer.push(content, &mut file)?;
    }
    let header = sealer.finish(random)?;
    file.iter_mut().zip(header).for_each(|(to, from)| *to = from);
    Ok(file)
}

fn check_request(request: &SealRequest<'_>) -> Result<(), PackageError> {
    let misuse = |condition, message| if condition { Err(PackageError::Misuse(message)) } else { Ok(()) };
    let fits = |len: usize, max: u32| u32::try_from(len).is_ok_and(|len| len <= max);
    let stanzas = request.recipients.len().saturating_add(request.brokers.len()).saturating_add(1);
    let twice = request.recipients.iter().enumerate().any(|(i, r)| request.recipients.iter().take(i).any(|q| q == r));
    misuse(request.name.is_empty() || !fits(request.name.len(), MAX_STRING_BYTES), "a name has 1 to 1024 bytes")?;
    if !fits(stanzas, MAX_STANZAS) {
        return Err(PackageError::TooManyRecipients);
    }
    misuse(twice, "a recipient is listed twice")?;
    misuse(!OutputPolicies::new(request.output_policies).are_valid(), "the output policy is out of its limits")?;
    misuse(!fits(request.sections.len(), MAX_SECTIONS), "too many sections")?;
    let broker = |b: &Broker| fits(b.key_id.len(), MAX_KEY_ID_BYTES) && fits(b.uri.len(), MAX_STRING_BYTES);
    misuse(!request.brokers.iter().all(broker), "a broker's key id has at most 64 bytes, its URI 1024")
}
