//! SenML packs from arbitrary bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::core::batch::Value;
use tidegate::core::ids::DeviceId;
use tidegate::core::senml::{Limits, encode, resolve};

const NOW: f64 = 1_763_800_000.0;
const LIMITS: Limits = Limits { max_records: 64, max_ahead: 300.0 };

fuzz_target!(|bytes: &[u8]| {
    let device = DeviceId::new("kiln-3").expect("it is a device id");
    let Ok(mut readings) = resolve(bytes, &device, NOW, &LIMITS) else { return };
    assert!(!readings.is_empty() && readings.len() <= LIMITS.max_records);
    assert!(readings.is_sorted_by(|a, b| a.time <= b.time));
    for reading in &readings {
        assert!((1..=64).contains(&reading.name.len()));
        assert!((0.0..=NOW + LIMITS.max_ahead).contains(&reading.time));
        assert!(reading.value.is_some() || reading.sum.is_some());
        assert!(!matches!(reading.value, Some(Value::Number(number)) if !number.is_finite()));
    }
    // Names that begin with the device's id would lose it again, and times below 2^28 are relative.
    let stable = readings
        .iter()
        .all(|reading| !reading.name.starts_with("kiln-3") && reading.time >= 268_435_456.0);
    if stable {
        // Resolved, they are absolute.
        readings.iter_mut().for_each(|reading| reading.relative = false);
        assert_eq!(resolve(&encode(&readings), &device, NOW, &LIMITS), Ok(readings));
    }
});
