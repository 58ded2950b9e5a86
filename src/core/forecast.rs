//! How long the buffer lasts, and how long its drain takes: from a look each second at what comes
//! in and what waits.
//!
//! What comes in is counted where batches are accepted, so it is known before an outage begins.
//! The mean is taken over the shortest stretch of the past, 20 s to 10 min, in which 30 batches
//! came: a busy gateway's figures follow a change within seconds, and those of one with a single
//! device that reports each minute do not jump with every report.
//!
//! What a reading takes on the disk is learnt from how the spool grows in outages; until one has
//! been seen [`ASSUMED_BYTES`] is taken, which is on the large side for batches of several readings.

use std::collections::VecDeque;

/// The mean is never taken over less of the past than this, in seconds, where there is more.
const WINDOW_MIN_S: f64 = 20.0;
/// Nor over more.
const WINDOW_MAX_S: f64 = 600.0;
/// So many batches are enough for a mean.
const WINDOW_BATCHES: u64 = 30;
/// Nothing is told before it has been watched for this long, in seconds.
const WATCH_S: f64 = 3.0;
/// Readings per second below which nothing moves.
const STILL: f64 = 0.000_5;
/// Bytes on the disk for a reading of which nothing is known.
pub const ASSUMED_BYTES: f64 = 100.0;
/// How many readings the assumption weighs as much as.
const ASSUMED_WEIGHT: f64 = 200.0;
/// What has been learnt of so many readings is enough; older knowledge fades from then on.
const LEARNT_MAX: f64 = 1e6;
/// A spool that is found with this many bytes tells what a reading takes by itself.
const TELLING_BYTES: u64 = 1 << 20;

/// What is seen at one look. Counters only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// Seconds of a clock that never steps.
    pub time: f64,
    /// Whether the uplink is connected.
    pub connected: bool,
    /// Counter: batches received.
    pub batches_in: u64,
    /// Counter: readings accepted.
    pub readings_in: u64,
    /// Counter: readings that `spool.max_bytes` took.
    pub evicted_size: u64,
    /// Counter: readings that `spool.max_age` took.
    pub evicted_age: u64,
    /// Readings in the spool.
    pub readings: u64,
    /// What the spool takes on the disk, in bytes.
    pub bytes: u64,
}

impl Sample {
    fn evicted(&self) -> u64 {
        self.evicted_size + self.evicted_age
    }

    /// How many readings there would be without limits: evicting is no draining.
    fn level(&self) -> f64 {
        (self.readings + self.evicted()) as f64
    }
}

/// What holds now, and what the limits are.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Level {
    /// Readings in the spool.
    pub readings: u64,
    /// What it takes on the disk, in bytes.
    pub bytes: u64,
    /// `spool.max_bytes`; 0 where it is not known yet.
    pub max_bytes: u64,
    /// What the file system leaves to it, in bytes, where that is known.
    pub room: Option<u64>,
    /// `spool.max_age` in seconds; none where it is not known yet.
    pub max_age: Option<f64>,
    /// Age of the oldest batch in seconds.
    pub oldest_age: Option<f64>,
    /// Devices are held back because there is no room.
    pub full: bool,
}

/// In seconds from now; none where nothing can be said.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Forecast {
    /// Until the spool is full, while it fills; 0 while it is.
    pub full_in: Option<f64>,
    /// Until it is empty, while it drains.
    pub drained_in: Option<f64>,
    /// For how long the uplink may be away from now on before a limit takes something or holds the
    /// devices back.
    pub lasts: Option<f64>,
}

/// What has been seen.
#[derive(Debug, Default)]
pub struct Flow {
    samples: VecDeque<Sample>,
    /// Since when the uplink is what it is, and the spool not empty.
    steady_since: f64,
    /// What `spool.max_bytes` had taken by then.
    steady_evicted: u64,
    learnt_bytes: f64,
    learnt_readings: f64,
}

impl Flow {
    /// Takes in what is seen now; about once a second.
    pub fn sample(&mut self, now: Sample) {
        let Some(before) = self.samples.back().copied() else {
            if now.bytes >= TELLING_BYTES && now.readings > 0 {
                self.learn(now.bytes as f64, now.readings as f64);
            }
            self.steady_since = now.time;
            self.steady_evicted = now.evicted_size;
            self.samples.push_back(now);
            return;
        };
        if now.time <= before.time {
            return;
        }
        let steady = before.connected == now.connected && before.readings > 0;
        if !steady {
            self.steady_since = now.time;
            self.steady_evicted = before.evicted_size;
        }
        // What a new spool takes before anything is in it says nothing.
        let grew = now.bytes >= before.bytes && now.evicted() == before.evicted();
        if steady && !now.connected && before.bytes > 0 && grew && now.readings >= before.readings {
            self.learn((now.bytes - before.bytes) as f64, (now.readings - before.readings) as f64);
        }
        self.samples.push_back(now);
        while self.samples.get(1).is_some_and(|next| next.time <= now.time - WINDOW_MAX_S) {
            self.samples.pop_front();
        }
    }

    fn learn(&mut self, bytes: f64, readings: f64) {
        self.learnt_bytes += bytes;
        self.learnt_readings += readings;
        if self.learnt_readings > LEARNT_MAX {
            self.learnt_bytes /= 2.0;
            self.learnt_readings /= 2.0;
        }
    }

    /// What a reading takes on the disk, in bytes.
    #[must_use]
    pub fn bytes_per_reading(&self) -> f64 {
        (self.learnt_bytes + ASSUMED_WEIGHT * ASSUMED_BYTES)
            / (self.learnt_readings + ASSUMED_WEIGHT)
    }

    /// Readings accepted per second.
    #[must_use]
    pub fn inflow(&self) -> Option<f64> {
        let last = self.samples.back()?;
        let first = self.samples.iter().rev().find(|sample| {
            last.time - sample.time >= WINDOW_MIN_S
                && last.batches_in - sample.batches_in >= WINDOW_BATCHES
        });
        let first = first.or(self.samples.front())?;
        rate(first, last, |sample| sample.readings_in as f64)
    }

    /// Readings by which the spool grows per second, below zero while it drains. Counted anew when
    /// the uplink comes or goes.
    fn growth(&self) -> Option<f64> {
        let last = self.samples.back()?;
        let from = (last.time - WINDOW_MIN_S).max(self.steady_since);
        let first = self.samples.iter().find(|sample| sample.time >= from)?;
        rate(first, last, Sample::level)
    }

    /// What will be.
    #[must_use]
    pub fn forecast(&self, level: &Level) -> Forecast {
        let Some(last) = self.samples.back() else { return Forecast::default() };
        let inflow = self.inflow().filter(|rate| *rate > STILL);
        let growth = self.growth();
        let per_reading = self.bytes_per_reading();
        let room = level.max_bytes.saturating_sub(level.bytes);
        let room = room.min(level.room.unwrap_or(u64::MAX)) as f64;
        // Once the oldest had to go, the room that this gives is used at once.
        let evicting = !last.connected && last.evicted_size > self.steady_evicted;
        let full = level.full || evicting;
        // Seconds until a spool that grows by so many readings per second is full.
        let until_full = |rate: f64| {
            let seconds = if full { 0.0 } else { room / (rate * per_reading) };
            Some(seconds).filter(|seconds| seconds.is_finite() && level.max_bytes > 0)
        };
        let until_old =
            level.max_age.map(|limit| (limit - level.oldest_age.unwrap_or(0.0)).max(0.0));

        let filling = if last.connected { growth.filter(|rate| *rate > STILL) } else { inflow };
        let full_in = filling
            .filter(|_| level.readings > 0)
            .and_then(until_full)
            // Where the age limit comes first the spool is never full.
            .filter(|seconds| until_old.is_none_or(|old| *seconds <= old));
        let drained_in = growth
            .filter(|rate| *rate < -STILL && level.readings > 0)
            .map(|rate| level.readings as f64 / -rate);
        let waiting_or_coming = level.readings > 0 || inflow.is_some();
        let known = self.inflow().is_some() && waiting_or_coming;
        let limits = [inflow.and_then(until_full), until_old];
        let lasts = limits.into_iter().flatten().min_by(f64::total_cmp).filter(|_| known);
        Forecast { full_in, drained_in, lasts }
    }
}

/// How fast `of` grows; none between looks that lie too close together.
fn rate(first: &Sample, last: &Sample, of: impl Fn(&Sample) -> f64) -> Option<f64> {
    let elapsed = last.time - first.time;
    (elapsed >= WATCH_S).then(|| (of(last) - of(first)) / elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gateway in seconds: what comes in, what goes out, what a reading takes.
    #[derive(Debug, Default)]
    struct Model {
        flow: Flow,
        now: Sample,
        level: Level,
        carry: f64,
    }

    const COST: u64 = 40;

    impl Model {
        fn new(max_bytes: u64, max_age: f64) -> Self {
            let mut model = Self::default();
            model.now.connected = true;
            model.level = Level { max_bytes, max_age: Some(max_age), ..Level::default() };
            model.flow.sample(model.now);
            model
        }

        /// One second with `inflow` readings in batches of ten; `drain` go out of the spool.
        fn second(&mut self, inflow: f64, drain: u64, spooling: bool) {
            self.carry += inflow;
            let arrived = self.carry.floor();
            self.carry -= arrived;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
            let arrived = arrived as u64;
            self.now.time += 1.0;
            self.now.readings_in += arrived;
            self.now.batches_in += arrived.div_ceil(10);
            if spooling {
                self.now.readings += arrived;
            }
            self.now.readings -= drain.min(self.now.readings);
            self.now.bytes = self.now.readings * COST;
            self.flow.sample(self.now);
            self.level.readings = self.now.readings;
            self.level.bytes = self.now.bytes;
        }

        fn forecast(&self) -> Forecast {
            self.flow.forecast(&self.level)
        }
    }

    #[track_caller]
    fn near(value: Option<f64>, expected: f64, tolerance: f64) {
        let value = value.unwrap_or(f64::NAN);
        assert!(
            (value - expected).abs() <= tolerance * expected,
            "{value} is not {expected} within {tolerance}"
        );
    }

    #[test]
    fn nothing_is_told_before_it_has_been_watched() {
        let mut model = Model::new(1 << 20, 1e6);
        assert_eq!(model.forecast(), Forecast::default());
        model.second(100.0, 0, true);
        assert_eq!(model.forecast().full_in, None);
    }

    #[test]
    fn while_all_is_well_it_is_told_how_long_an_outage_may_last() {
        let mut model = Model::new(10_000_000, 1e6);
        for _ in 0..60 {
            model.second(50.0, 0, false);
        }
        let told = model.forecast();
        assert_eq!((told.full_in, told.drained_in), (None, None));
        near(told.lasts, 10_000_000.0 / (50.0 * ASSUMED_BYTES), 0.02);
    }

    #[test]
    fn an_outage_teaches_what_a_reading_takes_and_the_forecast_comes_true() {
        let mut model = Model::new(4_000_000, 1e6);
        for _ in 0..30 {
            model.second(50.0, 0, false);
        }
        model.now.connected = false;
        let mut second = 0.0;
        let full_at = 4_000_000.0 / (50.0 * COST as f64);
        while model.now.bytes < 4_000_000 {
            model.second(50.0, 0, true);
            second += 1.0;
            if second > 300.0 && second < full_at - 10.0 {
                let told = model.forecast();
                near(told.full_in, full_at - second, 0.08);
                assert_eq!(told.full_in, told.lasts);
                assert_eq!(told.drained_in, None);
            }
        }
        near(Some(second), full_at, 0.01);
    }

    #[test]
    fn what_came_before_the_outage_counts_in_its_first_second() {
        let mut model = Model::new(4_000_000, 1e6);
        for _ in 0..30 {
            model.second(50.0, 0, false);
        }
        model.now.connected = false;
        model.second(50.0, 0, true);
        assert!(model.forecast().full_in.is_some());
    }

    #[test]
    fn a_drain_that_new_readings_join_is_told_as_it_will_be() {
        let mut model = Model::new(1 << 30, 1e6);
        model.now.connected = false;
        for _ in 0..600 {
            model.second(100.0, 0, true);
        }
        model.now.connected = true;
        model.second(100.0, 0, true);
        assert_eq!(model.forecast().drained_in, None, "the growth before says nothing about it");
        // `drain_rate` lets 500 out each second; 100 join.
        let mut predictions = Vec::new();
        let mut second = 0.0;
        while model.now.readings > 0 {
            model.second(100.0, 500, true);
            second += 1.0;
            if let Some(left) = model.forecast().drained_in {
                predictions.push(second + left);
                assert_eq!(model.forecast().full_in, None);
            }
        }
        assert!(predictions.len() > 100, "{predictions:?}");
        for predicted in predictions {
            near(Some(predicted), second, 0.05);
        }
    }

    #[test]
    fn fresh_readings_that_pass_the_backlog_do_not_count_against_its_drain() {
        let mut model = Model::new(1 << 30, 1e6);
        model.now.connected = false;
        for _ in 0..100 {
            model.second(100.0, 0, true);
        }
        model.now.connected = true;
        for _ in 0..30 {
            model.second(100.0, 50, false);
        }
        near(model.forecast().drained_in, (10_000.0 - 1500.0) / 50.0, 0.05);
        assert!(model.forecast().lasts.is_some(), "the next outage is thought of");
    }

    #[test]
    fn a_drain_slower_than_what_comes_is_told_as_filling() {
        let mut model = Model::new(1 << 20, 1e6);
        model.now.connected = false;
        for _ in 0..30 {
            model.second(100.0, 0, true);
        }
        model.now.connected = true;
        for _ in 0..30 {
            model.second(100.0, 20, true);
        }
        let told = model.forecast();
        assert_eq!(told.drained_in, None);
        let room = ((1 << 20) - model.now.bytes) as f64;
        near(told.full_in, room / (80.0 * model.flow.bytes_per_reading()), 0.1);
    }

    #[test]
    fn a_spool_that_gives_up_its_oldest_is_full_now_and_not_draining() {
        let mut model = Model::new(400_000, 1e6);
        model.now.connected = false;
        for _ in 0..300 {
            model.second(100.0, 0, true);
            if model.now.bytes >= 400_000 {
                model.now.readings -= 2500;
                model.now.evicted_size += 2500;
            }
            if model.now.evicted_size > 0 {
                model.flow.sample(Sample { time: model.now.time + 0.01, ..model.now });
                let told = model.forecast();
                assert_eq!(told.drained_in, None);
                assert_eq!((told.full_in, told.lasts), (Some(0.0), Some(0.0)));
            }
        }
        assert!(model.now.evicted_size > 0);
    }

    #[test]
    fn a_spool_that_holds_devices_back_is_full_now() {
        let mut model = Model::new(400_000, 1e6);
        model.now.connected = false;
        for _ in 0..50 {
            model.second(100.0, 0, true);
        }
        model.level.full = true;
        assert_eq!(model.forecast().full_in, Some(0.0));
    }

    #[test]
    fn an_age_limit_that_comes_first_is_what_an_outage_may_last() {
        let mut model = Model::new(1 << 40, 3600.0);
        model.now.connected = false;
        for _ in 0..60 {
            model.second(10.0, 0, true);
        }
        model.level.oldest_age = Some(60.0);
        let told = model.forecast();
        assert_eq!(told.full_in, None, "it never gets that full");
        near(told.lasts, 3540.0, 0.001);
    }

    #[test]
    fn the_room_on_the_file_system_counts_where_it_is_less() {
        let mut model = Model::new(1 << 40, 1e9);
        model.now.connected = false;
        for _ in 0..60 {
            model.second(10.0, 0, true);
        }
        let without = model.forecast().lasts.unwrap();
        model.level.room = Some(1_000_000);
        let with = model.forecast().lasts.unwrap();
        near(Some(with), 1_000_000.0 / (10.0 * model.flow.bytes_per_reading()), 0.05);
        assert!(with < without);
    }

    #[test]
    fn one_report_a_minute_makes_no_figure_jump() {
        let mut model = Model::new(1 << 30, 1e9);
        let mut told = Vec::new();
        for second in 0..3600 {
            model.second(if second % 60 == 0 { 1.0 } else { 0.0 }, 0, false);
            if second > 600 {
                told.push(model.forecast().lasts.unwrap());
            }
        }
        let (least, most) =
            told.iter().fold((f64::MAX, 0.0_f64), |(a, b), t| (a.min(*t), b.max(*t)));
        assert!(most / least < 1.3, "{least} to {most}");
    }

    #[test]
    fn a_change_of_the_inflow_is_followed_within_half_a_minute() {
        let mut model = Model::new(1 << 30, 1e9);
        for _ in 0..1000 {
            model.second(10.0, 0, false);
        }
        for _ in 0..30 {
            model.second(1000.0, 0, false);
        }
        near(model.flow.inflow(), 1000.0, 0.05);
    }

    #[test]
    fn nothing_coming_in_and_nothing_waiting_lasts_for_ever() {
        let mut model = Model::new(1 << 30, 1e6);
        for _ in 0..100 {
            model.second(0.0, 0, false);
        }
        assert_eq!(model.forecast(), Forecast::default());
    }
}
