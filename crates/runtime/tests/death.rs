//! The enclave process from outside: what can be read of it, and what happens when it or its host dies. In a binary of its
//! own, because tests look at every enclave that this process started.

mod support;

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cordon_process_link::guard;
use cordon_runtime::backend::Cause;
use cordon_runtime::{Output, RuntimeError, Tensor};
use support::{AMPLE, World, assert_serves, deployment, run, ternary};

/// Held by a test that looks at every enclave of this process.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_dead_enclave_is_named_restarted_and_unreadable_while_it_lives() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let world = World::new();
    let (mut model, fault) = deployment(&world, AMPLE);
    assert_serves(&mut model);

    let greeting = model.greeting().expect("something is secure");
    let holds = |guard| greeting.protections.iter().any(|p| p.guard == guard && p.is_in_force());
    if holds(guard::SECRET_HEAP) && holds(guard::SECRET_KEYS) {
        let needle: Vec<u8> = support::small().iter().flat_map(|v| v.to_le_bytes()).collect();
        for pid in enclaves() {
            assert!(!memory_of(pid).windows(needle.len()).any(|w| w == needle), "a weight can be read from outside");
        }
    }

    for pid in enclaves() {
        let threads = statuses(&format!("/proc/{pid}/task"));
        assert_eq!(threads.len(), 3, "the first thread, the service and one helper");
        for status in threads {
            let field = |name| line(&status, name);
            assert_eq!(field("Seccomp:").as_deref(), Some("2"), "the kernel says that a filter is loaded");
            assert_eq!(field("NoNewPrivs:").as_deref(), Some("1"));
        }
        assert!(std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|e| e.is_empty()) || !is_root());
    }

    // Killed while a segment runs: between the value it asked for and the answer.
    let mut calls = 0;
    *fault.lock().expect("free") = Some(Box::new(move |frame, inner| {
        calls += 1;
        if calls == 3 {
            enclaves().into_iter().for_each(kill);
        }
        inner.call(frame)
    }));
    let error = run(&mut model).expect_err("it was killed");
    let RuntimeError::Died { doing, death, restart: None } = &error else { panic!("{error}") };
    let cause = Some(Cause { what: "ended by signal", number: 9 });
    assert_eq!((*doing, death.cause), ("running a secure segment", cause), "{error}");
    assert!(error.to_string().contains("started anew"), "{error}");
    *fault.lock().expect("free") = None;
    assert_serves(&mut model);
    drop(model);
    assert!(enclaves().is_empty(), "an enclave outlives its deployment");
}

/// Killed again and again under load: every request ends, with the right answer or with the word that its enclave died.
#[test]
fn requests_of_a_session_end_in_an_answer_or_a_death() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let world = World::sealed(ternary::seal);
    let model = world.options(AMPLE).open_with(world.package(), &ternary::PlusOne(Arc::new(|| ())));
    let session = model.expect("opens").into_session().expect("threads");
    let run = |of: usize| {
        let x = [of as f32, 1.0, 2.0, -3.0];
        let input = Tensor::from_f32(vec![1, 4], &x).expect("four values");
        session.run(&[("x", &input)]).map(|run| {
            let [(_, Output::Tensor(y))] = run.outputs.as_slice() else { panic!("one tensor") };
            assert_eq!(y.to_f32().expect("float"), ternary::expected(x), "a wrong answer to {of}");
        })
    };
    let (answered, died, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let limit = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (run, answered, died, over) = (&run, &answered, &died, &over);
            scope.spawn(move || {
                for of in (thread..).step_by(4) {
                    match run(of) {
                        Ok(()) => answered.fetch_add(1, Ordering::Relaxed),
                        Err(RuntimeError::Died { .. }) => died.fetch_add(1, Ordering::Relaxed),
                        Err(error) => panic!("{error}"),
                    };
                    if over.load(Ordering::Relaxed) || Instant::now() > limit {
                        break;
                    }
                }
            });
        }
        // Each must have served before it is killed: one that dies while it loads is no death under load.
        for _ in 0..8 {
            let before = answered.load(Ordering::Relaxed);
            while answered.load(Ordering::Relaxed) < before + 50 {
                assert!(Instant::now() < limit, "nothing is answered");
                std::thread::sleep(Duration::from_millis(1));
            }
            enclaves().into_iter().for_each(kill);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(died.into_inner() >= 8, "each death was somebody's");
    run(0).expect("the service goes on");
}

/// Not a test: the host that the test below kills.
#[test]
#[ignore = "run by the test below as a process of its own"]
fn host_to_be_killed() {
    let world = World::new();
    let (_model, _) = deployment(&world, AMPLE);
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn an_enclave_ends_with_its_host() {
    let this = std::env::current_exe().expect("a test binary");
    let mut host = std::process::Command::new(this)
        .args(["--exact", "host_to_be_killed", "--ignored"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    let id = host.id().to_string();
    let wait = |what: &str, done: &mut dyn FnMut() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut found = Vec::new();
    // One enclave makes the device key, the next one serves.
    wait("no enclave serves", &mut || {
        found = enclaves_of(&id);
        found.iter().any(|pid| field(*pid, "Seccomp:").as_deref() == Some("2"))
    });
    kill(host.id());
    host.wait().expect("killed");
    wait("the enclave outlives its host", &mut || {
        found.iter().all(|pid| field(*pid, "State:").is_none_or(|state| state.starts_with('Z')))
    });
}

/// Enclave processes that this process started.
fn enclaves() -> Vec<u32> {
    enclaves_of(&std::process::id().to_string())
}

fn enclaves_of(host: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("mounted").flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let alive = field(*pid, "State:").is_some_and(|state| !state.starts_with('Z'));
            alive && field(*pid, "PPid:").as_deref() == Some(host) && ran_from_memory(*pid)
        })
        .collect()
}

/// A line of what the kernel says about a process.
fn field(pid: u32, name: &str) -> Option<String> {
    line(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, name)
}

fn line(status: &str, name: &str) -> Option<String> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_string())
}

/// What the kernel says about each of the threads in a folder.
fn statuses(folder: &str) -> Vec<String> {
    let threads = std::fs::read_dir(folder).expect("the process lives").flatten();
    threads.map(|thread| std::fs::read_to_string(thread.path().join("status")).expect("it still lives")).collect()
}

fn is_root() -> bool {
    field(std::process::id(), "Uid:").is_some_and(|ids| ids.starts_with("0\t"))
}

fn ran_from_memory(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().starts_with(b"cordon-enclave")
}

fn kill(pid: u32) {
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill(1) exists");
    assert!(status.success());
}

/// Whatever of the process's memory can be read from outside.
fn memory_of(pid: u32) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut found = Vec::new();
    let Ok(memory) = std::fs::File::open(format!("/proc/{pid}/mem")) else { return found };
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    for line in maps.lines().filter(|line| !line.contains("[v")) {
        let Some((start, end)) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')) else { continue };
        let number = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let mut bytes = vec![0; usize::try_from(number(end) - number(start)).expect("fits")];
        if memory.read_exact_at(&mut bytes, number(start)).is_ok() {
            found.extend(bytes);
        }
    }
    found
}
