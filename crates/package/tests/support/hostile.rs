//! The oracle for hostile bytes: whatever they are, no reader panics, and what is accepted has one encoding only.
//! Used by tests here and by the fuzz target.

use cordon_package::{
    DeviceFile, DeviceKey, Format, Manifest, OwnerKey, OwnerPublic, Parsed, Recipient, SegmentSecret, Trust, check,
    header_length,
};

/// Reads `bytes` as everything this crate reads. `owners` and `device` are whom a package in them may be from and for.
/// Returns whether they were accepted as a package.
pub(crate) fn check_hostile(bytes: &[u8], owners: &[OwnerPublic], device: &DeviceKey) -> bool {
    let trust = Trust { dangerous_accept_development: true, ..Trust::pinned(owners) };
    let checked = check(bytes, &trust, device.recipient_key());
    if let Ok((manifest, opened)) = &checked {
        assert_eq!(Some(opened.verified().file_len()), u64::try_from(bytes.len()).ok());
        assert!(!manifest.segments.is_empty());
    }
    if let Ok(len) = header_length(bytes) {
        // A header alone, as an enclave gets it.
        let _ = bytes.get(..len).map(Parsed::parse);
    }
    if let Ok(manifest) = Manifest::decode(bytes, Format::V2) {
        check_encoding(bytes, &manifest.encode().expect("what was decoded"));
    }
    if let Ok(secret) = SegmentSecret::decode(bytes, Format::V2) {
        check_encoding(bytes, &secret.encode().expect("what was decoded"));
    }
    // The older format is read only.
    let _ = Manifest::decode(bytes, Format::V1).map(|manifest| assert_eq!(manifest.variants(), 1));
    let _ = SegmentSecret::decode(bytes, Format::V1);
    if let Ok(text) = core::str::from_utf8(bytes) {
        let _ = DeviceFile::parse(text);
        let _ = OwnerKey::parse(text);
        if let Ok(owner) = OwnerPublic::parse(text) {
            assert_eq!(owner.to_string(), text.trim());
        }
        if let Ok(recipient) = Recipient::parse(text) {
            assert_eq!(recipient.to_string(), text.trim());
        }
        if let Ok(policy) = text.parse::<cordon_package::OutputPolicy>() {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
    }
    checked.is_ok()
}

/// A value has one encoding, but for the extensions at its end, which are skipped.
fn check_encoding(read: &[u8], written: &[u8]) {
    let (fields, none) = written.split_last_chunk::<4>().expect("a count of extensions");
    assert_eq!(*none, [0; 4]);
    let extensions = read.strip_prefix(fields).expect("the same fields");
    assert!(extensions == none || (extensions.len() > 4 && !extensions.starts_with(none)), "one encoding");
}
