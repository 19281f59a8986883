//! One session, many requests at a time, against the real process enclave with an observer between.

mod support;

use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::BTreeSet;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Wake;
use std::thread;
use std::time::Instant;

use cordon_executor::{Executor, ExecutorError, ModelSource, Session as Engine};
use cordon_package::{OwnerPublic, Recipient};
use cordon_protocol::{Command, MAX_OPEN_REQUESTS, Profile, Reply, Window};
use cordon_runtime::backend::Cause;
use cordon_runtime::{Backend, Death, Output, Resources, Run, RuntimeError, Session, Tensor, Transport};
use support::{AMPLE, World, process, ternary};

/// What passes between host and enclave, as an observer sees it, and what it does to it.
#[derive(Default)]
struct Watch {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    /// Requests and the segments started for them, in order.
    runs: Vec<(u64, u32)>,
    /// Segments that ended.
    done: usize,
    open: BTreeSet<u64>,
    most_open: usize,
    aborted: usize,
    starts: usize,
    /// The next command finds the enclave dead.
    dies: bool,
    /// Enclaves do not start.
    refuses: bool,
    /// How many normal segments were begun, and how many may end.
    normal: usize,
    gate: Option<usize>,
    panics: bool,
}

impl Watch {
    fn with<T>(&self, f: impl FnOnce(&mut Seen) -> T) -> T {
        let result = f(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        result
    }

    /// Waits until `reached`, which must be soon.
    #[track_caller]
    fn wait_until(&self, what: &str, reached: impl Fn(&Seen) -> bool) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(seen, Duration::from_secs(20), |seen| !reached(seen));
        let timed_out = waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
        assert!(!timed_out, "{what}");
    }

    /// Called by every normal segment.
    fn pass(&self) {
        let turn = self.with(|seen| {
            seen.normal += 1;
            seen.normal
        });
        self.wait_until("a normal segment is never let go", |seen| seen.gate.is_none_or(|gate| turn <= gate));
        assert!(!self.with(|seen| seen.panics), "as the test wants it");
    }
}

const DEATH: Death = Death { cause: Some(Cause { what: "ended by", number: 77 }), refused_allocation: None };

struct Observed {
    inner: Arc<dyn Backend>,
    watch: Arc<Watch>,
}

struct ObservedTransport {
    inner: Box<dyn Transport>,
    watch: Arc<Watch>,
}

impl Backend for Observed {
    fn profile(&self) -> &'static Profile {
        self.inner.profile()
    }

    fn about(&self) -> &'static str {
        self.inner.about()
    }

    fn is_development(&self) -> bool {
        self.inner.is_development()
    }

    fn provision(&self, dir: &Path, owners: &[OwnerPublic]) -> Result<Recipient, RuntimeError> {
        self.inner.provision(dir, owners)
    }

    fn has_device(&self, dir: &Path) -> bool {
        self.inner.has_device(dir)
    }

    fn start(&self, dir: &Path, resources: Resources) -> Result<Box<dyn Transport>, RuntimeError> {
        let refuses = self.watch.with(|seen| {
            seen.starts += 1;
            seen.open.clear();
            seen.refuses
        });
        if refuses {
            return Err(RuntimeError::Start { stage: "a test", source: std::io::ErrorKind::Other.into() });
        }
        Ok(Box::new(ObservedTransport { inner: self.inner.start(dir, resources)?, watch: self.watch.clone() }))
    }
}

impl Transport for ObservedTransport {
    fn call(&mut self, frame: &mut Vec<u8>, window: Option<Window>) -> Result<(), Death> {
        let command = Command::decode(&mut frame.clone()).expect("the host sends commands").0;
        if self.watch.with(|seen| core::mem::take(&mut seen.dies)) {
            return Err(DEATH);
        }
        self.inner.call(frame, window)?;
        let reply = Reply::decode(&mut frame.clone()).expect("the enclave answers").0;
        self.watch.with(|seen| match (command, reply) {
            (_, Reply::SegmentDone { .. }) => seen.done += 1,
            (Command::Run { request, segment }, _) => seen.runs.push((request, segment)),
            (Command::Begin { .. }, Reply::Begun { request, .. }) => {
                seen.open.insert(request);
                seen.most_open = seen.most_open.max(seen.open.len());
            }
            (Command::End { request }, _) => drop(seen.open.remove(&request)),
            (Command::Abort { request }, _) => {
                seen.open.remove(&request);
                seen.aborted += 1;
            }
            _ => {}
        });
        Ok(())
    }

    fn cpu_time(&self) -> Option<Duration> {
        self.inner.cpu_time()
    }
}

fn session(world: &World) -> (Session, Arc<Watch>) {
    let watch = Arc::new(Watch::default());
    let pass = watch.clone();
    let session = session_on(world, &watch, &ternary::PlusOne(Arc::new(move || pass.pass())));
    (session, watch)
}

fn session_on(world: &World, watch: &Arc<Watch>, executor: &dyn Executor) -> Session {
    let backend = Arc::new(Observed { inner: process(), watch: watch.clone() });
    let model = world.options(AMPLE).backend(backend).open_with(world.package(), executor);
    model.expect("opens").into_session().expect("threads")
}

fn world() -> World {
    World::sealed(ternary::seal)
}

fn x(of: usize) -> [f32; 4] {
    [of as f32, 1.0, -0.5 * of as f32, 3.0]
}

fn tensor(of: usize) -> Tensor {
    Tensor::from_f32(vec![1, 4], &x(of)).expect("four values")
}

#[track_caller]
fn assert_right(run: &Run, of: usize) {
    let [(_, Output::Tensor(y))] = run.outputs.as_slice() else { panic!("one tensor") };
    assert_eq!(y.to_f32().expect("float"), ternary::expected(x(of)), "the answer to {of}");
}

#[track_caller]
fn assert_serves(session: &Session) {
    assert_right(&session.run(&[("x", &tensor(5))]).expect("the service goes on"), 5);
}

#[test]
fn a_session_is_shared_by_threads() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Session>();
    let world = world();
    let (session, _) = session(&world);
    assert_serves(&session);
    assert_eq!(session.manifest().segments.len(), 3);
    assert!(session.greeting().expect("it lives").expect("something is secure").development);
    assert_eq!(session.load_report().expect("it lives").expect("something is secure").segments, 2);
    assert!(session.enclave_cpu_time().expect("it lives").is_some());
    let wrong = session.submit(&[("z", &tensor(0))]).err().expect("no such input");
    assert!(wrong.to_string().contains("`x` is missing"), "{wrong}");
}

#[test]
fn the_enclave_serves_one_request_while_another_is_outside() {
    let world = world();
    let (session, watch) = session(&world);
    watch.with(|seen| seen.gate = Some(0));
    let first = session.submit(&[("x", &tensor(1))]).expect("fits");
    watch.wait_until("the first never left the enclave", |seen| seen.normal == 1);
    let second = session.submit(&[("x", &tensor(2))]).expect("fits");
    // The first is still outside.
    watch.wait_until("the enclave idles while a request waits for it", |seen| seen.runs.len() == 2);
    watch.with(|seen| seen.gate = None);
    assert_right(&first.wait().expect("runs"), 1);
    assert_right(&second.wait().expect("runs"), 2);
    let runs = watch.with(|seen| seen.runs.clone());
    let (a, b) = (runs[0].0, runs[1].0);
    assert_ne!(a, b);
    assert_eq!(runs, [(a, 0), (b, 0), (a, 2), (b, 2)]);
    assert!(watch.with(|seen| seen.open.is_empty() && seen.aborted == 0));
}

#[test]
fn many_threads_get_what_one_would() {
    let world = world();
    let (session, watch) = session(&world);
    thread::scope(|scope| {
        for thread in 0..8 {
            let session = session.clone();
            scope.spawn(move || {
                for run in 0..100 {
                    let of = 1000 * thread + run;
                    let run = session.run(&[("x", &tensor(of))]).expect("runs");
                    assert_right(&run, of);
                    assert_eq!(run.segments.len(), 3);
                    assert_eq!((run.crossings(), run.crossing_bytes()), (4, 64));
                    assert!(run.memory.peak <= run.memory.limit);
                }
            });
        }
    });
    let (open, most, runs, starts) = watch.with(|seen| (seen.open.len(), seen.most_open, seen.runs.len(), seen.starts));
    assert_eq!((open, runs, starts), (0, 1600, 1));
    assert!((2..=MAX_OPEN_REQUESTS).contains(&most), "{most} were open");
}

#[test]
fn more_requests_than_the_enclave_holds_wait() {
    let world = world();
    let (session, watch) = session(&world);
    watch.with(|seen| seen.gate = Some(0));
    let requests: Vec<_> = (0..20).map(|of| session.submit(&[("x", &tensor(of))]).expect("fits")).collect();
    watch.wait_until("places stay empty", |seen| seen.open.len() == MAX_OPEN_REQUESTS);
    // Time to do wrong.
    thread::sleep(Duration::from_millis(50));
    watch.with(|seen| seen.gate = None);
    for (of, request) in requests.into_iter().enumerate() {
        assert_right(&request.wait().expect("waits its turn"), of);
    }
    assert_eq!(watch.with(|seen| (seen.most_open, seen.open.len())), (MAX_OPEN_REQUESTS, 0));
}

#[test]
fn what_is_dropped_is_closed_inside() {
    let world = world();
    let (session, watch) = session(&world);
    watch.with(|seen| seen.gate = Some(0));
    let outside = session.submit(&[("x", &tensor(1))]).expect("fits");
    watch.wait_until("never left the enclave", |seen| seen.normal == 1);
    let waits_outside = session.submit(&[("x", &tensor(2))]).expect("fits");
    watch.wait_until("never ran", |seen| seen.done == 2);
    drop(waits_outside);
    watch.wait_until("a dropped request stays open", |seen| seen.open.len() == 1);
    drop(outside);
    watch.with(|seen| seen.gate = None);
    watch.wait_until("a dropped request stays open", |seen| seen.open.is_empty());
    assert_eq!(watch.with(|seen| (seen.aborted, seen.runs.len())), (2, 2));
    assert_serves(&session);
    // One that never began leaves without a trace.
    let done = watch.with(|seen| {
        seen.gate = Some(seen.normal);
        seen.done
    });
    let held: Vec<_> = (0..MAX_OPEN_REQUESTS).map(|of| session.submit(&[("x", &tensor(of))]).expect("fits")).collect();
    watch.wait_until("places stay empty", |seen| seen.done - done == MAX_OPEN_REQUESTS);
    drop(session.submit(&[("x", &tensor(9))]).expect("fits"));
    let runs = watch.with(|seen| seen.runs.len());
    watch.with(|seen| seen.gate = None);
    held.into_iter().for_each(|request| drop(request.wait().expect("runs")));
    assert_eq!(watch.with(|seen| (seen.runs.len() - runs, seen.aborted)), (MAX_OPEN_REQUESTS, 2));
}

#[test]
fn an_error_outside_closes_the_request_inside() {
    let world = world();
    let watch = Arc::new(Watch::default());
    let session = session_on(&world, &watch, &Refusing);
    for _ in 0..2 * MAX_OPEN_REQUESTS {
        let error = session.run(&[("x", &tensor(1))]).expect_err("the engine refuses");
        assert!(matches!(error, RuntimeError::Executor { segment: 1, .. }), "{error}");
    }
    watch.wait_until("a failed request stays open", |seen| seen.open.is_empty());
}

struct Refusing;

impl Executor for Refusing {
    fn name(&self) -> &str {
        "refusing"
    }

    fn load(&self, _: &ModelSource) -> Result<Box<dyn Engine>, ExecutorError> {
        Ok(Box::new(Self))
    }
}

impl Engine for Refusing {
    fn run(&mut self, _: &[(&str, &Tensor)], _: &[&str]) -> Result<Vec<Tensor>, ExecutorError> {
        Err(ExecutorError::Unsupported("all of it".into()))
    }
}

#[test]
fn a_death_ends_what_was_open_and_nothing_else() {
    let world = world();
    let (session, watch) = session(&world);
    watch.with(|seen| seen.gate = Some(0));
    let outside: Vec<_> = (0..3).map(|of| session.submit(&[("x", &tensor(of))]).expect("fits")).collect();
    watch.wait_until("never ran", |seen| seen.done == 3 && seen.normal == 1);
    watch.with(|seen| seen.dies = true);
    let inside = session.submit(&[("x", &tensor(7))]).expect("fits");
    let error = inside.wait().expect_err("it died");
    assert!(matches!(error, RuntimeError::Died { doing: "opening a request", restart: None, .. }), "{error}");
    let later = session.submit(&[("x", &tensor(8))]).expect("fits");
    watch.with(|seen| seen.gate = None);
    for request in outside {
        let error = request.wait().expect_err("what it held inside is lost");
        let RuntimeError::Died { death, restart: None, .. } = &error else { panic!("{error}") };
        assert_eq!(*death, DEATH);
    }
    assert_right(&later.wait().expect("it was not open"), 8);
    assert_eq!(watch.with(|seen| (seen.starts, seen.open.len())), (2, 0));
}

#[test]
fn an_enclave_that_does_not_start_again_is_an_error_for_each_and_no_end() {
    let world = world();
    let (session, watch) = session(&world);
    assert_serves(&session);
    watch.with(|seen| (seen.dies, seen.refuses) = (true, true));
    let error = session.run(&[("x", &tensor(1))]).expect_err("it died");
    assert!(matches!(error, RuntimeError::Died { restart: Some(_), .. }), "{error}");
    for _ in 0..3 {
        let error = session.run(&[("x", &tensor(1))]).expect_err("there is none");
        assert!(matches!(error, RuntimeError::Start { stage: "a test", .. }), "{error}");
        assert!(session.greeting().expect("the session lives").is_none());
    }
    watch.with(|seen| seen.refuses = false);
    assert_serves(&session);
}

#[test]
fn a_panic_ends_the_session_and_leaves_nobody_waiting() {
    let world = world();
    let (session, watch) = session(&world);
    watch.with(|seen| (seen.gate, seen.panics) = (Some(0), true));
    let requests: Vec<_> = (0..12).map(|of| session.submit(&[("x", &tensor(of))]).expect("fits")).collect();
    watch.wait_until("never ran", |seen| seen.normal == 1);
    watch.with(|seen| seen.gate = None);
    for request in requests {
        let error = request.wait().expect_err("the engine panicked");
        assert!(matches!(error, RuntimeError::Stopped), "{error}");
    }
    let error = session.run(&[("x", &tensor(1))]).expect_err("it ended");
    assert!(matches!(error, RuntimeError::Stopped), "{error}");
    assert!(matches!(session.greeting(), Err(RuntimeError::Stopped)));
}

#[test]
fn a_request_is_a_future() {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let world = world();
    let (session, watch) = session(&world);
    watch.with(|seen| seen.gate = Some(0));
    let mut request = pin!(session.submit(&[("x", &tensor(3))]).expect("fits"));
    // It outlives the session it came from.
    drop(session);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    assert!(request.as_mut().poll(&mut context).is_pending());
    watch.with(|seen| seen.gate = None);
    let deadline = Instant::now() + Duration::from_secs(20);
    let run = loop {
        match request.as_mut().poll(&mut context) {
            Poll::Ready(run) => break run,
            Poll::Pending => thread::park_timeout(Duration::from_secs(20)),
        }
        assert!(Instant::now() < deadline, "never woken");
    };
    assert_right(&run.expect("runs"), 3);
}
