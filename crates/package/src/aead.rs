//! AES-256-GCM behind a trait, so that a host may use assembly where every target has pure Rust.
//!
//! Both make the same bytes. Which one encrypts and decrypts chunks is decided when the crate is built: the feature
//! `fast-aead` takes [`ring`](https://docs.rs/ring), at two to three times the speed and with C and assembly in the
//! trusted base. Keys of HPKE stanzas stay with pure Rust either way.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};

use crate::limits::TAG_BYTES;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 12;

/// AES-256-GCM under one key.
pub trait Aead {
    /// Whose code it is.
    const NAME: &'static str;

    /// Takes a key.
    fn new(key: &[u8; 32]) -> Self;

    /// Encrypts in place; `None` when the data is longer than AES-GCM allows.
    fn encrypt(&self, nonce: [u8; NONCE_BYTES], associated: &[u8], data: &mut [u8]) -> Option<[u8; TAG_BYTES]>;

    /// Decrypts in place; false when the tag does not fit, and then `data` is to be wiped.
    fn decrypt(&self, nonce: [u8; NONCE_BYTES], associated: &[u8], data: &mut [u8], tag: [u8; TAG_BYTES]) -> bool;
}

/// What chunks are encrypted and decrypted with.
#[cfg(not(feature = "fast-aead"))]
pub type ChunkAead = Portable;
/// What chunks are encrypted and decrypted with.
#[cfg(feature = "fast-aead")]
pub type ChunkAead = Fast;

/// Crate `aes-gcm`: pure Rust, every target.
#[cfg_attr(feature = "fast-aead", allow(dead_code, unreachable_pub, reason = "the other one's reference in tests"))]
pub struct Portable(Aes256Gcm);

impl Aead for Portable {
    const NAME: &'static str = "aes-gcm";

    fn new(key: &[u8; 32]) -> Self {
        Self(Aes256Gcm::new(key.into()))
    }

    fn encrypt(&self, nonce: [u8; NONCE_BYTES], associated: &[u8], data: &mut [u8]) -> Option<[u8; TAG_BYTES]> {
        self.0.encrypt_inout_detached(&Nonce::from(nonce), associated, data.into()).map(Into::into).ok()
    }

    fn decrypt(&self, nonce: [u8; NONCE_BYTES], associated: &[u8], data: &mut [u8], tag: [u8; TAG_BYTES]) -> bool {
        self.0.decrypt_inout_detached(&Nonce::from(nonce), associated, data.into(), &Tag::from(tag)).is_ok()
    }
}

/// Crate `ring`.
#[cfg(feature = "fast-aead")]
pub struct Fast(ring::aead::LessSafeKey);

#[cfg(feature = "fast-aead")]
impl Aead for Fast {
    const NAME: &'static str = "ring";

    fn new(key: &[u8; 32]) -> Self {
        let key = ring::aead::UnboundKey::new(&ring::aead::AES_256_GCM, key).expect("AES-256 keys have 32 bytes");
        Self(ring::aead::LessSafeKey::new(key))
    }

    fn encrypt(&self, nonce: [u8; NONCE_BYTES], associated: &[u8], data: &mut [u8]) -> Option<[u8; TAG_BYTES]> {
        let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, ring::aead::Aad::from(associated), data).ok()?;
        tag.as_ref().try_into().ok()
    }

    fn decrypt(&self, nonce: [u8; NONCE_BYTES], associated: &[u8], data: &mut [u8], tag: [u8; TAG_BYTES]) -> bool {
        let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
        let (associated, tag) = (ring::aead::Aad::from(associated), ring::aead::Tag::from(tag));
        self.0.open_in_place_separate_tag(nonce, associated, tag, data, 0..).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Test case 16 of McGrew and Viega's specification of GCM: AES-256, associated data, 60 bytes.
    fn published<A: Aead>() {
        let hex = |text: &str| -> Vec<u8> {
            text.as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(str::from_utf8(pair).expect("ASCII"), 16).expect("hex"))
                .collect()
        };
        let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let nonce = hex("cafebabefacedbaddecaf888").try_into().expect("12 bytes");
        let associated = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain = hex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let cipher = hex(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
        );
        let aead = A::new(key.as_slice().try_into().expect("32 bytes"));
        let mut data = plain.clone();
        let tag = aead.encrypt(nonce, &associated, &mut data).expect("short");
        assert_eq!((data.as_slice(), tag.to_vec()), (cipher.as_slice(), hex("76fc6ece0f4e1768cddf8853bb2d551b")));
        assert!(aead.decrypt(nonce, &associated, &mut data, tag) && data == plain);
    }

    /// Refuses each change of data, tag, nonce, associated data and key.
    fn refuses<A: Aead>() {
        let aead = A::new(&[1; 32]);
        let mut cipher = [5; 300];
        let tag = aead.encrypt([2; 12], b"associated", &mut cipher).expect("short");
        let opens = |aead: &A, nonce, associated: &[u8], cipher: &[u8], tag| {
            aead.decrypt(nonce, associated, &mut cipher.to_vec(), tag)
        };
        assert!(opens(&aead, [2; 12], b"associated", &cipher, tag));
        for bit in 0..128 {
            let mut wrong = tag;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!opens(&aead, [2; 12], b"associated", &cipher, wrong), "bit {bit} of the tag");
        }
        for at in 0..cipher.len() {
            let mut wrong = cipher;
            wrong[at] ^= 1;
            assert!(!opens(&aead, [2; 12], b"associated", &wrong, tag), "byte {at}");
        }
        assert!(!opens(&aead, [3; 12], b"associated", &cipher, tag));
        assert!(!opens(&aead, [2; 12], b"Associated", &cipher, tag));
        assert!(!opens(&aead, [2; 12], b"associated", &cipher[1..], tag));
        assert!(!opens(&A::new(&[2; 32]), [2; 12], b"associated", &cipher, tag));
    }

    #[test]
    fn the_pure_one_agrees_with_the_standard() {
        published::<Portable>();
        refuses::<Portable>();
    }

    #[test]
    #[cfg(feature = "fast-aead")]
    fn the_fast_one_agrees_with_the_standard_and_the_pure_one() {
        published::<Fast>();
        refuses::<Fast>();
        let (fast, pure) = (Fast::new(&[7; 32]), Portable::new(&[7; 32]));
        for len in (0..600).chain([65_535, 65_536]) {
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let (mut a, mut b) = (data.clone(), data.clone());
            let tags = (fast.encrypt([9; 12], b"x", &mut a), pure.encrypt([9; 12], b"x", &mut b));
            assert!(a == b && tags.0 == tags.1, "{len} bytes");
            let tag = tags.0.expect("short enough");
            assert!(pure.decrypt([9; 12], b"x", &mut a, tag) && fast.decrypt([9; 12], b"x", &mut b, tag));
            assert!(a == data && b == data);
        }
    }
}
