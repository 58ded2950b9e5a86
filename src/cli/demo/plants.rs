//! Simulated devices that look like real life: each has a daily curve, noise, habits and faults.

use rand::Rng;
use rand::rngs::ThreadRng;

use crate::cli::curves::{Wander, chance, daily, noise, rounded};
use crate::client::reading;
use crate::core::batch::{Reading, Value};

/// One simulated device.
pub(super) trait Plant: Send {
    /// Its id.
    fn id(&self) -> &'static str;
    /// What it says it is.
    fn model(&self) -> &'static str;
    /// Seconds between two batches.
    fn period(&self) -> f64;
    /// What it measures at `moment`.
    fn measure(&mut self, moment: Moment) -> Vec<Reading>;
    /// What can be switched.
    fn outputs(&self) -> &'static [&'static str];
    /// Switches one of them.
    fn set_output(&mut self, output: &str, on: bool);
}

/// When a plant measures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Unix time in seconds, the gateway's.
    pub(super) unix: f64,
    /// Seconds that local time is ahead of UTC.
    pub(super) zone: f64,
    /// Seconds since the last one.
    pub(super) elapsed: f64,
}

impl Moment {
    fn daily(self, peak_hour: f64) -> f64 {
        daily(self.unix + self.zone, peak_hour)
    }

    fn number(self, name: &str, unit: &str, value: f64, decimals: i32) -> Reading {
        reading(name, unit, rounded(value, decimals), rounded(self.unix, 3))
    }

    fn other(self, name: &str, value: Value) -> Reading {
        Reading { value: Some(value), unit: None, ..self.number(name, "", 0.0, 0) }
    }
}

/// All of them.
pub(super) fn all() -> Vec<Box<dyn Plant>> {
    vec![
        Box::new(Greenhouse::new()),
        Box::new(ColdStore::new()),
        Box::new(Pump::new()),
        Box::new(Mast::new()),
    ]
}

/// Warm by day, watered in the morning and the evening; its soil probe sometimes gives nothing.
struct Greenhouse {
    air: Wander,
    clouds: Wander,
    soil: f64,
    watering: bool,
}

impl Greenhouse {
    fn new() -> Self {
        Self {
            air: Wander::new(0.6, 300.0),
            clouds: Wander::new(0.25, 120.0),
            soil: 34.0,
            watering: false,
        }
    }
}

impl Plant for Greenhouse {
    fn id(&self) -> &'static str {
        "greenhouse-1"
    }

    fn model(&self) -> &'static str {
        "Greenhouse node (simulated)"
    }

    fn period(&self) -> f64 {
        2.0
    }

    fn measure(&mut self, moment: Moment) -> Vec<Reading> {
        let rng = &mut rand::rng();
        let sun = moment.daily(13.0).max(0.0);
        let clouds = (0.8 + self.clouds.step(rng, moment.elapsed)).clamp(0.15, 1.0);
        let temperature = 20.0
            + 6.0 * moment.daily(15.0)
            + 2.0 * sun * clouds
            + self.air.step(rng, moment.elapsed);
        let humidity = (82.0 - 1.6 * (temperature - 18.0) + noise(rng, 0.6)).clamp(20.0, 99.0);
        self.soil -= moment.elapsed * (0.0004 + 0.0012 * sun);
        if chance(rng, moment.elapsed, 600.0) || self.soil < 24.0 {
            self.soil = 38.0;
        }
        if self.watering {
            self.soil = (self.soil + 0.1 * moment.elapsed).min(55.0);
        }
        let mut readings = vec![
            moment.number("temperature", "Cel", temperature + noise(rng, 0.05), 2),
            moment.number("humidity", "%RH", humidity, 1),
            moment.number("illuminance", "lx", 42_000.0 * sun * clouds + 2.0 + noise(rng, 0.5), 0),
        ];
        if rng.random::<f64>() > 0.05 {
            readings.push(moment.number("soil_moisture", "%", self.soil + noise(rng, 0.1), 1));
        }
        readings.push(moment.other("irrigation", Value::Bool(self.watering)));
        readings
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["irrigation"]
    }

    fn set_output(&mut self, _: &str, on: bool) {
        self.watering = on;
    }
}

/// A compressor that switches between two temperatures, and people who leave the door open.
struct ColdStore {
    temperature: f64,
    compressor: bool,
    door_open_for: f64,
    light: bool,
}

impl ColdStore {
    fn new() -> Self {
        Self { temperature: -18.5, compressor: false, door_open_for: 0.0, light: false }
    }
}

impl Plant for ColdStore {
    fn id(&self) -> &'static str {
        "cold-store-1"
    }

    fn model(&self) -> &'static str {
        "Cold store controller (simulated)"
    }

    fn period(&self) -> f64 {
        1.0
    }

    fn measure(&mut self, moment: Moment) -> Vec<Reading> {
        let rng = &mut rand::rng();
        // Doors open in working hours.
        let busy = 60.0 / (0.1 + moment.daily(13.0).max(0.0));
        if self.door_open_for > 0.0 {
            self.door_open_for -= moment.elapsed;
        } else if chance(rng, moment.elapsed, busy) {
            self.door_open_for = rng.random_range(4.0..25.0);
        }
        let door = self.door_open_for > 0.0;
        let outside = 22.0 + 5.0 * moment.daily(15.0);
        let leak = if door { 0.004 } else { 0.0004 };
        self.temperature += (outside - self.temperature) * leak * moment.elapsed;
        if self.compressor {
            self.temperature -= 0.09 * moment.elapsed;
        }
        if self.temperature > -17.5 {
            self.compressor = true;
        } else if self.temperature < -20.5 {
            self.compressor = false;
        }
        let current = if self.compressor { 6.4 + noise(rng, 0.15) } else { 0.2 + noise(rng, 0.01) };
        vec![
            moment.number("temperature", "Cel", self.temperature + noise(rng, 0.04), 2),
            moment.number("compressor_current", "A", current.max(0.0), 2),
            moment.other("compressor", Value::Bool(self.compressor)),
            moment.other("door_open", Value::Bool(door)),
            moment.other("light", Value::Bool(door || self.light)),
        ]
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["light"]
    }

    fn set_output(&mut self, _: &str, on: bool) {
        self.light = on;
    }
}

/// Runs, idles, and now and then has a bearing that complains.
struct Pump {
    state: PumpState,
    remaining: f64,
    rpm: f64,
    wear: Wander,
    enabled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PumpState {
    Idle,
    Running,
    Rough,
}

impl Pump {
    fn new() -> Self {
        Self {
            state: PumpState::Running,
            remaining: 40.0,
            rpm: 2950.0,
            wear: Wander::new(0.08, 60.0),
            enabled: true,
        }
    }

    fn next_state(&mut self, rng: &mut ThreadRng) {
        let turn: f64 = rng.random();
        (self.state, self.remaining) = match self.state {
            PumpState::Running if turn < 0.35 => (PumpState::Rough, rng.random_range(8.0..25.0)),
            PumpState::Running => (PumpState::Idle, rng.random_range(10.0..30.0)),
            PumpState::Idle | PumpState::Rough => {
                (PumpState::Running, rng.random_range(30.0..120.0))
            }
        };
    }
}

impl Plant for Pump {
    fn id(&self) -> &'static str {
        "pump-1"
    }

    fn model(&self) -> &'static str {
        "Vibration sensor (simulated)"
    }

    fn period(&self) -> f64 {
        0.5
    }

    fn measure(&mut self, moment: Moment) -> Vec<Reading> {
        let rng = &mut rand::rng();
        self.remaining -= moment.elapsed;
        if self.remaining <= 0.0 {
            self.next_state(rng);
        }
        let (target, level, name) = match self.state {
            _ if !self.enabled => (0.0, 0.02, "off"),
            PumpState::Idle => (0.0, 0.02, "idle"),
            PumpState::Running => (2950.0, 1.1, "running"),
            PumpState::Rough => (2900.0, 3.4, "rough"),
        };
        self.rpm += (target - self.rpm) * (1.0 - (-moment.elapsed / 1.5).exp());
        let speed = self.rpm / 2950.0;
        let rms =
            level * speed + self.wear.step(rng, moment.elapsed).abs() + noise(rng, 0.03).abs();
        // The shaft itself, or the bearing's outer ring at 3.6 times its speed.
        let order = if self.state == PumpState::Rough { 3.6 } else { 1.0 };
        vec![
            moment.number("vibration_rms", "m/s2", rms, 3),
            moment.number(
                "peak_frequency",
                "Hz",
                self.rpm / 60.0 * order + noise(rng, 0.2).abs(),
                1,
            ),
            moment.number("speed", "1/min", (self.rpm + noise(rng, 4.0)).max(0.0), 0),
            moment.other("state", Value::Text(name.into())),
        ]
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["motor"]
    }

    fn set_output(&mut self, _: &str, on: bool) {
        self.enabled = on;
    }
}

/// Wind with gusts, pressure that drifts, rain that only adds up.
struct Mast {
    wind: Wander,
    pressure: Wander,
    direction: Wander,
    shower_for: f64,
    rain: f64,
    heater: bool,
}

impl Mast {
    fn new() -> Self {
        Self {
            wind: Wander::new(1.4, 40.0),
            pressure: Wander::new(180.0, 3600.0),
            direction: Wander::new(35.0, 600.0),
            shower_for: 0.0,
            rain: 0.0,
            heater: false,
        }
    }
}

impl Plant for Mast {
    fn id(&self) -> &'static str {
        "weather-mast-1"
    }

    fn model(&self) -> &'static str {
        "Weather mast (simulated)"
    }

    fn period(&self) -> f64 {
        1.0
    }

    fn measure(&mut self, moment: Moment) -> Vec<Reading> {
        let rng = &mut rand::rng();
        let mean = 4.5 + 2.0 * moment.daily(14.0);
        let wind = (mean + self.wind.step(rng, moment.elapsed)).max(0.0);
        let gust = wind * (1.15 + 0.25 * rng.random::<f64>());
        self.shower_for -= moment.elapsed;
        if self.shower_for <= 0.0 && chance(rng, moment.elapsed, 240.0) {
            self.shower_for = rng.random_range(20.0..90.0);
        }
        if self.shower_for > 0.0 && chance(rng, moment.elapsed, 6.0) {
            // A tipping bucket counts in steps of 0.2 mm.
            self.rain += 0.2;
        }
        let pressure = 101_325.0 + self.pressure.step(rng, moment.elapsed);
        let direction = 240.0 + self.direction.step(rng, moment.elapsed);
        vec![
            moment.number("wind_speed", "m/s", wind, 1),
            moment.number("wind_gust", "m/s", gust, 1),
            moment.number("wind_direction", "deg", direction.rem_euclid(360.0), 0),
            moment.number("pressure", "Pa", pressure + noise(rng, 6.0), 0),
            moment.number(
                "temperature",
                "Cel",
                11.0 + 5.0 * moment.daily(15.0) + noise(rng, 0.08),
                1,
            ),
            moment.number("rain_sum", "mm", self.rain, 1),
            moment.other("sensor_heater", Value::Bool(self.heater)),
        ]
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["sensor_heater"]
    }

    fn set_output(&mut self, _: &str, on: bool) {
        self.heater = on;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::core::ids::DeviceId;
    use crate::core::senml::{Limits, encode, resolve};

    /// A whole day of one plant: every number it gave, by name.
    fn day(plant: &mut dyn Plant) -> HashMap<String, Vec<f64>> {
        let device = DeviceId::new(plant.id()).unwrap();
        let limits = Limits { max_records: 100, max_ahead: 60.0 };
        let mut seen: HashMap<String, Vec<f64>> = HashMap::new();
        for step in 0..8640 {
            let unix = 1_763_769_600.0 + f64::from(step) * 10.0;
            let moment = Moment { unix, zone: 0.0, elapsed: 10.0 };
            let readings = plant.measure(moment);
            assert_eq!(
                resolve(&encode(&readings), &device, unix, &limits).unwrap().len(),
                readings.len()
            );
            for reading in readings {
                let values = seen.entry(reading.name.to_string()).or_default();
                match reading.value.unwrap() {
                    Value::Number(value) => values.push(value),
                    Value::Bool(value) => values.push(f64::from(u8::from(value))),
                    _ => {}
                }
            }
        }
        seen
    }

    fn range(values: &[f64]) -> (f64, f64) {
        values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)))
    }

    #[test]
    fn every_plants_day_is_valid_senml_and_stays_within_what_is_physical() {
        let bounds = HashMap::from([
            ("temperature", (-30.0, 45.0)),
            ("humidity", (0.0, 100.0)),
            ("illuminance", (0.0, 100_000.0)),
            ("soil_moisture", (15.0, 60.0)),
            ("vibration_rms", (0.0, 8.0)),
            ("speed", (0.0, 3100.0)),
            ("wind_speed", (0.0, 25.0)),
            ("wind_direction", (0.0, 360.0)),
            ("pressure", (99_000.0, 104_000.0)),
        ]);
        for mut plant in all() {
            for (name, values) in day(plant.as_mut()) {
                let Some((low, high)) = bounds.get(name.as_str()) else { continue };
                let (least, most) = range(&values);
                assert!(least >= *low && most <= *high, "{} {name}: {least}–{most}", plant.id());
            }
        }
    }

    #[test]
    fn the_greenhouse_is_bright_by_day_and_its_probe_drops_out() {
        let seen = day(&mut Greenhouse::new());
        let light = &seen["illuminance"];
        assert!(light[8640 * 13 / 24] > 5000.0 && light[0] < 10.0);
        let (probes, all) = (seen["soil_moisture"].len(), light.len());
        assert!(probes < all && probes > all * 8 / 10, "{probes} of {all}");
    }

    #[test]
    fn the_cold_store_cycles_its_compressor_and_its_door_opens() {
        let seen = day(&mut ColdStore::new());
        for name in ["compressor", "door_open"] {
            assert_eq!(range(&seen[name]), (0.0, 1.0), "{name}");
        }
    }

    #[test]
    fn a_pump_that_is_switched_off_comes_to_rest() {
        let mut pump = Pump::new();
        pump.set_output("motor", false);
        let speed = &day(&mut pump)["speed"];
        assert!(range(&speed[100..]).1 < 30.0);
    }

    #[test]
    fn rain_only_adds_up() {
        let seen = day(&mut Mast::new());
        assert!(seen["rain_sum"].is_sorted() && seen["rain_sum"].last() > Some(&0.0));
    }
}
