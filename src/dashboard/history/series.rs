//! The history of one name: what is done with the times that readings carry, and in which form they
//! are kept.

use std::sync::Arc;

use super::memory::{Held, Memory, Reason};
use super::states::{State, StateRef, States};
use super::tiers::{KEPT, Tiers};
use crate::core::batch::{Reading, Value};
use crate::core::clock::is_set;

/// A reading further ahead of the gateway's clock than this, in seconds, was stamped by a clock that
/// is wrong: it counts as of when it was received.
const AHEAD_MAX: f64 = 60.0;
/// What there is lies ahead of the gateway's clock: for so many seconds of that clock it is believed
/// to be behind, as clocks are after a boot. Then it is believed to be right.
const DOUBT: u32 = 600;

/// The history of one name. Small where there is none.
#[derive(Debug, Default)]
pub(in crate::dashboard) struct Series(Option<Box<Kept>>);

#[derive(Debug)]
pub(super) struct Kept {
    held: Held,
    pub(super) kind: Kind,
    /// The clock's second when what there is was first found to lie ahead of it; 0 while it does
    /// not.
    doubted: u32,
    /// The oldest second of what has come since the last save; [`u32::MAX`] where nothing has.
    touched: u32,
}

/// A name has numbers or states; what it had of the other kind goes when that changes.
#[allow(clippy::large_enum_variant)] // it lies in one box with the rest, and most are numbers
#[derive(Debug)]
pub(super) enum Kind {
    Numbers(Tiers),
    States(States),
}

impl Series {
    /// Takes a reading that was received at the Unix time `received`, in seconds. Costs some tens
    /// of nanoseconds and allocates nothing but what the budget gives room for.
    pub(in crate::dashboard) fn record(
        &mut self,
        reading: &Reading,
        received: f64,
        memory: &Arc<Memory>,
    ) {
        let number = match &reading.value {
            Some(Value::Number(number)) => Ok(*number),
            Some(Value::Bool(truth)) => Err(StateRef::Bool(*truth)),
            Some(Value::Text(text)) => Err(StateRef::Text(text)),
            Some(Value::Data(_)) | None => return,
        };
        let Some(time) = placed(reading.time, received) else {
            return memory.refuse(Reason::Late);
        };
        let fits = match &self.0 {
            Some(kept) => number.is_ok() == matches!(kept.kind, Kind::Numbers(_)),
            None => false,
        };
        if !fits {
            self.0 = None;
            let Some(held) = memory.begin(size_of::<Kept>()) else {
                return memory.refuse(Reason::Memory);
            };
            self.0 = Some(Box::new(Kept::new(held, number.is_ok())));
        }
        let Some(kept) = &mut self.0 else { return };
        if !kept.is_believed(received) {
            return kept.held.refuse(Reason::Clock);
        }
        let at = second(time);
        kept.touched = kept.touched.min(at);
        match (&mut kept.kind, number) {
            (Kind::Numbers(tiers), Ok(value)) => tiers.record(at, value, &mut kept.held),
            (Kind::States(states), Err(state)) => states.record(time, state, &mut kept.held),
            _ => {}
        }
    }

    pub(super) fn kept(&self) -> Option<&Kept> {
        self.0.as_deref()
    }

    pub(super) fn kept_mut(&mut self) -> Option<&mut Kept> {
        self.0.as_deref_mut()
    }

    /// An empty history to put into what was saved, or the one there is if it is of the same kind.
    pub(super) fn begin(&mut self, numbers: bool, memory: &Arc<Memory>) -> Option<&mut Kept> {
        if self.0.is_none() {
            let held = memory.begin(size_of::<Kept>())?;
            self.0 = Some(Box::new(Kept::new(held, numbers)));
        }
        let kept = self.0.as_deref_mut()?;
        (numbers == matches!(kept.kind, Kind::Numbers(_))).then_some(kept)
    }

    /// Bytes that it takes of the budget, and when its newest reading was: Unix time in seconds.
    pub(super) fn size(&self) -> Option<(usize, f64)> {
        let kept = self.0.as_deref()?;
        Some((kept.held.bytes(), kept.newest().unwrap_or(0.0)))
    }

    /// Gives back what is over the limit of one series.
    pub(super) fn trim(&mut self) {
        let Some(kept) = &mut self.0 else { return };
        match &mut kept.kind {
            Kind::Numbers(tiers) => tiers.trim(&mut kept.held),
            Kind::States(states) => states.trim(&mut kept.held),
        }
    }

    /// Gives up everything.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

impl Kept {
    fn new(held: Held, numbers: bool) -> Self {
        let kind = if numbers { Kind::Numbers(Tiers::new()) } else { Kind::States(States::new()) };
        Self { held, kind, doubted: 0, touched: u32::MAX }
    }

    /// What it holds, and the room it has.
    pub(super) fn parts(&mut self) -> (&mut Kind, &mut Held) {
        (&mut self.kind, &mut self.held)
    }

    /// The oldest second of what has come since this was asked last, [`u32::MAX`] where nothing has.
    pub(super) fn take_touched(&mut self) -> u32 {
        std::mem::replace(&mut self.touched, u32::MAX)
    }

    fn newest(&self) -> Option<f64> {
        match &self.kind {
            Kind::Numbers(tiers) => tiers.newest().map(f64::from),
            Kind::States(states) => states.newest(),
        }
    }

    /// Whether the gateway's clock, which shows `received`, can be believed: it does not show less
    /// than it did before, or has done so for a while.
    fn is_believed(&mut self, received: f64) -> bool {
        let Some(newest) = self.newest() else { return true };
        if newest <= received + AHEAD_MAX {
            self.doubted = 0;
            return true;
        }
        if is_set(newest) && !is_set(received) {
            return false;
        }
        let now = second(received);
        if self.doubted == 0 || now < self.doubted {
            self.doubted = now;
        }
        if now - self.doubted < DOUBT {
            return false;
        }
        self.doubted = 0;
        let last = received + AHEAD_MAX;
        match &mut self.kind {
            Kind::Numbers(tiers) => tiers.forget_after(second(last)),
            Kind::States(states) => states.forget_after(last, &mut self.held),
        }
        true
    }
}

/// The time under which a reading of `time` that was received at `received` is kept; none where it
/// is too old.
fn placed(time: f64, received: f64) -> Option<f64> {
    if time > received + AHEAD_MAX || (is_set(received) && !is_set(time)) {
        // Some clock is wrong, and the gateway's is the one that charts are drawn by.
        return Some(received);
    }
    (time >= received - KEPT).then_some(time)
}

/// The second that `time` lies in; clocks before 1970 and after 2106 are not told apart.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
pub(super) fn second(time: f64) -> u32 {
    time.floor() as u32
}

impl From<&State> for Value {
    fn from(state: &State) -> Self {
        match state {
            State::Bool(truth) => Self::Bool(*truth),
            State::Text(text) => Self::Text(text.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1_800_000_000.5;

    fn reading(value: Value, time: f64) -> Reading {
        Reading {
            name: "x".into(),
            unit: None,
            value: Some(value),
            sum: None,
            time,
            update_time: None,
            relative: false,
        }
    }

    fn number(series: &mut Series, time: f64, received: f64, memory: &Arc<Memory>) {
        series.record(&reading(Value::Number(1.0), time), received, memory);
    }

    fn seconds(series: &Series) -> Vec<u32> {
        let Kind::Numbers(tiers) = &series.kept().unwrap().kind else { panic!("numbers") };
        tiers.view(0, 0, u32::MAX).iter().map(|bucket| bucket.at).collect()
    }

    #[test]
    fn readings_of_wrong_clocks_count_as_of_their_receipt() {
        let (memory, mut series) = (Arc::new(Memory::new(1 << 20)), Series::default());
        for time in [0.0, -1e300, 1e300, NOW + 3600.0, NOW - 1.0] {
            number(&mut series, time, NOW, &memory);
        }
        assert_eq!(seconds(&series), [1_799_999_999, 1_800_000_000]);
        number(&mut series, NOW - KEPT - 1.0, NOW, &memory);
        assert_eq!(memory.refused(Reason::Late as usize), 1);
    }

    #[test]
    fn a_clock_that_is_behind_for_a_while_costs_no_history() {
        let (memory, mut series) = (Arc::new(Memory::new(1 << 20)), Series::default());
        number(&mut series, NOW, NOW, &memory);
        for behind in [3600.0, 1.7e9] {
            number(&mut series, NOW - behind, NOW - behind, &memory);
        }
        number(&mut series, NOW + 1.0, NOW + 1.0, &memory);
        assert_eq!(seconds(&series), [1_800_000_000, 1_800_000_001]);
        assert_eq!(memory.refused(Reason::Clock as usize), 2);
    }

    #[test]
    fn a_clock_that_stays_behind_is_believed_in_the_end() {
        let (memory, mut series) = (Arc::new(Memory::new(1 << 20)), Series::default());
        number(&mut series, NOW, NOW, &memory);
        for second in 0..1200 {
            let time = NOW - 3600.0 + f64::from(second);
            number(&mut series, time, time, &memory);
        }
        let kept = seconds(&series);
        assert_eq!((kept[0], kept.len()), (1_799_997_000, 600));
    }

    #[test]
    fn a_gateway_that_never_learns_the_time_has_a_history_too() {
        let (memory, mut series) = (Arc::new(Memory::new(1 << 20)), Series::default());
        number(&mut series, 5.0, 5.0, &memory);
        number(&mut series, 6.0, 6.0, &memory);
        assert_eq!(seconds(&series), [5, 6]);
    }

    #[test]
    fn a_name_that_becomes_text_begins_anew_and_data_has_no_history() {
        let (memory, mut series) = (Arc::new(Memory::new(1 << 20)), Series::default());
        series.record(&reading(Value::Data(Box::new([1])), NOW), NOW, &memory);
        assert!(series.kept().is_none());
        number(&mut series, NOW, NOW, &memory);
        series.record(&reading(Value::Text("on".into()), NOW), NOW, &memory);
        assert!(matches!(series.kept().unwrap().kind, Kind::States(_)));
        assert_eq!(memory.series(), 1);
        series.forget();
        assert_eq!((memory.used(), memory.series()), (0, 0));
    }

    #[test]
    fn without_room_a_new_series_is_refused_and_counted() {
        let (memory, mut series) = (Arc::new(Memory::new(10)), Series::default());
        number(&mut series, NOW, NOW, &memory);
        assert!(series.kept().is_none());
        assert_eq!(memory.refused(Reason::Memory as usize), 1);
    }
}
