//! The vectors: one file per defect, and the class of error it must be refused with.

use cordon_package::limits::{CHUNK_BYTES, FORMAT, SUITE};
use cordon_package::{GrantRequest, OutputPolicy, OwnerKey, SectionKind, Trust, merkle, write_grant};

use super::*;

/// One line of the index.
pub(crate) struct Vector {
    pub(crate) file: &'static str,
    pub(crate) expected: &'static str,
    pub(crate) options: &'static str,
}

/// Every file by name, then the index of what to do with them.
pub(crate) fn all() -> (Vec<(&'static str, Vec<u8>)>, Vec<Vector>) {
    let mut files: Vec<(&'static str, Vec<u8>)> = Vec::new();
    let mut index: Vec<Vector> = Vec::new();
    let mut add = |file, expected, options, bytes: Vec<u8>| {
        files.push((file, bytes));
        index.push(Vector { file, expected, options });
    };
    let good = Recipe::default().seal();
    let map = Map::of(&good);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let flip = |at: usize| with(&|b| b[at] ^= 1);
    let resigned = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = with(change);
        resign(&mut bytes);
        bytes
    };
    let at = |kind, segment| map.section(kind, segment).offset() as usize;

    add("good.cordon", "ok", "", good.clone());
    add("good_two_chunks.cordon", "ok", "", two_chunks(CHUNK_BYTES + 100).seal());
    // An unknown type of stanza is skipped. It moves the sections, so the page alignment's padding shrinks.
    let stanza = [&99u16.to_le_bytes()[..], &5u32.to_le_bytes(), b"hello"].concat();
    add("good_unknown_stanza.cordon", "ok", "", {
        let mut bytes = good.clone();
        let count = u32_at(&bytes, map.stanzas()) + 1;
        put(&mut bytes, map.stanzas(), &count.to_le_bytes());
        insert(&mut bytes, map.stanzas() + 4, &stanza);
        let padding = at(SectionKind::NormalData, 1);
        bytes.drain(padding..padding + stanza.len());
        resign(&mut bytes);
        bytes
    });

    add("bad_magic.cordon", "magic", "", flip(0));
    add("unknown_format.cordon", "unsupported", "", resigned(&|b| put(b, 8, &(FORMAT + 1).to_le_bytes())));
    add("unknown_suite.cordon", "unsupported", "", resigned(&|b| put(b, 10, &(SUITE + 1).to_le_bytes())));
    add("unknown_section_kind.cordon", "unsupported", "", resigned(&|b| b[map.entry(7)] = 7));
    add("truncated_prefix.cordon", "truncated", "", good[..9].to_vec());
    add("truncated_header.cordon", "truncated", "", good[..map.header_len - 1].to_vec());
    add("truncated_chunk.cordon", "truncated", "", good[..at(SectionKind::NormalData, 1) + 150].to_vec());
    add("truncated_leaves.cordon", "truncated", "", good[..good.len() - 1].to_vec());
    add("trailing_bytes.cordon", "trailing", "", with(&|b| b.push(0)));
    add("padding_not_zero.cordon", "trailing", "", flip(at(SectionKind::NormalData, 1) - 1));
    add("header_length_oversized.cordon", "limit", "", with(&|b| put(b, 12, &u32::MAX.to_le_bytes())));
    add(
        "section_length_oversized.cordon",
        "limit",
        "",
        resigned(&|b| put(b, map.entry(3) + 3, &u64::MAX.to_le_bytes())),
    );
    add("section_length_zero.cordon", "malformed", "", resigned(&|b| put(b, map.entry(3) + 3, &0u64.to_le_bytes())));
    add("stanza_count_oversized.cordon", "limit", "", resigned(&|b| put(b, map.stanzas(), &u32::MAX.to_le_bytes())));
    add("stanza_length_beyond_header.cordon", "malformed", "", {
        resigned(&|b| put(b, map.stanzas() + 6, &0xffffu32.to_le_bytes()))
    });
    add("header_trailing_bytes.cordon", "malformed", "", resigned(&|b| insert(b, map.header_len - 64, &[0])));
    add("sections_out_of_order.cordon", "malformed", "", {
        resigned(&|b| {
            let (first, second) = (map.entry(3), map.entry(4));
            let entry = b[first..second].to_vec();
            b.copy_within(second..map.entry(5), first);
            put(b, second, &entry);
        })
    });
    add("duplicate_section.cordon", "malformed", "", {
        resigned(&|b| b.copy_within(map.entry(3)..map.entry(4), map.entry(4)))
    });
    add("weights_without_segment.cordon", "malformed", "", resigned(&|b| put(b, map.entry(4) + 1, &[9, 0])));
    // The version's low byte: package id, owner, name with its length come first.
    add("flipped_header.cordon", "signature", "", flip(map.description.start + 64 + 4 + 6));
    add("flipped_stanza.cordon", "signature", "", flip(map.stanzas() + 4 + 6 + 20));
    add("flipped_signature.cordon", "signature", "", flip(map.header_len - 1));
    add("flipped_manifest.cordon", "digest", "", flip(at(SectionKind::Manifest, 0) + 9));
    add("flipped_chunk.cordon", "digest", "", flip(at(SectionKind::Weights, 0) + 77));
    add("flipped_tag.cordon", "digest", "", flip(at(SectionKind::Weights, 0) + 315));
    add("flipped_leaf.cordon", "digest", "", flip(map.section(SectionKind::Weights, 0).leaves_offset() as usize));
    add("flipped_public_weights.cordon", "digest", "", flip(at(SectionKind::PublicWeights, 0)));
    add("flipped_normal_data.cordon", "digest", "", flip(at(SectionKind::NormalData, 1)));
    add("swapped_chunks.cordon", "digest", "", swapped_chunks());
    add("swapped_sections.cordon", "digest", "", {
        let (a, b) = (at(SectionKind::Weights, 0), at(SectionKind::Weights, 2));
        with(&|bytes| {
            let (head, tail) = bytes.split_at_mut(b);
            head[a..b].swap_with_slice(&mut tail[..b - a]);
        })
    });
    add("forged_by_co_recipient.cordon", "digest", "", {
        with(&|b| forge_chunk(b, SectionKind::Weights, 0, &[0; 300]))
    });
    // Signed by the owner, yet not decryptable: the AEAD itself must refuse.
    add("chunk_not_decryptable.cordon", "chunk", "", {
        resigned(&|b| {
            let section = map.section(SectionKind::Weights, 0);
            let (offset, len) = section.chunk(0).expect("one chunk");
            let start = offset as usize;
            b[start + 5] ^= 1;
            let leaf = merkle::leaf(&b[start..start + len]);
            put(b, section.leaves_offset() as usize, &leaf);
            put(b, map.entry(3) + 11, &leaf);
            rewrap(b, &device(DEVICE));
        })
    });
    // The second stanza is the device's; behind type, length and hint lies the encapsulated key.
    add("stanza_not_decryptable.cordon", "unwrap", "", {
        let one = 6 + u32_at(&good, map.stanzas() + 4 + 2) as usize;
        resigned(&|b| b[map.stanzas() + 4 + one + 6 + 8 + 40] ^= 1)
    });
    add("wrong_recipient.cordon", "recipient", "device=outsider.key", good.clone());
    add("unpinned_owner.cordon", "owner", "", Recipe { owner: OTHER_OWNER, ..Recipe::default() }.seal());
    add("older_version.cordon", "rollback", "minimum=8", good.clone());
    add("expired.cordon", "expired", "now=4000000001", good.clone());
    add("development.cordon", "development", "development=refused", good.clone());
    for (file, expected, tags) in [
        ("good_unknown_extension.cordon", "ok", &[1u16, 0x7fff][..]),
        ("unknown_critical_extension.cordon", "unsupported", &[1, 0x8001]),
        ("extensions_out_of_order.cordon", "malformed", &[2, 1]),
        ("duplicate_extension.cordon", "malformed", &[1, 1]),
    ] {
        add(file, expected, "", {
            let mut bytes = good.clone();
            extend(&mut bytes, &extensions(tags));
            bytes
        });
    }
    add("extension_count_oversized.cordon", "limit", "", {
        resigned(&|b| put(b, map.extensions(), &u32::MAX.to_le_bytes()))
    });
    let optional = Recipe { optional: Some((200, ramp(100, 5))), ..Recipe::default() }.seal();
    add("good_optional_section.cordon", "ok", "", optional.clone());
    add("flipped_optional_section.cordon", "digest", "", {
        let mut bytes = optional;
        let at = Map::of(&bytes).section(SectionKind::Optional(200), 1).offset();
        bytes[at as usize + 7] ^= 1;
        bytes
    });
    add("policies_all_full_and_named.cordon", "malformed", "", {
        // One policy, top 3, becomes four that are full, in as many bytes.
        let at = map.entry(0) - 4 - 4 - 4;
        resigned(&|b| put(b, at, &[4, 0, 0, 0, 0, 0, 0, 0]))
    });
    add("policies_of_another_count.cordon", "manifest", "", {
        let output_policies = vec![OutputPolicy::Label; 2];
        Recipe { output_policies, ..Recipe::default() }.seal()
    });
    for (file, expected, bytes) in manifests() {
        add(file, expected, "", Recipe { manifest: bytes, ..Recipe::default() }.seal());
    }
    for (file, expected, manifest, back) in variants() {
        let manifest = manifest.encode().expect("valid by itself");
        let secrets = [two_programs("front"), back];
        add(file, expected, "", Recipe { manifest, secrets, ..Recipe::default() }.seal());
    }
    add("manifest_trailing_bytes.cordon", "malformed", "", {
        let bytes = [&manifest().encode().expect("valid")[..], &[0]].concat();
        Recipe { manifest: bytes, ..Recipe::default() }.seal()
    });
    add("policy_without_class_axis.cordon", "manifest", "", {
        let bytes = Manifest { outputs: vec![OutputInfo::new(3)], ..manifest() }.encode().expect("valid by itself");
        Recipe { manifest: bytes, output_policies: vec![OutputPolicy::Label], ..Recipe::default() }.seal()
    });
    add("secret_malformed.cordon", "malformed", "", {
        let good = Recipe::default();
        let trailing = [&good.secrets[0][..], &[0]].concat();
        Recipe { secrets: [trailing, good.secrets[1].clone()], ..good }.seal()
    });

    for (file, expected, change) in secrets() {
        let good = Recipe::default();
        add(file, expected, "", Recipe { secrets: [good.secrets[0].clone(), change(&good.secrets[1])], ..good }.seal());
    }

    let grant = grant(&good, &owner(OWNER));
    files.push(("good.grant", grant.clone()));
    let other = Recipe { version: 8, ..Recipe::default() }.seal();
    let mut flipped = grant.clone();
    flipped[100] ^= 1;
    files.push(("flipped.grant", flipped));
    files.push(("truncated.grant", grant[..grant.len() - 1].to_vec()));
    files.push(("trailing.grant", [&grant[..], &[0]].concat()));
    files.push(("undersized.grant", [&grant[..12], &70u32.to_le_bytes(), &grant[16..70]].concat()));
    files.push(("other_package.grant", self::grant(&other, &owner(OWNER))));
    for (file, tags) in [("unknown_extension.grant", &[1u16][..]), ("unknown_critical_extension.grant", &[0x8001])] {
        let signed = extended(&grant[..grant.len() - SIGNATURE_BYTES], tags);
        let mut bytes = [&signed[..], &[0; SIGNATURE_BYTES]].concat();
        let len = bytes.len() as u32;
        put(&mut bytes, 12, &len.to_le_bytes());
        let at = bytes.len() - SIGNATURE_BYTES;
        let signature = sign(&bytes[..at], "cordon/1 grant signature");
        put(&mut bytes, at, &signature);
        files.push((file, bytes));
    }
    for (expected, options) in [
        ("ok", "device=outsider.key grant=good.grant"),
        ("recipient", "grant=good.grant"),
        ("signature", "device=outsider.key grant=flipped.grant"),
        ("truncated", "device=outsider.key grant=truncated.grant"),
        ("trailing", "device=outsider.key grant=trailing.grant"),
        ("malformed", "device=outsider.key grant=undersized.grant"),
        ("other-package", "device=outsider.key grant=other_package.grant"),
        ("magic", "device=outsider.key grant=good.cordon"),
        ("expired", "device=outsider.key grant=good.grant now=3500000001"),
        ("ok", "device=outsider.key grant=unknown_extension.grant"),
        ("unsupported", "device=outsider.key grant=unknown_critical_extension.grant"),
    ] {
        index.push(Vector { file: "good.cordon", expected, options });
    }
    files.push(("owner.secret", format!("{}\n", *owner(OWNER).to_text()).into_bytes()));
    files.push(("owner.pub", format!("{}\n", owner(OWNER).public()).into_bytes()));
    files.push(("device.key", device_file(DEVICE).to_text().as_bytes().to_vec()));
    files.push(("outsider.key", device_file(OUTSIDER).to_text().as_bytes().to_vec()));
    (files, index)
}

/// The index as text.
pub(crate) fn index_text(index: &[Vector]) -> String {
    let mut text = String::from(INDEX_HEAD);
    for vector in index {
        text.push_str(format!("{:<38} {:<14} {}", vector.file, vector.expected, vector.options).trim_end());
        text.push('\n');
    }
    text
}

const INDEX_HEAD: &str = "\
# Packages a reader must accept (ok) or refuse, one defect each: file, expected class, options.
# Written by `cargo run -p cordon-package --example make_vectors`. Other lists in this folder have the same form.
# Unless an option says otherwise: device=device.key (whose pinned owners apply), now=3000000000, minimum=7,
# development=accepted, no grant; readers skip options they do not know. The keys beside this file are for these packages only; everyone knows them.
";

/// The back segment's secret part changed, with the class it is refused with.
type Change = fn(&[u8]) -> Vec<u8>;

/// Secret parts that only the holder of the key sees to be wrong.
fn secrets() -> [(&'static str, &'static str, Change); 4] {
    [
        ("secret_unknown_extension.cordon", "ok", |bytes| extended(bytes, &[7])),
        ("secret_unknown_critical_extension.cordon", "unsupported", |bytes| extended(bytes, &[7, 0x8007])),
        ("secret_program_of_a_missing_variant.cordon", "malformed", |_| two_programs("back")),
        ("secret_labels_of_another_output.cordon", "malformed", |_| {
            let mut secret = secret("back");
            secret.labels[0].output = 1;
            secret.encode().expect("valid by itself")
        }),
    ]
}

/// Programs for two variants.
fn two_programs(name: &'static str) -> Vec<u8> {
    let mut secret = secret(name);
    secret.programs.push(SealedProgram { variant: 1, batch: 2, ..secret.programs[0].clone() });
    secret.encode().expect("valid by itself")
}

/// The manifest for batches of 1 and 2.
fn two_variants() -> Manifest {
    let mut m = manifest();
    for value in &mut m.values {
        let mut larger = value.shapes[0].clone();
        larger[0] = 2;
        value.shapes.push(larger);
    }
    m
}

/// Manifests of two variants and the back segment's secret part.
fn variants() -> Vec<(&'static str, &'static str, Manifest, Vec<u8>)> {
    let one = secret("back").encode().expect("valid");
    vec![
        ("good_two_variants.cordon", "ok", two_variants(), two_programs("back")),
        ("secret_variant_without_program.cordon", "malformed", two_variants(), one),
    ]
}

fn two_chunks(len: usize) -> Recipe {
    Recipe { weights: [ramp(len, 7), ramp(300, 2)], ..Recipe::default() }
}

fn swapped_chunks() -> Vec<u8> {
    let mut bytes = two_chunks(2 * CHUNK_BYTES).seal();
    let map = Map::of(&bytes);
    let section = map.section(SectionKind::Weights, 0);
    let (first, len) = section.chunk(0).expect("two chunks");
    let (second, _) = section.chunk(1).expect("two chunks");
    let (head, tail) = bytes.split_at_mut(second as usize);
    head[first as usize..][..len].swap_with_slice(&mut tail[..len]);
    bytes
}

/// Manifests that break one rule each, and some that do not but hold what is new. `encode` refuses the former, so their bytes
/// are altered.
fn manifests() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let altered = |change: &dyn Fn(&mut Manifest)| {
        let mut m = manifest();
        change(&mut m);
        raw(&m, m.variants())
    };
    let in_domain = |m: &mut Manifest, domain| m.segments[2].placement = Placement::Secure(Domain(domain));
    let broken = [
        ("duplicate_crossing.cordon", altered(&|m| m.segments[0].outputs = vec![1, 1])),
        ("duplicate_producer.cordon", altered(&|m| m.segments[1].outputs = vec![1])),
        ("dangling_value.cordon", altered(&|m| m.segments[1].inputs = vec![0])),
        ("value_index_out_of_range.cordon", altered(&|m| m.segments[2].inputs = vec![5])),
        ("segments_out_of_order.cordon", altered(&|m| m.segments.swap(0, 2))),
        ("crossing_not_retained.cordon", altered(&|m| m.segments[2].inputs = vec![2, 1])),
        ("normal_segment_retains.cordon", altered(&|m| m.segments[1].retained_in = vec![4])),
        ("name_on_inner_value.cordon", altered(&|m| m.values[1].name = Some("conv1".into()))),
        ("empty_name_on_inner_value.cordon", altered(&|m| m.values[1].name = Some(String::new()))),
        ("shape_overflow.cordon", altered(&|m| m.values[1].shapes = vec![vec![u32::MAX; 8]])),
        ("placement_without_section.cordon", altered(&|m| m.segments.push(m.segments[1].clone()))),
        ("class_axis_beyond_the_output.cordon", altered(&|m| m.outputs[0].class_axis = Some(2))),
        ("retained_across_domains.cordon", altered(&|m| in_domain(m, 1))),
        ("variants_of_the_same_inputs.cordon", {
            let mut m = two_variants();
            m.values[0].shapes[1] = m.values[0].shapes[0].clone();
            raw(&m, 2)
        }),
    ];
    let mut all: Vec<_> = broken.map(|(file, bytes)| (file, "manifest", bytes)).into();
    let good = manifest().encode().expect("valid");
    all.extend([
        // What goes to another domain crosses.
        ("good_two_domains.cordon", "ok", {
            altered(&|m| {
                in_domain(m, 1);
                let (out, back) = (m.segments[0].retained_out.split_off(0), m.segments[2].retained_in.split_off(0));
                m.segments[0].outputs.extend(out);
                m.segments[2].inputs.extend(back);
            })
        }),
        ("manifest_unknown_extension.cordon", "ok", extended(&good, &[1])),
        ("manifest_unknown_critical_extension.cordon", "unsupported", extended(&good, &[0x8000])),
        ("variants_none.cordon", "malformed", raw(&manifest(), 0)),
        ("variants_oversized.cordon", "limit", raw(&manifest(), 17)),
        // The name that follows is read as a shape.
        ("shapes_fewer_than_variants.cordon", "limit", raw(&manifest(), 2)),
    ]);
    all
}

/// A manifest's bytes without the checks of `encode`, written from SPEC.md.
fn raw(m: &Manifest, variants: u8) -> Vec<u8> {
    let mut w = cordon_codec::Writer::new();
    let indices = |w: &mut cordon_codec::Writer, list: &[u32]| {
        w.list(list.iter(), |w, i| {
            w.u32(*i);
        });
    };
    w.u8(variants);
    w.list(m.values.iter(), |w, v| {
        w.u8(v.elem.code());
        v.shapes.iter().for_each(|shape| indices(w, shape));
        w.option(v.name.as_deref(), |w, name| {
            w.string(name);
        });
    });
    indices(&mut w, &m.inputs);
    w.list(m.outputs.iter(), |w, output| {
        w.u32(output.value);
        w.option(output.class_axis, |w, axis| {
            w.u32(axis);
        });
        w.u8(u8::from(output.normalisation == Normalisation::Softmax));
    });
    w.list(m.segments.iter(), |w, s| {
        match s.placement {
            Placement::Normal => w.u8(0),
            Placement::Secure(Domain(number)) => w.u8(1).u16(number),
        };
        for list in [&s.inputs, &s.outputs, &s.retained_in, &s.retained_out] {
            indices(w, list);
        }
        w.u64(s.minimum_peak).u64(s.resident_peak).bool(s.f16_weights);
    });
    // What follows the segments is the good manifest's.
    let good = manifest().encode().expect("valid");
    let extensions = 4;
    let plan = manifest().plan_text.len() + 4;
    let preprocessing = 1 + 12 + 5 + 1 + 1 + 4 + 24;
    w.raw(&good[good.len() - extensions - plan - preprocessing..]);
    w.finish()
}

fn grant(file: &[u8], owner: &OwnerKey) -> Vec<u8> {
    let owners = [owner.public()];
    let trust = Trust { dangerous_accept_development: true, ..Trust::pinned(&owners) };
    let opened = Parsed::parse_file(file)
        .and_then(|p| p.verify(&trust))
        .and_then(|v| v.open(owner.recipient_key()))
        .expect("the owner is a recipient");
    let request =
        GrantRequest { recipients: &[device(OUTSIDER).recipient()], number: 1, not_after: Some(3_500_000_000) };
    write_grant(&opened, owner, &request, &mut Seeded::new("vectors: grant")).expect("owner")
}

#[cfg(test)]
mod tests {
    #[test]
    fn raw_equals_encode_for_a_valid_manifest() {
        for manifest in [super::manifest(), super::two_variants()] {
            assert_eq!(super::raw(&manifest, manifest.variants()), manifest.encode().expect("valid"));
        }
    }
}
