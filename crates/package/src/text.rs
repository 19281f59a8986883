//! Key text: a prefix and RFC 4648 base32 of payload and checksum. One encoding only.

use alloc::string::String;
use alloc::vec::Vec;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::PackageError;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const CHECKSUM_BYTES: usize = 4;

/// Letter case of the base32 part; secrets are upper case so that they stand out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Lower,
    Upper,
}

/// `prefix` followed by `payload` and its checksum.
pub(crate) fn armour(prefix: &str, payload: &[u8], case: Case) -> Zeroizing<String> {
    let sum = checksum(prefix, payload);
    // Reserved once, so no reallocation leaves a copy of a secret behind.
    let digits = payload.len().saturating_add(CHECKSUM_BYTES).saturating_mul(8).div_ceil(5);
    let mut text = Zeroizing::new(String::with_capacity(prefix.len().saturating_add(digits)));
    text.push_str(prefix);
    let (mut pending, mut bits) = (0u16, 0u32);
    for byte in payload.iter().chain(&sum) {
        pending = (pending << 8) | u16::from(*byte);
        bits = bits.saturating_add(8);
        while bits >= 5 {
            bits = bits.saturating_sub(5);
            text.push(digit(pending >> bits, case));
        }
        // Fewer than 5 bits are pending: keep the shifted-in value from growing.
        pending &= 0x1f;
    }
    if bits > 0 {
        text.push(digit(pending << 5u32.saturating_sub(bits), case));
    }
    text
}

/// The payload behind `prefix`, exactly `N` bytes.
pub(crate) fn dearmour<const N: usize>(
    prefix: &str,
    text: &str,
    case: Case,
) -> Result<Zeroizing<[u8; N]>, PackageError> {
    let digits = text.trim().strip_prefix(prefix).ok_or(PackageError::BadKey("wrong prefix for this kind of key"))?;
    let total = N.saturating_add(CHECKSUM_BYTES);
    if digits.len() != total.saturating_mul(8).div_ceil(5) {
        return Err(PackageError::BadKey("wrong length: the text was cut or extended"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(total));
    let (mut pending, mut bits) = (0u16, 0u32);
    for c in digits.bytes() {
        pending = (pending << 5) | value(c, case)?;
        bits = bits.saturating_add(5);
        if bits >= 8 {
            bits = bits.saturating_sub(8);
            bytes.push((pending >> bits).to_le_bytes()[0]);
        }
        pending &= 0xff;
    }
    let unused = pending & (1u16 << bits).saturating_sub(1);
    if unused != 0 {
        return Err(PackageError::BadKey("unused bits are not zero"));
    }
    let (payload, sum) = bytes.split_at_checked(N).ok_or(PackageError::BadKey("wrong length"))?;
    if sum != checksum(prefix, payload) {
        return Err(PackageError::BadKey("checksum mismatch: the text was mistyped"));
    }
    let mut out = Zeroizing::new([0; N]);
    out.copy_from_slice(payload);
    Ok(out)
}

/// The prefix is part of the sum, so a key pasted behind another prefix is refused.
fn checksum(prefix: &str, payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest: [u8; 32] = Sha256::new()
        .chain_update(b"cordon/1 key text")
        .chain_update(u64::try_from(prefix.len()).unwrap_or(u64::MAX).to_le_bytes())
        .chain_update(prefix)
        .chain_update(payload)
        .finalize()
        .into();
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}

fn digit(v: u16, case: Case) -> char {
    let c = ALPHABET.get(usize::from(v & 0x1f)).copied().unwrap_or(b'a');
    char::from(if case == Case::Upper { c.to_ascii_uppercase() } else { c })
}

fn value(c: u8, case: Case) -> Result<u16, PackageError> {
    let c = match (case, c) {
        (Case::Upper, b'a'..=b'z') | (Case::Lower, b'A'..=b'Z') => {
            return Err(PackageError::BadKey("wrong letter case"));
        }
        _ => c.to_ascii_lowercase(),
    };
    match c {
        b'a'..=b'z' => Ok(u16::from(c.saturating_sub(b'a'))),
        b'2'..=b'7' => Ok(u16::from(c.saturating_sub(b'2')).saturating_add(26)),
        _ => Err(PackageError::BadKey("a character outside base32")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for case in [Case::Lower, Case::Upper] {
            let text = armour("X1", &[0, 1, 254, 255, 77, 3], case);
            assert_eq!(*dearmour::<6>("X1", &text, case).expect("own text"), [0, 1, 254, 255, 77, 3]);
        }
    }

    #[test]
    fn every_altered_character_is_refused() {
        let text = armour("k", &[9; 34], Case::Lower);
        for i in 1..text.len() {
            for c in "abz27A1 ".chars() {
                let mut altered: Vec<char> = text.chars().collect();
                if altered[i] == c {
                    continue;
                }
                altered[i] = c;
                let altered: String = altered.into_iter().collect();
                assert!(dearmour::<34>("k", &altered, Case::Lower).is_err(), "{i} {c}");
            }
        }
    }

    #[test]
    fn another_prefix_is_refused() {
        let text = armour("ab", &[9; 34], Case::Lower);
        assert!(dearmour::<34>("a", &text, Case::Lower).is_err());
        let moved = text.replacen("ab", "cd", 1);
        assert!(dearmour::<34>("cd", &moved, Case::Lower).is_err());
    }
}
