//! What evidence binds, and the evidence of a platform that has none of a hardware vendor's.
//!
//! A platform's evidence vouches for 64 bytes of *report data*. They are a digest of a [`Binding`], which says what the
//! evidence is for, which challenges it answers, and which keys live inside. Whoever appraises evidence decodes the binding,
//! computes its report data and compares; nothing else in the binding is believed before.

use alloc::vec::Vec;

use cordon_codec::{DecodeError, Reader, Writer};
use sha2::{Digest, Sha256, Sha512};

use crate::refusal::codes;

/// Most nonces that one evidence answers.
pub const MAX_NONCES: u32 = 64;

/// Most bytes of an encoded [`Binding`].
pub const MAX_BINDING_BYTES: u32 = 4 + 4 + MAX_NONCES * 32 + 2 + 1 + 32 + 4 + 33 + 32 + 4;

/// Version of the binding's encoding.
const BINDING_VERSION: u16 = 1;

/// The cipher suite of sealed requests: X25519, HKDF-SHA256, AES-256-GCM.
const SUITE: u16 = 1;

/// A challenge.
pub type Nonce = [u8; 32];

codes! {
    /// How evidence is to be appraised.
    EvidenceKind {
        /// [`DevelopmentEvidence`]: proves nothing against the host.
        Development = 1 "development",
    }
}

/// What evidence is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To seal requests to the enclave.
    Serve,
    /// To hand it a package's keys.
    Release,
}

impl Purpose {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Serve => 1,
            Self::Release => 2,
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8("purpose")? {
            1 => Ok(Self::Serve),
            2 => Ok(Self::Release),
            _ => Err(DecodeError::Invalid("purpose")),
        }
    }
}

/// What a client may rely on beside the keys; bits of [`Serve::flags`].
pub mod flag {
    /// Clear requests are refused.
    pub const SEALED_ONLY: u32 = 1;
    /// Requests of several clients may run as one batch.
    pub const BATCHING: u32 = 2;
    /// A request needs a ticket.
    pub const TICKETS: u32 = 4;
    /// The package was opened through a development grant.
    pub const DEVELOPMENT_GRANT: u32 = 8;
    /// All of them.
    pub const ALL: u32 = SEALED_ONLY | BATCHING | TICKETS | DEVELOPMENT_GRANT;
}

/// What evidence for [`Purpose::Serve`] binds: one channel of one loaded package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serve {
    /// Number of the channel key.
    pub key_id: u8,
    /// X25519 key that requests are sealed to.
    pub channel_key: [u8; 32],
    /// Requests that the key takes.
    pub requests_per_key: u32,
    /// Ed25519 key that signs receipts, if the enclave makes some.
    pub receipt_key: Option<[u8; 32]>,
    /// SHA-256 of the package's header with its signature.
    pub header: [u8; 32],
    /// Bits of [`flag`].
    pub flags: u32,
}

/// The keys that evidence vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// For [`Purpose::Serve`].
    Serve(Serve),
    /// For [`Purpose::Release`].
    Release {
        /// The device's X25519 key.
        recipient: [u8; 32],
    },
}

/// What evidence binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The kind of TEE, by its number in recipients.
    pub platform: u8,
    /// The challenges it answers, at most [`MAX_NONCES`].
    pub nonces: Vec<Nonce>,
    /// The keys.
    pub bound: Bound,
}

impl Binding {
    /// What it is for.
    pub fn purpose(&self) -> Purpose {
        match self.bound {
            Bound::Serve(_) => Purpose::Serve,
            Bound::Release { .. } => Purpose::Release,
        }
    }

    /// Its one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(BINDING_VERSION).u8(self.purpose().number()).u8(self.platform);
        w.list(self.nonces.iter(), |w, nonce| {
            w.raw(nonce);
        });
        match &self.bound {
            Bound::Serve(serve) => {
                w.u16(SUITE).u8(serve.key_id).raw(&serve.channel_key).u32(serve.requests_per_key);
                w.option(serve.receipt_key, |w, key| {
                    w.raw(&key);
                });
                w.raw(&serve.header).u32(serve.flags);
            }
            Bound::Release { recipient } => {
                w.raw(recipient);
            }
        }
        w.finish()
    }

    /// Reads what [`Self::encode`] wrote. A version, suite or flag that this code does not know is refused: it could not
    /// say what the evidence means.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.u16("binding version")? != BINDING_VERSION {
            return Err(DecodeError::Invalid("binding version"));
        }
        let purpose = Purpose::decode(&mut r)?;
        let platform = r.u8("platform")?;
        let nonces = r.list(32, MAX_NONCES, "nonces", |r| r.array("nonce"))?;
        let bound = match purpose {
            Purpose::Serve => {
                if r.u16("suite")? != SUITE {
                    return Err(DecodeError::Invalid("suite"));
                }
                let serve = Serve {
                    key_id: r.u8("key id")?,
                    channel_key: r.array("channel key")?,
                    requests_per_key: r.u32("requests per key")?,
                    receipt_key: r.option("receipt key", |r| r.array("receipt key"))?,
                    header: r.array("header digest")?,
                    flags: r.u32("flags")?,
                };
                if serve.flags & !flag::ALL != 0 {
                    return Err(DecodeError::Invalid("flags"));
                }
                Bound::Serve(serve)
            }
            Purpose::Release => Bound::Release { recipient: r.array("recipient")? },
        };
        r.finish()?;
        Ok(Self { platform, nonces, bound })
    }

    /// The 64 bytes that the platform's evidence vouches for.
    pub fn report_data(&self) -> [u8; 64] {
        Sha512::new().chain_update(label("cordon/1 evidence")).chain_update(self.encode()).finalize().into()
    }
}

/// Evidence of a platform without hardware that signs: a key of the device itself vouches for the report data. It proves
/// nothing against the host, and no verifier takes it unless told to by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevelopmentEvidence {
    /// SHA-256 of the enclave's program, as the enclave found it.
    pub image: [u8; 32],
    /// What it vouches for.
    pub report_data: [u8; 64],
    /// Ed25519 key of the device.
    pub public_key: [u8; 32],
    /// Its signature over [`Self::signed`].
    pub signature: [u8; 64],
}

impl DevelopmentEvidence {
    /// What the device signs.
    pub fn signed(image: &[u8; 32], report_data: &[u8; 64], public_key: &[u8; 32]) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&label("cordon/1 development evidence"));
        w.u16(1).raw(image).raw(report_data).raw(public_key);
        w.finish()
    }

    /// Its one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(1).raw(&self.image).raw(&self.report_data).raw(&self.public_key).raw(&self.signature);
        w.finish()
    }

    /// Reads what [`Self::encode`] wrote; the signature is not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.u16("evidence version")? != 1 {
            return Err(DecodeError::Invalid("evidence version"));
        }
        let evidence = Self {
            image: r.array("image digest")?,
            report_data: r.array("report data")?,
            public_key: r.array("public key")?,
            signature: r.array("signature")?,
        };
        r.finish()?;
        Ok(evidence)
    }
}

/// A domain-separating label: SHA-256 of a fixed word, as in the package's SPEC.
fn label(word: &str) -> [u8; 32] {
    Sha256::digest(word).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec;

    fn release() -> Binding {
        Binding { platform: 1, nonces: vec![[0x11; 32], [0x22; 32]], bound: Bound::Release { recipient: [0x33; 32] } }
    }

    fn serve() -> Serve {
        Serve {
            key_id: 7,
            channel_key: [0x44; 32],
            requests_per_key: 4096,
            receipt_key: Some([0x55; 32]),
            header: [0x66; 32],
            flags: flag::SEALED_ONLY | flag::TICKETS,
        }
    }

    fn serving() -> Binding {
        Binding { platform: 1, nonces: vec![[0x11; 32]], bound: Bound::Serve(serve()) }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| alloc::format!("{byte:02x}")).collect()
    }

    /// Written by hand after SPEC.md; the digests come from another implementation of SHA-2.
    #[test]
    fn the_bytes_are_those_of_the_spec() {
        let [one, two, three] = [[0x11; 32], [0x22; 32], [0x33; 32]];
        let bytes = [&[1, 0, 2, 1, 2, 0, 0, 0][..], &one, &two, &three].concat();
        assert_eq!(release().encode(), bytes);
        assert_eq!(
            hex(&release().report_data()),
            "4e2822f7a0e88552aafcd3757ca3b0dc4a0e63f2e31e469f6323efdc63431c9c\
             5af6ea13995652d3b215d48caa8614df3c875fdc186c09533d7f3e818663aadb"
        );
        let (key, receipt, header) = ([0x44; 32], [0x55; 32], [0x66; 32]);
        let parts: [&[u8]; 9] =
            [&[1, 0, 1, 1, 1, 0, 0, 0], &one, &[1, 0, 7], &key, &[0, 16, 0, 0], &[1], &receipt, &header, &[5, 0, 0, 0]];
        assert_eq!(serving().encode(), parts.concat());
        assert_eq!(
            hex(&serving().report_data()),
            "490b49b126566ff75d2f74727897f1046ab7567502df29b9e8c50bbb24269005\
             d9a2e0f9bcc03ba42ee9d2d4fb46a0ea471dd3ca67372d7f1549118c77752525"
        );
    }

    #[test]
    fn bindings_round_trip_and_every_truncation_is_refused() {
        let few = Binding { nonces: vec![], bound: Bound::Serve(Serve { receipt_key: None, ..serve() }), ..serving() };
        let most = Binding { nonces: vec![[9; 32]; MAX_NONCES as usize], ..serving() };
        assert_eq!(most.encode().len(), MAX_BINDING_BYTES as usize);
        for binding in [release(), serving(), few, most] {
            let bytes = binding.encode();
            assert_eq!(Binding::decode(&bytes), Ok(binding));
            (0..bytes.len()).for_each(|end| assert!(Binding::decode(&bytes[..end]).is_err(), "cut at {end}"));
            assert_eq!(Binding::decode(&[&bytes[..], &[0]].concat()), Err(DecodeError::TrailingBytes));
        }
    }

    #[test]
    fn what_this_code_cannot_judge_is_refused() {
        let changed = |binding: &Binding, at: usize, byte: u8| {
            let mut bytes = binding.encode();
            bytes[at] = byte;
            Binding::decode(&bytes)
        };
        let last = serving().encode().len() - 1;
        assert_eq!(changed(&release(), 0, 2), Err(DecodeError::Invalid("binding version")));
        assert_eq!(changed(&release(), 2, 3), Err(DecodeError::Invalid("purpose")));
        assert_eq!(changed(&release(), 4, 65), Err(DecodeError::TooLong("nonces")));
        assert_eq!(changed(&release(), 7, 0xff), Err(DecodeError::TooLong("nonces")));
        assert_eq!(changed(&serving(), 40, 2), Err(DecodeError::Invalid("suite")));
        assert_eq!(changed(&serving(), last - 3, 16), Err(DecodeError::Invalid("flags")));
        assert_eq!(changed(&serving(), last, 0x80), Err(DecodeError::Invalid("flags")));
        // Another purpose over the same bytes is another length.
        assert!(changed(&release(), 2, 1).is_err() && changed(&serving(), 2, 2).is_err());
    }

    #[test]
    fn every_bit_of_a_binding_counts() {
        for binding in [release(), serving()] {
            let bytes = binding.encode();
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let other = Binding::decode(&changed).map(|other| other.report_data());
                assert_ne!(other, Ok(binding.report_data()), "bit {bit}");
            }
        }
    }

    #[test]
    fn development_evidence_round_trips_and_every_truncation_is_refused() {
        let evidence =
            DevelopmentEvidence { image: [1; 32], report_data: [2; 64], public_key: [3; 32], signature: [4; 64] };
        let bytes = evidence.encode();
        assert_eq!(bytes, [&[1, 0][..], &[1; 32], &[2; 64], &[3; 32], &[4; 64]].concat());
        assert_eq!(DevelopmentEvidence::decode(&bytes), Ok(evidence.clone()));
        (0..bytes.len()).for_each(|end| assert!(DevelopmentEvidence::decode(&bytes[..end]).is_err(), "cut at {end}"));
        assert_eq!(DevelopmentEvidence::decode(&[&bytes[..], &[0]].concat()), Err(DecodeError::TrailingBytes));
        assert!(DevelopmentEvidence::decode(&[&[2][..], &bytes[1..]].concat()).is_err(), "another version");
        let signed = DevelopmentEvidence::signed(&evidence.image, &evidence.report_data, &evidence.public_key);
        assert_eq!(signed[32..], bytes[..bytes.len() - 64], "a label, then all before the signature");
    }
}
