//! Keys of owners and devices and their text forms.
//!
//! Secret types wipe themselves, and implement neither `Debug`, `Display` nor `Clone`. An owner's one seed yields two
//! keys by HKDF, so that no key bytes serve two algorithms.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::PackageError;
use crate::limits::{MAX_KEY_TEXT_BYTES, MAX_PINNED_OWNERS, SIGNATURE_BYTES};
use crate::random::{Random, draw};
use crate::recipient::{DeviceKey, RecipientKey, derive};
use crate::text::{Case, armour, dearmour};

const OWNER_SECRET: &str = "CORDON-OWNER-SECRET-";
const OWNER_PUBLIC: &str = "cordonowner1";

/// An owner's public key: what devices pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerPublic([u8; 32]);

impl OwnerPublic {
    /// Reads the text form, `cordonowner1…`.
    pub fn parse(text: &str) -> Result<Self, PackageError> {
        Ok(Self(*dearmour::<32>(OWNER_PUBLIC, text, Case::Lower)?))
    }

    /// From the 32 bytes of an Ed25519 public key. Whether they are a valid point shows when a signature is checked.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Checks a signature over `label ‖ SHA-256(message)`. Strict: small-order points are refused.
    pub(crate) fn verify(
        &self,
        label: &[u8; 32],
        digest: &[u8; 32],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Result<(), PackageError> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| PackageError::Signature)?;
        let message = signed_message(label, digest);
        key.verify_strict(&message, &Signature::from_bytes(signature)).map_err(|_| PackageError::Signature)
    }
}

impl fmt::Display for OwnerPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&armour(OWNER_PUBLIC, &self.0, Case::Lower))
    }
}

/// An owner's secret: signs packages and, as every package's recipient, opens its own.
pub struct OwnerKey {
    seed: Zeroizing<[u8; 32]>,
    signing: SigningKey,
    recipient: RecipientKey,
}

impl OwnerKey {
    /// Makes a new key.
    pub fn generate(random: &mut dyn Random) -> Result<Self, PackageError> {
        Ok(Self::from_seed(draw(random)?))
    }

    /// Reads the text form, `CORDON-OWNER-SECRET-…`; lines that begin with `#` are skipped.
    pub fn parse(text: &str) -> Result<Self, PackageError> {
        Ok(Self::from_seed(dearmour::<32>(OWNER_SECRET, only_line(text)?, Case::Upper)?))
    }

    /// The text form, without comment or line end.
    pub fn to_text(&self) -> Zeroizing<String> {
        armour(OWNER_SECRET, self.seed.as_slice(), Case::Upper)
    }

    /// The public key.
    pub fn public(&self) -> OwnerPublic {
        OwnerPublic(self.signing.verifying_key().to_bytes())
    }

    /// The key that opens the stanza every package holds for its owner.
    pub fn recipient_key(&self) -> &RecipientKey {
        &self.recipient
    }

    pub(crate) fn sign(&self, label: &[u8; 32], digest: &[u8; 32]) -> [u8; SIGNATURE_BYTES] {
        self.signing.sign(&signed_message(label, digest)).to_bytes()
    }

    fn from_seed(seed: Zeroizing<[u8; 32]>) -> Self {
        let signing = derive(&seed, b"cordon/1 owner signing key");
        let recipient = derive(&seed, b"cordon/1 owner recipient key");
        Self { signing: SigningKey::from_bytes(&signing), recipient: RecipientKey::new(recipient), seed }
    }
}

/// What a device keeps: its secret key and the owners it accepts packages from.
pub struct DeviceFile {
    /// The device's key.
    pub key: DeviceKey,
    /// Trust anchors.
    pub owners: Vec<OwnerPublic>,
}

impl DeviceFile {
    /// Reads the text form: the secret, then one `owner …` line for each pinned owner. Empty lines and lines that begin
    /// with `#` are skipped.
    pub fn parse(text: &str) -> Result<Self, PackageError> {
        if text.len() > MAX_KEY_TEXT_BYTES {
            return Err(PackageError::BadKey("longer than any device file"));
        }
        let mut key = None;
        let mut owners = Vec::new();
        for line in lines(text) {
            if let Some(owner) = line.strip_prefix("owner ") {
                let owner = OwnerPublic::parse(owner)?;
                if owners.contains(&owner) || owners.len() >= MAX_PINNED_OWNERS {
                    return Err(PackageError::BadKey("an owner is pinned twice, or too many are"));
                }
                owners.push(owner);
            } else if key.is_none() {
                key = Some(DeviceKey::parse(line)?);
            } else {
                return Err(PackageError::BadKey("a device file holds one secret"));
            }
        }
        match key {
            Some(key) if !owners.is_empty() => Ok(Self { key, owners }),
            Some(_) => Err(PackageError::BadKey("a device file pins at least one owner")),
            None => Err(PackageError::BadKey("no device secret")),
        }
    }

    /// The text form.
    pub fn to_text(&self) -> Zeroizing<String> {
        let secret = self.key.to_text();
        // Reserved once, so no reallocation leaves a copy of the secret behind.
        let room = secret.len().saturating_add(self.owners.len().saturating_mul(96)).saturating_add(64);
        let mut text = Zeroizing::new(String::with_capacity(room));
        text.push_str(&secret);
        text.push('\n');
        for owner in &self.owners {
            text.push_str("owner ");
            text.push_str(&armour(OWNER_PUBLIC, &owner.0, Case::Lower));
            text.push('\n');
        }
        text
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn only_line(text: &str) -> Result<&str, PackageError> {
    let mut lines = lines(text);
    match (lines.next(), lines.next()) {
        (Some(line), None) => Ok(line),
        _ => Err(PackageError::BadKey("expected one key")),
    }
}

fn signed_message(label: &[u8; 32], digest: &[u8; 32]) -> [u8; 64] {
    let mut message = [0; 64];
    let (head, tail) = message.split_at_mut(32);
    head.copy_from_slice(label);
    tail.copy_from_slice(digest);
    message
}

/// A domain-separating label: SHA-256 of a fixed word, so that all are of one length.
pub(crate) fn label(word: &str) -> [u8; 32] {
    Sha256::digest(word).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipient::{PlatformKind, Recipient};

    fn fixed(byte: u8) -> impl FnMut(&mut [u8]) -> Result<(), PackageError> {
        move |out: &mut [u8]| {
            out.fill(byte);
            Ok(())
        }
    }

    #[test]
    fn owner_text_round_trips_and_its_two_keys_differ() {
        let owner = OwnerKey::generate(&mut fixed(7)).expect("fixed");
        let again = OwnerKey::parse(&alloc::format!("# comment\n{}\n", *owner.to_text())).expect("own text");
        assert!(owner.public() == again.public());
        assert_eq!(owner.recipient_key().public_bytes(), again.recipient_key().public_bytes());
        let signing = RecipientKey::new(owner.signing.to_bytes().into());
        assert_ne!(signing.public_bytes(), owner.recipient_key().public_bytes());
        assert_eq!(OwnerPublic::parse(&alloc::format!("{}", owner.public())), Ok(owner.public()));
    }

    #[test]
    fn device_file_round_trips() {
        let owner = OwnerKey::generate(&mut fixed(7)).expect("fixed").public();
        let key = DeviceKey::generate(PlatformKind::Process, &mut fixed(8)).expect("fixed");
        let recipient = key.recipient();
        let text = DeviceFile { key, owners: alloc::vec![owner] }.to_text();
        let again = DeviceFile::parse(&text).expect("own text");
        assert_eq!(again.owners, [owner]);
        assert_eq!(again.key.recipient(), recipient);
        assert_eq!(Recipient::parse(&alloc::format!("{recipient}")), Ok(recipient));
        assert!(DeviceFile::parse(text.lines().next().expect("secret")).is_err(), "pins nobody");
        assert!(DeviceFile::parse(&alloc::format!("{0}{0}", *text)).is_err(), "two secrets");
    }

    #[test]
    fn kinds_of_keys_are_not_interchangeable() {
        let key = DeviceKey::generate(PlatformKind::Process, &mut fixed(8)).expect("fixed");
        assert!(OwnerPublic::parse(&alloc::format!("{}", key.recipient())).is_err());
        assert!(OwnerKey::parse(&key.to_text()).is_err());
    }

    #[test]
    fn a_signature_anyone_can_make_for_a_small_order_key_is_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; SIGNATURE_BYTES];
        signature[0] = 1;
        // It satisfies the equation of RFC 8032 whatever the message, so only the strict check stands in the way.
        let key = VerifyingKey::from_bytes(&identity).expect("a point");
        let lenient = ed25519_dalek::Verifier::verify(&key, b"any message", &Signature::from_bytes(&signature));
        assert!(lenient.is_ok(), "the test must see a signature that needs refusing");
        let owner = OwnerPublic::from_bytes(identity);
        assert_eq!(owner.verify(&label("x"), &[0; 32], &signature), Err(PackageError::Signature));
    }

    #[test]
    fn a_failing_source_of_randomness_makes_no_key() {
        let mut failing = |_: &mut [u8]| Err(PackageError::Random);
        assert!(matches!(OwnerKey::generate(&mut failing), Err(PackageError::Random)));
    }
}
