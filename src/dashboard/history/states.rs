//! The history of one name's text and boolean values: when they changed.

use std::collections::VecDeque;

use compact_str::CompactString;

use super::memory::Held;
use crate::dashboard::slot::beginning;

/// Changes that are kept of one name.
pub(super) const CHANGES: usize = 256;
/// Bytes that are kept of a text.
pub(super) const TEXT_MAX: usize = 128;
/// Bytes of a text that take no memory of their own.
const INLINE: usize = 8;
/// Changes that there is room for at first.
const FIRST: usize = 4;

/// A value that is no number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Bool(bool),
    /// At most [`TEXT_MAX`] bytes, whole characters.
    Text(CompactString),
}

/// The same, borrowed from a reading.
#[derive(Debug, Clone, Copy)]
pub(super) enum StateRef<'a> {
    Bool(bool),
    Text(&'a str),
}

/// From a time on the value was this.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    /// Unix time in seconds.
    pub(super) time: f64,
    pub(super) state: State,
}

/// The changes of one name, oldest first.
#[derive(Debug)]
pub(super) struct States {
    changes: VecDeque<Change>,
    /// When the newest value was last confirmed.
    confirmed: f64,
}

impl PartialEq<StateRef<'_>> for State {
    fn eq(&self, other: &StateRef<'_>) -> bool {
        match (self, other) {
            (Self::Bool(mine), StateRef::Bool(theirs)) => mine == theirs,
            (Self::Text(mine), StateRef::Text(theirs)) => mine == theirs,
            _ => false,
        }
    }
}

impl StateRef<'_> {
    fn cut(self) -> Self {
        match self {
            StateRef::Text(text) => StateRef::Text(beginning(text, TEXT_MAX)),
            state @ StateRef::Bool(_) => state,
        }
    }

    fn to_state(self, spare: Option<State>) -> State {
        match (self, spare) {
            (StateRef::Bool(truth), _) => State::Bool(truth),
            (StateRef::Text(text), Some(State::Text(mut old))) => {
                old.clear();
                old.push_str(text);
                State::Text(old)
            }
            (StateRef::Text(text), _) => State::Text(text.into()),
        }
    }
}

impl State {
    fn borrow(&self) -> StateRef<'_> {
        match self {
            Self::Bool(truth) => StateRef::Bool(*truth),
            Self::Text(text) => StateRef::Text(text),
        }
    }

    /// Bytes that it has outside of itself.
    fn heap(&self) -> usize {
        match self {
            Self::Text(text) if text.is_heap_allocated() => text.capacity(),
            _ => 0,
        }
    }
}

impl States {
    pub(super) fn new() -> Self {
        Self { changes: VecDeque::new(), confirmed: f64::NEG_INFINITY }
    }

    /// Takes a reading of `time`. In the steady state, with the same value as before, this allocates
    /// nothing.
    pub(super) fn record(&mut self, time: f64, state: StateRef<'_>, held: &mut Held) {
        let state = state.cut();
        if time >= self.confirmed {
            self.confirmed = time;
            if self.changes.back().is_none_or(|newest| newest.state != state) {
                self.insert(self.changes.len(), time, state, held);
            }
            return;
        }
        let place = self.changes.partition_point(|change| change.time <= time);
        let before = place.checked_sub(1).and_then(|index| self.changes.get(index));
        if before.is_some_and(|before| before.state == state) {
            return;
        }
        if let Some(next) = self.changes.get_mut(place) {
            if next.state == state {
                next.time = time;
                return;
            }
            return self.insert(place, time, state, held);
        }
        // The value of now was confirmed after this: it came back.
        let now = self.changes.back().map(|newest| newest.state.clone());
        self.insert(place, time, state, held);
        if let Some(now) = now {
            self.insert(self.changes.len(), self.confirmed, now.borrow(), held);
        }
    }

    /// When a value was last taken.
    pub(super) fn newest(&self) -> Option<f64> {
        self.confirmed.is_finite().then_some(self.confirmed)
    }

    /// Gives up everything after `last`.
    pub(super) fn forget_after(&mut self, last: f64, held: &mut Held) {
        while self.changes.back().is_some_and(|change| change.time > last) {
            let gone = self.changes.pop_back();
            held.give_back(gone.map_or(0, |change| change.state.heap()));
        }
        self.confirmed = self.confirmed.min(last);
    }

    /// The changes from `from` to `to`, and the one before, whose value still held at `from`.
    pub(super) fn view(&self, from: f64, to: f64) -> Vec<Change> {
        let start = self.changes.partition_point(|change| change.time <= from).saturating_sub(1);
        let end = self.changes.partition_point(|change| change.time <= to);
        self.changes.range(start..end.max(start)).cloned().collect()
    }

    /// Puts in what was saved, oldest first; what is there already is newer.
    pub(super) fn restore(&mut self, saved: Vec<Change>, confirmed: f64, held: &mut Held) {
        let present = self.changes.front().map_or(f64::INFINITY, |change| change.time);
        let older: Vec<_> = saved.into_iter().filter(|change| change.time < present).collect();
        let room = CHANGES.saturating_sub(self.changes.len());
        for change in older.into_iter().rev().take(room) {
            if !self.make_room(held, false) || !held.take(change.state.heap()) {
                return;
            }
            self.changes.push_front(change);
        }
        self.confirmed = self.confirmed.max(confirmed);
    }

    /// Gives back half of the room where a series takes more than it may.
    pub(super) fn trim(&mut self, held: &mut Held) {
        if held.bytes() <= held.cap() || self.changes.capacity() <= FIRST {
            return;
        }
        let keep = self.changes.capacity() / 2;
        while self.changes.len() > keep {
            let gone = self.changes.pop_front();
            held.give_back(gone.map_or(0, |change| change.state.heap()));
        }
        let before = self.changes.capacity();
        self.changes.shrink_to(keep);
        let freed = before.saturating_sub(self.changes.capacity());
        held.give_back(freed * size_of::<Change>());
    }

    fn insert(&mut self, place: usize, time: f64, state: StateRef<'_>, held: &mut Held) {
        let (mut place, mut spare) = (place, None);
        if !self.make_room(held, true) {
            // One that is older than all that there is room for would be the first to go itself.
            let Some(behind) = place.checked_sub(1) else { return };
            place = behind;
            spare = self.changes.pop_front().map(|first| first.state);
        }
        let freed = spare.as_ref().map_or(0, State::heap);
        let mut state = state.to_state(spare);
        if !held.take(state.heap().saturating_sub(freed)) {
            state = match state {
                State::Text(text) => State::Text(beginning(&text, INLINE).into()),
                truth @ State::Bool(_) => truth,
            };
        }
        held.give_back(freed.saturating_sub(state.heap()));
        self.changes.insert(place, Change { time, state });
    }

    /// Whether there is room for one more.
    fn make_room(&mut self, held: &mut Held, capped: bool) -> bool {
        let capacity = self.changes.capacity();
        if self.changes.len() < capacity {
            return true;
        }
        let wanted = (capacity * 2).clamp(FIRST, CHANGES);
        let more = wanted.saturating_sub(capacity) * size_of::<Change>();
        let fits = more > 0 && if capped { held.grow(more) } else { held.take(more) };
        if fits {
            self.changes.reserve_exact(wanted - self.changes.len());
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::memory::Memory;
    use super::*;

    fn held() -> Held {
        Arc::new(Memory::new(1 << 20)).begin(0).unwrap()
    }

    fn times(states: &States) -> Vec<(f64, String)> {
        let text = |state: &State| match state {
            State::Bool(truth) => truth.to_string(),
            State::Text(text) => text.to_string(),
        };
        let all = states.view(f64::NEG_INFINITY, f64::INFINITY);
        all.iter().map(|change| (change.time, text(&change.state))).collect()
    }

    fn expected(list: &[(f64, &str)]) -> Vec<(f64, String)> {
        list.iter().map(|(time, text)| (*time, (*text).to_owned())).collect()
    }

    #[test]
    fn only_changes_are_kept() {
        let (mut states, mut held) = (States::new(), held());
        for (time, value) in [(1.0, true), (2.0, true), (3.0, false), (4.0, false), (5.0, true)] {
            states.record(time, StateRef::Bool(value), &mut held);
        }
        assert_eq!(times(&states), expected(&[(1.0, "true"), (3.0, "false"), (5.0, "true")]));
        let seen = states.view(3.5, 9.0);
        assert_eq!(seen.len(), 2, "with the one that held at the beginning: {seen:?}");
        assert!((seen[0].time - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_late_value_stands_where_it_belongs() {
        let (mut states, mut held) = (States::new(), held());
        for (time, value) in [(10.0, "a"), (20.0, "a"), (30.0, "b"), (40.0, "b")] {
            states.record(time, StateRef::Text(value), &mut held);
        }
        states.record(15.0, StateRef::Text("c"), &mut held);
        assert_eq!(times(&states), expected(&[(10.0, "a"), (15.0, "c"), (30.0, "b")]));
        states.record(25.0, StateRef::Text("b"), &mut held);
        assert_eq!(times(&states), expected(&[(10.0, "a"), (15.0, "c"), (25.0, "b")]));
        states.record(35.0, StateRef::Text("d"), &mut held);
        assert_eq!(
            times(&states),
            expected(&[(10.0, "a"), (15.0, "c"), (25.0, "b"), (35.0, "d"), (40.0, "b")]),
            "the value of now came back"
        );
    }

    #[test]
    fn there_are_only_so_many_and_texts_are_cut() {
        let (mut states, mut held) = (States::new(), held());
        for time in 0..1000 {
            let text = format!("{time}{}", "0".repeat(200));
            states.record(f64::from(time), StateRef::Text(&text), &mut held);
        }
        let all = states.view(0.0, 2000.0);
        assert_eq!(all.len(), CHANGES);
        let first = format!("{}{}", 1000 - CHANGES, "0".repeat(TEXT_MAX - 3));
        assert_eq!(all[0].state, State::Text(first.into()));
        states.record(-5.0, StateRef::Bool(true), &mut held);
        assert_eq!(states.view(-9.0, 2000.0).len(), CHANGES, "older than all there is room for");
        let heap: usize = states.changes.iter().map(|change| change.state.heap()).sum();
        assert_eq!(held.bytes(), CHANGES * size_of::<Change>() + heap);
        states.forget_after(f64::NEG_INFINITY, &mut held);
        assert_eq!(held.bytes(), CHANGES * size_of::<Change>());
    }
}
