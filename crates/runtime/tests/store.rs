//! Weights that stream lie in this host's memory: nothing of them can be read there, and nothing that was changed is used.

mod support;

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

use cordon_protocol::{Code, Command, PIECE, STORE_WINDOW, STORED_PIECE};
use cordon_runtime::{Deployment, RuntimeError, Tensor};
use support::{AMPLE, Fault, LARGE, STREAMING, World, X, assert_serves, deployment, large, run};

/// Changes the words of the store before the next segment runs, and lets the request end as it does.
fn with_store(
    model: &mut Deployment,
    fault: &Arc<Mutex<Option<Fault>>>,
    mut change: impl FnMut(usize, u64) -> u64 + Send + 'static,
) -> Result<Vec<f32>, RuntimeError> {
    *fault.lock().expect("free") = Some(Box::new(move |frame, inner| {
        if matches!(Command::decode(&mut frame.clone()), Ok((Command::Run { .. }, _))) {
            assert!(!inner.store().is_empty(), "the package has weights");
            for (at, word) in inner.store().iter().enumerate() {
                word.store(change(at, word.load(Ordering::Relaxed)), Ordering::Relaxed);
            }
        }
        inner.call(frame)
    }));
    let outcome = run(model);
    *fault.lock().expect("free") = None;
    outcome
}

/// All words of the store.
fn stored(model: &mut Deployment, fault: &Arc<Mutex<Option<Fault>>>) -> Vec<u64> {
    let words = Arc::new(Mutex::new(Vec::new()));
    let seen = words.clone();
    with_store(model, fault, move |_, word| {
        seen.lock().expect("free").push(word);
        word
    })
    .expect("nothing was changed");
    core::mem::take(&mut words.lock().expect("free"))
}

#[test]
fn streamed_and_resident_weights_give_the_same_bits() {
    let world = World::new();
    let x = Tensor::from_f32(vec![1, 4], &X).expect("four values");
    let ((mut resident, _), (mut streaming, fault)) = (deployment(&world, AMPLE), deployment(&world, STREAMING));
    for _ in 0..3 {
        let (all, some) = (resident.run(&[("x", &x)]).expect("runs"), streaming.run(&[("x", &x)]).expect("runs"));
        assert_eq!(all.outputs, some.outputs);
        let [all, some] = [all.segments[0], some.segments[0]];
        assert!(all.weight_bytes == 0 && some.weight_bytes > 0);
        // One more command for each window after the first, which the input's command brings; not one for each load.
        let windows = 1 + some.commands - all.commands;
        let least = some.weight_bytes.div_ceil(STORE_WINDOW as u64);
        assert!(least > 1, "the test must see more than one window");
        assert!((least..=least + 2).contains(&windows), "{windows} windows for {} bytes", some.weight_bytes);
    }
    // Two neighbours of the large tensor as they would lie there.
    let plain: HashSet<u64> = (0..1000)
        .map(|index| u64::from(large(index).to_bits()) | u64::from(large(index + 1).to_bits()) << 32)
        .collect();
    let words = stored(&mut streaming, &fault);
    assert!(words.iter().filter(|word| **word != 0).count() > LARGE as usize / 2, "the test must see the weights");
    assert!(!words.iter().any(|word| plain.contains(word)), "a weight lies open");
}

#[test]
fn changed_exchanged_and_older_pieces_are_refused_by_name() {
    let world = World::new();
    let (mut model, fault) = deployment(&world, STREAMING);
    let good = stored(&mut model, &fault);
    let (mut other, fault_of_other) = deployment(&world, STREAMING);
    let foreign = stored(&mut other, &fault_of_other);
    let words = STORED_PIECE / 8;
    assert!(good.len() / words > 2 && PIECE < STORED_PIECE);
    type Change = Box<dyn Fn(usize, &[u64]) -> u64 + Send>;
    let changes: [(&str, Change); 5] = [
        ("a bit of each tag", Box::new(move |at, good| good[at] ^ u64::from(at % words == 0))),
        ("the last bit of each text", Box::new(move |at, good| good[at] ^ u64::from(at % words == words - 1) << 63)),
        ("zeros", Box::new(|_, _| 0)),
        ("each piece in the place of the one before", Box::new(move |at, good| good[(at + words) % good.len()])),
        ("another enclave's with the same package", Box::new(move |at, _| foreign[at])),
    ];
    for (name, change) in changes {
        let all = good.clone();
        let error = with_store(&mut model, &fault, move |at, _| change(at, &all)).expect_err(name);
        let RuntimeError::Refused { refusal, .. } = &error else { panic!("{name}: {error}") };
        assert_eq!(
            (refusal.code, refusal.segment, refusal.index.is_some()),
            (Code::CorruptStore, Some(0), true),
            "{name}"
        );
        assert!(error.to_string().contains("did not come back as they left"), "{error}");
        let all = good.clone();
        with_store(&mut model, &fault, move |at, _| all[at]).expect("what is put right serves");
        assert_serves(&mut model);
    }
}

/// The file that is mapped at these words, which this process holds open.
fn mapped_file(words: &[AtomicU64]) -> File {
    let address = words.as_ptr() as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").expect("mounted");
    let map = maps.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|map| {
        let bound = |text: &str| usize::from_str_radix(text, 16).expect("hexadecimal");
        map[0].split_once('-').is_some_and(|(start, end)| (bound(start)..bound(end)).contains(&address))
    });
    let inode: u64 = map.expect("it is mapped")[4].parse().expect("a number");
    let open = std::fs::read_dir("/proc/self/fd").expect("mounted").flatten();
    let path = open.map(|entry| entry.path()).find(|path| std::fs::metadata(path).is_ok_and(|it| it.ino() == inode));
    File::options().write(true).open(path.expect("it is open")).expect("another descriptor")
}

#[test]
fn a_store_that_is_cut_under_the_enclave_ends_it_and_the_next_one_serves() {
    let world = World::new();
    let (mut model, fault) = deployment(&world, STREAMING);
    assert_serves(&mut model);
    *fault.lock().expect("free") = Some(Box::new(|frame, inner| {
        if matches!(Command::decode(&mut frame.clone()), Ok((Command::Run { .. }, _))) {
            mapped_file(inner.store()).set_len(0).expect("it can be cut");
        }
        inner.call(frame)
    }));
    let error = run(&mut model).expect_err("pages are gone");
    *fault.lock().expect("free") = None;
    assert!(matches!(error, RuntimeError::Died { restart: None, .. }), "{error}");
    assert_serves(&mut model);
}
