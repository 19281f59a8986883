//! The suite of backends on every backend of this build, and on one that has neither a TEE nor a process of its own.

use std::sync::Arc;

use cordon_conformance::backends::suite;
use cordon_conformance::toy::Toy;
use cordon_runtime::backend;

#[test]
fn the_process_backend_passes() {
    suite(backend::open("process").expect("every build has it"), &end_children);
}

#[test]
fn a_backend_in_this_very_process_passes() {
    let toy = Arc::new(Toy::default());
    suite(toy.clone(), &|| toy.end_all());
}

/// Kills every enclave process that this process started.
fn end_children() {
    let host = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").expect("mounted").flatten();
    let children = processes.filter_map(|entry| entry.file_name().into_string().ok()).filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, which may hold anything, ends with the last bracket; then come the state and the parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        parent == Some(host.as_str())
    });
    for pid in children {
        let status = std::process::Command::new("kill").args(["-9", &pid]).status().expect("kill(1) exists");
        assert!(status.success());
    }
}
