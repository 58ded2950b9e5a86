//! How many messages may be in flight, and whose turn it is.
//!
//! - When the window was full, readings get room again once half of it is free: one burst of many
//!   messages costs far less than many single ones. Below that nothing waits.
//! - Messages that belong to no batch (announcements and letters) get a quarter of the window at
//!   most, and 64 places in any case, so that thousands of them never hold readings up. In a window
//!   of one they take turns with readings.

use tokio::time::Instant;

use super::announce::Number;
use super::inflight::InFlight;
use crate::ports::Token;

/// Most messages in flight that belong to no batch.
const OTHERS: usize = 64;

/// Whose message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A batch of one message.
    Batch(Token),
    /// One of the messages of a batch.
    Part(Token),
    /// No batch, and kept by [`Announcements`](super::announce::Announcements).
    Announcement(Number),
    /// No batch, and kept by whoever handed it over.
    Letter(Token),
    /// A SUBSCRIBE, which awaits its SUBACK.
    Subscription,
}

impl Owner {
    fn is_reading(self) -> bool {
        matches!(self, Self::Batch(_) | Self::Part(_))
    }
}

/// The messages in flight and the places for more.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    in_flight: InFlight<Owner>,
    /// It was full and is not yet half free.
    holding: bool,
    /// Those in flight that belong to no batch.
    others: usize,
    other_last: bool,
}

impl Window {
    pub(super) fn new(size: u16) -> Self {
        Self {
            size: usize::from(size.max(1)),
            in_flight: InFlight::new(),
            holding: false,
            others: 0,
            other_last: false,
        }
    }

    /// Messages without PUBACK.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.unanswered()
    }

    /// Places for messages of any kind.
    pub(super) fn free(&self) -> usize {
        self.size.saturating_sub(self.in_flight.unanswered()).min(self.in_flight.identifiers_left())
    }

    /// Places that new batches are told of.
    pub(super) fn room(&self) -> usize {
        if self.holding { 0 } else { self.free() }
    }

    /// Takes a place; returns the packet identifier, or `None` without a free place.
    pub(super) fn send(&mut self, owner: Owner) -> Option<u16> {
        if self.free() == 0 {
            return None;
        }
        let pkid = self.in_flight.send(owner, Instant::now())?;
        self.other_last = !owner.is_reading();
        self.others += usize::from(self.other_last);
        self.update();
        Some(pkid)
    }

    /// Gives the place of `pkid` back; `None` when it had none.
    pub(super) fn answer(&mut self, pkid: u16, now: Instant) -> Option<Owner> {
        let owner = self.in_flight.answer(pkid, now)?;
        self.others -= usize::from(!owner.is_reading());
        self.update();
        Some(owner)
    }

    /// Since when the broker owes an answer.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.in_flight.waiting_since()
    }

    /// Whether a message that belongs to no batch may take a place now.
    pub(super) fn lets_others(&self) -> bool {
        self.free() > 0
            && self.others < (self.size / 4).clamp(1, OTHERS)
            && !(self.size == 1 && self.other_last)
    }

    /// Whether other messages and readings take turns.
    pub(super) fn takes_turns(&self) -> bool {
        self.size == 1
    }

    /// The readings had their turn and did not want it.
    pub(super) fn pass(&mut self) {
        self.other_last = false;
    }

    fn update(&mut self) {
        let free = self.free();
        if free == 0 {
            self.holding = true;
        } else if free >= self.size.div_ceil(2) {
            self.holding = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_window_has_room_again_when_half_is_free() {
        let mut window = Window::new(5);
        let pkids: Vec<u16> =
            (0..5).map(|token| window.send(Owner::Batch(token)).unwrap()).collect();
        assert_eq!(window.send(Owner::Batch(5)), None);
        let now = Instant::now();
        let room: Vec<usize> = pkids
            .into_iter()
            .map(|pkid| {
                window.answer(pkid, now).unwrap();
                window.room()
            })
            .collect();
        assert_eq!(room, [0, 0, 3, 4, 5]);
    }

    #[test]
    fn other_messages_leave_room_for_readings() {
        for size in 2..1000 {
            let mut window = Window::new(size);
            let mut sent = 0;
            while window.lets_others() {
                let letter = sent % 2 == 0;
                let owner = if letter { Owner::Letter(sent) } else { Owner::Announcement(sent) };
                window.send(owner).unwrap();
                sent += 1;
            }
            assert!((1..=64).contains(&sent));
            assert!(window.free() >= 1, "window of {size}");
        }
    }

    #[test]
    fn in_a_window_of_one_they_take_turns() {
        let mut window = Window::new(1);
        let pkid = window.send(Owner::Announcement(0)).unwrap();
        window.answer(pkid, Instant::now()).unwrap();
        assert!(!window.lets_others());
        assert_eq!(window.room(), 1);
        window.pass();
        assert!(window.lets_others());
    }
}
