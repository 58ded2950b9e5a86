//! A broker may end the connection over a message to the response topic of somebody who asked for a
//! command (mosquitto does, where that requester is over its quota, or where the topic is one that
//! nobody may publish on). The result would be sent again over each new connection, and end it.
//!
//! So it is counted for each result how many connections ended while it was on its way to a response
//! topic. While there are such suspects they are sent one at a time, so that the count is that of one
//! of them; after [`STRIKES`] its response topic is given up. A broker that was away by itself, and
//! an acknowledgement, clear the suspicion. Pure.

use std::collections::HashMap;

/// Connections that may end while one result is on its way to a response topic.
pub(super) const STRIKES: u8 = 5;

/// Results by their number, with the connections that have ended over them.
#[derive(Debug, Default)]
pub(super) struct Suspects(HashMap<u64, u8>);

impl Suspects {
    /// The broker is there, after so many attempts that failed.
    pub(super) fn connected(&mut self, failed_attempts: u32) {
        if failed_attempts > 0 {
            self.0.retain(|_, strikes| *strikes >= STRIKES);
        }
    }

    /// The broker has closed the connection while these were on their way. Those that are given up
    /// now.
    pub(super) fn ended(&mut self, under_way: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut given_up = Vec::new();
        for result in under_way {
            let strikes = self.0.entry(result).or_default();
            *strikes = strikes.saturating_add(1);
            if *strikes == STRIKES {
                given_up.push(result);
            }
        }
        given_up
    }

    /// The result is where it has to go.
    pub(super) fn done(&mut self, result: u64) {
        self.0.remove(&result);
    }

    /// Whether its response topic is not to be used any more.
    #[must_use]
    pub(super) fn is_given_up(&self, result: u64) -> bool {
        self.0.get(&result).is_some_and(|strikes| *strikes >= STRIKES)
    }

    /// Whether only one may be on its way to a response topic.
    #[must_use]
    pub(super) fn one_at_a_time(&self) -> bool {
        self.0.values().any(|strikes| *strikes < STRIKES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_ends_every_connection_is_given_up_and_the_others_are_not() {
        let mut suspects = Suspects::default();
        assert!(!suspects.one_at_a_time());
        assert_eq!(suspects.ended([1, 2, 3]), [0; 0]);
        assert!(suspects.one_at_a_time());
        // The first is sent alone, and is not to blame.
        suspects.done(1);
        for _ in 2..STRIKES {
            suspects.connected(0);
            assert_eq!(suspects.ended([2]), [0; 0]);
            assert!(!suspects.is_given_up(2));
        }
        assert_eq!(suspects.ended([2]), [2]);
        assert!(suspects.is_given_up(2) && !suspects.is_given_up(3));
        suspects.connected(3);
        assert!(suspects.is_given_up(2), "until it is published elsewhere");
        suspects.done(2);
        assert!(!suspects.is_given_up(2) && !suspects.one_at_a_time());
    }

    #[test]
    fn a_broker_that_was_away_is_no_evidence_against_a_result() {
        let mut suspects = Suspects::default();
        for _ in 0..3 * STRIKES {
            assert_eq!(suspects.ended([7]), [0; 0]);
            suspects.connected(1);
        }
        assert!(!suspects.one_at_a_time());
    }
}
