//! The resend window: what was given a number and is not settled yet. Pure; the connection asks it
//! what to write and tells it what the gateway said.

use std::collections::VecDeque;

use bytes::Bytes;

/// Unacknowledged batches in the order of their numbers, the first `sent` of them written to the
/// present connection.
///
/// Call order: [`Self::push`] at any time; for each connection once [`Self::resume`], then
/// [`Self::next_unsent`], [`Self::ack`] and [`Self::reject`].
#[derive(Debug)]
pub(super) struct Window {
    pending: VecDeque<Entry>,
    sent: usize,
    bytes: usize,
    next_seq: u64,
    highest_sent: u64,
    acked: u64,
    in_flight: usize,
    keep_batches: usize,
    keep_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    seq: u64,
    frame: Bytes,
}

/// The gateway has settled numbers that this client never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NeverSent {
    /// The number the gateway named.
    pub(super) acked: u64,
    /// The highest this client has sent.
    pub(super) highest_sent: u64,
}

impl Window {
    /// A window whose first batch gets the number `first_seq`, and that keeps at most
    /// `keep_batches` batches and about `keep_bytes` bytes (but always one batch).
    pub(super) fn new(first_seq: u64, keep_batches: usize, keep_bytes: usize) -> Self {
        Self {
            pending: VecDeque::new(),
            sent: 0,
            bytes: 0,
            next_seq: first_seq,
            highest_sent: first_seq.saturating_sub(1),
            acked: first_seq.saturating_sub(1),
            in_flight: 0,
            keep_batches: keep_batches.max(1),
            keep_bytes,
        }
    }

    /// Whether [`Self::push`] may be called.
    pub(super) fn has_room(&self) -> bool {
        self.pending.is_empty()
            || (self.pending.len() < self.keep_batches && self.bytes < self.keep_bytes)
    }

    /// The number the next batch gets.
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Keeps `frame`, the message with the number [`Self::next_seq`], until it is settled.
    pub(super) fn push(&mut self, frame: Bytes) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.bytes += frame.len();
        self.pending.push_back(Entry { seq, frame });
        seq
    }

    /// A new connection: the gateway has settled everything up to `acked` and takes `in_flight`
    /// unsettled batches at a time. Everything else will be written again, in order.
    ///
    /// # Errors
    /// When `acked` is higher than anything this client ever sent: the epoch was used before, and
    /// its numbers would be taken for duplicates.
    pub(super) fn resume(&mut self, acked: u64, in_flight: u64) -> Result<(), NeverSent> {
        self.ack(acked)?;
        self.sent = 0;
        self.in_flight = usize::try_from(in_flight).unwrap_or(usize::MAX);
        Ok(())
    }

    /// The next message to write, if there is one and the gateway's window has room. It counts as
    /// written from here on.
    pub(super) fn next_unsent(&mut self) -> Option<Bytes> {
        if self.sent >= self.in_flight {
            return None;
        }
        let entry = self.pending.get(self.sent)?;
        self.sent += 1;
        self.highest_sent = self.highest_sent.max(entry.seq);
        Some(entry.frame.clone())
    }

    /// Everything up to `seq` is settled.
    ///
    /// # Errors
    /// When `seq` was never sent.
    pub(super) fn ack(&mut self, seq: u64) -> Result<(), NeverSent> {
        if seq > self.highest_sent {
            return Err(NeverSent { acked: seq, highest_sent: self.highest_sent });
        }
        self.acked = self.acked.max(seq);
        while let Some(entry) = self.pending.front().filter(|entry| entry.seq <= seq) {
            self.bytes -= entry.frame.len();
            self.pending.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
        Ok(())
    }

    /// `seq` is refused for ever. Says whether it was waiting.
    pub(super) fn reject(&mut self, seq: u64) -> bool {
        let Ok(index) = self.pending.binary_search_by_key(&seq, |entry| entry.seq) else {
            return false;
        };
        if let Some(entry) = self.pending.remove(index) {
            self.bytes -= entry.frame.len();
        }
        if index < self.sent {
            self.sent -= 1;
        }
        true
    }

    /// Removes what is larger than `max_frame` bytes, which the gateway would close the connection
    /// for, and returns the numbers.
    pub(super) fn remove_larger_than(&mut self, max_frame: usize) -> Vec<u64> {
        let large = |entry: &Entry| entry.frame.len() > max_frame;
        let seqs: Vec<u64> =
            self.pending.iter().filter(|entry| large(entry)).map(|entry| entry.seq).collect();
        for seq in &seqs {
            self.reject(*seq);
        }
        seqs
    }

    /// The highest number up to which everything is settled, as far as the gateway said.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// How many batches are not settled.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn push(window: &mut Window) -> u64 {
        let text = window.next_seq().to_string();
        window.push(Bytes::from(text))
    }

    fn push_many(window: &mut Window, count: usize) {
        for _ in 0..count {
            push(window);
        }
    }

    fn drain(window: &mut Window) -> Vec<u64> {
        std::iter::from_fn(|| window.next_unsent())
            .map(|frame| String::from_utf8(frame.to_vec()).unwrap().parse().unwrap())
            .collect()
    }

    #[test]
    fn a_reconnect_resends_what_is_not_acknowledged_in_order() {
        let mut window = Window::new(1, 10, 1000);
        window.resume(0, 10).unwrap();
        push_many(&mut window, 5);
        assert_eq!(drain(&mut window), [1, 2, 3, 4, 5]);
        window.ack(2).unwrap();
        push(&mut window);
        window.resume(3, 10).unwrap();
        assert_eq!(drain(&mut window), [4, 5, 6]);
        assert_eq!(window.acked(), 3);
    }

    #[test]
    fn no_more_is_written_than_the_gateways_window() {
        let mut window = Window::new(1, 10, 1000);
        push_many(&mut window, 5);
        assert_eq!(drain(&mut window), Vec::<u64>::new(), "before WELCOME");
        window.resume(0, 2).unwrap();
        assert_eq!(drain(&mut window), [1, 2]);
        window.ack(1).unwrap();
        assert_eq!(drain(&mut window), [3]);
    }

    #[test]
    fn a_refused_batch_makes_room_and_is_not_resent() {
        let mut window = Window::new(1, 3, 1000);
        window.resume(0, 3).unwrap();
        push_many(&mut window, 3);
        assert_eq!(drain(&mut window), [1, 2, 3]);
        assert!(!window.has_room());
        assert!(window.reject(2));
        assert!(!window.reject(2));
        assert!(window.has_room());
        window.resume(0, 3).unwrap();
        assert_eq!(drain(&mut window), [1, 3]);
        window.ack(3).unwrap();
        assert_eq!((window.len(), window.bytes), (0, 0));
    }

    #[test]
    fn bytes_bound_the_window_but_one_batch_always_fits() {
        let mut window = Window::new(1, 100, 10);
        window.push(Bytes::from_static(&[0; 50]));
        assert!(!window.has_room());
        window.resume(0, 100).unwrap();
        assert!(window.next_unsent().is_some());
        window.ack(1).unwrap();
        assert!(window.has_room());
    }

    #[test]
    fn an_epoch_that_was_used_before_is_noticed() {
        let mut window = Window::new(1, 10, 1000);
        push(&mut window);
        assert_eq!(window.resume(90, 8), Err(NeverSent { acked: 90, highest_sent: 0 }));
        let mut window = Window::new(91, 10, 1000);
        assert_eq!(window.resume(90, 8), Ok(()));
        assert_eq!(push(&mut window), 91);
    }

    #[test]
    fn what_exceeds_the_gateways_largest_message_is_taken_out() {
        let mut window = Window::new(1, 10, 1000);
        window.push(Bytes::from_static(&[0; 5]));
        window.push(Bytes::from_static(&[0; 50]));
        assert_eq!(window.remove_larger_than(10), [2]);
        assert_eq!(window.len(), 1);
    }

    proptest! {
        /// Whatever happens, each connection writes ascending numbers, all above what was
        /// acknowledged and none that was refused, and the byte count stays exact.
        #[test]
        fn order_and_bounds_hold_under_any_history(steps in proptest::collection::vec((0_u8..5, 0_u64..40), 1..200)) {
            let mut window = Window::new(1, 16, 64);
            let (mut written, mut refused) = (Vec::<u64>::new(), Vec::new());
            let mut settled = 0;
            window.resume(0, 8).unwrap();
            for (step, number) in steps {
                match step {
                    0 | 1 if window.has_room() => { push(&mut window); }
                    2 => {
                        let fresh = drain(&mut window);
                        for seq in &fresh {
                            prop_assert!(written.last().is_none_or(|last| last < seq));
                            prop_assert!(*seq > settled && !refused.contains(seq));
                            written.push(*seq);
                        }
                    }
                    3 => {
                        let seq = number.min(window.highest_sent);
                        window.ack(seq).unwrap();
                        settled = settled.max(seq);
                        if window.reject(number) { refused.push(number); }
                    }
                    4 => {
                        let acked = settled + number.min(window.highest_sent - settled);
                        window.resume(acked, 1 + number % 8).unwrap();
                        settled = acked;
                        written.clear();
                    }
                    _ => {}
                }
                prop_assert!(window.len() <= 16);
                prop_assert_eq!(window.bytes, window.pending.iter().map(|e| e.frame.len()).sum::<usize>());
                prop_assert!(window.sent <= window.len());
            }
        }
    }
}
