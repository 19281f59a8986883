//! Loading: whom to trust, what to refuse, and how much memory there must be.

mod support;

use cordon_engine::program::Via;
use cordon_package::OutputPolicy;
use cordon_protocol::{Code, Command, Expiry, Part, Payload, Refusal, Reply};
use support::{AMPLE, DEVICE, Host, Recipe, back, front};

fn refused(recipe: &Recipe, limit: u64, prepare: impl FnOnce(&mut Host)) -> Refusal {
    let mut host = Host::with_device(recipe, DEVICE, limit);
    prepare(&mut host);
    host.hello();
    let refusal = host.load().expect_err("must be refused");
    assert_eq!(host.refusal(Command::Begin { mode: Payload::Clear }, &[]).code, Code::OutOfOrder, "nothing is loaded");
    refusal
}

#[test]
fn the_report_says_what_was_loaded() {
    let mut host = Host::new(&Recipe { not_after: Some(2000), max_requests: Some(9), ..Recipe::default() });
    host.hello();
    let report = host.load().expect("loads");
    assert_eq!((report.version, report.expiry, report.requests_left), (3, Expiry::Checked, Some(9)));
    assert_eq!((report.segments, report.resident), (2, 2));
    assert!(report.compute > u64::from(support::LARGE) * 4, "the resident weights are counted");
    assert!(!host.state.is_empty(), "the version was recorded");
}

#[test]
fn trust_is_the_devices_alone() {
    let other = Recipe { owner: 77, ..Recipe::default() };
    assert_eq!(refused(&other, AMPLE, |_| ()).code, Code::UnpinnedOwner);
    let expired = Recipe { not_after: Some(999), ..Recipe::default() };
    assert_eq!(refused(&expired, AMPLE, |_| ()).code, Code::Expired);
    assert_eq!(refused(&Recipe::default(), AMPLE, |host| host.settings.development.set(false)).code, Code::Development);
    let mut host = Host::with_device(&Recipe::default(), 55, AMPLE);
    host.hello();
    assert_eq!(host.load().expect_err("another device").code, Code::NotARecipient);
}

#[test]
fn without_a_clock_the_report_says_so() {
    let mut host = Host::new(&Recipe { not_after: Some(999), ..Recipe::default() });
    host.settings.now.set(None);
    host.hello();
    assert_eq!(host.load().expect("loads").expiry, Expiry::NotChecked);
}

#[test]
fn an_older_version_is_refused_once_a_newer_one_was_loaded() {
    let mut newer = Host::ready(&Recipe { version: 9, ..Recipe::default() });
    newer.assert_serves();
    let state = newer.state.clone();
    let older = refused(&Recipe { version: 8, ..Recipe::default() }, AMPLE, |host| host.state = state.clone());
    assert_eq!((older.code, older.needed, older.available), (Code::OlderVersion, Some(9), Some(8)));
    let mut renamed = Host::new(&Recipe { version: 8, name: "another", ..Recipe::default() });
    renamed.state = state;
    renamed.hello();
    renamed.load().expect("versions are counted for each name");
}

#[test]
fn every_flipped_bit_of_the_header_is_refused() {
    let recipe = Recipe::default();
    let file = recipe.seal();
    let len = cordon_package::header_length(&file).expect("valid");
    let mut host = Host::new(&recipe);
    host.hello();
    for at in 0..len {
        host.file = file.clone();
        host.file[at] ^= 1 << (at % 8);
        let begin = Command::LoadBegin { header_len: len as u32, grant_len: 0 };
        assert!(matches!(host.call(begin, &[]).0, Reply::NeedHeader { .. }));
        let mut reply = Reply::NeedHeader { offset: 0, len: len as u32 };
        while let Reply::NeedHeader { offset, len } = reply {
            let piece = host.file[offset as usize..(offset + len) as usize].to_vec();
            reply = host.call(Command::LoadHeader { offset }, &piece).0;
        }
        assert!(matches!(reply, Reply::Refused(_)), "byte {at}: {reply:?}");
    }
    host.file = file;
    host.load().expect("the service goes on");
    host.assert_serves();
}

#[test]
fn whatever_is_supplied_wrongly_is_refused_and_loading_can_begin_again() {
    type Fault = fn(&mut Vec<u8>);
    let faults: [(&str, Fault); 4] = [
        ("flipped", |b| b[0] ^= 1),
        ("short", |b| b.truncate(b.len() - 1)),
        ("long", |b| b.push(0)),
        ("empty", |b| b.clear()),
    ];
    let mut host = Host::new(&Recipe::default());
    host.hello();
    for section in 0..5 {
        for part in [Part::Leaves, Part::Chunks] {
            // The manifest is small and comes whole, without leaves.
            if (section, part) == (0, Part::Leaves) {
                continue;
            }
            for (name, fault) in faults {
                host.tamper = Some(Box::new(move |s, p, _, bytes| {
                    if (s, p) == (section, part) {
                        fault(bytes);
                    }
                }));
                let refusal = host.load().expect_err("wrong bytes");
                let expected = [Code::CorruptChunk, Code::WrongSupply];
                assert!(expected.contains(&refusal.code), "{name} {part:?} of section {section}: {refusal:?}");
            }
        }
    }
    host.tamper = None;
    host.load().expect("loading can begin again");
    host.assert_serves();
}

#[test]
fn pieces_that_were_not_asked_for_end_loading() {
    let mut host = Host::new(&Recipe::default());
    host.hello();
    let begin = host.load_begin();
    assert_eq!(
        host.call(begin, &[]).0,
        Reply::NeedHeader {
            offset: 0,
            len: match begin {
                Command::LoadBegin { header_len, .. } => header_len,
                _ => unreachable!(),
            }
        }
    );
    assert_eq!(host.refusal(Command::LoadHeader { offset: 1 }, &[0; 10]).code, Code::WrongSupply);
    assert_eq!(host.refusal(Command::LoadHeader { offset: 0 }, &[0; 10]).code, Code::OutOfOrder, "begin again");
    for (header_len, grant_len) in [(0, 0), (u32::MAX, 0), (100, u32::MAX)] {
        let refusal = host.refusal(Command::LoadBegin { header_len, grant_len }, &[]);
        assert_eq!(refusal.code, Code::PackageHostile, "{header_len} {grant_len}");
    }
    host.load().expect("loads");
}

#[test]
fn a_secret_part_is_read_in_one_frame_or_put_together_from_several() {
    let mut recipe = Recipe::default();
    let add = recipe.programs[0].instructions[0].clone();
    recipe.programs[0].instructions.splice(0..0, core::iter::repeat_n(add, 2000));
    assert!(recipe.programs[0].encode().len() > 65_552, "several chunks");
    for chunks in [1, 2, 8] {
        let mut host = Host::new(&recipe);
        host.settings.payload_limit.set(chunks * 65_552);
        host.hello();
        host.load().expect("loads");
        host.assert_serves();
    }
}

#[test]
fn too_small_a_budget_says_how_much_and_for_which_instruction() {
    let refusal = refused(&Recipe::default(), 64 * 1024 + 1500, |_| ());
    assert_eq!(refusal.code, Code::OutOfMemory);
    let (needed, available) = (refusal.needed.expect("needed"), refusal.available.expect("available"));
    assert!(needed > available, "{refusal:?}");
    assert!(refusal.segment.is_some() && refusal.instruction.is_some(), "{refusal:?}");
    let text = refusal.to_string();
    assert!(text.contains(&needed.to_string()) && text.contains(&available.to_string()), "{text}");
    let refusal = refused(&Recipe::default(), 1000, |_| ());
    assert_eq!(refusal.code, Code::OutOfMemory, "not even the header has room");
}

#[test]
fn programs_that_contradict_the_manifest_are_refused() {
    type Change = fn(&mut Recipe);
    let cases: [(&str, Change); 6] = [
        ("a kept value that crosses", |r| r.programs[0].outputs[1].via = Via::Cross),
        ("a crossing that is kept", |r| r.programs[0].outputs[0].via = Via::Retain),
        ("an output more", |r| {
            let again = r.programs[1].outputs[0].clone();
            r.programs[1].outputs.push(again);
        }),
        ("an input less", |r| {
            r.programs[1].inputs.pop();
        }),
        ("another shape", |r| r.programs[1].outputs[0].shape = vec![4, 1]),
        ("the other segment's program", |r| r.programs[0] = back()),
    ];
    for (name, change) in cases {
        let mut recipe = Recipe::default();
        change(&mut recipe);
        let refusal = refused(&recipe, AMPLE, |_| ());
        assert_eq!(refusal.code, Code::ProgramInvalid, "{name}");
        assert!(refusal.segment.is_some(), "{name}");
    }
    assert_eq!(front().outputs.len(), 2);
}

#[test]
fn programs_the_engine_refuses_are_refused() {
    let mut recipe = Recipe::default();
    recipe.programs[0].outputs[0].region.start = 15;
    assert_eq!(refused(&recipe, AMPLE, |_| ()).code, Code::ProgramInvalid);
    let mut recipe = Recipe::default();
    recipe.tables[1].0[0].len -= 4000;
    assert_eq!(refused(&recipe, AMPLE, |_| ()).code, Code::ProgramInvalid, "the stream is longer than the table");
}

#[test]
fn a_device_without_a_key_makes_one_once() {
    // The fake platform has a key; what a missing one leads to is the real platform's test. Here: the order of checks.
    let mut host = Host::new(&Recipe { policy: OutputPolicy::Label, ..Recipe::default() });
    host.hello();
    for payload in [&[][..], &[0; 31], &[0; 33], &[0; 64]] {
        assert_eq!(host.refusal(Command::Provision, payload).code, Code::Malformed, "{} bytes", payload.len());
    }
    assert_eq!(host.refusal(Command::Provision, &[7; 32]).code, Code::DeviceKeyExists);
}
