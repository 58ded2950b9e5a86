//! What is lost: found damaged, or given up at a limit. Its record is on the disk before anything of
//! it is deleted.

use super::{COUNTING, Catalog, FileError, at};
use crate::core::batch::{Loss, LossReason};
use crate::core::ids::Position;
use crate::spool::generation::Generation;
use crate::spool::tally::Tallies;

impl Catalog {
    /// Gives up the oldest generation: the last position in it and what was lost.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(in crate::spool) fn evict(
        &mut self,
        reason: LossReason,
        now: f64,
    ) -> Result<Option<(Position, Vec<Loss>)>, FileError> {
        if self.generations.len() == 1 {
            self.seal();
        }
        let head = self.head;
        let Some(front) = self.generations.front_mut() else { return Ok(None) };
        let through = front.end - 1;
        let whole = head <= front.first && front.missing.is_empty();
        let tallies = match front.tallies() {
            Some(tallies) if whole => tallies,
            summary => count(front, head).or(summary).unwrap_or_default(),
        };
        let base = front.base;
        let received = |(oldest, newest): (f64, f64)| {
            let shift = self.ages.best_correction(newest, &base).unwrap_or(0.0);
            (oldest + shift, newest + shift)
        };
        let evicted: Vec<_> = tallies
            .losses(reason, now)
            .into_iter()
            .map(|loss| Loss { received: loss.received.map(received), ..loss })
            .collect();
        let found = self.find_losses(head, through + 1, now);
        self.untold.extend(found);
        self.renew()?;
        let path = self.dir.join("losses");
        self.losses.give_up(through + 1, evicted.iter().cloned()).map_err(at(&path))?;
        let mut losses = self.take_untold();
        losses.extend(evicted);
        self.release(through);
        if let Err(error) = self.delete_front(now) {
            // It is given up all the same; deleting it is tried again before anything else goes.
            tracing::warn!(%error, "what was given up cannot be deleted from the spool yet");
        }
        Ok(Some((through, losses)))
    }

    /// The losses that were found since the last call and that nobody was told of.
    pub(in crate::spool) fn take_untold(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.untold)
    }

    /// The losses between `from` and `to` that nobody has been told of. Their records last, or are
    /// written as soon as the disk lets them.
    pub(in crate::spool) fn find_losses(
        &mut self,
        from: Position,
        to: Position,
        now: f64,
    ) -> Vec<Loss> {
        let head = self.head;
        let mut found = Vec::new();
        let mut told = Vec::new();
        for (index, generation) in self.generations.iter_mut().enumerate() {
            for missing in &mut generation.missing {
                let concerns = missing.first < to && missing.end > from.max(head);
                if concerns && !missing.reported {
                    missing.reported = true;
                    found.push(missing.loss(now));
                    told.push(index);
                }
            }
        }
        if !found.is_empty() {
            self.middle.set(None);
            self.losses.add(found.iter().cloned());
        }
        match self.losses.is_dirty().then(|| self.losses.save_through()) {
            Some(Err(error)) => {
                tracing::warn!(%error, "a loss cannot be recorded on the disk yet");
            }
            // Not before: whoever reads the summary takes it that the record lasts.
            _ => told
                .iter()
                .filter_map(|index| self.generations.get(*index))
                .for_each(Generation::write_summary),
        }
        self.untold.extend(found);
        self.take_untold()
    }
}

/// Who has what in `generation` from `head` on, counted batch by batch.
fn count(generation: &mut Generation, head: Position) -> Option<Tallies> {
    let mut tallies = Tallies::default();
    let mut batches = Vec::new();
    let mut next = head.max(generation.first);
    while next < generation.end {
        (next, _) = generation.load(next, head, COUNTING, &mut batches).ok()?;
        for (position, batch) in batches.drain(..) {
            tallies.add(position, &batch);
        }
    }
    Some(tallies)
}
