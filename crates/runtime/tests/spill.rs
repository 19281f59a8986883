//! Values that wait in the normal world's memory, against the real process enclave: whatever the host does to them is
//! noticed, named, and ends that run only.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cordon_protocol::{Code, Command, Reply, Supply};
use cordon_runtime::{Deployment, RuntimeError, Tensor};
use support::{AMPLE, Fault, World, X, assert_serves, deployment, run};

type Chunks = BTreeMap<u32, Vec<u8>>;
type Hook = Arc<Mutex<Option<Fault>>>;

/// Chunks of each of the two slots.
const SLOTS: [(u32, u32); 2] = [(0, 3), (3, 3)];
const STORED: usize = 65_552;

/// Bytes of a frame's payload: they are its end.
fn payload(frame: &mut [u8], len: usize) -> &mut [u8] {
    let head = frame.len() - len;
    &mut frame[head..]
}

/// The spilled chunks that a frame to the enclave brings: the first one's place, and their bytes.
fn brings(frame: &[u8]) -> Option<(u32, usize)> {
    match Command::decode(&mut frame.to_vec()) {
        Ok((Command::Step { supply: Supply::Spilled { chunk }, .. }, bytes)) => Some((chunk, bytes.len())),
        _ => None,
    }
}

/// Every chunk that leaves in one run, in order.
fn record(model: &mut Deployment, hook: &Hook) -> Vec<(u32, Vec<u8>)> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = seen.clone();
    *hook.lock().expect("free") = Some(Box::new(move |frame, inner| {
        inner.call(frame)?;
        if let Ok((Reply::Spill { chunk }, bytes)) = Reply::decode(&mut frame.clone()) {
            keep.lock().expect("free").push((chunk, bytes.to_vec()));
        }
        Ok(())
    }));
    assert_serves(model);
    *hook.lock().expect("free") = None;
    Arc::try_unwrap(seen).expect("the hook is gone").into_inner().expect("free")
}

/// Runs with every frame of spilled chunks changed by `change`, which gets their place and the frame's payload with what
/// left before it in this run, and expects the enclave to name `slot`.
#[track_caller]
fn refused(
    model: &mut Deployment,
    hook: &Hook,
    slot: u32,
    mut change: impl FnMut(u32, &[(u32, Vec<u8>)], &mut Vec<u8>) + Send + 'static,
) {
    let mut left: Vec<(u32, Vec<u8>)> = Vec::new();
    *hook.lock().expect("free") = Some(Box::new(move |frame, inner| {
        if let Some((chunk, len)) = brings(frame) {
            let mut bytes = payload(frame, len).to_vec();
            frame.truncate(frame.len() - len);
            change(chunk, &left, &mut bytes);
            frame.extend(bytes);
        }
        inner.call(frame)?;
        if let Ok((Reply::Spill { chunk }, bytes)) = Reply::decode(&mut frame.clone()) {
            left.push((chunk, bytes.to_vec()));
        }
        Ok(())
    }));
    let error = run(model).expect_err("a spilled value was changed");
    *hook.lock().expect("free") = None;
    let RuntimeError::Refused { refusal, .. } = &error else { panic!("{error}") };
    assert_eq!((refusal.code, refusal.index), (Code::CorruptSpill, Some(slot)), "{error}");
    assert!(error.to_string().contains("spilled"), "{error}");
    assert_serves(model);
}

#[test]
fn a_model_that_spills_computes_the_same_and_reports_it() {
    let (mut plain, _) = deployment(&World::new(), AMPLE);
    let world = World::spilling();
    let (mut model, hook) = deployment(&world, AMPLE);
    assert_eq!(model.load_report().expect("secure").spill, 6);
    assert_eq!(plain.load_report().expect("secure").spill, 0);
    assert_eq!(run(&mut model).expect("runs"), run(&mut plain).expect("runs"));
    let x = Tensor::from_f32(vec![1, 4], &X).expect("four values");
    let cost = model.run(&[("x", &x)]).expect("runs").segments[0];
    // Three values of 150 000 bytes and three tags leave and come back.
    assert_eq!(cost.spilled_bytes, 2 * 3 * (150_000 + 3 * 16));
    let left = record(&mut model, &hook);
    assert_eq!(left.iter().map(|(chunk, _)| *chunk).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2, 3, 4, 5]);
}

/// What leaves is another text every time, although the values are the same.
#[test]
fn no_two_runs_spill_the_same_bytes() {
    let world = World::spilling();
    let (mut model, hook) = deployment(&world, AMPLE);
    let (first, second) = (record(&mut model, &hook), record(&mut model, &hook));
    let all: Vec<&Vec<u8>> = first.iter().chain(&second).map(|(_, bytes)| bytes).collect();
    for (index, one) in all.iter().enumerate() {
        // Chunks of one plaintext: a stream under the same key and nonce would repeat its beginning.
        assert!(all[..index].iter().all(|other| other[..64] != one[..64]), "chunk {index}");
    }
}

#[test]
fn every_changed_chunk_is_refused() {
    let world = World::spilling();
    let (mut model, hook) = deployment(&world, AMPLE);
    for (slot, chunks) in SLOTS {
        for chunk in 0..chunks {
            // A byte of the text and one of the tag.
            for at in [0, 1000, 15] {
                refused(&mut model, &hook, slot, move |first, left, bytes| {
                    // Slot 0 is used twice: the second value is the one that was followed by others.
                    if first == slot && (slot != 0 || left.len() > 3) {
                        let end = bytes.len().min((chunk as usize + 1) * STORED);
                        let at = if at == 15 { end - 1 } else { chunk as usize * STORED + at };
                        bytes[at] ^= 0x10;
                    }
                });
            }
        }
    }
    // And the first use of slot 0.
    refused(&mut model, &hook, 0, |_, _, bytes| bytes[7] ^= 1);
}

#[test]
fn chunks_in_another_place_are_refused() {
    let world = World::spilling();
    let (mut model, hook) = deployment(&world, AMPLE);
    let of = |left: &[(u32, Vec<u8>)], from: usize, count: usize| -> Vec<u8> {
        left[from..from + count].iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    };
    // Two chunks of a value exchanged.
    for (slot, _) in SLOTS {
        refused(&mut model, &hook, slot, move |first, left, bytes| {
            if first == slot && left.len() > 3 {
                let (a, b) = bytes.split_at_mut(STORED);
                a.swap_with_slice(&mut b[..STORED]);
            }
        });
    }
    // One chunk twice.
    refused(&mut model, &hook, 3, |first, _, bytes| {
        if first == 3 {
            bytes.copy_within(..STORED, STORED);
        }
    });
    // The value of the other slot, both ways.
    refused(&mut model, &hook, 3, move |first, left, bytes| {
        if first == 3 {
            *bytes = of(left, 3, 3);
        }
    });
    refused(&mut model, &hook, 0, move |first, left, bytes| {
        if first == 0 && left.len() > 6 {
            *bytes = of(left, 6, 3);
        }
    });
    // What lay in slot 0 before, in the same run.
    refused(&mut model, &hook, 0, move |first, left, bytes| {
        if first == 0 && left.len() > 6 {
            *bytes = of(left, 0, 3);
        }
    });
}

#[test]
fn chunks_of_another_run_or_another_enclave_are_refused() {
    let world = World::spilling();
    let (mut model, hook) = deployment(&world, AMPLE);
    // Another deployment of the same package on the same device, with the same input.
    let (mut other, other_hook) = deployment(&world, AMPLE);
    let replays = [record(&mut model, &hook), record(&mut other, &other_hook)];
    for replay in replays {
        // The last that lay in each place.
        let chunks: Chunks = replay.into_iter().collect();
        for (slot, count) in SLOTS {
            for index in 0..count {
                let chunks = chunks.clone();
                refused(&mut model, &hook, slot, move |first, left, bytes| {
                    if first == slot && left.len() > 6 {
                        let old = &chunks[&(slot + index)];
                        let at = index as usize * STORED;
                        bytes[at..at + old.len()].copy_from_slice(old);
                    }
                });
            }
        }
    }
}

#[test]
fn short_long_and_missing_chunks_are_refused() {
    let world = World::spilling();
    let (mut model, hook) = deployment(&world, AMPLE);
    type Change = fn(&mut Vec<u8>);
    let changes: [Change; 8] = [
        |bytes| bytes.truncate(bytes.len() - 1),
        |bytes| bytes.push(0),
        |bytes| bytes.clear(),
        // Each chunk left out.
        |bytes| drop(bytes.drain(..STORED)),
        |bytes| drop(bytes.drain(STORED..2 * STORED)),
        |bytes| bytes.truncate(2 * STORED),
        // The first cut, and filled up.
        |bytes| {
            bytes.remove(100);
            bytes.push(0);
        },
        // Never stored.
        |bytes| bytes.fill(0),
    ];
    for change in changes {
        for (slot, _) in SLOTS {
            refused(&mut model, &hook, slot, move |first, left, bytes| {
                if first == slot && left.len() > 6 {
                    change(bytes);
                }
            });
        }
    }
}

/// Something else than was asked for: nothing, a value, other chunks, and the same chunks a second time.
#[test]
fn answers_of_another_kind_are_refused() {
    let world = World::spilling();
    let (mut model, hook) = deployment(&world, AMPLE);
    let supplies = [
        Supply::Nothing,
        Supply::Value { value: 0, start: 0, payload: cordon_protocol::Payload::Clear },
        Supply::Spilled { chunk: 1 },
        Supply::Spilled { chunk: u32::MAX },
    ];
    let all = supplies.map(Some).into_iter().chain([None]);
    for supply in all {
        *hook.lock().expect("free") = Some(Box::new(move |frame, inner| {
            let Ok((Command::Step { request, supply: Supply::Spilled { .. } }, bytes)) =
                Command::decode(&mut frame.clone()).map(|(command, bytes)| (command, bytes.to_vec()))
            else {
                return inner.call(frame);
            };
            match supply {
                Some(supply) => {
                    Command::Step { request, supply }.encode(frame);
                    if supply != Supply::Nothing {
                        frame.extend(bytes);
                    }
                }
                None => inner.call(&mut frame.clone())?,
            }
            inner.call(frame)
        }));
        let error = run(&mut model).expect_err("not what was asked for");
        *hook.lock().expect("free") = None;
        let RuntimeError::Refused { refusal, .. } = &error else { panic!("{error}") };
        // A second time the run has gone on, and nothing is asked for, or a value of another slot.
        let codes = if supply.is_some() { &[Code::CorruptSpill][..] } else { &[Code::WrongSupply, Code::CorruptSpill] };
        assert!(codes.contains(&refusal.code), "{supply:?}: {error}");
        assert_serves(&mut model);
    }
}
