//! Readings per second, from counters that are looked at each second.

use std::collections::VecDeque;

use serde::Serialize;

/// Over so many samples the mean is taken, one second lying between two.
const SAMPLES: usize = 5;

/// The last samples, oldest first.
#[derive(Debug)]
pub(super) struct Rates(VecDeque<Sample>);

/// Two counters at one time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    /// Seconds since the gateway's start.
    pub(super) time: f64,
    /// Readings that devices have sent and the gateway has taken.
    pub(super) readings_in: u64,
    /// Readings that the broker has acknowledged.
    pub(super) readings_out: u64,
}

/// Readings per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct PerSecond {
    #[serde(rename = "in")]
    readings_in: f64,
    #[serde(rename = "out")]
    readings_out: f64,
}

impl Default for Rates {
    /// Counters begin at 0 with the gateway.
    fn default() -> Self {
        Self(VecDeque::from([Sample::default()]))
    }
}

impl Rates {
    pub(super) fn sample(&mut self, sample: Sample) {
        self.0.push_back(sample);
        if self.0.len() > SAMPLES + 1 {
            self.0.pop_front();
        }
    }

    /// The mean of the last seconds.
    pub(super) fn mean(&self) -> PerSecond {
        let (Some(first), Some(last)) = (self.0.front(), self.0.back()) else {
            return PerSecond::default();
        };
        // A start that lies a moment back is no base for a rate.
        let seconds = (last.time - first.time).max(1.0);
        let rate =
            |from: u64, to: u64| (to.saturating_sub(from) as f64 / seconds * 10.0).round() / 10.0;
        PerSecond {
            readings_in: rate(first.readings_in, last.readings_in),
            readings_out: rate(first.readings_out, last.readings_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(samples: &[(f64, u64, u64)]) -> (f64, f64) {
        let mut rates = Rates::default();
        for &(time, readings_in, readings_out) in samples {
            rates.sample(Sample { time, readings_in, readings_out });
        }
        let PerSecond { readings_in, readings_out } = rates.mean();
        (readings_in, readings_out)
    }

    #[test]
    fn a_rate_is_the_mean_of_the_last_five_seconds() {
        assert_eq!(mean(&[]), (0.0, 0.0));
        assert_eq!(mean(&[(0.1, 50, 20)]), (50.0, 20.0), "of less than a second no more is made");
        let steady: Vec<_> =
            (1..=30_u32).map(|n| (f64::from(n), 100 * u64::from(n), 90 * u64::from(n))).collect();
        assert_eq!(mean(&steady), (100.0, 90.0));
        // Nothing comes in any more; the broker acknowledged ten for two of the last five seconds.
        let stopping: Vec<_> =
            (1..=30_u32).map(|n| (f64::from(n), 1000, 10 * u64::from(n.min(27)))).collect();
        assert_eq!(mean(&stopping), (0.0, 4.0));
    }
}
