//! Keys of owners and devices and their text forms.
//!
//! Secret types wipe themselves, and implement neither `Debug`, `Display` nor `Clone`. An owner's one seed yields two
//! keys by HKDF, so that no key bytes serve two algorithms.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, Serializable};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::error::PackageError;
use crate::limits::{MAX_KEY_TEXT_BYTES, MAX_PINNED_OWNERS, SIGNATURE_BYTES};
use crate::text::{Case, armour, dearmour};

const OWNER_SECRET: &str = "CORDON-OWNER-SECRET-";
const OWNER_PUBLIC: &str = "cordonowner1";
const DEVICE_SECRET: &str = "CORDON-DEVICE-SECRET-";
const RECIPIENT: &str = "cordon1";
/// Type byte of an X25519 recipient or device key.
const TYPE_X25519: u8 = 1;

/// A source of unpredictable bytes. On a device it is the platform's.
pub trait Random {
    /// Fills `out`, or fails as a whole with [`PackageError::Random`].
    fn fill(&mut self, out: &mut [u8]) -> Result<(), PackageError>;
}

impl<F: FnMut(&mut [u8]) -> Result<(), PackageError>> Random for F {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), PackageError> {
        self(out)
    }
}

/// Draws 32 secret bytes.
pub(crate) fn draw(random: &mut dyn Random) -> Result<Zeroizing<[u8; 32]>, PackageError> {
    let mut bytes = Zeroizing::new([0; 32]);
    random.fill(bytes.as_mut_slice())?;
    Ok(bytes)
}

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

    fn code(self) -> u8 {
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
    recipient: DeviceKey,
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
    pub fn device_key(&self) -> &DeviceKey {
        &self.recipient
    }

    pub(crate) fn sign(&self, label: &[u8; 32], digest: &[u8; 32]) -> [u8; SIGNATURE_BYTES] {
        self.signing.sign(&signed_message(label, digest)).to_bytes()
    }

    fn from_seed(seed: Zeroizing<[u8; 32]>) -> Self {
        let signing = derive(&seed, b"cordon/1 owner signing key");
        let recipient = derive(&seed, b"cordon/1 owner recipient key");
        Self {
            signing: SigningKey::from_bytes(&signing),
            recipient: DeviceKey { platform: PlatformKind::Process, secret: recipient },
            seed,
        }
    }
}

/// A device's secret X25519 key.
pub struct DeviceKey {
    platform: PlatformKind,
    secret: Zeroizing<[u8; 32]>,
}

impl DeviceKey {
    /// Makes a new key for a device of kind `platform`.
    pub fn generate(platform: PlatformKind, random: &mut dyn Random) -> Result<Self, PackageError> {
        Ok(Self { platform, secret: draw(random)? })
    }

    /// What owners seal to.
    pub fn recipient(&self) -> Recipient {
        Recipient { platform: self.platform, public: self.public_bytes() }
    }

    pub(crate) fn public_bytes(&self) -> [u8; 32] {
        X25519HkdfSha256::sk_to_pk(&self.private()).to_bytes().into()
    }

    pub(crate) fn private(&self) -> <X25519HkdfSha256 as Kem>::PrivateKey {
        <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(self.secret.as_slice())
            .expect("an X25519 private key is any 32 bytes")
    }

    fn to_text(&self) -> Zeroizing<String> {
        armour(DEVICE_SECRET, typed_payload(self.platform, &self.secret).as_slice(), Case::Upper)
    }

    fn parse(line: &str) -> Result<Self, PackageError> {
        let payload = dearmour::<34>(DEVICE_SECRET, line, Case::Upper)?;
        let (platform, secret) = typed_parts(&payload)?;
        Ok(Self { platform, secret })
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

    pub(crate) fn public_bytes(&self) -> &[u8; 32] {
        &self.public
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&armour(RECIPIENT, typed_payload(self.platform, &self.public).as_slice(), Case::Lower))
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

fn derive(seed: &[u8; 32], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, seed).expand(info, out.as_mut_slice()).expect("32 bytes are within HKDF-SHA256's 8160");
    out
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

/// HPKE asks for an infallible generator; this one stretches 32 bytes that were drawn fallibly beforehand.
pub(crate) struct Stretched {
    seed: Zeroizing<[u8; 32]>,
    counter: u64,
}

impl Stretched {
    pub(crate) fn new(random: &mut dyn Random) -> Result<Self, PackageError> {
        Ok(Self { seed: draw(random)?, counter: 0 })
    }
}

impl hpke::rand_core::TryRng for Stretched {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        for piece in out.chunks_mut(32) {
            let mut block: [u8; 32] = Sha256::new()
                .chain_update(b"cordon/1 stretched")
                .chain_update(self.seed.as_slice())
                .chain_update(self.counter.to_le_bytes())
                .finalize()
                .into();
            self.counter = self.counter.saturating_add(1);
            piece.iter_mut().zip(block).for_each(|(to, from)| *to = from);
            block.zeroize();
        }
        Ok(())
    }
}

impl hpke::rand_core::TryCryptoRng for Stretched {}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(owner.device_key().public_bytes(), again.device_key().public_bytes());
        assert_ne!(owner.signing.as_bytes(), &*owner.recipient.secret);
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
        let unknown = armour(RECIPIENT, &[&[2u8, 1][..], &[5; 32]].concat(), Case::Lower);
        assert!(matches!(Recipient::parse(&unknown), Err(PackageError::Unsupported(_))));
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
