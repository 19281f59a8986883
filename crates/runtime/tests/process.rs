//! The process backend as a device sees it: the sandbox is really closed, and a dead enclave is a clear error.

use cordon_package::{OwnerKey, PackageError, Recipient};
use cordon_process_link::guard;
use cordon_protocol::{Guard, State};
use cordon_runtime::{Device, Enclave, Resources, RuntimeError, Transport, backend};

fn owner() -> OwnerKey {
    let mut next = 0u8;
    let mut count = |out: &mut [u8]| {
        out.fill_with(|| {
            next = next.wrapping_add(1);
            next
        });
        Ok::<(), PackageError>(())
    };
    OwnerKey::generate(&mut count).expect("the source never fails")
}

fn init(dir: impl Into<std::path::PathBuf>) -> Result<(Device, Recipient), RuntimeError> {
    Device::init(backend::open("process").expect("known"), dir, &[owner().public()])
}

fn start(device: &Device, secure_memory: u64, threads: usize, store: u64) -> Result<Box<dyn Transport>, RuntimeError> {
    device.start(Resources { secure_memory, threads, store })
}

const MEMORY: u64 = 8 << 20;

#[test]
fn a_device_is_made_once_and_its_key_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("device");
    let (device, recipient) = init(&path).expect("initialises");
    assert_eq!(device.recipient().expect("stored"), recipient);
    let mode = std::fs::metadata(path.join("device.key")).expect("exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = std::fs::read(path.join("device.key")).expect("readable by its owner");
    let again = init(&path);
    assert!(matches!(again, Err(RuntimeError::DeviceExists { .. })), "a second key would orphan every package");
    assert_eq!(std::fs::read(path.join("device.key")).expect("still there"), before);
}

#[test]
fn every_protection_is_reported_and_the_ones_this_kernel_has_are_in_force() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (device, _) = init(dir.path()).expect("initialises");
    let transport = start(&device, 32 << 20, 2, 1 << 20).expect("starts");
    assert!(!transport.store().is_empty(), "the store costs no protection");
    let enclave = Enclave::greet(transport).expect("greets");
    let greeting = enclave.greeting();
    assert!(greeting.development && greeting.has_key);
    assert_eq!(greeting.memory.limit, 32 << 20);
    for guard in guard::ALL.iter().chain(Guard::ALL) {
        let reported = greeting.protections.iter().filter(|line| line.guard == *guard).count();
        assert_eq!(reported, 1, "{}", guard.name());
    }
    let state = |guard: &Guard| greeting.protections.iter().find(|line| line.guard == *guard).map(|line| line.state);
    // Every supported kernel has these; the others are reported as found.
    for guard in [
        guard::SEALED_IMAGE,
        guard::EMPTY_ENVIRONMENT,
        guard::NO_NEW_PRIVILEGES,
        guard::NOT_DUMPABLE,
        guard::NO_CORE_FILE,
        guard::SYSTEM_CALL_FILTER,
        Guard::BUDGET,
        guard::DIES_WITH_HOST,
        guard::KEY_READ_LAST,
    ] {
        assert_eq!(state(&guard), Some(State::InForce), "{}", guard.name());
    }
    // And these no process can have.
    for guard in [Guard::HARDWARE, Guard::ROLLBACK, Guard::TRUSTED_CLOCK] {
        assert!(matches!(state(&guard), Some(State::Missing(_))), "{}", guard.name());
    }
}

#[test]
fn it_computes_with_as_many_threads_as_it_was_told() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (device, _) = init(dir.path()).expect("initialises");
    let mut fixed = Vec::new();
    for threads in [1, 2, 16] {
        let transport = start(&device, MEMORY, threads, 0).expect("starts");
        let enclave = Enclave::greet(transport).expect("greets");
        assert_eq!(enclave.greeting().threads as usize, threads);
        fixed.push(enclave.greeting().memory.fixed);
    }
    assert!(fixed.is_sorted_by(|fewer, more| fewer < more), "stacks are counted: {fixed:?}");
    for threads in [0, 17] {
        let error = start(&device, MEMORY, threads, 0).err().expect("refused");
        assert!(error.to_string().contains("threads"), "{error}");
    }
}

#[test]
fn a_budget_too_small_to_start_says_so() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (device, _) = init(dir.path()).expect("initialises");
    let error = start(&device, 4096, 1, 0).err().expect("too small").to_string();
    assert!(error.contains("budget"), "{error}");
}

#[test]
fn a_damaged_key_file_says_so() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (device, _) = init(dir.path()).expect("initialises");
    std::fs::write(device.dir().join("device.key"), "not a device").expect("writable");
    let error = start(&device, MEMORY, 1, 0).err().expect("damaged").to_string();
    assert!(error.contains("device key"), "{error}");
}
