//! A small package with one of everything, made from fixed seeds, and the means to break it.

use std::vec::Vec;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use cordon_package::limits::{CHUNK_BYTES, HASH_BYTES, PREFIX_BYTES, SIGNATURE_BYTES, TAG_BYTES};
use cordon_package::{
    Broker, Channels, DeviceFile, DeviceKey, Domain, ElemType, Fit, ImageLayout, Labels, Manifest, Normalisation,
    OutputInfo, OutputPolicy, OwnerKey, PackageError, Parsed, Placement, PlatformKind, Preprocessing, ProgramKind,
    Random, SealRequest, SealedProgram, SectionKind, SectionPlan, SegmentInfo, SegmentSecret, Trust, ValueInfo,
    seal_to_vec,
};
use ed25519_dalek::{Signer, SigningKey};
use hkdf::Hkdf;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256 as X25519;
use hpke::{Deserializable, Kem as KemTrait, OpModeS, Serializable, single_shot_seal_with_rng};
use sha2::{Digest, Sha256};

#[cfg_attr(test, allow(dead_code, reason = "each test binary uses a part"))]
pub(crate) mod vectors;

/// Reproducible bytes. The sealer draws the package id first, then one key for each secure segment.
pub(crate) struct Seeded {
    seed: &'static str,
    counter: u64,
}

impl Seeded {
    pub(crate) fn new(seed: &'static str) -> Self {
        Self { seed, counter: 0 }
    }
}

impl Random for Seeded {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), PackageError> {
        for piece in out.chunks_mut(32) {
            let block = Sha256::new().chain_update(self.seed).chain_update(self.counter.to_le_bytes()).finalize();
            self.counter += 1;
            piece.copy_from_slice(&block[..piece.len()]);
        }
        Ok(())
    }
}

impl hpke::rand_core::TryRng for Seeded {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        unreachable!("HPKE draws whole keys")
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        unreachable!("HPKE draws whole keys")
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        self.fill(out).expect("seeded");
        Ok(())
    }
}

impl hpke::rand_core::TryCryptoRng for Seeded {}

/// The `n`th 32 bytes that [`Seeded`] yields.
fn drawn(seed: &str, n: u64) -> [u8; 32] {
    Sha256::new().chain_update(seed).chain_update(n.to_le_bytes()).finalize().into()
}

pub(crate) fn owner(seed: &'static str) -> OwnerKey {
    OwnerKey::generate(&mut Seeded::new(seed)).expect("seeded")
}

pub(crate) fn device(seed: &'static str) -> DeviceKey {
    DeviceKey::generate(PlatformKind::Process, &mut Seeded::new(seed)).expect("seeded")
}

/// A device file that pins the owner of all vectors.
pub(crate) fn device_file(seed: &'static str) -> DeviceFile {
    DeviceFile { key: device(seed), owners: vec![owner(OWNER).public()] }
}

pub(crate) const OWNER: &str = "vectors: owner";
pub(crate) const OTHER_OWNER: &str = "vectors: other owner";
pub(crate) const DEVICE: &str = "vectors: device";
pub(crate) const CO_RECIPIENT: &str = "vectors: co-recipient";
pub(crate) const OUTSIDER: &str = "vectors: outsider";
const SEAL: &str = "vectors: seal";

/// Everything about a package that a vector may want otherwise.
pub(crate) struct Recipe {
    pub(crate) owner: &'static str,
    pub(crate) version: u64,
    pub(crate) not_after: Option<u64>,
    pub(crate) output_policies: Vec<OutputPolicy>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) secrets: [Vec<u8>; 2],
    pub(crate) weights: [Vec<u8>; 2],
    /// A section of a kind that this version does not know, of the normal segment.
    pub(crate) optional: Option<(u8, Vec<u8>)>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            owner: OWNER,
            version: 7,
            not_after: Some(4_000_000_000),
            output_policies: vec![OutputPolicy::TopK { k: 3, decimals: 2 }],
            manifest: manifest().encode().expect("valid"),
            secrets: [secret("front").encode().expect("valid"), secret("back").encode().expect("valid")],
            weights: [ramp(300, 1), ramp(300, 2)],
            optional: None,
        }
    }
}

impl Recipe {
    /// Seals it: front (secure), middle (normal), back (secure).
    pub(crate) fn seal(&self) -> Vec<u8> {
        let public_weights = ramp(100, 3);
        let model = b"an ONNX model".to_vec();
        let data = ramp(200, 4);
        let mut parts: Vec<(SectionKind, u16, &[u8])> = vec![
            (SectionKind::Manifest, 0, &self.manifest),
            (SectionKind::SegmentSecret, 0, &self.secrets[0]),
            (SectionKind::SegmentSecret, 2, &self.secrets[1]),
            (SectionKind::Weights, 0, &self.weights[0]),
            (SectionKind::Weights, 2, &self.weights[1]),
            (SectionKind::PublicWeights, 0, &public_weights),
            (SectionKind::NormalModel, 1, &model),
            (SectionKind::NormalData, 1, &data),
        ];
        parts.extend(self.optional.iter().map(|(code, bytes)| (SectionKind::Optional(*code), 1, &bytes[..])));
        let sections: Vec<_> = parts
            .iter()
            .map(|(kind, segment, bytes)| SectionPlan { kind: *kind, segment: *segment, plain_len: bytes.len() as u64 })
            .collect();
        let contents: Vec<_> = parts.iter().map(|(_, _, bytes)| *bytes).collect();
        let request = SealRequest {
            name: "vector",
            version: self.version,
            not_after: self.not_after,
            max_requests: None,
            output_policies: &self.output_policies,
            recipients: &[device(DEVICE).recipient(), device(CO_RECIPIENT).recipient()],
            brokers: &[Broker { key_id: vec![1, 2, 3], uri: "https://broker.example/keys".into() }],
            sections: &sections,
        };
        seal_to_vec(&request, &contents, &owner(self.owner), &mut Seeded::new(SEAL)).expect("valid request")
    }
}

pub(crate) fn ramp(len: usize, step: usize) -> Vec<u8> {
    (0..len).map(|i| (i * step % 251) as u8).collect()
}

/// Front and back secure, middle normal; value 4 is kept inside from front to back.
pub(crate) fn manifest() -> Manifest {
    let value = |shape: &[u32], name: Option<&str>| ValueInfo {
        elem: ElemType::Float,
        shapes: vec![shape.to_vec()],
        name: name.map(String::from),
    };
    let segment = |placement, inputs: &[u32], outputs: &[u32], retained_in: &[u32], retained_out: &[u32]| SegmentInfo {
        placement,
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
        retained_in: retained_in.to_vec(),
        retained_out: retained_out.to_vec(),
        minimum_peak: if placement.is_secure() { 4096 } else { 0 },
        resident_peak: if placement.is_secure() { 8192 } else { 0 },
        f16_weights: placement.is_secure(),
    };
    Manifest {
        inputs: vec![0],
        outputs: vec![OutputInfo { value: 3, class_axis: Some(1), normalisation: Normalisation::Softmax }],
        values: vec![
            value(&[1, 3, 8, 8], Some("image")),
            value(&[1, 4, 8, 8], None),
            value(&[1, 4, 8, 8], None),
            value(&[1, 10], Some("scores")),
            value(&[1, 2, 8, 8], None),
        ],
        segments: vec![
            segment(Placement::Secure(Domain(0)), &[0], &[1], &[], &[4]),
            segment(Placement::Normal, &[1], &[2], &[], &[]),
            segment(Placement::Secure(Domain(0)), &[2], &[3], &[4], &[]),
        ],
        preprocessing: Some(Preprocessing {
            input: 0,
            height: 8,
            width: 8,
            fit: Fit::CropCenter { resize: 9 },
            channels: Channels::Rgb,
            layout: ImageLayout::Nchw,
            scale: 1.0 / 255.0,
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
        }),
        plan_text: "Weights of the first and last segments stay inside.".into(),
    }
}

pub(crate) fn secret(name: &'static str) -> SegmentSecret<'static> {
    SegmentSecret {
        programs: vec![SealedProgram {
            kind: ProgramKind::Inference,
            variant: 0,
            batch: 1,
            minimum_peak: 4096,
            bytes: b"opaque to this crate",
        }],
        weight_table: b"opaque too",
        names: vec![name],
        labels: if name == "back" { vec![Labels { output: 0, words: vec!["zero", "one", "two"] }] } else { vec![] },
    }
}

/// What the reader of every vector trusts unless its line in the index says otherwise.
pub(crate) fn trust(owners: &[cordon_package::OwnerPublic]) -> Trust<'_> {
    Trust { now: Some(3_000_000_000), minimum_version: 7, dangerous_accept_development: true, ..Trust::pinned(owners) }
}

/// Where a package's parts lie.
pub(crate) struct Map {
    pub(crate) header_len: usize,
    /// Bytes of the description, behind prefix and length.
    pub(crate) description: core::ops::Range<usize>,
    sections: Vec<cordon_package::Section>,
}

impl Map {
    pub(crate) fn of(file: &[u8]) -> Self {
        let header_len = cordon_package::header_length(file).expect("valid");
        let description = u32_at(file, PREFIX_BYTES) as usize;
        let owner = owner(if file[PREFIX_BYTES + 4 + 32..].starts_with(owner(OWNER).public().as_bytes()) {
            OWNER
        } else {
            OTHER_OWNER
        })
        .public();
        let owners = [owner];
        let verified = Parsed::parse_file(file).and_then(|p| p.verify(&trust(&owners))).expect("valid");
        Self {
            header_len,
            description: PREFIX_BYTES + 4..PREFIX_BYTES + 4 + description,
            sections: verified.header().sections.clone(),
        }
    }

    pub(crate) fn section(&self, kind: SectionKind, segment: u16) -> &cordon_package::Section {
        self.sections.iter().find(|s| s.kind() == kind && s.segment() == segment).expect("present")
    }

    /// Offset of the section table's `n`th entry.
    pub(crate) fn entry(&self, n: usize) -> usize {
        self.extensions() - (self.sections.len() - n) * (1 + 2 + 8 + HASH_BYTES)
    }

    /// Offset of the description's count of extensions, of which there are none.
    pub(crate) fn extensions(&self) -> usize {
        self.description.end - 4
    }

    /// Offset of the count of stanzas.
    pub(crate) fn stanzas(&self) -> usize {
        self.description.end
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(crate) fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// Signs an altered header again as the owner of all vectors would.
pub(crate) fn resign(file: &mut [u8]) {
    let len = u32_at(file, 12) as usize;
    let (signed, rest) = file.split_at_mut(len - SIGNATURE_BYTES);
    let signature = sign(signed, "cordon/1 header signature");
    rest[..SIGNATURE_BYTES].copy_from_slice(&signature);
}

fn sign(signed: &[u8], label: &str) -> [u8; SIGNATURE_BYTES] {
    let mut seed = [0; 32];
    Hkdf::<Sha256>::new(None, &drawn(OWNER, 0)).expand(b"cordon/1 owner signing key", &mut seed).expect("32 bytes");
    let message = [Sha256::digest(label), Sha256::digest(signed)].concat();
    SigningKey::from_bytes(&seed).sign(&message).to_bytes()
}

/// Inserts bytes into the header, and adjusts its length. Positions of sections move.
pub(crate) fn insert(file: &mut Vec<u8>, at: usize, new: &[u8]) {
    let len = u32_at(file, 12) + new.len() as u32;
    file.splice(at..at, new.iter().copied());
    put(file, 12, &len.to_le_bytes());
}

/// Gives the description a list of extensions, moves the sections, and signs and wraps again. What the header grows by, the
/// padding before the normal data shrinks by.
pub(crate) fn extend(file: &mut Vec<u8>, list: &[u8]) {
    let map = Map::of(file);
    let more = list.len() - 4;
    let padding = map.section(SectionKind::NormalData, 1).offset() as usize;
    file.drain(padding - more..padding);
    let at = map.extensions();
    put(file, PREFIX_BYTES, &((map.description.len() + more) as u32).to_le_bytes());
    put(file, at, &list[..4]);
    insert(file, at + 4, &list[4..]);
    rewrap(file, &device(DEVICE));
    resign(file);
}

/// A list of extensions with these tags.
pub(crate) fn extensions(tags: &[u16]) -> Vec<u8> {
    let mut w = cordon_codec::Writer::new();
    w.list(tags.iter(), |w, tag| {
        w.u16(*tag).bytes(b"of a later version");
    });
    w.finish()
}

/// A structure's bytes with other extensions than none.
pub(crate) fn extended(bytes: &[u8], tags: &[u16]) -> Vec<u8> {
    [&bytes[..bytes.len() - 4], &extensions(tags)].concat()
}

/// Wraps the segment keys for `device` again, bound to the description as it is now. Its stanza is the second.
pub(crate) fn rewrap(file: &mut [u8], device: &DeviceKey) {
    let description = PREFIX_BYTES + 4..PREFIX_BYTES + 4 + u32_at(file, PREFIX_BYTES) as usize;
    let stanzas = description.end + 4;
    let body = stanzas + 6 + u32_at(file, stanzas + 2) as usize + 6;
    let label = |word: &str| Sha256::digest(word);
    let digest = Sha256::new()
        .chain_update(label("cordon/1 description"))
        .chain_update(&file[8..12])
        .chain_update(&file[description])
        .finalize();
    let text = device.recipient().to_string();
    let public =
        <X25519 as KemTrait>::PublicKey::from_bytes(&base32(text.strip_prefix("cordon1").expect("prefix"))[2..34])
            .expect("32");
    for (n, segment) in [0u16, 2].into_iter().enumerate() {
        let owner = owner(OWNER).public();
        let info = [&label("cordon/1 segment key")[..], owner.as_bytes(), &digest, &segment.to_le_bytes()].concat();
        let (encapsulated, wrapped) = single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519>(
            &OpModeS::Base,
            &public,
            &info,
            &drawn(SEAL, 1 + n as u64),
            &[],
            &mut Seeded::new("vectors: rewrap"),
        )
        .expect("valid key");
        put(file, body + 8 + n * 80, &[&encapsulated.to_bytes()[..], &wrapped].concat());
    }
}

fn base32(digits: &str) -> Vec<u8> {
    let bits: String =
        digits.bytes().map(|c| format!("{:05b}", if c.is_ascii_digit() { c - b'2' + 26 } else { c - b'a' })).collect();
    bits.as_bytes()
        .chunks_exact(8)
        .map(|b| u8::from_str_radix(core::str::from_utf8(b).expect("digits"), 2).expect("binary"))
        .collect()
}

/// What a recipient of the package can do: encrypt another plaintext as chunk 0 of a one-chunk section.
pub(crate) fn forge_chunk(file: &mut [u8], kind: SectionKind, segment: u16, plain: &[u8]) {
    assert!(plain.len() < CHUNK_BYTES);
    let map = Map::of(file);
    let section = map.section(kind, segment);
    let package_id = drawn(SEAL, 0);
    let segment_key = drawn(SEAL, if segment == 0 { 1 } else { 2 });
    let code = if kind == SectionKind::SegmentSecret { 2u8 } else { 3 };
    let place = [&package_id[..], &[code], &segment.to_le_bytes()].concat();
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(None, &segment_key)
        .expand(&[&Sha256::digest("cordon/1 chunk key")[..], &place].concat(), &mut key)
        .expect("32 bytes");
    let aad = [&place[..], &0u32.to_le_bytes(), &1u32.to_le_bytes()].concat();
    let mut chunk = plain.to_vec();
    let nonce: Nonce<_> = [0u8; 12].into();
    let tag = Aes256Gcm::new(&key.into()).encrypt_inout_detached(&nonce, &aad, (&mut chunk[..]).into()).expect("short");
    chunk.extend_from_slice(&tag);
    assert_eq!(chunk.len(), plain.len() + TAG_BYTES);
    put(file, section.offset() as usize, &chunk);
    put(file, section.leaves_offset() as usize, &cordon_package::merkle::leaf(&chunk));
}
