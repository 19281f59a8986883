//! Whatever bytes come as commands, in whatever state: a reply that decodes, no panic, no secret, and the service goes on.
//! The fuzz target `commands` runs the same oracle.

mod support;

use std::collections::HashMap;

use cordon_protocol::{Command, Form, Part, Payload, Purpose, Reply, Supply};
use support::{Host, Recipe, bytes};

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// A secret weight's bytes, which no reply may contain unless the plan lets the value out.
fn assert_no_secret(reply: &[u8]) {
    let weights = bytes(&[2.0, 3.0, 4.0, 5.0]);
    assert!(!reply.windows(weights.len()).any(|w| w == weights), "a secret weight left");
}

/// A command with its numbers drawn from a small range, so that many are valid somewhere.
fn random_command(random: &mut Random, requests: &[u64]) -> Command {
    let request = match requests.get(random.below(requests.len() as u64 + 1) as usize) {
        Some(request) => *request,
        None => random.below(3),
    };
    let (a, b, c) = (random.below(4) as u32, random.below(4) as u32, random.below(4) as u32);
    let part = if random.below(2) == 0 { Part::Leaves } else { Part::Chunks };
    let payload = if random.below(8) == 0 { Payload::Sealed } else { Payload::Clear };
    match random.below(16) {
        0 => Command::Hello { oldest: a as u16, newest: b as u16 },
        1 => Command::Report,
        2 => Command::LoadBegin { header_len: a * 700, grant_len: b * 100 },
        3 => Command::LoadHeader { offset: a },
        4 => Command::LoadSupply { section: a, part, first: b, count: c },
        5 | 6 => Command::Begin { mode: payload },
        7 | 8 => Command::Run { request, segment: a },
        9 => Command::Step { request, supply: Supply::Nothing },
        10 => Command::Step { request, supply: Supply::Spilled { chunk: a } },
        11 => Command::Step { request, supply: Supply::Value { value: a, start: u64::from(b / 3), payload } },
        12 => Command::End { request },
        13 => Command::Attest { purpose: if a == 0 { Purpose::Serve } else { Purpose::Release } },
        14 => Command::AttestMore { start: a * 60 },
        _ => Command::Abort { request },
    }
}

#[test]
fn random_commands_never_break_the_service() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut host = Host::ready(&Recipe::default());
        let mut requests = Vec::new();
        for _ in 0..400 {
            let command = random_command(&mut random, &requests);
            let (mut frame, mut out) = (Vec::new(), Vec::new());
            command.encode(&mut frame);
            let len = [0, 1, 16, 16, 32, 4000][random.below(6) as usize];
            frame.extend((0..len).map(|_| random.below(256) as u8));
            if random.below(4) == 0 {
                let at = random.below(frame.len() as u64) as usize;
                frame[at] ^= 1 << random.below(8);
            }
            host.handle(&mut frame, &mut out);
            assert_no_secret(&out);
            if let (Reply::Begun { request, .. }, _) = Reply::decode(&mut out).expect("replies decode") {
                requests.push(request);
            }
        }
        // A hostile host may have unloaded or half loaded; a friendly one sets things right.
        host.call(Command::Unload, &[]);
        host.load().expect("loads");
        host.assert_serves();
    }
}

#[test]
fn mutated_real_conversations_never_break_the_service() {
    for seed in 0..60 {
        let mut random = Random(1000 + seed);
        let mut host = Host::new(&Recipe::default());
        host.hello();
        let victim = random.below(30);
        let mut count = 0;
        host.tamper = Some(Box::new(move |_, _, _, bytes| {
            count += 1;
            if count == victim && !bytes.is_empty() {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
        }));
        let _ = host.load();
        host.tamper = None;
        host.call(Command::Unload, &[]);
        host.load().expect("loads");
        host.assert_serves();
    }
}

#[test]
fn outputs_are_the_only_replies_with_values() {
    let mut host = Host::ready(&Recipe::default());
    let request = host.begin().expect("begins");
    let values = HashMap::from([(0, bytes(&[1.0; 4]))]);
    let (mut command, mut payload) = (Command::Run { request, segment: 0 }, vec![]);
    loop {
        let (reply, answer) = host.call(command, &payload);
        match reply {
            Reply::Output { form: Form::Tensor, value: 1, .. } => assert_eq!(answer.len(), 16),
            _ => assert!(answer.is_empty(), "{reply:?}"),
        }
        match host.answer(request, &reply, &answer, &values) {
            Some(next) => (command, payload) = next,
            None => break,
        }
    }
}
