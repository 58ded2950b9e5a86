//! The configuration from arbitrary text; no file that it names is touched.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tidegate::config::{Settings, Surroundings};

fuzz_target!(|text: &str| {
    let host = Surroundings { host_name: Some("gw-1".into()), ..Surroundings::default() };
    match Settings::parse(text, Path::new("/etc/tidegate/tidegate.toml"), &host) {
        Ok(settings) => {
            let again = Settings::parse(text, Path::new("/etc/tidegate/tidegate.toml"), &host)
                .expect("it was accepted a moment ago");
            let changes = settings.changes(&again);
            assert!(changes.now.is_empty() && changes.after_restart.is_empty(), "{changes:?}");
            // Limits that would stop everything are refused.
            assert!(settings.devices.window > 0 && settings.devices.max_frame > 0);
        }
        Err(faults) => assert!(!faults.to_string().is_empty(), "refused without a word"),
    }
});
