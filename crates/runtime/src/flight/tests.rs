//! Flights against a scripted enclave.

use core::time::Duration;

use cordon_package::{Domain, ElemType, Manifest, OutputInfo, Placement, SegmentInfo, ValueInfo};
use cordon_protocol::{Entry, Refusal, SPILL_CHUNK};

use super::*;
use crate::run::Output;

const ID: u64 = 77;
const INSIDE: Placement = Placement::Secure(Domain(0));

/// Value `i` enters segment `i` and value `i + 1` leaves it; the last segment is number 2.
fn route(placements: [Placement; 3]) -> Arc<Route> {
    let segment = |(index, placement)| SegmentInfo {
        placement,
        inputs: vec![index],
        outputs: vec![index + 1],
        retained_in: vec![],
        retained_out: vec![],
        minimum_peak: 0,
        resident_peak: 0,
        f16_weights: false,
    };
    let value =
        |name: Option<&str>| ValueInfo { elem: ElemType::Float, shapes: vec![vec![2]], name: name.map(str::to_owned) };
    Arc::new(Route::new(&Manifest {
        inputs: vec![0],
        outputs: vec![OutputInfo::new(3)],
        values: vec![value(Some("x")), value(None), value(None), value(Some("y"))],
        segments: (0..).zip(placements).map(segment).collect(),
        preprocessing: None,
        plan_text: String::new(),
    }))
}

fn tensor(values: [f32; 2]) -> Tensor {
    Tensor::from_f32(vec![2], &values).expect("two values")
}

/// The time that is `millis` after `start`.
fn at(start: Instant, millis: u64) -> Instant {
    start + Duration::from_millis(millis)
}

/// A flight and what its driver holds.
struct Driven {
    flight: Flight,
    spill: SpillArea,
    start: Instant,
}

impl Driven {
    fn new(placements: [Placement; 3]) -> Self {
        let start = Instant::now();
        let flight = Flight::new(route(placements), &[("x", &tensor([1.0, 2.0]))], start).expect("fits");
        Self { flight, spill: SpillArea::new(2).expect("small"), start }
    }

    /// A flight in its first segment, which is secure.
    fn running() -> Self {
        let mut driven = Self::new([INSIDE; 3]);
        driven.reply(Reply::Begun { request: ID, requests_left: None }, &[]).expect("opens");
        driven
    }

    fn reply(&mut self, reply: Reply, payload: &[u8]) -> Result<(), RuntimeError> {
        self.flight.replied(reply, payload, &mut self.spill, self.start)
    }

    #[track_caller]
    fn expect(&self, command: Command) {
        assert_eq!(self.flight.next(), Next::Command(command));
    }

    /// A reply that leads on to a step with this supply.
    #[track_caller]
    fn step(&mut self, reply: Reply, payload: &[u8], supply: Supply) {
        self.reply(reply, payload).expect("a good reply");
        self.expect(Command::Step { request: ID, supply });
    }

    /// Segment `segment`, which asks for its value in two pieces and hands out the next one.
    #[track_caller]
    fn secure_segment(&mut self, segment: u32) {
        self.expect(Command::Run { request: ID, segment });
        for (start, len) in [(0, 4), (4, 4)] {
            let supply = Supply::Value { value: segment, start, payload: Payload::Clear };
            self.step(need(segment, start, len), &[], supply);
            let data = self.flight.values()[&segment].data.slice(start as usize..);
            assert_eq!(self.flight.payload(&self.spill), &data[..4]);
        }
        let bytes = tensor([segment as f32, 0.5]).data;
        self.step(output(segment + 1, 0, 8), &bytes[..4], Supply::Nothing);
        self.step(Reply::Working, &[], Supply::Nothing);
        self.step(output(segment + 1, 4, 8), &bytes[4..], Supply::Nothing);
        self.reply(Reply::SegmentDone { read: 3 }, &[]).expect("ends");
    }
}

fn need(value: u32, start: u64, len: u32) -> Reply {
    Reply::NeedValue { value, start, len }
}

fn output(value: u32, start: u64, total: u64) -> Reply {
    Reply::Output { value, form: Form::Tensor, start, total, payload: Payload::Clear }
}

#[test]
fn a_flight_goes_through_both_worlds_and_tells_what_it_cost() {
    let mut driven = Driven::new([INSIDE, Placement::Normal, INSIDE]);
    driven.expect(Command::Begin { mode: Payload::Clear });
    assert_eq!((driven.flight.request(), driven.flight.place()), (None, None));
    driven.reply(Reply::Begun { request: ID, requests_left: None }, &[]).expect("opens");
    assert_eq!((driven.flight.request(), driven.flight.place()), (Some(ID), Some((0, 0))));
    driven.secure_segment(0);
    assert_eq!(driven.flight.next(), Next::Normal(1));
    assert_eq!(driven.flight.values()[&1], tensor([0.0, 0.5]));
    driven.flight.computed(vec![(2, tensor([5.0, 6.0]))], at(driven.start, 20));
    driven.secure_segment(2);
    driven.expect(Command::End { request: ID });
    driven.reply(Reply::Closed, &[]).expect("closes");
    assert_eq!(driven.flight.request(), None);
    driven.expect(Command::Report);
    let memory = MemoryUse { peak: 9, ..MemoryUse::default() };
    driven.reply(Reply::Report(memory), &[]).expect("reports");
    assert_eq!(driven.flight.next(), Next::Done);
    let run = driven.flight.finish(at(driven.start, 30)).expect("complete");
    assert_eq!(run.outputs, [("y".to_owned(), Output::Tensor(tensor([2.0, 0.5])))]);
    assert_eq!((run.memory, run.elapsed), (memory, Duration::from_millis(30)));
    assert_eq!(run.exposed.len(), 4);
    let secure = SegmentCost {
        placement: INSIDE,
        elapsed: Duration::ZERO,
        crossings: 2,
        crossing_bytes: 16,
        weight_bytes: 3,
        spilled_bytes: 0,
        commands: 6,
    };
    let normal = SegmentCost { elapsed: Duration::from_millis(20), ..SegmentCost::nothing(Placement::Normal) };
    assert_eq!(run.segments, [secure, normal, secure]);
}

#[test]
fn a_request_is_open_from_the_first_secure_segment_to_the_last() {
    let mut driven = Driven::new([Placement::Normal, INSIDE, Placement::Normal]);
    assert_eq!(driven.flight.next(), Next::Normal(0));
    driven.flight.computed(vec![(1, tensor([1.0, 1.0]))], driven.start);
    driven.expect(Command::Begin { mode: Payload::Clear });
    driven.reply(Reply::Begun { request: ID, requests_left: None }, &[]).expect("opens");
    driven.secure_segment(1);
    driven.expect(Command::End { request: ID });
    driven.reply(Reply::Closed, &[]).expect("closes");
    driven.reply(Reply::Report(MemoryUse::default()), &[]).expect("reports");
    assert_eq!(driven.flight.next(), Next::Normal(2));
    driven.flight.computed(vec![(3, tensor([4.0, 4.0]))], driven.start);
    assert_eq!(driven.flight.next(), Next::Done);
}

#[test]
fn without_secure_segments_the_enclave_is_told_nothing() {
    let mut driven = Driven::new([Placement::Normal; 3]);
    for index in 0..3 {
        assert_eq!(driven.flight.next(), Next::Normal(index));
        driven.flight.computed(vec![(index as u32 + 1, tensor([0.0; 2]))], driven.start);
    }
    let run = driven.flight.finish(driven.start).expect("complete");
    assert_eq!((run.memory, run.crossings()), (MemoryUse::default(), 0));
}

#[test]
fn spilled_chunks_come_back_from_where_they_went() {
    let mut driven = Driven::running();
    driven.step(Reply::Spill { chunk: 1 }, &[9; SPILL_CHUNK], Supply::Nothing);
    assert!(driven.flight.payload(&driven.spill).is_empty());
    driven.step(Reply::NeedSpilled { chunk: 1, len: 5 }, &[], Supply::Spilled { chunk: 1 });
    assert_eq!(driven.flight.payload(&driven.spill), [9; 5]);
    assert_eq!(driven.flight.cost.spilled_bytes, SPILL_CHUNK as u64 + 5);
}

#[test]
fn what_a_policy_lets_out_is_the_output() {
    let mut driven = Driven::new([Placement::Normal, Placement::Normal, INSIDE]);
    driven.flight.computed(vec![(1, tensor([0.0; 2]))], driven.start);
    driven.flight.computed(vec![(2, tensor([0.0; 2]))], driven.start);
    driven.reply(Reply::Begun { request: ID, requests_left: None }, &[]).expect("opens");
    let ranked = Ranked { rows: vec![vec![Entry { class: 4, score: None, label: None }]] };
    let bytes = ranked.encode();
    let total = bytes.len() as u64;
    let reply = Reply::Output { value: 3, form: Form::Ranked, start: 0, total, payload: Payload::Clear };
    driven.reply(reply, &bytes).expect("a ranked output");
    driven.reply(Reply::SegmentDone { read: 0 }, &[]).expect("ends");
    let run = driven.flight.finish(driven.start).expect("complete");
    assert_eq!(run.outputs, [("y".to_owned(), Output::Ranked(ranked))]);
}

/// Each is an error of the protocol, and none is believed in part.
#[test]
fn replies_that_do_not_fit_end_the_flight() {
    let value = [0u8; 8];
    let other = |value| Reply::Output { value, form: Form::Ranked, start: 0, total: 8, payload: Payload::Clear };
    let sealed = Reply::Output { value: 1, form: Form::Tensor, start: 0, total: 8, payload: Payload::Sealed };
    type Script<'a> = Vec<(Reply, &'a [u8])>;
    let cases: Vec<(&str, Script<'_>)> = vec![
        ("a value of a later segment", vec![(need(2, 0, 8), &[])]),
        ("a value the package lacks", vec![(need(99, 0, 8), &[])]),
        ("a piece past the end", vec![(need(0, 4, 8), &[])]),
        ("a piece whose end overflows", vec![(need(0, u64::MAX, 8), &[])]),
        ("a piece out of order", vec![(output(1, 4, 8), &value[..4])]),
        ("a piece twice", vec![(output(1, 0, 8), &value[..4]), (output(1, 0, 8), &value[..4])]),
        ("pieces of two values", vec![(output(1, 0, 8), &value[..4]), (output(2, 4, 8), &value[..4])]),
        ("another length half way", vec![(output(1, 0, 8), &value[..4]), (output(1, 4, 12), &value[..4])]),
        ("an empty piece", vec![(output(1, 0, 8), &[])]),
        ("more than announced", vec![(output(1, 0, 4), &value[..])]),
        ("an output of another length", vec![(output(1, 0, 4), &value[..4])]),
        ("an output the package lacks", vec![(output(99, 0, 8), &value[..])]),
        ("no ranked output", vec![(other(1), &[0xff; 8])]),
        ("a sealed output", vec![(sealed, &value[..])]),
        ("an end within an output", vec![(output(1, 0, 8), &value[..4]), (Reply::SegmentDone { read: 0 }, &[])]),
        ("a chunk outside the spill area", vec![(Reply::Spill { chunk: 2 }, &value[..])]),
        ("a chunk at no address", vec![(Reply::Spill { chunk: u32::MAX }, &value[..])]),
        ("chunks wanted from outside", vec![(Reply::NeedSpilled { chunk: 1, len: u32::MAX }, &[])]),
        ("an answer to another command", vec![(Reply::Closed, &[])]),
        ("a request within a request", vec![(Reply::Begun { request: 5, requests_left: None }, &[])]),
        ("a refusal that was passed on", vec![(Reply::Refused(Refusal::new(cordon_protocol::Code::Busy)), &[])]),
    ];
    for (what, replies) in cases {
        let mut driven = Driven::running();
        let (last, good) = replies.split_last().expect("one at least");
        for (reply, payload) in good {
            driven.reply(reply.clone(), payload).expect(what);
        }
        let error = driven.reply(last.0.clone(), last.1).expect_err(what);
        assert!(matches!(error, RuntimeError::Protocol(_)), "{what}: {error}");
        assert_eq!(driven.flight.abandon(), Some(ID), "{what}: the request must be closed");
        assert_eq!(driven.flight.abandon(), None, "{what}: once");
    }
}

#[test]
fn answers_outside_a_segment_must_fit_too() {
    let mut driven = Driven::new([INSIDE; 3]);
    assert!(matches!(driven.reply(Reply::Working, &[]), Err(RuntimeError::Protocol("an answer to Begin"))));
    let mut driven = Driven::running();
    for segment in 0..3 {
        driven.secure_segment(segment);
    }
    assert!(matches!(driven.reply(Reply::Working, &[]), Err(RuntimeError::Protocol("an answer to End"))));
    driven.reply(Reply::Closed, &[]).expect("closes");
    assert!(matches!(driven.reply(Reply::Closed, &[]), Err(RuntimeError::Protocol("an answer to Report"))));
    driven.reply(Reply::Report(MemoryUse::default()), &[]).expect("reports");
    assert!(driven.reply(Reply::Working, &[]).is_err(), "nothing was asked");
}

#[test]
fn a_segment_that_gives_nothing_leaves_an_output_missing() {
    let mut driven = Driven::running();
    for _ in 0..3 {
        driven.reply(Reply::SegmentDone { read: 0 }, &[]).expect("ends");
    }
    driven.reply(Reply::Closed, &[]).expect("closes");
    driven.reply(Reply::Report(MemoryUse::default()), &[]).expect("reports");
    let error = driven.flight.finish(driven.start).expect_err("nothing came out");
    assert!(matches!(error, RuntimeError::Protocol("a missing output")), "{error}");
}
