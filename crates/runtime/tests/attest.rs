//! Evidence of a process enclave: what it binds, who signs it, and that no bit of it can change.

use cordon_package::{OwnerKey, PackageError};
use cordon_protocol::{Binding, Bound, Code, DevelopmentEvidence, EvidenceKind, Purpose};
use cordon_runtime::{Device, Enclave, Evidence, Resources, RuntimeError, backend};
use ed25519_dalek::{Signature, VerifyingKey};

fn device(dir: &tempfile::TempDir, name: &str) -> Device {
    let mut random = |out: &mut [u8]| -> Result<(), PackageError> {
        out.fill(7);
        Ok(())
    };
    let owner = OwnerKey::generate(&mut random).expect("never fails").public();
    let process = backend::open("process").expect("known");
    Device::init(process, dir.path().join(name), &[owner]).expect("initialises").0
}

fn enclave(device: &Device) -> Enclave {
    let resources = Resources { secure_memory: 8 << 20, threads: 1, store: 0 };
    Enclave::greet(device.start(resources).expect("starts")).expect("greets")
}

/// The steps of an appraisal up to the trust in the key, which is the caller's.
fn appraise(statement: &Evidence) -> Option<(Binding, DevelopmentEvidence)> {
    let binding = Binding::decode(&statement.binding).ok()?;
    let evidence = DevelopmentEvidence::decode(&statement.evidence).ok()?;
    let key = VerifyingKey::from_bytes(&evidence.public_key).ok()?;
    let signed = DevelopmentEvidence::signed(&evidence.image, &evidence.report_data, &evidence.public_key);
    key.verify_strict(&signed, &Signature::from_bytes(&evidence.signature)).ok()?;
    (evidence.report_data == binding.report_data()).then_some((binding, evidence))
}

#[test]
fn evidence_vouches_for_the_recipient_and_the_nonces_and_is_the_devices() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (one, other) = (device(&dir, "one"), device(&dir, "other"));
    let nonces = [[1; 32], [2; 32]];
    let statement = enclave(&one).attest(Purpose::Release, &nonces).expect("evidence");
    assert_eq!(statement.kind, EvidenceKind::Development);
    let (binding, evidence) = appraise(&statement).expect("signed");
    let recipient = *one.recipient().expect("stored").public_key();
    assert_eq!((&binding.nonces[..], binding.bound), (&nonces[..], Bound::Release { recipient }));
    // The same key after a new start, another key on another device, and the same program on both.
    let again = appraise(&enclave(&one).attest(Purpose::Release, &[]).expect("evidence")).expect("signed").1;
    let foreign = appraise(&enclave(&other).attest(Purpose::Release, &nonces).expect("evidence")).expect("signed").1;
    assert_eq!((again.public_key, again.image), (evidence.public_key, evidence.image));
    assert!(again.report_data != evidence.report_data);
    assert!(foreign.public_key != evidence.public_key && foreign.image == evidence.image);
}

#[test]
fn no_bit_of_it_can_change() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let statement = enclave(&device(&dir, "one")).attest(Purpose::Release, &[[5; 32]]).expect("evidence");
    assert!(appraise(&statement).is_some(), "the test must see evidence that holds");
    let bits = |bytes: &[u8]| 0..bytes.len() * 8;
    for bit in bits(&statement.binding).step_by(3) {
        let mut changed = statement.clone();
        changed.binding[bit / 8] ^= 1 << (bit % 8);
        assert!(appraise(&changed).is_none(), "bit {bit} of the binding");
    }
    for bit in bits(&statement.evidence).step_by(3) {
        let mut changed = statement.clone();
        changed.evidence[bit / 8] ^= 1 << (bit % 8);
        assert!(appraise(&changed).is_none(), "bit {bit} of the evidence");
    }
}

#[test]
fn nothing_serves_before_channel_keys_exist() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let refused = enclave(&device(&dir, "one")).attest(Purpose::Serve, &[[0; 32]]).expect_err("no channel");
    assert!(matches!(refused, RuntimeError::Refused { refusal, .. } if refusal.code == Code::NotSealable), "{refused}");
}
