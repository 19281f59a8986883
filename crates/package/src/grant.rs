//! Grants: a side file in which the owner adds recipients to a package that is already out.

use alloc::vec::Vec;

use cordon_codec::{DecodeError, Reader, Writer};
use sha2::{Digest, Sha256};

use crate::error::PackageError;
use crate::keys::{OwnerKey, Random, Recipient, Stretched, label};
use crate::limits::{FORMAT, GRANT_MAGIC, MAX_GRANT_BYTES, MAX_STANZAS, PREFIX_BYTES, SIGNATURE_BYTES, SUITE};
use crate::open::{Opened, Verified};
use crate::stanza::{self, Stanza};

/// A grant whose signature and package have been checked.
pub(crate) struct Grant {
    pub(crate) development: bool,
    pub(crate) stanzas: Vec<Stanza>,
}

/// Writes a grant for `recipients`. `opened` comes from the owner's own stanza: [`OwnerKey::device_key`].
pub fn write_grant(
    opened: &Opened,
    owner: &OwnerKey,
    recipients: &[Recipient],
    random: &mut dyn Random,
) -> Result<Vec<u8>, PackageError> {
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
        .map(|r| Stanza::wrap(r.public_bytes(), verified.binding(), opened.keys(), &mut rng))
        .collect::<Result<Vec<_>, _>>()?;
    let mut body = Writer::new();
    body.raw(&verified.header().package_id).raw(verified.digest());
    body.bool(recipients.iter().any(|r| r.platform().is_development()));
    stanza::encode(&mut body, &stanzas);
    let body = body.finish();
    let total = PREFIX_BYTES.saturating_add(body.len()).saturating_add(SIGNATURE_BYTES);
    if total > MAX_GRANT_BYTES {
        return Err(PackageError::TooManyRecipients);
    }
    let mut w = Writer::new();
    w.raw(&GRANT_MAGIC).u16(FORMAT).u16(SUITE).count(total).raw(&body);
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
        let format = r.u16("format").map_err(|_| PackageError::Truncated)?;
        if format != FORMAT {
            return Err(PackageError::UnsupportedFormat(format));
        }
        let suite = r.u16("suite").map_err(|_| PackageError::Truncated)?;
        if suite != SUITE {
            return Err(PackageError::UnsupportedSuite(suite));
        }
        let total = usize::try_from(r.u32("grant length").map_err(|_| PackageError::Truncated)?).unwrap_or(usize::MAX);
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
        let development = r.bool("development")?;
        let stanzas = stanza::decode(&mut r, header.sealed_segments().count())?;
        r.finish()?;
        Ok(Self { development, stanzas })
    }
}

fn signature_label() -> [u8; 32] {
    label("cordon/1 grant signature")
}
