//! A batch that the broker answers by hanging up would be sent again for ever, and nothing behind
//! it would flow. MQTT 3.1.1 has no way to say "I refuse this one", so it has to be found out.
//!
//! After [`LOSSES_UNTIL_CAREFUL`] connections in a row that the broker closed without a single
//! PUBACK, batches are sent one at a time, each after the connection has been quiet for
//! [`QUIET`] seconds. One that ends [`STRIKES`] such connections is refused and reported; any
//! PUBACK, and any sign that the broker itself was away, clears the suspicion.

/// Seconds a connection must hold before a suspect is sent.
const QUIET: f64 = 1.0;
/// Connections closed without any PUBACK before care is taken.
const LOSSES_UNTIL_CAREFUL: u8 = 2;
/// Connections that one batch, alone in flight, may end.
const STRIKES: u8 = 3;

/// What ended the uplink's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostLink {
    /// The broker closed it.
    ClosedByBroker,
    /// The broker said that the last packet was at fault.
    PacketRefused,
    /// The network, or a broker that does not answer: says nothing about what was in flight.
    Silent,
}

/// What the loss of a connection says about the first batch that was in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it again.
    Again,
    /// It will never be taken, for this reason.
    Refuse(String),
}

#[derive(Debug, Default)]
pub(super) struct Caution {
    careful: bool,
    losses: u8,
    strikes: u8,
    ready_at: f64,
    acknowledged: bool,
}

impl Caution {
    pub(super) fn connected(&mut self, failed_attempts: u32, now: f64) {
        self.acknowledged = false;
        self.ready_at = now + QUIET;
        if failed_attempts > 0 {
            // The broker was away: it went down by itself.
            self.strikes = 0;
            self.losses = 0;
        }
    }

    pub(super) fn acknowledged(&mut self) {
        *self = Self { acknowledged: true, ..Self::default() };
    }

    pub(super) fn disconnected(&mut self, cause: LostLink, in_flight: usize) -> Verdict {
        if self.acknowledged || in_flight == 0 || cause == LostLink::Silent {
            self.losses = 0;
            return Verdict::Again;
        }
        // Only with care is the one in flight sure to be the first of the backlog.
        if self.careful && in_flight == 1 {
            self.strikes += 1;
            let reason = match cause {
                LostLink::PacketRefused => "the broker refuses the packet".into(),
                _ if self.strikes < STRIKES => return Verdict::Again,
                _ => format!("the broker closed {STRIKES} connections on this batch alone"),
            };
            *self = Self::default();
            return Verdict::Refuse(reason);
        }
        self.losses = self.losses.saturating_add(1);
        self.careful |= cause == LostLink::PacketRefused || self.losses >= LOSSES_UNTIL_CAREFUL;
        Verdict::Again
    }

    pub(super) fn is_careful(&self) -> bool {
        self.careful
    }

    /// How many batches may be handed over now.
    pub(super) fn limit(&self, room: usize, in_flight: usize, now: f64) -> usize {
        if !self.careful {
            room
        } else if now >= self.ready_at && in_flight == 0 {
            room.min(1)
        } else {
            0
        }
    }

    /// Seconds until [`Self::limit`] may change by itself.
    pub(super) fn wait(&self, now: f64) -> Option<f64> {
        (self.careful && now < self.ready_at).then_some(self.ready_at - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_on_which_the_broker_always_hangs_up_is_refused_after_five_connections() {
        let mut caution = Caution::default();
        let mut connections = 0;
        loop {
            caution.connected(0, 0.0);
            connections += 1;
            let in_flight = caution.limit(10, 0, QUIET);
            if let Verdict::Refuse(_) = caution.disconnected(LostLink::ClosedByBroker, in_flight) {
                break;
            }
            assert!(connections < 100);
        }
        assert_eq!(connections, 5);
    }

    #[test]
    fn a_broker_that_was_away_is_no_evidence_against_a_batch() {
        let mut caution = Caution::default();
        for _ in 0..1000 {
            caution.connected(1, 0.0);
            let in_flight = caution.limit(10, 0, QUIET);
            assert_eq!(caution.disconnected(LostLink::ClosedByBroker, in_flight), Verdict::Again);
        }
    }

    #[test]
    fn a_silent_broker_is_no_evidence_against_a_batch() {
        let mut caution = Caution::default();
        for _ in 0..1000 {
            caution.connected(0, 0.0);
            assert_eq!(caution.disconnected(LostLink::Silent, 1), Verdict::Again);
        }
    }

    #[test]
    fn a_packet_named_as_too_large_is_refused_once_it_is_alone() {
        let mut caution = Caution::default();
        caution.connected(0, 0.0);
        assert_eq!(caution.disconnected(LostLink::PacketRefused, 7), Verdict::Again);
        caution.connected(0, 0.0);
        assert_eq!(caution.limit(10, 0, 0.0), 0, "not before the connection has proved quiet");
        assert_eq!(caution.limit(10, 0, QUIET), 1);
        assert!(matches!(caution.disconnected(LostLink::PacketRefused, 1), Verdict::Refuse(_)));
    }
}
