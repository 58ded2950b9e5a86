//! Delivery: the one place that decides what happens to a batch.
//!
//! ```text
//!   take ──► live queue ──► in flight ──PUBACK──► settled
//!     │          │ uplink lost or too slow           ▲
//!     └──────────┴─► pending ──fsync─────────────────┘
//!                       │ now in the spool
//!                       ▼
//!              loaded ──► in flight ──PUBACK──► released from the spool
//! ```
//!
//! While the uplink keeps pace, batches go straight to it (`direct`) and nothing touches the
//! disk. When it is lost or falls behind, everything unsettled gets a position in the spool, and
//! so does every new batch. When it is back, the spool is published from its front; a batch that
//! is not on the disk yet is published from memory when its turn comes, so the drain catches up
//! with the tail without waiting for a commit, and then new batches are direct again.
//!
//! Invariants, asserted after every step of the simulation in the tests:
//!
//! 1. Every batch settles exactly once: published, spooled, or refused with a reason.
//! 2. Nothing is settled before its PUBACK or a completed fsync.
//! 3. A position is released only after its PUBACK, or when it is counted as lost.
//! 4. When the uplink drops, everything unsettled goes to the spool.
//! 5. Within a device, live never overtakes spooled (in-order drain).
//! 6. Every queue is bounded: by the devices' windows and the memory budget, by the uplink's
//!    window, by [`Settings::load_bytes`].
//! 7. While the uplink keeps pace, nothing is appended to the spool.
//! 8. A batch is not sent again while it is in flight.
//!
//! Nothing here waits, reads a clock or does I/O: the engine calls in, then performs
//! [`Delivery::actions`].

mod action;
mod backlog;
mod caution;
mod runs;
#[cfg(test)]
mod simulation;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::core::batch::{Batch, Loss, LossReason};
use crate::core::ids::{DeviceId, Position, SessionId};
pub use action::{Action, Path};
use backlog::Backlog;
pub use caution::LostLink;
use caution::{Caution, Verdict};
pub use runs::Update;
use runs::{Runs, Taken, Ticket};

/// What can be set.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Bytes of batches waiting for the uplink beyond which it counts as too slow.
    pub live_bytes: usize,
    /// Seconds a batch may wait for the uplink, or for its answer, before it counts as too slow.
    pub patience: f64,
    /// Bytes of batches read ahead from the spool.
    pub load_bytes: usize,
    /// Fresh batches first, the backlog behind them.
    pub live_first: bool,
    /// Spooled batches published per second, 0 for no limit.
    pub drain_rate: f64,
    /// Runs of numbers remembered for devices that are away.
    pub max_idle_runs: usize,
}

/// A batch that is not settled.
#[derive(Debug, Clone)]
struct Held {
    ticket: Ticket,
    batch: Arc<Batch>,
    weight: usize,
    arrived: f64,
}

/// A batch that the uplink has and has not answered.
#[derive(Debug)]
enum Flight {
    Live(Held),
    Spooled(Position, Arc<Batch>),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Delivery {
    settings: Settings,
    runs: Runs,
    /// Waiting for room in the uplink's window.
    live: VecDeque<Held>,
    live_weight: usize,
    /// By token; the front's token is `first_token`.
    flights: VecDeque<Option<Flight>>,
    first_token: u64,
    in_flight: usize,
    /// How many of them were not spooled.
    live_in_flight: usize,
    backlog: Backlog,
    up: bool,
    direct: bool,
    /// The uplink was too slow and has acknowledged nothing since.
    stalled: bool,
    caution: Caution,
    /// Spooled batches that may be published now, under `drain_rate`.
    allowance: f64,
    allowance_at: f64,
    /// With `live_first`, counts live publishes so that the backlog gets every fourth.
    turn: u8,
    actions: Vec<Action>,
}

impl Delivery {
    /// A delivery that continues with what the spool holds: positions `head..tail`, and the last
    /// number of each device in it.
    #[must_use]
    pub fn new(
        settings: Settings,
        head: Position,
        tail: Position,
        progress: impl IntoIterator<Item = (DeviceId, u64, u64)>,
    ) -> Self {
        let mut runs = Runs::new(settings.max_idle_runs);
        for (device, epoch, seq) in progress {
            runs.seed(device, epoch, seq);
        }
        Self {
            settings,
            runs,
            live: VecDeque::new(),
            live_weight: 0,
            flights: VecDeque::new(),
            first_token: 0,
            in_flight: 0,
            live_in_flight: 0,
            backlog: Backlog::new(head, tail),
            up: false,
            direct: false,
            stalled: false,
            caution: Caution::default(),
            allowance: 0.0,
            allowance_at: 0.0,
            turn: 0,
            actions: Vec::new(),
        }
    }

    /// A device said HELLO. Returns the session's epoch (`drawn_epoch`, where the device named
    /// none) and its settled number.
    pub fn open(
        &mut self,
        session: SessionId,
        device: &DeviceId,
        epoch: Option<u64>,
        drawn_epoch: u64,
    ) -> (u64, u64) {
        self.runs.open(session, device, epoch, drawn_epoch)
    }

    /// A connection ended. Returns whether it was its device's current one.
    pub fn close(&mut self, session: SessionId, now: f64) -> bool {
        self.runs.close(session, now)
    }

    /// A batch arrived. Returns whether it is new; where it is not, its `weight` is free again.
    pub fn take(&mut self, session: SessionId, batch: Arc<Batch>, weight: usize, now: f64) -> bool {
        let Taken::New(ticket) = self.runs.take(session, batch.seq) else { return false };
        let held = Held { ticket, batch, weight, arrived: now };
        if self.direct {
            self.live_weight += held.weight;
            self.live.push_back(held);
        } else {
            self.append(held);
        }
        true
    }

    /// A batch was rejected by its connection: its number counts as settled.
    pub fn take_rejected(&mut self, session: SessionId, seq: u64) {
        if let Taken::New(ticket) = self.runs.take(session, Some(seq)) {
            self.runs.settle(ticket);
        }
    }

    /// The uplink is connected.
    pub fn uplink_up(&mut self, failed_attempts: u32, now: f64) {
        self.up = true;
        self.caution.connected(failed_attempts, now);
        self.allowance = 0.0;
        self.allowance_at = now;
        self.update_direct();
    }

    /// The uplink is gone, and with it everything that was handed over and not answered.
    pub fn uplink_down(&mut self, cause: LostLink, now: f64) {
        self.up = false;
        self.direct = false;
        self.stalled = false;
        let verdict = self.caution.disconnected(cause, self.in_flight);
        // Everything unsettled gets its place in the spool: first what was in flight, as it is
        // older than what waits, then what waits.
        let flights: Vec<Flight> = self.flights.drain(..).flatten().collect();
        self.first_token += flights.len() as u64;
        self.in_flight = 0;
        self.live_in_flight = 0;
        let mut again = Vec::with_capacity(flights.len());
        for flight in flights {
            match flight {
                Flight::Spooled(position, batch) => again.push((position, batch)),
                Flight::Live(held) => {
                    let batch = held.batch.clone();
                    again.push((self.append(held), batch));
                }
            }
        }
        self.backlog.again(again, self.settings.live_first);
        self.spill_live();
        if let Verdict::Refuse(reason) = verdict {
            if let Some((position, batch)) = self.backlog.take_first() {
                self.lose_spooled(position, &batch, reason, now);
            }
        }
    }

    /// PUBACK.
    pub fn published(&mut self, token: u64) {
        self.caution.acknowledged();
        self.stalled = false;
        match self.land(token) {
            Some(Flight::Live(held)) => {
                self.actions.push(Action::Published { readings: held.batch.readings.len() as u64 });
                self.settle(&held, Path::Published);
            }
            Some(Flight::Spooled(position, batch)) => {
                self.actions.push(Action::Published { readings: batch.readings.len() as u64 });
                if let Some(held) = self.backlog.pending_at(position).cloned() {
                    self.settle(&held, Path::Published);
                }
                self.backlog.done(position);
                self.release();
            }
            None => {}
        }
    }

    /// The broker will never take this batch.
    pub fn refused(&mut self, token: u64, reason: String, now: f64) {
        match self.land(token) {
            Some(Flight::Live(held)) => self.lose_held(&held, reason, now),
            Some(Flight::Spooled(position, batch)) => {
                self.lose_spooled(position, &batch, reason, now);
            }
            None => {}
        }
    }

    /// Everything up to `through` has reached the disk.
    pub fn durable(&mut self, through: Position) {
        while let Some(held) = self.backlog.pop_durable(through) {
            self.settle(&held, Path::Spooled);
        }
    }

    /// What [`Action::Load`] brought; `next` is where to go on.
    pub fn loaded(&mut self, batches: Vec<(Position, Arc<Batch>)>, next: Position, now: f64) {
        if !self.backlog.loaded(batches, next) {
            // A spool that breaks its promise must not stop everything behind it.
            if let Some((first, last)) = self.backlog.skip_missing() {
                self.actions.push(Action::Lost(Loss {
                    device: None,
                    epoch: 0,
                    first_seq: None,
                    last_seq: None,
                    batches: last.saturating_sub(first).saturating_add(1),
                    readings: 0,
                    received: None,
                    reason: LossReason::Corrupt,
                    time: now,
                    detail: Some(format!("the spool has nothing at positions {first} to {last}")),
                }));
            }
        }
        self.release();
    }

    /// A limit took everything up to `through` from the spool.
    pub fn evicted(&mut self, through: Position) {
        self.backlog.evicted(through);
    }

    /// Publishes what the uplink has room for and moves what it is too slow for. Called after
    /// everything that has arrived was taken in.
    pub fn pump(&mut self, room: usize, now: f64) {
        if !self.up {
            return;
        }
        self.fill_allowance(now);
        let mut room = self.caution.limit(room, self.in_flight, now);
        loop {
            self.update_direct();
            if room == 0 || !self.publish_next() {
                break;
            }
            room -= 1;
        }
        let too_slow = self.live_weight > self.settings.live_bytes
            || self.oldest_live().is_some_and(|arrived| now - arrived > self.settings.patience);
        if too_slow {
            self.spill();
        }
        if let Some((from, max_bytes)) = self.backlog.want_load(self.settings.load_bytes) {
            self.actions.push(Action::Load { from, max_bytes });
        }
    }

    /// What is to be done; empties the list.
    pub fn actions(&mut self) -> std::vec::Drain<'_, Action> {
        self.actions.drain(..)
    }

    /// Calls `tell` for every session whose connection must be told something.
    pub fn updates(&mut self, tell: impl FnMut(Update)) {
        self.runs.updates(tell);
    }

    /// Seconds until [`Self::pump`] should be called though nothing arrives, if at all.
    #[must_use]
    pub fn next_wake(&self, now: f64) -> Option<f64> {
        if !self.up {
            return None;
        }
        let patience = self
            .oldest_live()
            .map(|arrived| (arrived + self.settings.patience - now).max(0.0) + 0.001);
        let drain = (self.settings.drain_rate > 0.0 && self.backlog.waits())
            .then(|| ((1.0 - self.allowance) / self.settings.drain_rate).clamp(0.001, 1.0));
        [patience, drain, self.caution.wait(now)].into_iter().flatten().reduce(f64::min)
    }

    /// Jumps in sequence numbers, and numbers received before, since the start.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.runs.gaps, self.runs.duplicates)
    }

    /// Whether new batches go straight to the uplink.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Stopping: everything unsettled goes to the spool. The uplink is not used any more.
    pub fn stop(&mut self, now: f64) {
        self.uplink_down(LostLink::Silent, now);
    }

    /// Whether everything that was taken is settled.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.live.is_empty() && self.in_flight == 0 && self.backlog.is_durable()
    }

    fn update_direct(&mut self) {
        let caught_up = self.settings.live_first || self.backlog.is_issued();
        if !self.direct && caught_up && !self.stalled && !self.caution.is_careful() {
            self.direct = true;
        }
    }

    /// Publishes one batch, if there is one whose turn it is.
    fn publish_next(&mut self) -> bool {
        self.turn = self.turn.wrapping_add(1);
        let live_turn = self.settings.live_first && self.turn % 4 != 0 && !self.live.is_empty();
        if !live_turn && self.publish_spooled() {
            return true;
        }
        // In order, live batches wait behind everything that is spooled.
        if !self.settings.live_first && !self.backlog.is_issued() {
            return false;
        }
        let Some(held) = self.live.pop_front() else { return false };
        self.live_weight -= held.weight;
        let batch = held.batch.clone();
        self.take_off(Flight::Live(held), batch, false);
        true
    }

    fn publish_spooled(&mut self) -> bool {
        let limited = self.settings.drain_rate > 0.0;
        if limited && self.allowance < 1.0 {
            return false;
        }
        let Some((position, batch)) = self.backlog.issue() else { return false };
        if limited {
            self.allowance -= 1.0;
        }
        self.take_off(Flight::Spooled(position, batch.clone()), batch, true);
        true
    }

    fn take_off(&mut self, flight: Flight, batch: Arc<Batch>, spooled: bool) {
        let token = self.first_token + self.flights.len() as u64;
        self.in_flight += 1;
        self.live_in_flight += usize::from(matches!(flight, Flight::Live(_)));
        self.flights.push_back(Some(flight));
        self.actions.push(Action::Publish { token, batch, spooled });
    }

    fn land(&mut self, token: u64) -> Option<Flight> {
        let index = usize::try_from(token.checked_sub(self.first_token)?).ok()?;
        let flight = self.flights.get_mut(index)?.take()?;
        self.in_flight -= 1;
        self.live_in_flight -= usize::from(matches!(flight, Flight::Live(_)));
        while matches!(self.flights.front(), Some(None)) {
            self.flights.pop_front();
            self.first_token += 1;
        }
        Some(flight)
    }

    /// When the batch arrived that has waited longest for the uplink, of those that are not spooled.
    fn oldest_live(&self) -> Option<f64> {
        if self.live_in_flight == 0 {
            return self.live.front().map(|held| held.arrived);
        }
        self.flights.iter().find_map(|flight| match flight {
            Some(Flight::Live(held)) => Some(held.arrived),
            _ => None,
        })
    }

    /// The uplink is up and too slow: what is in flight and what waits gets its place in the
    /// spool, so that it can be settled.
    fn spill(&mut self) {
        let mut spilled = Vec::new();
        for slot in &mut self.flights {
            if let Some(Flight::Live(held)) = slot {
                let batch = held.batch.clone();
                let position = self.backlog.append(held.clone());
                self.actions.push(Action::Append { position, batch: batch.clone() });
                *slot = Some(Flight::Spooled(position, batch));
                spilled.push(position);
            }
        }
        if self.settings.live_first {
            self.backlog.issued_ahead(spilled);
        } else {
            self.backlog.issued(&spilled);
        }
        self.live_in_flight = 0;
        self.direct = false;
        self.stalled = true;
        self.spill_live();
    }

    fn spill_live(&mut self) {
        self.live_weight = 0;
        for held in std::mem::take(&mut self.live) {
            self.append(held);
        }
    }

    fn append(&mut self, held: Held) -> Position {
        let batch = held.batch.clone();
        let position = self.backlog.append(held);
        self.actions.push(Action::Append { position, batch });
        position
    }

    fn settle(&mut self, held: &Held, path: Path) {
        if self.runs.settle(held.ticket) {
            self.actions.push(Action::Settled {
                path,
                arrived: held.arrived,
                readings: held.batch.readings.len() as u64,
                freed: held.weight,
            });
        }
    }

    fn release(&mut self) {
        if let Some(through) = self.backlog.release() {
            self.actions.push(Action::Release { through });
        }
    }

    /// A batch that was not acknowledged: the device is told, and it is a loss.
    fn lose_held(&mut self, held: &Held, reason: String, now: f64) {
        if let Some(session) = self.runs.session_of(held.ticket) {
            self.actions.push(Action::Reject {
                session,
                seq: held.batch.seq,
                reason: reason.clone(),
            });
        }
        self.actions.push(Action::Lost(refused_loss(&held.batch, reason, now)));
        self.settle(held, Path::Refused);
    }

    fn lose_spooled(&mut self, position: Position, batch: &Batch, reason: String, now: f64) {
        match self.backlog.pending_at(position).cloned() {
            Some(held) => self.lose_held(&held, reason, now),
            None => self.actions.push(Action::Lost(refused_loss(batch, reason, now))),
        }
        self.backlog.done(position);
        self.release();
    }

    fn fill_allowance(&mut self, now: f64) {
        let rate = self.settings.drain_rate;
        if rate > 0.0 {
            let earned = (now - self.allowance_at).max(0.0) * rate;
            // At most a tenth of a second's worth at once, so that the rate is even.
            self.allowance = (self.allowance + earned).min((rate / 10.0).max(1.0));
            self.allowance_at = now;
        }
    }
}

fn refused_loss(batch: &Batch, reason: String, now: f64) -> Loss {
    Loss {
        device: Some(batch.device.clone()),
        epoch: batch.epoch,
        first_seq: batch.seq,
        last_seq: batch.seq,
        batches: 1,
        readings: batch.readings.len() as u64,
        received: Some((batch.received, batch.received)),
        reason: LossReason::Refused,
        time: now,
        detail: Some(reason),
    }
}
