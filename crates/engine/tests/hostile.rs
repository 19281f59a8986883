//! Hostile bytes: whatever they are, decoding, preparing and running must end in a result or a named error.

mod support;

use cordon_engine::{
    CHUNK, Compute, KernelSet, Limits, Moved, PIECES_PER_STEP, PieceSource, Prepared, Program, Reply, Residency, Step,
    Unloaded, WeightTable,
};
use support::{Random, Threads, Value, cases};

/// How far hostile bytes got.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    decoded: usize,
    prepared: usize,
    finished: usize,
}

/// The oracle: a `u32` length, an encoded Program of that length, an encoded weight table. Never panics.
pub(crate) fn check(bytes: &[u8]) {
    examine(bytes);
}

fn examine(bytes: &[u8]) -> Reached {
    let mut reached = Reached::default();
    let Some((len, rest)) = bytes.split_first_chunk() else { return reached };
    let Some((program_bytes, table_bytes)) = rest.split_at_checked(u32::from_le_bytes(*len) as usize) else {
        return reached;
    };
    let (Ok(program), Ok(weights)) = (Program::decode(program_bytes), WeightTable::decode(table_bytes)) else {
        return reached;
    };
    assert_eq!(program.encode(), program_bytes, "a value must have one encoding");
    assert_eq!(weights.encode(), table_bytes, "a value must have one encoding");
    reached.decoded = 1;
    let limits = Limits { secure_memory_bytes: 1 << 20, instruction_work: 1 << 20 };
    let stream = weights.stream_bytes();
    for residency in [Residency::All, Residency::Least] {
        // Several threads, so that their parts of the window are cut by hostile tiles as well.
        let compute = Compute { set: KernelSet::detect(), workers: &Threads(3) };
        let mut counted = false;
        // 0 and 1 are valid in every type; 0xff bytes are NaN, -1 and an invalid bool.
        for fill in [0, 1, 0xff] {
            let unloaded = Unloaded::new(program.clone(), weights.clone(), compute, residency, limits);
            let Ok(unloaded) = unloaded else { break };
            assert!(unloaded.memory().total() <= limits.secure_memory_bytes);
            reached.prepared += usize::from(!core::mem::replace(&mut counted, true));
            let Some(mut prepared) = load(unloaded, stream, fill) else { continue };
            reached.finished += usize::from(run(&mut prepared, fill));
            prepared.reset();
        }
    }
    reached
}

/// A mutated table may place a tensor at the end of a stream that no test can bring.
const MOST_CHUNKS: u32 = 64;

/// Loads weights that are all `fill`; `None` when they are refused, or are too many.
fn load(mut unloaded: Unloaded, stream: u64, fill: u8) -> Option<Prepared> {
    let chunk = vec![fill; CHUNK];
    for index in 0..unloaded.chunks_left() as u32 {
        if index >= MOST_CHUNKS {
            assert!(unloaded.finish().is_err(), "chunks are missing");
            return None;
        }
        let left = stream - u64::from(index) * CHUNK as u64;
        unloaded.accept(index, &chunk[..left.min(CHUNK as u64) as usize]).ok()?;
    }
    Some(unloaded.finish().expect("all came"))
}

/// Answers every step with values made of `fill`. Whether the run came to its end.
fn run(prepared: &mut Prepared, fill: u8) -> bool {
    struct Same(u8);
    impl PieceSource for Same {
        fn open(&self, _: u32, into: &mut [u8]) -> bool {
            into.fill(self.0);
            true
        }
    }
    let source = Same(fill);
    let mut step = prepared.step(Reply::Go);
    loop {
        step = match step {
            Err(_) => return false,
            Ok(Step::Done) => return true,
            Ok(Step::NeedPieces { count, .. }) => {
                assert!((1..=PIECES_PER_STEP).contains(&count));
                prepared.step(Reply::Pieces { source: &source, count })
            }
            Ok(Step::Input { port }) => {
                use cordon_engine::program::DType;
                let region = prepared.inputs()[port as usize].region;
                let len = region.len as usize;
                let value = match region.dtype {
                    DType::F32 => Value::F32(vec![f32::from_le_bytes([fill; 4]); len]),
                    DType::I64 => Value::I64(vec![i64::from(fill as i8); len]),
                    DType::Bool => Value::Bool(vec![fill; len]),
                    DType::U8 => Value::U8(vec![fill; len]),
                };
                prepared.step(Reply::Value(value.view()))
            }
            Ok(Step::Restore(Moved { bytes, .. })) => {
                let value = vec![fill; bytes as usize];
                if value.chunks(CHUNK).any(|piece| prepared.fill(piece).is_err()) {
                    return false;
                }
                prepared.step(Reply::Filled)
            }
            Ok(Step::Output { .. } | Step::Spill(_) | Step::Ran { .. }) => prepared.step(Reply::Go),
        };
    }
}

fn seed_bytes(program: &Program, weights: &WeightTable) -> Vec<u8> {
    let program = program.encode();
    let mut bytes = (program.len() as u32).to_le_bytes().to_vec();
    bytes.extend(program);
    bytes.extend(weights.encode());
    bytes
}

/// One to three small changes of the kinds that reach deep: bits, boundary values, shifted and missing bytes.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
        match random.below(8) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = [0, 1, 2, 3, 16, 17, 0x7f, 0x80, 0xff][random.below(9)],
            3 => bytes[at] = bytes[at].wrapping_add([1, 0xff, 2][random.below(3)]),
            4 if at + 4 <= bytes.len() => {
                let value = [0, 1, 2, 16, 0x7fff_ffff, 0x8000_0000, u32::MAX, u32::MAX - 1][random.below(8)];
                bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            }
            5 => bytes.insert(at, random.next() as u8),
            6 if bytes.len() > 1 => {
                bytes.remove(at);
            }
            7 if random.below(8) == 0 => bytes.truncate(at.max(1)),
            // Copies a field's worth of bytes elsewhere: fields become plausible values of others.
            _ if bytes.len() > 8 => {
                let (from, to) = (random.below(bytes.len() - 4), random.below(bytes.len() - 4));
                let field = [bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]];
                bytes[to..to + 4].copy_from_slice(&field);
            }
            _ => {}
        }
    }
}

#[test]
fn mutated_programs_never_panic() {
    let mut random = Random(0xc04d04);
    let mut total = Reached::default();
    for case in cases::all() {
        let seed = seed_bytes(&case.build.program, &case.build.weights);
        let whole = examine(&seed);
        assert!(whole.prepared == 2 && whole.finished > 0, "{}: the seed itself must run, got {whole:?}", case.name);
        for _ in 0..1500 {
            let mut bytes = seed.clone();
            mutate(&mut bytes, &mut random);
            let reached = examine(&bytes);
            total.decoded += reached.decoded;
            total.prepared += reached.prepared;
            total.finished += reached.finished;
        }
    }
    // A mutator that only ever fails early would test nothing.
    assert!(total.decoded > 5000 && total.prepared > 1000 && total.finished > 1000, "{total:?}");
}

#[test]
fn arbitrary_bytes_never_panic() {
    let mut random = Random(1);
    for len in 0..400 {
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        check(&bytes);
        let _ = Program::decode(&bytes);
        let _ = WeightTable::decode(&bytes);
    }
}
