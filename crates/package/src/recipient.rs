//! Keys that packages are sealed to, and the TEE kind a device says it is.

use alloc::string::String;
use core::fmt;

use hkdf::Hkdf;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, Serializable};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::error::PackageError;
use crate::random::{Random, draw};
use crate::text::{Case, armour, dearmour};

const DEVICE_SECRET: &str = "CORDON-DEVICE-SECRET-";
const RECIPIENT: &str = "cordon1";
/// Type byte of an X25519 recipient or device key.
const TYPE_X25519: u8 = 1;

/// The TEE kind behind a device key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlatformKind {
    /// A locked-down Linux process: development isolation without hardware protection.
    Process,
}

impl PlatformKind {
    /// Sealing to such a device stamps the package `development`.
    pub fn is_development(self) -> bool {
        match self {
            Self::Process => true,
        }
    }

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
        }
    }

    /// Its number in keys and in evidence.
    pub fn code(self) -> u8 {
        match self {
            Self::Process => 1,
        }
    }

    fn from_code(code: u8) -> Result<Self, PackageError> {
        match code {
            1 => Ok(Self::Process),
            _ => Err(PackageError::Unsupported("the platform of a device key")),
        }
    }
}

/// The X25519 secret that opens what was wrapped for its public half. Whose it is, is told beside it.
pub struct RecipientKey(Zeroizing<[u8; 32]>);

impl RecipientKey {
    pub(crate) fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self(secret)
    }

    pub(crate) fn public_bytes(&self) -> [u8; 32] {
        X25519HkdfSha256::sk_to_pk(&self.private()).to_bytes().into()
    }

    #[expect(clippy::expect_used, reason = "the length is fixed, and any bytes of it are a key")]
    pub(crate) fn private(&self) -> <X25519HkdfSha256 as Kem>::PrivateKey {
        <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(self.0.as_slice())
            .expect("an X25519 private key is any 32 bytes")
    }
}

/// A device's secret key.
pub struct DeviceKey {
    platform: PlatformKind,
    key: RecipientKey,
}

impl DeviceKey {
    /// Makes a new key for a device of kind `platform`.
    pub fn generate(platform: PlatformKind, random: &mut dyn Random) -> Result<Self, PackageError> {
        Ok(Self { platform, key: RecipientKey::new(draw(random)?) })
    }

    /// What owners seal to.
    pub fn recipient(&self) -> Recipient {
        Recipient { platform: self.platform, public: self.key.public_bytes() }
    }

    /// A key for another purpose, which `info` names: HKDF-SHA256 of the secret.
    pub fn derive(&self, info: &[u8]) -> Zeroizing<[u8; 32]> {
        derive(&self.key.0, info)
    }

    /// What opens packages.
    pub fn recipient_key(&self) -> &RecipientKey {
        &self.key
    }

    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        armour(DEVICE_SECRET, typed_payload(self.platform, &self.key.0).as_slice(), Case::Upper)
    }

    pub(crate) fn parse(line: &str) -> Result<Self, PackageError> {
        let payload = dearmour::<34>(DEVICE_SECRET, line, Case::Upper)?;
        let (platform, secret) = typed_parts(&payload)?;
        Ok(Self { platform, key: RecipientKey::new(secret) })
    }
}

/// The public key of a device, as its text `cordon1…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient {
    platform: PlatformKind,
    public: [u8; 32],
}

impl Recipient {
    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, PackageError> {
        let payload = dearmour::<34>(RECIPIENT, text, Case::Lower)?;
        let (platform, public) = typed_parts(&payload)?;
        Ok(Self { platform, public: *public })
    }

    /// The TEE kind the device says it is. Nothing proves it until the device attests.
    pub fn platform(&self) -> PlatformKind {
        self.platform
    }

    /// The X25519 key itself.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&armour(RECIPIENT, typed_payload(self.platform, &self.public).as_slice(), Case::Lower))
    }
}

/// A key of its own for the purpose that `info` names.
#[expect(clippy::expect_used, reason = "the length is fixed and short enough")]
pub(crate) fn derive(seed: &[u8; 32], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, seed).expand(info, out.as_mut_slice()).expect("32 bytes are within HKDF-SHA256's 8160");
    out
}

fn typed_payload(platform: PlatformKind, key: &[u8; 32]) -> Zeroizing<[u8; 34]> {
    let mut payload = Zeroizing::new([0; 34]);
    let [kind, code, rest @ ..] = &mut *payload;
    *kind = TYPE_X25519;
    *code = platform.code();
    rest.copy_from_slice(key);
    payload
}

fn typed_parts(payload: &[u8; 34]) -> Result<(PlatformKind, Zeroizing<[u8; 32]>), PackageError> {
    let [kind, code, key @ ..] = payload;
    if *kind != TYPE_X25519 {
        return Err(PackageError::Unsupported("the type of a recipient or device key"));
    }
    Ok((PlatformKind::from_code(*code)?, Zeroizing::new(*key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_types_and_platforms_are_not_supported() {
        let key = |kind, platform| armour(RECIPIENT, &[&[kind, platform][..], &[5; 32]].concat(), Case::Lower);
        assert!(Recipient::parse(&key(1, 1)).is_ok());
        for other in [key(2, 1), key(1, 0), key(1, 2)] {
            assert!(matches!(Recipient::parse(&other), Err(PackageError::Unsupported(_))));
        }
    }
}
