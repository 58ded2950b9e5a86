//! What `/api/v1/devices/{device}/history` answers.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Shared};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use compact_str::CompactString;
use futures_util::stream;
use serde::{Deserialize, Serialize};

use super::series::{Kind, second};
use super::states::{Change, State};
use super::tiers::{Bucket, STEPS, Tiers};
use crate::dashboard::api;
use crate::dashboard::http::{Refusal, body, json};
use crate::dashboard::hub::Hub;
use crate::dashboard::render;
use crate::dashboard::slot::Slot;
use crate::ports::lock;

/// Longest time that can be asked for, in seconds.
const SECONDS_MAX: u32 = 86_400;
const SECONDS: u32 = 600;
/// Most points that can be asked for.
const POINTS_MAX: u32 = 2000;
const POINTS: u32 = 600;

#[derive(Debug, Deserialize)]
pub(in crate::dashboard) struct Wanted {
    name: Option<String>,
    seconds: Option<u32>,
    points: Option<u32>,
}

/// The part of the history that is asked for.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// Unix time in seconds.
    to: f64,
    seconds: u32,
    points: u32,
}

/// The answer for one name.
#[derive(Debug, Serialize)]
struct Document {
    name: CompactString,
    unit: Option<CompactString>,
    from: f64,
    to: f64,
    step_s: Option<u32>,
    points: Vec<(u64, f64, f64, f64)>,
    states: Vec<(f64, Json)>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Json {
    Bool(bool),
    Text(CompactString),
}

/// Copied from under the slot's lock.
enum Copy {
    Nothing,
    Numbers { tier: usize, factor: u32, buckets: Vec<Bucket> },
    States(Vec<Change>),
}

/// The history of one name of a device, or of all.
pub(in crate::dashboard) async fn history(
    Shared(hub): Shared<Arc<Hub>>,
    device: Result<Path<String>, PathRejection>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response<Body>, Refusal> {
    let bad = |error: String| Refusal::new(StatusCode::BAD_REQUEST, error);
    let Query(wanted) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let slot = api::slot(&hub, device)?;
    let window = Window {
        to: hub.context().clock.unix(),
        seconds: wanted.seconds.unwrap_or(SECONDS),
        points: wanted.points.unwrap_or(POINTS),
    };
    if !(1..=SECONDS_MAX).contains(&window.seconds) {
        return Err(bad(format!("seconds is 1 to {SECONDS_MAX}")));
    }
    if !(1..=POINTS_MAX).contains(&window.points) {
        return Err(bad(format!("points is 1 to {POINTS_MAX}")));
    }
    if let Some(name) = wanted.name {
        return Ok(json(&document(&slot, &name, &window)));
    }
    let names: Vec<_> =
        lock(&slot.state).readings.iter().map(|latest| latest.name.clone()).collect();
    // A piece for each name, so that the whole need not be in memory.
    let pieces = stream::unfold((slot, names.into_iter(), Some("{\"series\":[")), {
        move |(slot, mut names, before)| async move {
            let before = before?;
            let mut piece = before.as_bytes().to_vec();
            let after = if let Some(name) = names.next() {
                render::append(&mut piece, &document(&slot, &name, &window));
                Some(if names.len() > 0 { "," } else { "" })
            } else {
                piece.extend_from_slice(b"]}");
                None
            };
            Some((Ok::<_, Infallible>(Bytes::from(piece)), (slot, names, after)))
        }
    });
    Ok(body("application/json", Body::from_stream(pieces)))
}

/// The slot is locked for as long as it takes to copy one series: some microseconds.
fn document(slot: &Slot, name: &str, window: &Window) -> Document {
    let (unit, copy) = {
        let mut state = lock(&slot.state);
        match state.latest_mut(name) {
            Some(latest) => {
                let copy = match latest.history.kept().map(|kept| &kept.kind) {
                    Some(Kind::Numbers(tiers)) => window.copy(tiers),
                    Some(Kind::States(states)) => {
                        Copy::States(states.view(window.from(), window.to))
                    }
                    None => Copy::Nothing,
                };
                (latest.unit.clone(), copy)
            }
            None => (None, Copy::Nothing),
        }
    };
    let mut document = Document {
        name: name.into(),
        unit,
        from: window.from(),
        to: window.to,
        step_s: None,
        points: Vec::new(),
        states: Vec::new(),
    };
    match copy {
        Copy::Nothing => {}
        Copy::Numbers { tier, factor, buckets } => {
            let step = STEPS.get(tier).copied().unwrap_or(1).saturating_mul(factor);
            document.step_s = Some(step);
            document.points = joined(&buckets, factor).map(|bucket| point(&bucket, step)).collect();
        }
        Copy::States(changes) => {
            document.states = changes.into_iter().map(Change::shown).collect();
        }
    }
    document
}

impl Window {
    fn from(&self) -> f64 {
        self.to - f64::from(self.seconds)
    }

    /// The buckets of the narrowest tier that has all of the time, and how many of them must be
    /// joined to one.
    fn copy(&self, tiers: &Tiers) -> Copy {
        let mut chosen = (0, 1, 0, 0);
        for (tier, step) in STEPS.into_iter().enumerate() {
            let factor = self.seconds.div_ceil(step).div_ceil(self.points).max(1);
            let wide = step.saturating_mul(factor);
            let last = second(self.to) / wide;
            let first = (last + 1).saturating_sub(self.seconds.div_ceil(wide));
            chosen = (tier, factor, first * factor, (last * factor).saturating_add(factor - 1));
            if tiers.begins(tier) <= first * factor {
                break;
            }
        }
        let (tier, factor, first, last) = chosen;
        Copy::Numbers { tier, factor, buckets: tiers.view(tier, first, last) }
    }
}

/// Each `factor` buckets as one.
fn joined(buckets: &[Bucket], factor: u32) -> impl Iterator<Item = Bucket> {
    let groups = buckets.chunk_by(move |a, b| a.at / factor == b.at / factor);
    groups.filter_map(move |group| {
        let (first, rest) = group.split_first()?;
        let mut whole = first.widened(factor);
        for bucket in rest {
            whole.merge(bucket);
        }
        Some(whole)
    })
}

fn point(bucket: &Bucket, step: u32) -> (u64, f64, f64, f64) {
    let spread = bucket.max - bucket.min;
    let time = u64::from(bucket.at) * u64::from(step);
    let tidy = |value| tidy(value, spread);
    (time, tidy(bucket.min), tidy(bucket.mean()), tidy(bucket.max))
}

/// `value` without the digits that say nothing: it was kept to a 2²⁴th of `spread`.
fn tidy(value: f64, spread: f64) -> f64 {
    let digits = 6.0 - spread.log10().floor();
    if !(-15.0..=15.0).contains(&digits) {
        return value;
    }
    // An exact power of ten in either direction: dividing by one gives the nearest number.
    let power = 10_f64.powf(digits.abs());
    let tidy = if digits >= 0.0 {
        (value * power).round() / power
    } else {
        (value / power).round() * power
    };
    if tidy.is_finite() { tidy } else { value }
}

impl Change {
    fn shown(self) -> (f64, Json) {
        let value = match self.state {
            State::Bool(truth) => Json::Bool(truth),
            State::Text(text) => Json::Text(text),
        };
        (self.time, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_with_the_digits_they_came_with() {
        let bucket = |min: f64, max: f64| {
            let mut bucket = Bucket::of(1, min);
            bucket.merge(&Bucket::of(1, max));
            bucket
        };
        assert_eq!(
            point(&Bucket::of(7, 1_234_567.89), 10),
            (70, 1_234_567.89, 1_234_567.89, 1_234_567.89)
        );
        let (_, min, mean, max) = point(&bucket(21.4, 21.499_999_999_3), 1);
        assert_eq!((min, mean, max), (21.4, 21.45, 21.5));
        let (_, min, _, max) = point(&bucket(-1e300, 1e300), 1);
        assert_eq!((min, max), (-1e300, 1e300));
        assert!((tidy(0.1 + 0.2, 0.1) - 0.3).abs() < f64::EPSILON);
    }
}
