//! Readings for load: as many channels as asked for, cheap to make, and still alive to look at.

use rand::Rng;

use crate::cli::curves::{daily, noise, rounded};
use crate::client::reading;
use crate::core::batch::{Reading, Value};
use crate::core::senml;

/// Name, unit, middle, daily swing, noise.
const CHANNELS: [(&str, &str, f64, f64, f64); 8] = [
    ("temperature", "Cel", 21.0, 4.0, 0.1),
    ("humidity", "%RH", 55.0, -12.0, 0.5),
    ("pressure", "Pa", 101_325.0, 150.0, 8.0),
    ("illuminance", "lx", 12_000.0, 11_500.0, 200.0),
    ("voltage", "V", 3.7, 0.1, 0.01),
    ("current", "A", 0.12, 0.02, 0.004),
    ("flow", "l/s", 2.4, 0.6, 0.05),
    ("vibration", "m/s2", 0.8, 0.2, 0.06),
];

/// One device's channels, and behind them the outputs that were switched.
#[derive(Debug)]
pub(super) struct Channels {
    readings: Vec<Reading>,
    measured: usize,
    lag: f64,
}

impl Channels {
    /// `count` channels; `lag` in seconds makes one device's day differ from another's.
    pub(super) fn new(count: usize, lag: f64) -> Self {
        let readings = (0..count)
            .zip(CHANNELS.iter().cycle())
            .map(|(index, (name, unit, middle, ..))| {
                let round = index / CHANNELS.len();
                let name =
                    if round == 0 { (*name).to_owned() } else { format!("{name}-{}", round + 1) };
                reading(&name, unit, *middle, 0.0)
            })
            .collect();
        Self { readings, measured: count, lag }
    }

    /// Shows an output from now on.
    pub(super) fn set_output(&mut self, name: &str, on: bool) {
        let value = Some(Value::Bool(on));
        let mut outputs = self.readings.iter_mut().skip(self.measured);
        if let Some(known) = outputs.find(|reading| reading.name == name) {
            known.value = value;
        } else {
            self.readings.push(Reading { value, unit: None, ..reading(name, "", 0.0, 0.0) });
        }
    }

    /// The next batch as a SenML CBOR pack, measured at `time` (Unix time in seconds).
    pub(super) fn pack(&mut self, time: f64, rng: &mut impl Rng) -> Vec<u8> {
        let day = daily(time + self.lag, 15.0);
        // Milliseconds: what a device's clock gives.
        let time = rounded(time, 3);
        for (reading, (_, _, middle, swing, deviation)) in
            self.readings.iter_mut().take(self.measured).zip(CHANNELS.iter().cycle())
        {
            let value = middle + swing * day + noise(rng, *deviation);
            reading.value = Some(Value::Number(rounded(value, 2)));
            reading.time = time;
        }
        for output in self.readings.iter_mut().skip(self.measured) {
            output.time = time;
        }
        senml::encode(&self.readings)
    }
}

/// A pack that breaks RFC 8428 in one of several ways: well-formed CBOR, malformed SenML.
pub(super) fn malformed(rng: &mut impl Rng) -> &'static [u8] {
    const WAYS: [&[u8]; 5] = [
        // No name: [{2: 1}]
        &[0x81, 0xa1, 0x02, 0x01],
        // A name with a space: [{0: "a b", 2: 1}]
        &[0x81, 0xa2, 0x00, 0x63, b'a', b' ', b'b', 0x02, 0x01],
        // Not a number: [{0: "a", 2: NaN}]
        &[0x81, 0xa2, 0x00, 0x61, b'a', 0x02, 0xf9, 0x7e, 0x00],
        // A label that must be understood: [{0: "a", 2: 1, "x_": 1}]
        &[0x81, 0xa3, 0x00, 0x61, b'a', 0x02, 0x01, 0x62, b'x', b'_', 0x01],
        // A record that is no map: [1]
        &[0x81, 0x01],
    ];
    WAYS.get(rng.random_range(0..WAYS.len())).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::DeviceId;
    use crate::core::senml::{Limits, RejectCode, resolve};

    const LIMITS: Limits = Limits { max_records: 1000, max_ahead: 60.0 };
    const NOW: f64 = 1_763_800_000.0;

    #[test]
    fn a_pack_holds_as_many_readings_of_different_names_as_asked_for() {
        let device = DeviceId::new("sim-1").unwrap();
        for count in [1, 8, 30] {
            let pack = Channels::new(count, 0.0).pack(NOW, &mut rand::rng());
            let readings = resolve(&pack, &device, NOW, &LIMITS).unwrap();
            let names: std::collections::HashSet<_> = readings.iter().map(|r| &r.name).collect();
            assert_eq!(names.len(), count);
            assert!(readings.iter().all(|r| (r.time - NOW).abs() < 0.01));
        }
    }

    #[test]
    fn an_output_that_was_switched_is_a_reading_from_then_on() {
        let device = DeviceId::new("sim-1").unwrap();
        let mut channels = Channels::new(2, 0.0);
        channels.set_output("relay-1", true);
        channels.set_output("relay-2", true);
        channels.set_output("relay-1", false);
        let pack = channels.pack(NOW, &mut rand::rng());
        let readings = resolve(&pack, &device, NOW, &LIMITS).unwrap();
        let outputs: Vec<_> =
            readings[2..].iter().map(|r| (r.name.as_str(), r.value.clone(), r.time)).collect();
        let on = |on| Some(Value::Bool(on));
        assert_eq!(outputs, [("relay-1", on(false), NOW), ("relay-2", on(true), NOW)]);
        assert!(matches!(readings[1].value, Some(Value::Number(_))));
    }

    #[test]
    fn every_malformed_pack_is_refused_as_malformed() {
        let device = DeviceId::new("sim-1").unwrap();
        let mut rng = rand::rng();
        for _ in 0..50 {
            let pack = malformed(&mut rng);
            let reject = resolve(pack, &device, NOW, &LIMITS).unwrap_err();
            assert_eq!(reject.code, RejectCode::MalformedSenml, "{pack:02x?}: {}", reject.reason);
        }
    }
}
