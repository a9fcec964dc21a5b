//! Any bytes as a batch of the ring buffer: decoded, fed to the core, and what it found told.
//!
//! The input is a batch as `kernel::ring` passes it on: each record behind its length. Every
//! question of the core is answered, and time goes on while the core wants it to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer::{
    kernel::{records, ring::Records},
    lineage::{Config, DEFAULT_FAIL_ON, Event, Lineage, Nanos, Observation, Output, Policy},
};

mod told;

/// Rounds of time: while the root lives, its processes are sampled for ever.
const ROUNDS: usize = 64;

/// Answers that nothing is there and nobody sleeps.
fn answer(lineage: &mut Lineage, at: Nanos) {
    while let Some(output) = lineage.poll_output() {
        match output {
            Output::Observe { process, .. } => {
                let observation = Box::new(Observation::default());
                lineage.handle(Event::Observed { at, process, observation });
            }
            Output::Sample { .. } => lineage.handle(Event::Sampled { at, blocked: Vec::new() }),
            Output::Life(_) => {}
        }
    }
}

fuzz_target!(|batch: &[u8]| {
    let mut lineage = Lineage::new(Config { tell_lives: true, ..Config::default() });
    for record in Records::of(batch) {
        if let Ok(event) = records::decode(record) {
            lineage.handle(event);
        }
    }
    for _ in 0..ROUNDS {
        let Some(deadline) = lineage.next_deadline() else { break };
        lineage.handle_timeout(deadline);
        answer(&mut lineage, deadline);
        let next = lineage.next_deadline();
        assert!(
            next.is_none_or(|next| next > deadline || deadline == Nanos(u64::MAX)),
            "what is due at {deadline:?} is done then, and yet something is due at {next:?}"
        );
    }
    let policy = Policy { fail_on: &DEFAULT_FAIL_ON, strict: false, allow: &|_| None };
    told::tell(&lineage.outcome(Nanos(u64::MAX), &[], 0, policy));
});
