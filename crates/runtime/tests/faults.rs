//! Faults at the boundary, against the real process enclave: each leads to a clear error, none lets a secret out, and the
//! service goes on with the next request.

mod support;

use cordon_protocol::{Code, Command};
use cordon_runtime::{RuntimeError, Tensor};
use support::{AMPLE, STREAMING, World, X, assert_serves, deployment, run};

#[test]
fn a_deployment_computes_and_reports() {
    let world = World::new();
    for budget in [STREAMING, AMPLE] {
        let (mut model, _) = deployment(&world, budget);
        let report = *model.load_report().expect("something is secure");
        assert_eq!(report.resident, u32::from(budget == AMPLE), "{report:?}");
        let x = Tensor::from_f32(vec![1, 4], &X).expect("four values");
        let run = model.run(&[("x", &x)]).expect("runs");
        assert_eq!((run.crossings(), run.crossing_bytes()), (2, 32));
        assert!(run.memory.peak <= run.memory.limit && run.memory.limit <= budget, "{:?}", run.memory);
        assert!(run.memory.fixed > 500_000, "stacks and static data are counted");
        let streamed = run.segments[0].weight_bytes;
        assert_eq!(streamed > 0, budget == STREAMING);
        assert!(model.enclave_cpu_time().is_some());
    }
}

#[test]
fn wrong_inputs_are_refused_by_name_before_anything_runs() {
    let world = World::new();
    let (mut model, _) = deployment(&world, AMPLE);
    let x = |dims: Vec<usize>| Tensor::from_f32(dims.clone(), &vec![0.0; dims.iter().product()]).expect("fits");
    let mut refused = |inputs: &[(&str, &Tensor)], part: &str| {
        let error = model.run(inputs).expect_err("wrong").to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&[], "`x` is missing");
    refused(&[("x", &x(vec![4]))], "[1, 4]");
    refused(&[("x", &x(vec![1, 4])), ("z", &x(vec![1]))], "no input `z`");
    refused(&[("x", &Tensor::from_i64(vec![1, 4], &[0; 4]).expect("fits"))], "int64");
    let nan = Tensor::from_f32(vec![1, 4], &[0.0, f32::NAN, 0.0, 0.0]).expect("fits");
    refused(&[("x", &nan)], "NaN");
    assert_serves(&mut model);
}

#[test]
fn replies_that_make_no_sense_are_errors_of_the_protocol() {
    let world = World::new();
    let (mut model, fault) = deployment(&world, AMPLE);
    let changes: [fn(&mut Vec<u8>); 4] = [
        |frame| frame.clear(),
        |frame| frame.truncate(frame.len() - 1),
        |frame| frame.fill(0xff),
        |frame| frame[4] = 0x26,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut calls = 0;
        *fault.lock().expect("free") = Some(Box::new(move |frame, inner| {
            inner.call(frame)?;
            calls += 1;
            if calls == 2 {
                change(frame);
            }
            Ok(())
        }));
        let error = run(&mut model).expect_err("nonsense");
        assert!(matches!(error, RuntimeError::Protocol(_)), "change {index}: {error}");
        *fault.lock().expect("free") = None;
        assert_serves(&mut model);
    }
}

#[test]
fn a_command_sent_twice_kills_the_request() {
    let world = World::new();
    let (mut model, fault) = deployment(&world, AMPLE);
    *fault.lock().expect("free") = Some(Box::new(move |frame, inner| {
        if matches!(Command::decode(&mut frame.clone()), Ok((Command::Run { .. }, _))) {
            inner.call(&mut frame.clone())?;
        }
        inner.call(frame)
    }));
    let error = run(&mut model).expect_err("run twice");
    assert!(matches!(error, RuntimeError::Refused { refusal, .. } if refusal.code == Code::OutOfOrder), "{error}");
    *fault.lock().expect("free") = None;
    assert_serves(&mut model);
}

#[test]
fn a_budget_too_small_for_the_model_says_how_much() {
    let world = World::with_arena(1 << 20);
    let error = world.options(4 << 20).open(world.package());
    let error = error.err().expect("too small");
    let RuntimeError::Refused { refusal, .. } = &error else { panic!("{error}") };
    assert_eq!(refusal.code, Code::OutOfMemory);
    assert!(refusal.needed > refusal.available, "{error}");
}
