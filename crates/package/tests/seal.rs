//! Sealing, opening and granting through the public API.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use cordon_package::limits::CHUNK_BYTES;
use cordon_package::{
    DeviceKey, GrantRequest, OutputPolicy, OwnerKey, PackageError, Parsed, PlatformKind, Recipient, SealRequest,
    Sealer, SectionKind, SectionPlan, Sink, Trust, Verified, check, check_public, chunk, leaves, seal_to_vec, stored,
    write_grant,
};
use support::{DEVICE, OWNER, Recipe, Seeded, device, owner, ramp, trust};

const WEIGHTS: usize = 2 * CHUNK_BYTES + 17;

fn request<'a>(sections: &'a [SectionPlan], recipients: &'a [Recipient]) -> SealRequest<'a> {
    SealRequest {
        name: "n",
        version: 1,
        not_after: None,
        max_requests: Some(5),
        output_policies: &[OutputPolicy::Full],
        recipients,
        brokers: &[],
        sections,
    }
}

fn sections() -> [SectionPlan; 3] {
    [(SectionKind::Manifest, 10), (SectionKind::SegmentSecret, 20), (SectionKind::Weights, WEIGHTS)]
        .map(|(kind, plain_len)| SectionPlan { kind, segment: 0, plain_len: plain_len as u64 })
}

fn verified(file: &[u8]) -> Verified {
    let owners = [owner(OWNER).public()];
    let trust = Trust { dangerous_accept_development: true, ..Trust::pinned(&owners) };
    Parsed::parse_file(file).and_then(|p| p.verify(&trust)).unwrap()
}

#[test]
fn pieces_of_any_size_make_the_same_file() {
    let (sections, owner) = (sections(), owner(OWNER));
    let contents = [ramp(10, 1), ramp(20, 2), ramp(WEIGHTS, 3)];
    let request = request(&sections, &[]);
    let parts: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let whole = seal_to_vec(&request, &parts, &owner, &mut Seeded::new("s")).unwrap();
    for piece in [1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1] {
        let mut random = Seeded::new("s");
        let mut sealer = Sealer::new(&request, &owner, &mut random).unwrap();
        assert_eq!(sealer.file_len(), whole.len() as u64);
        let mut body = Vec::new();
        for content in &contents {
            content.chunks(piece).for_each(|p| sealer.push(p, &mut body).unwrap());
        }
        let header = sealer.finish(&mut random).unwrap();
        assert!([header, body].concat() == whole, "pieces of {piece}");
    }
}

#[test]
fn chunks_are_read_one_by_one() {
    let (sections, owner) = (sections(), owner(OWNER));
    let weights = ramp(WEIGHTS, 3);
    let contents: [&[u8]; 3] = [&ramp(10, 1), &ramp(20, 2), &weights];
    let device = device(DEVICE);
    let file =
        seal_to_vec(&request(&sections, &[device.recipient()]), &contents, &owner, &mut Seeded::new("s")).unwrap();
    let opened = verified(&file).open(device.recipient_key()).unwrap();
    assert!(opened.is_development());
    let section = opened.header().section(SectionKind::Weights, 0).unwrap();
    let mut table = opened.verified().leaf_table(SectionKind::Weights, 0).unwrap();
    table.push(leaves(&file, section).unwrap()).unwrap();
    let reader = opened.section(table.finish().unwrap()).unwrap();
    assert!(reader.memory_bytes() >= 3 * 32);
    // Out of order, and one of them twice: reading keeps no state.
    for index in [2u32, 0, 1, 0] {
        let mut bytes = chunk(&file, section, index).unwrap().to_vec();
        let plain = reader.decrypt_chunk(index, &mut bytes).unwrap();
        let start = index as usize * CHUNK_BYTES;
        assert!(*plain == weights[start..WEIGHTS.min(start + CHUNK_BYTES)], "chunk {index}");
    }
    let whole = opened.decrypt_section(SectionKind::Weights, 0, stored(&file, section).unwrap()).unwrap();
    assert!(*whole == weights);
    assert!(!file.windows(64).any(|w| w == &weights[..64]), "no plaintext in the file");
}

#[test]
fn every_recipient_and_the_owner_open_and_nobody_else() {
    let file = Recipe::default().seal();
    for key in [device(DEVICE), device(support::CO_RECIPIENT)] {
        verified(&file).open(key.recipient_key()).unwrap();
    }
    verified(&file).open(owner(OWNER).recipient_key()).unwrap();
    assert_eq!(
        verified(&file).open(device(support::OUTSIDER).recipient_key()).err(),
        Some(PackageError::NotARecipient)
    );
    assert_eq!(verified(&file).recipients(), 3);
    let opened = verified(&file).open(device(DEVICE).recipient_key()).unwrap();
    assert_eq!((opened.verified().recipients(), opened.verified().brokers().count()), (3, 1));
}

#[test]
fn two_seals_share_nothing_secret() {
    let (sections, owner) = (sections(), owner(OWNER));
    let contents: [&[u8]; 3] = [&ramp(10, 1), &ramp(20, 2), &ramp(WEIGHTS, 3)];
    let mut random = Seeded::new("s");
    let mut seal = || seal_to_vec(&request(&sections, &[]), &contents, &owner, &mut random).unwrap();
    let (a, b) = (seal(), seal());
    let (va, vb) = (verified(&a), verified(&b));
    assert_ne!(va.header().package_id, vb.header().package_id);
    let at = |v: &Verified| v.header().section(SectionKind::Weights, 0).unwrap().offset() as usize;
    assert_ne!(a[at(&va)..][..64], b[at(&vb)..][..64]);
    // A leaf table of one package is no proof about the other.
    let section = va.header().section(SectionKind::Weights, 0).unwrap().clone();
    let mut table = va.leaf_table(SectionKind::Weights, 0).unwrap();
    table.push(leaves(&a, &section).unwrap()).unwrap();
    let opened = vb.open(owner.recipient_key()).unwrap();
    assert!(matches!(opened.section(table.finish().unwrap()), Err(PackageError::Misuse(_))));
}

#[test]
fn development_is_stamped_by_recipients_only() {
    let (sections, owner) = (sections(), owner(OWNER));
    let contents: [&[u8]; 3] = [&ramp(10, 1), &ramp(20, 2), &ramp(WEIGHTS, 3)];
    let file = seal_to_vec(&request(&sections, &[]), &contents, &owner, &mut Seeded::new("s")).unwrap();
    let owners = [owner.public()];
    let strict = Trust::pinned(&owners);
    let parsed = || Parsed::parse_file(&file).unwrap().verify(&strict).unwrap();
    let opened = parsed().open(owner.recipient_key()).unwrap();
    assert!(!opened.is_development());
    // A grant to a development platform is refused like such a package.
    let to = [device(DEVICE).recipient()];
    let request = GrantRequest { recipients: &to, number: 3, not_after: None };
    let grant = write_grant(&opened, &owner, &request, &mut Seeded::new("g")).unwrap();
    assert_eq!(parsed().open_with_grant(&grant, device(DEVICE).recipient_key()).err(), Some(PackageError::Development));
    let lenient = Trust { dangerous_accept_development: true, ..strict };
    let granted = Parsed::parse_file(&file).and_then(|p| p.verify(&lenient)).unwrap();
    let granted = granted.open_with_grant(&grant, device(DEVICE).recipient_key()).unwrap();
    assert!(granted.is_development());
    assert_eq!((granted.grant(), opened.grant()), (Some(3), None));
}

#[test]
fn only_the_owner_grants() {
    let file = Recipe::default().seal();
    let opened = verified(&file).open(device(DEVICE).recipient_key()).unwrap();
    let to = [device(support::OUTSIDER).recipient()];
    let other = owner(support::OTHER_OWNER);
    let grant = |owner: &OwnerKey, recipients: &[Recipient]| {
        let request = GrantRequest { recipients, number: 1, not_after: None };
        write_grant(&opened, owner, &request, &mut Seeded::new("g"))
    };
    assert!(matches!(grant(&other, &to), Err(PackageError::Misuse(_))));
    assert!(matches!(grant(&owner(OWNER), &[]), Err(PackageError::Misuse(_))));
    assert!(grant(&owner(OWNER), &to).is_ok());
}

#[test]
fn expiry_without_a_clock_is_reported_not_passed_silently() {
    let file = Recipe::default().seal();
    let owners = [owner(OWNER).public()];
    let at = |now| {
        let trust = Trust { now, ..trust(&owners) };
        Parsed::parse_file(&file).and_then(|p| p.verify(&trust))
    };
    assert!(at(Some(4_000_000_000)).unwrap().is_expiry_checked());
    assert_eq!(at(Some(4_000_000_001)).err(), Some(PackageError::Expired { not_after: 4_000_000_000 }));
    assert!(!at(None).unwrap().is_expiry_checked());
}

#[test]
fn a_grant_ends_as_packages_do() {
    let (sections, owner, device) = (sections(), owner(OWNER), device(DEVICE));
    let contents: [&[u8]; 3] = [&ramp(10, 1), &ramp(20, 2), &ramp(WEIGHTS, 3)];
    let file = seal_to_vec(&request(&sections, &[]), &contents, &owner, &mut Seeded::new("s")).unwrap();
    let owners = [owner.public()];
    let at = |now| {
        let trust = Trust { now, dangerous_accept_development: true, ..Trust::pinned(&owners) };
        Parsed::parse_file(&file).and_then(|p| p.verify(&trust)).unwrap()
    };
    let opened = at(None).open(owner.recipient_key()).unwrap();
    assert!(opened.not_after().is_none() && opened.is_expiry_checked());
    let request = GrantRequest { recipients: &[device.recipient()], number: 1, not_after: Some(100) };
    let grant = write_grant(&opened, &owner, &request, &mut Seeded::new("g")).unwrap();
    let open = |now| at(now).open_with_grant(&grant, device.recipient_key());
    assert!(open(Some(100)).unwrap().is_expiry_checked());
    assert_eq!(open(Some(101)).err(), Some(PackageError::Expired { not_after: 100 }));
    let unchecked = open(None).unwrap();
    assert_eq!((unchecked.not_after(), unchecked.is_expiry_checked()), (Some(100), false));
    assert!(unchecked.verified().is_expiry_checked(), "the package itself has no end");
}

#[test]
fn a_package_is_checked_with_and_without_a_key() {
    let file = Recipe::default().seal();
    let owners = [owner(OWNER).public()];
    let public = check_public(&file, &trust(&owners)).unwrap();
    let (manifest, _) = check(&file, &trust(&owners), device(DEVICE).recipient_key()).unwrap();
    assert_eq!(public.manifest, manifest);
    assert_eq!(manifest, support::manifest());
}

#[test]
fn impossible_requests_are_refused() {
    let (all, owner) = (sections(), owner(OWNER));
    let one = [device(DEVICE).recipient()];
    let twice = [one[0], one[0]];
    let many: Vec<Recipient> = (0..300u16)
        .map(|i| {
            let mut random = move |out: &mut [u8]| -> Result<(), PackageError> {
                out.iter_mut().zip(i.to_le_bytes().iter().cycle()).for_each(|(to, from)| *to = *from);
                Ok(())
            };
            DeviceKey::generate(PlatformKind::Process, &mut random).unwrap().recipient()
        })
        .collect();
    let unordered = [all[0], all[2], all[1]];
    let empty = [all[0], SectionPlan { plain_len: 0, ..all[1] }];
    let good = request(&all, &one);
    let cases = [
        ("no name", SealRequest { name: "", ..good }),
        ("twice", SealRequest { recipients: &twice, ..good }),
        ("too many", SealRequest { recipients: &many, ..good }),
        ("order", SealRequest { sections: &unordered, ..good }),
        ("empty section", SealRequest { sections: &empty, ..good }),
        ("no manifest", SealRequest { sections: &all[1..], ..good }),
        ("policy", SealRequest { output_policies: &[OutputPolicy::TopK { k: 0, decimals: 1 }], ..good }),
    ];
    for (what, request) in cases {
        assert!(Sealer::new(&request, &owner, &mut Seeded::new("s")).is_err(), "{what}");
    }
    assert!(Sealer::new(&good, &owner, &mut Seeded::new("s")).is_ok());
    let within = SealRequest { recipients: &many[..255], ..good };
    assert!(Sealer::new(&within, &owner, &mut Seeded::new("s")).is_ok());
}

#[test]
fn sections_must_get_exactly_their_bytes() {
    let (all, owner) = (sections(), owner(OWNER));
    let request = request(&all, &[]);
    let sealer = || Sealer::new(&request, &owner, &mut Seeded::new("s")).unwrap();
    let mut out = Vec::new();
    assert!(matches!(sealer().push(&[0; 11], &mut out), Err(PackageError::Misuse(_))), "beyond its section");
    let mut short = sealer();
    short.push(&[0; 9], &mut out).unwrap();
    assert!(matches!(short.finish(&mut Seeded::new("s")), Err(PackageError::Misuse(_))), "not complete");
}

#[test]
fn failures_around_sealing_come_through() {
    struct Full;
    impl Sink for Full {
        fn write(&mut self, _: &[u8]) -> Result<(), PackageError> {
            Err(PackageError::Sink)
        }
    }
    let (all, owner) = (sections(), owner(OWNER));
    let request = request(&all, &[]);
    let mut sealer = Sealer::new(&request, &owner, &mut Seeded::new("s")).unwrap();
    assert_eq!(sealer.push(&[0; 10], &mut Full), Err(PackageError::Sink));
    let mut broken = |_: &mut [u8]| Err(PackageError::Random);
    assert_eq!(Sealer::new(&request, &owner, &mut broken).err(), Some(PackageError::Random));
}
