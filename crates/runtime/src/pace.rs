//! How long the answers to a segment's commands take: the commands of a segment are the same in every run, so earlier runs
//! tell how long to sleep before it is worth looking for an answer.

use core::time::Duration;
use std::collections::HashMap;

/// What each command of each segment is expected to take, in their order.
#[derive(Default)]
pub(crate) struct Pace {
    segments: HashMap<u32, Vec<Duration>>,
}

impl Pace {
    /// What the answer to this command will take; nothing if that is not known.
    pub(crate) fn expected(&self, segment: u32, command: usize) -> Duration {
        self.segments.get(&segment).and_then(|expected| expected.get(command)).copied().unwrap_or_default()
    }

    /// Remembers what it took. One slow answer, as on a busy machine, changes little.
    pub(crate) fn took(&mut self, segment: u32, command: usize, time: Duration) {
        let expected = self.segments.entry(segment).or_default();
        // A run that ended with an error leaves the rest of the sequence to the next one.
        if command == expected.len() {
            expected.push(time);
        } else if let Some(expected) = expected.get_mut(command) {
            *expected = time.min(*expected + *expected / 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_answer_counts_at_once_and_a_slow_one_only_when_it_stays() {
        let (short, long) = (Duration::from_micros(5), Duration::from_millis(1));
        let mut pace = Pace::default();
        assert_eq!(pace.expected(1, 0), Duration::ZERO, "nothing is known yet");
        pace.took(1, 0, short);
        pace.took(1, 1, long);
        pace.took(1, 7, long);
        let expected = [(1, 0), (1, 1), (1, 7), (0, 1)].map(|(segment, command)| pace.expected(segment, command));
        assert_eq!(expected, [short, long, Duration::ZERO, Duration::ZERO], "each command of each segment");
        pace.took(1, 0, long);
        pace.took(1, 1, short);
        assert!(pace.expected(1, 0) < short * 2);
        assert_eq!(pace.expected(1, 1), short);
        (0..40).for_each(|_| pace.took(1, 0, long));
        assert_eq!(pace.expected(1, 0), long);
    }
}
