//! The registry of devices from arbitrary text.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tidegate::config::registry::Registry;

const NOW: f64 = 1_763_800_000.0;

fuzz_target!(|text: &str| {
    match Registry::parse(text, Path::new("devices.toml")) {
        Ok(registry) => {
            assert_eq!(registry.iter().count(), registry.len());
            for (device, entry) in registry.iter() {
                assert!(registry.get(device).is_some() && registry.permissions(device).is_some());
                let guessed = registry.verify(device, "", NOW);
                assert!(guessed.is_none(), "{device:?} is let in without a token");
                let guessed = registry.verify(device, text, NOW);
                assert!(guessed.is_none(), "{device:?} is let in by the registry's own text");
                assert!(!entry.previous_expires().is_some_and(f64::is_nan));
            }
        }
        Err(faults) => assert!(!faults.to_string().is_empty(), "refused without a word"),
    }
});
