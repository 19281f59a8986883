//! Host to enclave commands: whatever frames come, in whatever order, each gets a reply that decodes and holds no
//! secret weight, and afterwards the service loads and answers as before.
#![no_main]

use std::cell::RefCell;

use cordon_protocol::{Command, Reply};
use support::{Host, Recipe, bytes};

#[path = "../../crates/enclave/tests/support/mod.rs"]
#[allow(unused, reason = "the file serves the crate's own tests as well")]
mod support;

thread_local! {
    static HOST: RefCell<Host> = RefCell::new(Host::ready(&Recipe::default()));
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    HOST.with_borrow_mut(|host| {
        let secret = bytes(&[2.0, 3.0, 4.0, 5.0]);
        let mut rest = input;
        // Frames, each after its length: an input that ends early ends the conversation.
        while let Some((length, after)) = rest.split_first_chunk() {
            let Some((frame, after)) = after.split_at_checked(u16::from_le_bytes(*length).into()) else { break };
            rest = after;
            let mut reply = Vec::new();
            host.handle(&mut frame.to_vec(), &mut reply);
            assert!(!reply.windows(secret.len()).any(|window| window == secret), "a secret weight left");
            Reply::decode(&mut reply).expect("replies decode");
        }
        host.call(Command::Unload, &[]);
        host.load().expect("the service goes on");
        host.assert_serves();
    });
});
