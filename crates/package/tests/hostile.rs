//! Seeded mutations of good files: no panic, and nothing altered is accepted.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/hostile.rs"]
mod oracle;
mod support;

use cordon_package::{OwnerPublic, Parsed, Random, Trust, header_length};
use oracle::check_hostile;
use support::{DEVICE, Map, OUTSIDER, OWNER, Recipe, Seeded, device, manifest, owner, put, resign};

const ROUNDS: usize = 3000;

struct Dice(Seeded);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes).unwrap();
        (u64::from_le_bytes(bytes) % n.max(1) as u64) as usize
    }

    /// One mutation within the first `within` bytes.
    fn mutate(&mut self, bytes: &mut Vec<u8>, within: usize) {
        let at = self.below(within.min(bytes.len()));
        match self.below(7) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
            2 => bytes.truncate(at),
            3 => {
                let n = self.below(40);
                bytes.splice(at..at, vec![0xa5; n]);
            }
            4 => {
                let end = (at + self.below(40)).min(bytes.len());
                bytes.drain(at..end);
            }
            5 if bytes.len() >= 4 => {
                let value = [0, 1, 0xffff, 1 << 20, 1 << 31, u32::MAX][self.below(6)];
                let at = at.min(bytes.len() - 4);
                put(bytes, at, &value.to_le_bytes());
            }
            _ => {
                let end = (at + self.below(60)).min(bytes.len());
                let to = self.below(bytes.len() - (end - at) + 1);
                bytes.copy_within(at..end, to);
            }
        }
    }
}

fn owners() -> [OwnerPublic; 1] {
    [owner(OWNER).public()]
}

#[test]
fn altered_packages_are_refused() {
    let (good, owners, device) = (Recipe::default().seal(), owners(), device(DEVICE));
    assert!(check_hostile(&good, &owners, &device));
    let mut dice = Dice(Seeded::new("altered packages"));
    for round in 0..ROUNDS {
        let mut bytes = good.clone();
        dice.mutate(&mut bytes, good.len());
        assert!(bytes == good || !check_hostile(&bytes, &owners, &device), "round {round} was accepted");
    }
}

#[test]
fn altered_descriptions_are_refused_even_when_signed() {
    let (good, owners, device) = (Recipe::default().seal(), owners(), device(DEVICE));
    let header = header_length(&good).unwrap();
    let mut dice = Dice(Seeded::new("altered headers"));
    let description = Map::of(&good).description;
    for round in 0..ROUNDS {
        let mut bytes = good.clone();
        for _ in 0..1 + dice.below(2) {
            dice.mutate(&mut bytes, header);
        }
        if header_length(&bytes).is_ok_and(|len| len <= bytes.len()) {
            resign(&mut bytes);
        }
        // Other recipients' stanzas may change without this device noticing; nothing the wrapped keys are bound to may.
        let same = bytes.get(description.clone()) == good.get(description.clone());
        let accepted = check_hostile(&bytes, &owners, &device);
        assert!(same || !accepted, "round {round} was accepted");
    }
}

#[test]
fn altered_manifests_secrets_and_keys_do_not_panic() {
    let (owners, device_key) = (owners(), device(DEVICE));
    let seeds = [
        manifest().encode().unwrap(),
        Recipe::default().secrets[1].clone(),
        support::device_file(DEVICE).to_text().as_bytes().to_vec(),
        owner(OWNER).public().to_string().into_bytes(),
        device(DEVICE).recipient().to_string().into_bytes(),
        b"top:5:3".to_vec(),
    ];
    let mut dice = Dice(Seeded::new("altered parts"));
    for round in 0..ROUNDS * 4 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..1 + dice.below(3) {
            let len = bytes.len();
            if len > 0 {
                dice.mutate(&mut bytes, len);
            }
        }
        check_hostile(&bytes, &owners, &device_key);
    }
}

#[test]
fn altered_grants_are_refused() {
    let (files, _) = support::vectors::all();
    let file = |name: &str| files.iter().find(|(n, _)| *n == name).unwrap().1.clone();
    let (package, grant) = (file("good.cordon"), file("good.grant"));
    let (owners, device) = (owners(), device(OUTSIDER));
    let trust = Trust { dangerous_accept_development: true, ..Trust::pinned(&owners) };
    let open = |grant: &[u8]| {
        Parsed::parse_file(&package)
            .and_then(|p| p.verify(&trust))
            .and_then(|v| v.open_with_grant(grant, device.recipient_key()))
    };
    assert!(open(&grant).is_ok());
    let mut dice = Dice(Seeded::new("altered grants"));
    for round in 0..ROUNDS / 4 {
        let mut bytes = grant.clone();
        dice.mutate(&mut bytes, grant.len());
        assert!(bytes == grant || open(&bytes).is_err(), "round {round} was accepted");
    }
}

#[test]
fn every_length_of_a_file_is_refused() {
    let (good, owners, device) = (Recipe::default().seal(), owners(), device(DEVICE));
    for end in 0..good.len() {
        assert!(!check_hostile(&good[..end], &owners, &device), "cut at {end}");
    }
}
