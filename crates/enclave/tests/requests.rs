//! Requests in order, out of order, and with hostile content.

mod support;

use std::collections::{HashMap, HashSet};

use cordon_protocol::{
    Binding, Bound, Code, Command, EvidenceKind, MAX_OPEN_REQUESTS, Payload, Purpose, Refusal, Reply, STORED_PIECE,
    Supply, Window,
};
use support::{AMPLE, DEVICE, Host, LARGE, Recipe, bytes, expected, floats, large};

const BEGIN: Command = Command::Begin { mode: Payload::Clear };
const X: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

fn value(value: u32, start: u64) -> Supply {
    Supply::Value { value, start, payload: Payload::Clear }
}

fn inputs() -> HashMap<u32, Vec<u8>> {
    HashMap::from([(0, bytes(&X)), (3, bytes(&X))])
}

#[test]
fn a_request_computes_the_model_and_lets_out_only_crossings() {
    let mut host = Host::ready(&Recipe::default());
    for _ in 0..3 {
        host.left.clear();
        assert_eq!(floats(&host.run(X).expect("runs")), expected(X));
        let values: Vec<u32> = host.left.iter().map(|(value, _)| *value).collect();
        assert_eq!(values, [1, 4], "the kept value never leaves");
    }
}

#[test]
fn one_instruction_at_a_time_gives_the_same_result() {
    let mut host = Host::new(&Recipe::default());
    host.settings.burst.set(0);
    host.hello();
    host.load().expect("loads");
    host.assert_serves();
}

#[test]
fn streamed_weights_give_the_same_result_and_the_same_sequence_every_time() {
    let mut host = Host::with_device(&Recipe::default(), DEVICE, 64 * 1024 + 240_000);
    host.hello();
    let report = host.load().expect("fits when streamed");
    assert_eq!((report.segments, report.resident), (2, 1), "the small segment is resident, the large one streams");
    let mut sequences = Vec::new();
    for x in [X, [0.0; 4], [1e30, -1e30, 0.0, 7.0]] {
        host.store.reads.lock().expect("free").clear();
        assert_eq!(floats(&host.run(x).expect("runs")), expected(x));
        sequences.push(host.store.reads.lock().expect("free").clone());
    }
    assert!(!sequences[0].is_empty());
    assert!(sequences.iter().all(|s| *s == sequences[0]), "data must not steer what is read");
}

/// Loaded with a budget in which the large segment streams.
fn streaming() -> Host {
    let mut host = Host::with_device(&Recipe::default(), DEVICE, 64 * 1024 + 240_000);
    host.hello();
    host.load().expect("loads");
    host
}

/// Every stored piece that a request reads: where it begins, and the bytes of its text.
fn pieces(host: &mut Host) -> Vec<(usize, usize)> {
    host.store.reads.lock().expect("free").clear();
    host.assert_serves();
    let reads = host.store.reads.lock().expect("free").clone();
    reads.chunks(2).map(|read| (read[0].0 as usize, read[1].1)).collect()
}

#[test]
fn the_store_holds_nothing_to_read_and_differs_with_every_loading() {
    let stored = |host: &Host| host.store.bytes.lock().expect("free").clone();
    let mut host = streaming();
    let first = stored(&host);
    let plain: HashSet<Vec<u8>> = (0..LARGE - 1).map(|index| bytes(&[large(index), large(index + 1)])).collect();
    assert!(!first.chunks(8).any(|stored| plain.contains(stored)), "a weight lies open");
    host.call(Command::Unload, &[]);
    host.load().expect("loads");
    let second = stored(&host);
    // What was never written is zero.
    let written = first.iter().filter(|byte| **byte != 0).count();
    let same = first.iter().zip(&second).filter(|(a, b)| **a != 0 && a == b).count();
    assert!(same < written / 64, "{same} of {written} bytes are the same under two keys");
}

#[test]
fn weights_that_do_not_come_back_as_they_left_stop_the_request_and_are_named() {
    let mut host = streaming();
    let places = pieces(&mut host);
    let older = host.store.bytes.lock().expect("free").clone();
    host.call(Command::Unload, &[]);
    host.load().expect("loads");
    let good = host.store.bytes.lock().expect("free").clone();
    host.assert_serves();
    // The first segment's weights, which are resident, would take the first piece.
    let number = |at: usize| (at / STORED_PIECE - 1) as u32;
    let (a, b) = (places[0].0, places[1].0);
    type Fault<'a> = Box<dyn Fn(&mut Vec<u8>) + 'a>;
    let mut faults: Vec<(&str, u32, Fault<'_>)> = vec![
        ("zeros", number(a), Box::new(|bytes| bytes.fill(0))),
        ("of an earlier loading", number(a), Box::new(|bytes| bytes.copy_from_slice(&older))),
        ("another piece", number(a), Box::new(|bytes| bytes.copy_within(b..b + STORED_PIECE, a))),
        ("cut short", number(a), Box::new(|bytes| bytes.truncate(a + 100))),
        ("gone", number(a), Box::new(Vec::clear)),
    ];
    for &(at, len) in &places {
        faults.push(("a flipped bit of a tag", number(at), Box::new(move |bytes| bytes[at + 7] ^= 1)));
        faults.push(("a flipped first bit", number(at), Box::new(move |bytes| bytes[at + 16] ^= 0x80)));
        faults.push(("a flipped last bit", number(at), Box::new(move |bytes| bytes[at + 15 + len] ^= 1)));
    }
    for (name, piece, fault) in faults {
        fault(&mut host.store.bytes.lock().expect("free"));
        host.left.clear();
        let refusal = host.run(X).expect_err(name);
        assert_eq!(
            (refusal.code, refusal.segment, refusal.index),
            (Code::CorruptStore, Some(2), Some(piece)),
            "{name}"
        );
        *host.store.bytes.lock().expect("free") = good.clone();
        host.assert_serves();
    }
}

#[test]
fn a_store_too_small_is_found_when_loading() {
    let mut host = Host::with_device(&Recipe::default(), DEVICE, 64 * 1024 + 240_000);
    host.hello();
    let len = host.store.bytes.lock().expect("free").len();
    host.store.bytes.lock().expect("free").truncate(len - STORED_PIECE);
    let refusal = host.load().expect_err("too small");
    assert_eq!(refusal.code, Code::CorruptStore);
    host.store.bytes.lock().expect("free").resize(len, 0);
    host.load().expect("loading can begin again");
    host.assert_serves();
}

#[test]
fn the_store_is_seen_through_the_windows_asked_for_alone() {
    let mut host = streaming();
    // The large segment's 40 pieces come after the room of the small one's: written as they are loaded, a frame at a time.
    let total = u64::from(LARGE * 4).div_ceil(8192) as u32;
    let window = |first: u32, count: u32| Window {
        offset: u64::from(first + 1) * STORED_PIECE as u64,
        len: count * STORED_PIECE as u32,
    };
    assert_eq!(host.windows, [window(0, 16), window(16, 16), window(32, total - 32)]);
    host.windows.clear();
    host.assert_serves();
    // All that a run reads follows each other: one window. The input's command brings it, and nothing else needs one.
    let read = pieces(&mut host);
    let piece = |at: usize| (at / STORED_PIECE - 1) as u32;
    let (first, last) = (piece(read[0].0), piece(read[read.len() - 1].0));
    assert_eq!(host.windows, [window(first, last + 1 - first); 2]);
}

#[test]
fn a_window_that_is_not_brought_ends_the_request_or_the_loading() {
    let mut host = streaming();
    host.settings.brings.set(false);
    let refusal = host.run(X).expect_err("no window");
    assert_eq!((refusal.code, refusal.segment), (Code::CorruptStore, Some(2)));
    host.call(Command::Unload, &[]);
    assert_eq!(host.load().expect_err("no window").code, Code::CorruptStore);
    host.settings.brings.set(true);
    host.load().expect("loading can begin again");
    host.assert_serves();
}

#[test]
fn no_request_begins_sealed() {
    let mut host = Host::ready(&Recipe { max_requests: Some(2), ..Recipe::default() });
    for _ in 0..3 {
        let sealed = Command::Begin { mode: Payload::Sealed };
        assert_eq!(host.refusal(sealed, &[7; 1000]).code, Code::NotSealable);
    }
    assert!(matches!(host.call(BEGIN, &[]).0, Reply::Begun { requests_left: Some(1), .. }), "a refusal is not counted");
    assert!(matches!(host.call(BEGIN, &[]).0, Reply::Begun { requests_left: Some(0), .. }));
    assert_eq!(host.refusal(BEGIN, &[]).code, Code::RequestLimit);
}

/// Collects evidence; the pieces must follow each other.
fn attest(host: &mut Host, purpose: Purpose, nonces: &[u8]) -> Result<(Binding, Vec<u8>), Refusal> {
    let mut all = Vec::new();
    let mut command = Command::Attest { purpose };
    loop {
        let payload = if all.is_empty() { nonces } else { &[] };
        match host.call(command, payload) {
            (Reply::Evidence { kind: EvidenceKind::Development, binding_len, start, total }, piece) => {
                assert_eq!(start as usize, all.len());
                all.extend(piece);
                if all.len() == total as usize {
                    let evidence = all.split_off(binding_len as usize);
                    return Ok((Binding::decode(&all).expect("its own"), evidence));
                }
                command = Command::AttestMore { start: all.len() as u32 };
            }
            (Reply::Refused(refusal), _) => return Err(refusal),
            (other, _) => panic!("{other:?} to Attest"),
        }
    }
}

#[test]
fn evidence_binds_the_recipient_and_every_nonce() {
    let mut host = Host::new(&Recipe::default());
    host.hello();
    let recipient = *support::device(DEVICE).recipient().public_key();
    let all: Vec<u8> = (0..64 * 32).map(|at| (at / 32) as u8).collect();
    for (nonces, limit) in [(&all[..0], 65_552), (&all[..32], 65_552), (&all[..], 65_552), (&all[..64], 8)] {
        host.settings.payload_limit.set(limit);
        host.settings.evidence.set(3);
        let (binding, evidence) = attest(&mut host, Purpose::Release, nonces).expect("evidence");
        assert_eq!(binding.nonces.as_flattened(), nonces);
        assert_eq!((binding.platform, binding.bound), (1, Bound::Release { recipient }));
        assert_eq!(evidence, binding.report_data().repeat(3));
    }
}

#[test]
fn evidence_is_refused_by_name_and_given_once() {
    let mut host = Host::ready(&Recipe::default());
    assert_eq!(attest(&mut host, Purpose::Serve, &[0; 32]).err().map(|r| r.code), Some(Code::NotSealable));
    for nonces in [&[0; 31][..], &[0; 33], &[0; 65 * 32]] {
        assert_eq!(attest(&mut host, Purpose::Release, nonces).err().map(|r| r.code), Some(Code::Malformed));
    }
    assert_eq!(host.refusal(Command::AttestMore { start: 0 }, &[]).code, Code::OutOfOrder, "none was made");
    attest(&mut host, Purpose::Release, &[0; 32]).expect("evidence");
    assert_eq!(host.refusal(Command::AttestMore { start: 0 }, &[]).code, Code::OutOfOrder, "all of it is gone");
    host.settings.payload_limit.set(8);
    host.call(Command::Attest { purpose: Purpose::Release }, &[]);
    for start in [1000, u32::MAX] {
        assert_eq!(host.refusal(Command::AttestMore { start }, &[]).code, Code::OutOfOrder, "beyond its end");
    }
    host.assert_serves();
}

#[test]
fn without_a_store_everything_has_to_be_resident() {
    let mut host = Host::with_device(&Recipe::default(), DEVICE, 64 * 1024 + 240_000);
    host.settings.has_store.set(false);
    host.hello();
    let refusal = host.load().expect_err("no room");
    assert_eq!(refusal.code, Code::OutOfMemory);
    assert!(refusal.needed > refusal.available);
    host.settings.limit.set(AMPLE);
    assert_eq!(host.load().expect("fits").resident, 2);
    host.assert_serves();
}

#[test]
fn values_larger_than_a_frame_pass_in_pieces() {
    let mut host = Host::new(&Recipe::default());
    host.hello();
    host.load().expect("loads");
    // From here on a frame holds one element, or two if they are small: the least the step interface allows.
    host.settings.payload_limit.set(8);
    host.assert_serves();
    assert_eq!(host.left.len(), 2);
}

#[test]
fn requests_interleave_between_segments() {
    let mut host = Host::ready(&Recipe::default());
    let (first, second) = (host.begin().expect("one"), host.begin().expect("two"));
    assert_ne!(first, second);
    let other = [5.0, 6.0, 7.0, 8.0];
    host.segment(first, 0, &HashMap::from([(0, bytes(&X))])).expect("front of one");
    let a_first = host.output(1);
    host.segment(second, 0, &HashMap::from([(0, bytes(&other))])).expect("front of two");
    let a_second = host.output(1);
    let doubled = |a: &[u8]| HashMap::from([(3, bytes(&floats(a).iter().map(|a| 2.0 * a).collect::<Vec<_>>()))]);
    host.segment(first, 2, &doubled(&a_first)).expect("back of one");
    assert_eq!(floats(&host.output(4)), expected(X), "its own kept value, not the other's");
    host.segment(second, 2, &doubled(&a_second)).expect("back of two");
    assert_eq!(floats(&host.output(4)), expected(other));
}

/// Every way to be out of order, each in a fresh request, and the request is dead afterwards.
#[test]
fn out_of_order_is_refused_and_the_request_is_dead() {
    type Mistake = fn(&mut Host, u64) -> Refusal;
    let mistakes: [(&str, Code, Mistake); 12] = [
        ("back first", Code::OutOfOrder, |h, r| h.refusal(Command::Run { request: r, segment: 2 }, &[])),
        ("normal segment", Code::OutOfOrder, |h, r| h.refusal(Command::Run { request: r, segment: 1 }, &[])),
        ("no such segment", Code::OutOfOrder, |h, r| h.refusal(Command::Run { request: r, segment: u32::MAX }, &[])),
        ("step before run", Code::OutOfOrder, |h, r| {
            h.refusal(Command::Step { request: r, supply: Supply::Nothing }, &[])
        }),
        ("end at once", Code::OutOfOrder, |h, r| h.refusal(Command::End { request: r }, &[])),
        ("run while running", Code::OutOfOrder, |h, r| {
            h.call(Command::Run { request: r, segment: 0 }, &[]);
            h.refusal(Command::Run { request: r, segment: 0 }, &[])
        }),
        ("end while running", Code::OutOfOrder, |h, r| {
            h.call(Command::Run { request: r, segment: 0 }, &[]);
            h.refusal(Command::End { request: r }, &[])
        }),
        ("front twice", Code::OutOfOrder, |h, r| {
            h.segment(r, 0, &inputs()).expect("once");
            h.refusal(Command::Run { request: r, segment: 0 }, &[])
        }),
        ("back twice", Code::OutOfOrder, |h, r| {
            h.segment(r, 0, &inputs()).expect("front");
            h.segment(r, 2, &inputs()).expect("back");
            h.refusal(Command::Run { request: r, segment: 2 }, &[])
        }),
        ("end after the front only", Code::OutOfOrder, |h, r| {
            h.segment(r, 0, &inputs()).expect("front");
            h.refusal(Command::End { request: r }, &[])
        }),
        ("step after done", Code::OutOfOrder, |h, r| {
            h.segment(r, 0, &inputs()).expect("front");
            h.refusal(Command::Step { request: r, supply: Supply::Nothing }, &[])
        }),
        ("nothing where a value was asked for", Code::WrongSupply, |h, r| {
            h.call(Command::Run { request: r, segment: 0 }, &[]);
            h.refusal(Command::Step { request: r, supply: Supply::Nothing }, &[])
        }),
    ];
    for (name, code, mistake) in mistakes {
        let mut host = Host::ready(&Recipe::default());
        let request = host.begin().expect("begins");
        assert_eq!(mistake(&mut host, request).code, code, "{name}");
        for command in [
            Command::Run { request, segment: 0 },
            Command::Step { request, supply: Supply::Nothing },
            Command::End { request },
            Command::Abort { request },
        ] {
            assert_eq!(host.refusal(command, &[]).code, Code::UnknownRequest, "{name}: the request is dead");
        }
        host.assert_serves();
    }
}

#[test]
fn a_mistake_kills_only_its_own_request() {
    let mut host = Host::ready(&Recipe::default());
    let (good, bad) = (host.begin().expect("one"), host.begin().expect("two"));
    host.segment(good, 0, &inputs()).expect("front");
    // While the good one runs, the other asks for the engine too.
    assert!(matches!(host.call(Command::Run { request: good, segment: 2 }, &[]).0, Reply::NeedValue { value: 3, .. }));
    assert_eq!(host.refusal(Command::Run { request: bad, segment: 0 }, &[]).code, Code::OutOfOrder);
    assert_eq!(host.refusal(Command::End { request: 12345 }, &[]).code, Code::UnknownRequest);
    let supply = value(3, 0);
    let (reply, _) = host.call(Command::Step { request: good, supply }, &bytes(&X));
    assert!(matches!(reply, Reply::Output { value: 4, .. }), "{reply:?}");
}

#[test]
fn ended_and_aborted_requests_are_gone() {
    let mut host = Host::ready(&Recipe::default());
    let request = host.begin().expect("begins");
    host.segment(request, 0, &inputs()).expect("front");
    assert_eq!(host.call(Command::Abort { request }, &[]).0, Reply::Closed);
    assert_eq!(host.refusal(Command::Abort { request }, &[]).code, Code::UnknownRequest);
    assert_eq!(host.refusal(Command::Run { request, segment: 2 }, &[]).code, Code::UnknownRequest);
    let request = host.begin().expect("begins");
    host.segment(request, 0, &inputs()).expect("front");
    host.segment(request, 2, &inputs()).expect("back");
    assert_eq!(host.call(Command::End { request }, &[]).0, Reply::Closed);
    assert_eq!(host.refusal(Command::End { request }, &[]).code, Code::UnknownRequest, "finished twice");
}

#[test]
fn aborting_a_running_segment_frees_the_engine() {
    let mut host = Host::ready(&Recipe::default());
    let request = host.begin().expect("begins");
    host.call(Command::Run { request, segment: 0 }, &[]);
    assert_eq!(host.call(Command::Abort { request }, &[]).0, Reply::Closed);
    host.assert_serves();
}

#[test]
fn hostile_values_are_refused() {
    let good = bytes(&X);
    let mut nan = good.clone();
    nan[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    let sealed = Supply::Value { value: 0, start: 0, payload: Payload::Sealed };
    let cases: [(&str, Supply, Vec<u8>, Code); 9] = [
        ("short", value(0, 0), good[..15].to_vec(), Code::WrongSupply),
        ("empty", value(0, 0), vec![], Code::WrongSupply),
        ("long", value(0, 0), [&good[..], &[0]].concat(), Code::WrongSupply),
        ("another value", value(3, 0), good.clone(), Code::WrongSupply),
        ("a value that does not exist", value(u32::MAX, 0), good.clone(), Code::WrongSupply),
        ("another place", value(0, 4), good.clone(), Code::WrongSupply),
        ("NaN", value(0, 0), nan, Code::BadValue),
        ("sealed", sealed, good.clone(), Code::SealedPayload),
        ("what was never spilled", Supply::Spilled { chunk: 0 }, good, Code::WrongSupply),
    ];
    let mut host = Host::ready(&Recipe::default());
    for (name, supply, payload, code) in cases {
        let request = host.begin().expect("begins");
        assert!(matches!(host.call(Command::Run { request, segment: 0 }, &[]).0, Reply::NeedValue { value: 0, .. }));
        host.left.clear();
        assert_eq!(host.refusal(Command::Step { request, supply }, &payload).code, code, "{name}");
        assert!(host.left.is_empty());
        assert_eq!(host.refusal(Command::Abort { request }, &[]).code, Code::UnknownRequest, "{name}");
        host.assert_serves();
    }
}

#[test]
fn only_so_many_requests_are_open() {
    let mut host = Host::ready(&Recipe::default());
    let open: Vec<u64> = (0..MAX_OPEN_REQUESTS).map(|_| host.begin().expect("room")).collect();
    assert_eq!(host.begin().expect_err("full").code, Code::Busy);
    host.call(Command::Abort { request: open[0] }, &[]);
    host.begin().expect("room again");
}

#[test]
fn a_loaded_package_ends_with_its_last_second() {
    let mut host = Host::ready(&Recipe { not_after: Some(1000), ..Recipe::default() });
    host.assert_serves();
    host.settings.now.set(Some(1001));
    assert_eq!(host.refusal(BEGIN, &[]).code, Code::Expired);
    host.settings.now.set(Some(1000));
    host.assert_serves();
}

#[test]
fn max_requests_is_kept_over_restarts_that_bring_the_state_back() {
    let recipe = Recipe { max_requests: Some(2), ..Recipe::default() };
    let mut host = Host::ready(&recipe);
    host.run(X).expect("one");
    let state = host.state.clone();
    let mut host = Host::new(&recipe);
    host.state = state;
    host.hello();
    assert_eq!(host.load().expect("loads").requests_left, Some(1));
    host.run(X).expect("two");
    let refusal = host.begin().expect_err("used up");
    assert_eq!((refusal.code, refusal.needed, refusal.available), (Code::RequestLimit, Some(3), Some(2)));
}

#[test]
fn commands_outside_their_state_are_refused() {
    let mut host = Host::new(&Recipe::default());
    for command in [BEGIN, Command::Report, Command::Unload, Command::Provision, host.load_begin()] {
        assert_eq!(host.refusal(command, &[]).code, Code::OutOfOrder, "before Hello: {command:?}");
    }
    assert_eq!(host.refusal(Command::Hello { oldest: 40, newest: 50 }, &[]).code, Code::Version);
    host.hello();
    for command in [BEGIN, Command::Run { request: 1, segment: 0 }, Command::LoadHeader { offset: 0 }] {
        assert_eq!(host.refusal(command, &[]).code, Code::OutOfOrder, "nothing loaded: {command:?}");
    }
    assert_eq!(host.refusal(Command::Provision, &[0; 32]).code, Code::DeviceKeyExists);
    host.load().expect("loads");
    assert_eq!(host.refusal(host.load_begin(), &[]).code, Code::OutOfOrder, "loaded already");
    assert_eq!(host.call(Command::Unload, &[]).0, Reply::Unloaded);
    assert_eq!(host.refusal(BEGIN, &[]).code, Code::OutOfOrder);
    host.load().expect("loads again");
    host.assert_serves();
    assert_eq!(host.settings.limit.get(), AMPLE);
}
