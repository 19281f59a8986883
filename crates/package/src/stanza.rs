//! Stanzas: the segment keys, wrapped once for each recipient with HPKE (RFC 9180, base mode).

use alloc::string::String;
use alloc::vec::Vec;

use cordon_codec::{Reader, Writer};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, single_shot_open, single_shot_seal_with_rng};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::error::PackageError;
use crate::keys::{OwnerPublic, label};
use crate::limits::{MAX_KEY_ID_BYTES, MAX_STANZA_BYTES, MAX_STANZAS, MAX_STRING_BYTES};
use crate::merkle::Hash;
use crate::random::Stretched;
use crate::recipient::RecipientKey;

const TYPE_X25519: u16 = 1;
const TYPE_BROKER: u16 = 2;
const HINT_BYTES: usize = 8;
const ENCAPSULATED_BYTES: usize = 32;
const WRAPPED_BYTES: usize = 32 + 16;
/// Type and length before a stanza's body.
const STANZA_OVERHEAD: usize = 2 + 4;

/// The key of one secure segment, fresh in every package.
pub(crate) struct SegmentKey {
    pub(crate) segment: u16,
    pub(crate) key: Zeroizing<[u8; 32]>,
}

/// A key broker that releases the segment keys after attestation; holds no key material itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// What the broker knows the keys by.
    pub key_id: Vec<u8>,
    /// Where it is.
    pub uri: String,
}

/// What every wrapped key is bound to.
#[derive(Clone, Copy)]
pub(crate) struct Binding<'a> {
    pub(crate) owner: &'a OwnerPublic,
    pub(crate) package_id: &'a [u8; 32],
    /// Digest of the header's description: every public field and every section's root.
    pub(crate) description: &'a Hash,
}

impl Binding<'_> {
    /// Lets a device find its stanza without telling anyone who does not know its public key.
    fn hint(&self, recipient: &[u8; 32]) -> [u8; HINT_BYTES] {
        let digest: Hash = Sha256::new()
            .chain_update(label("cordon/1 recipient hint"))
            .chain_update(self.package_id)
            .chain_update(recipient)
            .finalize()
            .into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        [a, b, c, d, e, f, g, h]
    }

    fn info(&self, segment: u16) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&label("cordon/1 segment key")).raw(self.owner.as_bytes()).raw(self.description).u16(segment);
        w.finish()
    }
}

pub(crate) struct Wrap {
    encapsulated: [u8; ENCAPSULATED_BYTES],
    wrapped: [u8; WRAPPED_BYTES],
}

/// One entry of the stanza list.
pub(crate) enum Stanza {
    X25519 {
        hint: [u8; HINT_BYTES],
        /// One for each sealed segment, ascending.
        wraps: Vec<Wrap>,
    },
    Broker(Broker),
    /// A type of a later version: skipped.
    Unknown,
}

impl Stanza {
    /// Wraps `keys` for the holder of the secret behind `recipient`.
    pub(crate) fn wrap(
        recipient: &[u8; 32],
        binding: Binding<'_>,
        keys: &[SegmentKey],
        rng: &mut Stretched,
    ) -> Result<Self, PackageError> {
        const WEAK: PackageError = PackageError::BadKey("the recipient's public key is a weak point");
        let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(recipient).map_err(|_| WEAK)?;
        let mut wraps = Vec::with_capacity(keys.len());
        for SegmentKey { segment, key } in keys {
            let (encapsulated, wrapped) = single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &public,
                &binding.info(*segment),
                key.as_slice(),
                &[],
                rng,
            )
            .map_err(|_| WEAK)?;
            let wrapped = wrapped.try_into().map_err(|_| WEAK)?;
            wraps.push(Wrap { encapsulated: encapsulated.to_bytes().into(), wrapped });
        }
        Ok(Self::X25519 { hint: binding.hint(recipient), wraps })
    }
}

/// Finds the stanza for `key` and unwraps the keys of `segments`.
pub(crate) fn unwrap(
    stanzas: &[Stanza],
    key: &RecipientKey,
    binding: Binding<'_>,
    segments: &[u16],
) -> Result<Vec<SegmentKey>, PackageError> {
    let hint = binding.hint(&key.public_bytes());
    let wraps = stanzas
        .iter()
        .find_map(|stanza| match stanza {
            Stanza::X25519 { hint: h, wraps } if *h == hint => Some(wraps),
            _ => None,
        })
        .ok_or(PackageError::NotARecipient)?;
    let private = key.private();
    let mut keys = Vec::with_capacity(segments.len());
    for (segment, wrap) in segments.iter().zip(wraps) {
        let encapsulated =
            <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&wrap.encapsulated).map_err(|_| PackageError::Unwrap)?;
        let mut plain = single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &private,
            &encapsulated,
            &binding.info(*segment),
            &wrap.wrapped,
            &[],
        )
        .map_err(|_| PackageError::Unwrap)?;
        let mut key = Zeroizing::new([0; 32]);
        let fits = plain.len() == key.len();
        key.iter_mut().zip(&plain).for_each(|(to, from)| *to = *from);
        plain.zeroize();
        if !fits {
            return Err(PackageError::Unwrap);
        }
        keys.push(SegmentKey { segment: *segment, key });
    }
    if keys.len() == segments.len() { Ok(keys) } else { Err(PackageError::Unwrap) }
}

/// Encodes a list of stanzas.
pub(crate) fn encode(w: &mut Writer, stanzas: &[Stanza]) {
    w.list(stanzas.iter(), |w, stanza| {
        let mut body = Writer::new();
        let kind = match stanza {
            Stanza::X25519 { hint, wraps } => {
                body.raw(hint);
                for wrap in wraps {
                    body.raw(&wrap.encapsulated).raw(&wrap.wrapped);
                }
                TYPE_X25519
            }
            Stanza::Broker(broker) => {
                body.bytes(&broker.key_id).string(&broker.uri);
                TYPE_BROKER
            }
            // Never written: the sealer makes the two above only.
            Stanza::Unknown => u16::MAX,
        };
        w.u16(kind).bytes(&body.finish());
    });
}

/// Decodes a list of stanzas for a package with `segments` sealed segments.
pub(crate) fn decode(r: &mut Reader<'_>, segments: usize) -> Result<Vec<Stanza>, PackageError> {
    r.list(STANZA_OVERHEAD, MAX_STANZAS, "stanzas", |r| {
        let kind = r.u16("stanza type")?;
        let body = r.bytes(MAX_STANZA_BYTES, "stanza")?;
        let mut r = Reader::new(body);
        let stanza = match kind {
            TYPE_X25519 => {
                let hint = r.array("x25519 stanza")?;
                let mut wraps = Vec::new();
                for _ in 0..segments {
                    let encapsulated = r.array("x25519 stanza")?;
                    wraps.push(Wrap { encapsulated, wrapped: r.array("x25519 stanza")? });
                }
                Stanza::X25519 { hint, wraps }
            }
            TYPE_BROKER => Stanza::Broker(Broker {
                key_id: r.bytes(MAX_KEY_ID_BYTES, "broker key id")?.to_vec(),
                uri: r.string(MAX_STRING_BYTES, "broker URI")?,
            }),
            _ => return Ok(Stanza::Unknown),
        };
        r.finish()?;
        Ok(stanza)
    })
}

/// Bytes of the encoded list, known before any key is wrapped.
pub(crate) fn encoded_len(x25519: usize, segments: usize, brokers: &[Broker]) -> usize {
    let wrap = ENCAPSULATED_BYTES.saturating_add(WRAPPED_BYTES);
    let one = STANZA_OVERHEAD.saturating_add(HINT_BYTES).saturating_add(segments.saturating_mul(wrap));
    brokers.iter().fold(one.saturating_mul(x25519).saturating_add(4), |sum, broker| {
        sum.saturating_add(STANZA_OVERHEAD)
            .saturating_add(8)
            .saturating_add(broker.key_id.len())
            .saturating_add(broker.uri.len())
    })
}
