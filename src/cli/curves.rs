//! Numbers that move as measured ones do: daily curves, noise, values that wander. For simulated
//! devices.

use std::f64::consts::TAU;

use rand::Rng;

/// Seconds in a day.
pub(super) const DAY: f64 = 86_400.0;

/// A daily curve between -1 and 1: highest at `peak_hour`, lowest half a day later. `local` is Unix
/// time in seconds, moved by the local time zone.
pub(super) fn daily(local: f64, peak_hour: f64) -> f64 {
    ((local / DAY - peak_hour / 24.0) * TAU).cos()
}

/// Bell-shaped noise with about this standard deviation.
pub(super) fn noise(rng: &mut impl Rng, deviation: f64) -> f64 {
    let sum: f64 = (0..4).map(|_| rng.random::<f64>()).sum();
    // Four uniform numbers have the variance 4/12.
    (sum - 2.0) * 3.0_f64.sqrt() * deviation
}

/// Whether something happens in a step of `seconds` that happens once in `mean` seconds.
#[cfg(feature = "demo")]
pub(super) fn chance(rng: &mut impl Rng, seconds: f64, mean: f64) -> bool {
    rng.random::<f64>() < 1.0 - (-seconds / mean).exp()
}

/// A value that wanders around a middle and is drawn back to it.
#[cfg(feature = "demo")]
#[derive(Debug, Clone)]
pub(super) struct Wander {
    offset: f64,
    deviation: f64,
    memory: f64,
}

#[cfg(feature = "demo")]
impl Wander {
    /// Wanders with this standard deviation and forgets where it was within `memory` seconds.
    pub(super) fn new(deviation: f64, memory: f64) -> Self {
        Self { offset: 0.0, deviation, memory }
    }

    /// The next offset from the middle, `seconds` after the last.
    pub(super) fn step(&mut self, rng: &mut impl Rng, seconds: f64) -> f64 {
        let keep = (-seconds / self.memory).exp();
        self.offset = self.offset * keep + noise(rng, self.deviation * (1.0 - keep * keep).sqrt());
        self.offset
    }
}

/// Rounds to this many decimals, as a sensor's resolution does.
pub(super) fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daily_curve_peaks_at_its_hour() {
        let at = |hour: f64| daily(7.0 * DAY + hour * 3600.0, 15.0);
        assert!((at(15.0) - 1.0).abs() < 1e-9 && (at(3.0) + 1.0).abs() < 1e-9);
        assert!(at(14.0) > at(10.0) && at(16.0) > at(20.0));
    }

    #[cfg(feature = "demo")]
    #[test]
    fn noise_and_wandering_keep_to_their_deviation() {
        let mut rng = rand::rng();
        let mut wander = Wander::new(2.0, 10.0);
        let (mut noises, mut wanders) = (0.0, 0.0);
        for _ in 0..20_000 {
            noises += noise(&mut rng, 2.0).powi(2);
            wanders += wander.step(&mut rng, 5.0).powi(2);
        }
        for variance in [noises / 20_000.0, wanders / 20_000.0] {
            assert!((3.0..5.0).contains(&variance), "{variance}");
        }
    }

    #[cfg(feature = "demo")]
    #[test]
    fn chance_comes_once_in_its_mean_time() {
        let mut rng = rand::rng();
        let hits = (0..20_000).filter(|_| chance(&mut rng, 1.0, 10.0)).count();
        assert!((1500..2400).contains(&hits), "{hits}");
    }
}
