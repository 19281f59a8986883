//! Package open: any bytes are refused, or are a package with one encoding. Keys are those of `vectors/`.
#![no_main]

use std::sync::LazyLock;

use cordon_package::{DeviceFile, OwnerPublic};

#[path = "../../crates/package/tests/support/hostile.rs"]
mod oracle;

static DEVICE: LazyLock<DeviceFile> =
    LazyLock::new(|| DeviceFile::parse(include_str!("../../vectors/device.key")).expect("a checked-in device file"));
static OWNERS: LazyLock<[OwnerPublic; 1]> =
    LazyLock::new(|| [OwnerPublic::parse(include_str!("../../vectors/owner.pub")).expect("a checked-in owner key")]);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    oracle::check_hostile(bytes, &*OWNERS, &DEVICE.key);
});
