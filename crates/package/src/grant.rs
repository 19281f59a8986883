//! Grants: a side file in which the owner adds recipients to a package that is already out.

use alloc::vec::Vec;

use cordon_codec::{DecodeError, Reader, Writer};
use sha2::{Digest, Sha256};

use crate::error::PackageError;
use crate::extensions;
use crate::format::Format;
use crate::header::versions;
use crate::keys::{OwnerKey, label};
use crate::limits::{GRANT_MAGIC, MAX_GRANT_BYTES, MAX_STANZAS, PREFIX_BYTES, SIGNATURE_BYTES, SUITE};
use crate::open::{Opened, Verified};
use crate::random::{Random, Stretched};
use crate::recipient::Recipient;
use crate::stanza::{self, Stanza};

/// A grant whose signature and package have been checked.
pub(crate) struct Grant {
    pub(crate) number: u64,
    pub(crate) not_after: Option<u64>,
    pub(crate) development: bool,
    pub(crate) stanzas: Vec<Stanza>,
}

/// What to grant, and to whom.
#[derive(Clone, Copy)]
pub struct GrantRequest<'a> {
    /// Devices, at least one.
    pub recipients: &'a [Recipient],
    /// Tells several grants of one package apart; the owner counts.
    pub number: u64,
    /// Last second of validity, Unix time.
    pub not_after: Option<u64>,
}

/// Writes a grant. `opened` comes from the owner's own stanza: [`OwnerKey::recipient_key`].
pub fn write_grant(
    opened: &Opened,
    owner: &OwnerKey,
    request: &GrantRequest<'_>,
    random: &mut dyn Random,
) -> Result<Vec<u8>, PackageError> {
    let recipients = request.recipients;
    let verified = opened.verified();
    if owner.public() != verified.header().owner {
        return Err(PackageError::Misuse("only the package's owner can grant"));
    }
    if recipients.is_empty() || recipients.len() > usize::try_from(MAX_STANZAS).unwrap_or(usize::MAX) {
        return Err(PackageError::Misuse("a grant has 1 to 256 recipients"));
    }
    let mut rng = Stretched::new(random)?;
    let stanzas = recipients
        .iter()
        .map(|r| Stanza::wrap(r.public_key(), verified.binding(), opened.keys(), &mut rng))
        .collect::<Result<Vec<_>, _>>()?;
    let mut body = Writer::new();
    body.raw(&verified.header().package_id).raw(verified.digest()).u64(request.number);
    body.option(request.not_after, |w, v| {
        w.u64(v);
    });
    body.bool(recipients.iter().any(|r| r.platform().is_development()));
    stanza::encode(&mut body, &stanzas);
    extensions::write_none(&mut body);
    let body = body.finish();
    let total = PREFIX_BYTES.saturating_add(body.len()).saturating_add(SIGNATURE_BYTES);
    if total > MAX_GRANT_BYTES {
        return Err(PackageError::TooManyRecipients);
    }
    let mut w = Writer::new();
    w.raw(&GRANT_MAGIC).u16(Format::WRITTEN.code()).u16(SUITE).count(total).raw(&body);
    let mut bytes = w.finish();
    let signature = owner.sign(&signature_label(), &Sha256::digest(&bytes).into());
    bytes.extend_from_slice(&signature);
    Ok(bytes)
}

impl Grant {
    /// Parses a grant and checks it against the package it must belong to.
    pub(crate) fn verify(bytes: &[u8], package: &Verified) -> Result<Self, PackageError> {
        let mut r = Reader::new(bytes);
        if r.take(GRANT_MAGIC.len(), "magic").map_err(|_| PackageError::BadMagic)? != GRANT_MAGIC {
            return Err(PackageError::BadMagic);
        }
        if bytes.len() < PREFIX_BYTES {
            return Err(PackageError::Truncated);
        }
        let format = versions(&mut r)?;
        let total = usize::try_from(r.u32("grant length")?).unwrap_or(usize::MAX);
        if total > MAX_GRANT_BYTES {
            return Err(DecodeError::TooLong("grant length").into());
        }
        if bytes.len() < total {
            return Err(PackageError::Truncated);
        }
        if bytes.len() > total {
            return Err(PackageError::Trailing);
        }
        if total < PREFIX_BYTES.saturating_add(SIGNATURE_BYTES) {
            return Err(DecodeError::Invalid("grant length").into());
        }
        let (signed, signature) =
            bytes.split_last_chunk::<SIGNATURE_BYTES>().ok_or(DecodeError::Invalid("grant length"))?;
        let header = package.header();
        header.owner.verify(&signature_label(), &Sha256::digest(signed).into(), signature)?;
        let mut r = Reader::new(signed);
        r.take(PREFIX_BYTES, "prefix")?;
        let id: [u8; 32] = r.array("package id")?;
        let digest: [u8; 32] = r.array("header digest")?;
        if id != header.package_id || digest != *package.digest() {
            return Err(PackageError::OtherPackage);
        }
        let (number, not_after) = match format {
            Format::V1 => (0, None),
            Format::V2 => (r.u64("grant number")?, r.option("not_after", |r| r.u64("not_after"))?),
        };
        let development = r.bool("development")?;
        let stanzas = stanza::decode(&mut r, header.sealed_segments().count())?;
        extensions::skip(&mut r, format)?;
        r.finish()?;
        Ok(Self { number, not_after, development, stanzas })
    }
}

fn signature_label() -> [u8; 32] {
    label("cordon/1 grant signature")
}
