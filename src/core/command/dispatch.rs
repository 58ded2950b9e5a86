//! What is to be done now: expiry, sending, answers, results.

use std::sync::Arc;

use super::desk::{Desk, Sending, ordered};
use super::record::{Record, State};
use super::{Action, Now, Permits, Reply};
use crate::core::ids::{DeviceId, SessionId};
use crate::core::policy::Pattern;

/// Results on their way to the broker at a time.
const PUBLISHING_MAX: usize = 16;
/// How many names a rejection lists.
const NAMES_SHOWN: usize = 8;

impl Desk {
    /// Decides what is to be done; see the [module](super).
    pub fn pump(&mut self, permits: Permits<'_>, now: Now) {
        self.expire(now);
        self.evict_old(now);
        for device in std::mem::take(&mut self.touched) {
            self.dispatch(&device, permits, now);
        }
        // Rejections and expiries touch devices again: nothing is left to send there.
        self.touched.clear();
        for number in std::mem::take(&mut self.dirty) {
            if let Some(command) = self.commands.get(&number) {
                self.actions.push(Action::Persist(command.record.clone()));
                self.unseen.insert(number);
            }
        }
        self.show();
        self.answer();
        self.publish();
    }

    /// What [`Self::pump`] decided, in the order in which it is to be done.
    pub fn actions(&mut self) -> std::vec::Drain<'_, Action> {
        self.actions.drain(..)
    }

    /// When to pump again at the latest, by the monotonic clock.
    #[must_use]
    pub fn next_wake(&self, now: Now) -> Option<f64> {
        let expiry = self.deadlines.first().map(|(deadline, _)| f64::from_bits(*deadline));
        let age = self.next_to_age(now);
        match (expiry, age) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        }
    }

    fn expire(&mut self, now: Now) {
        while let Some(&(deadline, number)) = self.deadlines.first() {
            if deadline > ordered(now.mono) {
                return;
            }
            self.deadlines.remove(&(deadline, number));
            let Some(command) = self.commands.get(&number) else { continue };
            let reason = why_expired(&command.record, command.sending);
            self.enter(number, State::Expired, now, |record, _| record.error = Some(reason));
        }
    }

    /// Why the device may not be sent the command `name` now.
    pub(super) fn rejection(
        &self,
        device: &DeviceId,
        name: &str,
        permits: Permits<'_>,
    ) -> Option<String> {
        let Some(permissions) = permits(device) else {
            return Some(format!("no device {device} is registered"));
        };
        if !permissions.allows_command(name) {
            let allowed = listed(permissions.commands.iter().map(Pattern::as_str));
            return Some(format!(
                "{device} may not be sent {name:?}: its registry entry permits {allowed}"
            ));
        }
        let announced = &self.devices.get(device)?.announced;
        (!announced.is_empty() && !announced.iter().any(|known| known == name)).then(|| {
            let known = listed(announced.iter().map(String::as_str));
            format!("{device} does not know {name:?}: it announced {known}")
        })
    }

    /// Sends what is due to the device, oldest first, as far as it has room.
    fn dispatch(&mut self, device: &DeviceId, permits: Permits<'_>, now: Now) {
        let Some(state) = self.devices.get(device) else { return };
        let Some(session) = state.session else { return };
        let waiting: Vec<u64> = state.unfinished.iter().copied().collect();
        let sending = |number: &u64| self.commands.get(number).map(|command| command.sending);
        let mut in_flight = waiting
            .iter()
            .filter_map(sending)
            .filter(|sending| *sending == Sending::On(session))
            .count();
        // Those behind one that waits for the disk wait too, so that the order holds.
        let mut held = false;
        for number in waiting {
            let Some(command) = self.commands.get(&number) else { continue };
            if matches!(command.sending, Sending::On(_) | Sending::Over) {
                continue;
            }
            if in_flight >= self.settings.max_in_flight || command.durable == 0 {
                return;
            }
            let record = command.record.clone();
            if let Some(reason) = self.rejection(device, &record.name, permits) {
                self.enter(number, State::Rejected, now, |record, _| record.error = Some(reason));
                continue;
            }
            in_flight += 1;
            match command.sending {
                Sending::Due if record.redeliver && !held => {
                    self.send(number, session, now);
                }
                Sending::Due if record.redeliver => return,
                Sending::Due => {
                    self.enter(number, State::Delivered, now, |_, _| {});
                    let version = record.version + 1;
                    self.set_sending(number, Sending::Authorised(version));
                    held = true;
                }
                Sending::Authorised(version) if command.durable >= version && !held => {
                    self.send(number, session, now);
                }
                Sending::Authorised(_) | Sending::On(_) | Sending::Over => held = true,
            }
        }
    }

    fn set_sending(&mut self, number: u64, sending: Sending) {
        if let Some(command) = self.commands.get_mut(&number) {
            command.sending = sending;
        }
    }

    fn send(&mut self, number: u64, session: SessionId, now: Now) {
        self.set_sending(number, Sending::On(session));
        let Some(command) = self.commands.get_mut(&number) else { return };
        let left = (command.deadline - now.mono).ceil();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let left = left as u64;
        // Sums of floats may come out a little over.
        let ttl = left.clamp(1, command.record.ttl.max(1));
        let again = command.record.sent > 0;
        if command.record.state() == State::Queued {
            self.enter(number, State::Delivered, now, |record, _| record.sent += 1);
        } else {
            let record = Arc::make_mut(&mut command.record);
            record.sent += 1;
            record.version += 1;
            self.dirty.insert(number);
        }
        self.counts.redelivered += u64::from(again);
        if let Some(command) = self.commands.get(&number) {
            let record = command.record.clone();
            self.actions.push(Action::Send { session, record, ttl });
        }
    }

    fn show(&mut self) {
        for number in std::mem::take(&mut self.unseen) {
            let Some(command) = self.commands.get_mut(&number) else { continue };
            let news = command.shown.version < command.record.version;
            if news && command.durable >= command.ended {
                command.shown = command.record.clone();
                self.actions.push(Action::Changed(command.record.clone()));
            }
        }
    }

    fn answer(&mut self) {
        for number in std::mem::take(&mut self.answerable) {
            let Some(command) = self.commands.get_mut(&number) else { continue };
            if command.durable == 0 {
                continue;
            }
            for (ticket, repeated) in std::mem::take(&mut command.waiting) {
                let reply = Reply::Kept { record: command.shown.clone(), repeated };
                self.actions.push(Action::Answer { ticket, reply });
            }
        }
    }

    fn publish(&mut self) {
        if !self.uplink {
            return;
        }
        for (&finish, number) in &self.unpublished {
            if self.publishing.len() >= PUBLISHING_MAX {
                return;
            }
            let Some(command) = self.commands.get(number) else { continue };
            if command.durable < command.ended {
                return;
            }
            if self.publishing.insert(finish) {
                let record = command.record.clone();
                self.actions.push(Action::PublishResult { finish, record });
            }
        }
    }
}

fn why_expired(record: &Record, sending: Sending) -> String {
    let ttl = record.ttl;
    match (record.state(), record.redeliver) {
        (State::Queued, _) => format!(
            "not sent within its ttl of {ttl} s: the device was away, or had too many commands \
             without RESULT before it"
        ),
        (_, false) if matches!(sending, Sending::Authorised(_)) => format!(
            "not sent within its ttl of {ttl} s: the device went away as it was about to be sent"
        ),
        (_, false) => format!(
            "no RESULT within its ttl of {ttl} s; it was written to a connection once at most \
             (redeliver is false), so whether the device got it is not known"
        ),
        (_, true) => {
            let times = if record.sent == 1 { "once" } else { "more than once" };
            format!("sent {times}, no RESULT within its ttl of {ttl} s")
        }
    }
}

fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let shown: Vec<_> = names.take(NAMES_SHOWN).collect();
    let shown = shown.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
