//! What is kept of commands that have ended, and what goes first.

use super::Action;
use super::Now;
use super::desk::Desk;

/// Between two looks at the age of what is kept.
const AGE_LOOK: f64 = 60.0;

impl Desk {
    /// Makes room for one command: the one that ended first goes, of those whose result the broker
    /// has; else of all. Those whose end is not durable stay. Whether there is room.
    pub(super) fn evict_one(&mut self) -> bool {
        let durable = |(_, number): &(&u64, &u64)| {
            self.commands.get(number).is_some_and(|command| command.durable > 0)
        };
        let settled = self.settled.iter().find(durable);
        let oldest = settled.or_else(|| self.unpublished.iter().find(durable));
        let Some((_, &number)) = oldest else { return false };
        self.evict(number);
        true
    }

    /// What ended over `max_age` ago goes, unless the disk is so slow that it is not even there.
    pub(super) fn evict_old(&mut self, now: Now) {
        while let Some((number, _)) =
            self.first_ended().filter(|(_, ended)| now.unix - ended > self.settings.max_age)
        {
            if self.commands.get(&number).is_none_or(|command| command.durable == 0) {
                return;
            }
            self.evict(number);
        }
    }

    /// When something may be old enough to go, by the monotonic clock; the wall clock may be set
    /// meanwhile, so it is looked at again each minute at least.
    pub(super) fn next_to_age(&self, now: Now) -> Option<f64> {
        let (_, ended) = self.first_ended()?;
        Some(now.mono + (ended + self.settings.max_age - now.unix + 0.001).clamp(0.001, AGE_LOOK))
    }

    fn first_ended(&self) -> Option<(u64, f64)> {
        let settled = self.settled.first_key_value();
        let unpublished = self.unpublished.first_key_value();
        let (_, number) = match (settled, unpublished) {
            (Some(a), Some(b)) => a.min(b),
            (one, other) => one.or(other)?,
        };
        Some((*number, self.commands.get(number)?.record.since()))
    }

    fn evict(&mut self, number: u64) {
        let Some(command) = self.remove(number) else { return };
        let lost = !command.record.published;
        self.counts.results_lost += u64::from(lost);
        // Nobody who asked is left without an answer.
        for (ticket, repeated) in command.waiting {
            let reply = super::Reply::Kept { record: command.record.clone(), repeated };
            self.actions.push(Action::Answer { ticket, reply });
        }
        self.actions.push(Action::Forget { number, lost });
    }
}
