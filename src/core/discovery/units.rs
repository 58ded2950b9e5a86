//! What a unit of SenML is to Home Assistant. The codes are those of RFC 8428 section 12.1 and RFC
//! 8798; the words on the other side those of Home Assistant's `sensor` integration.
//!
//! A device class is given only where the unit leaves no doubt, and only with units that Home
//! Assistant has accepted for that class for years: it refuses an entity whose class and unit do
//! not fit. `ppm` may be carbon dioxide or anything else, `dB` a level of any kind, `m3` a tank or
//! a meter, so these have none.

use std::borrow::Cow;

/// How Home Assistant shows and records a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// `unit_of_measurement`.
    pub(super) unit: Option<Cow<'static, str>>,
    /// `device_class`.
    pub(super) class: Option<&'static str>,
    /// Whether the number only grows until it starts over (`total_increasing`), else it is a
    /// `measurement`.
    pub(super) total: bool,
}

/// Code, unit of measurement (empty: none), device class (empty: none), total.
type Row = (&'static str, &'static str, &'static str, bool);

/// Sorted by the first column. Energy is a total: Home Assistant takes nothing else for that class,
/// and a meter's reading is what devices send. `count` is a counter value, says RFC 8428.
const UNITS: &[Row] = &[
    ("%", "%", "", false),
    ("%EL", "%", "battery", false),
    ("%RH", "%", "humidity", false),
    ("/", "", "", false),
    ("/100", "%", "", false),
    ("/1000", "‰", "", false),
    ("A", "A", "current", false),
    ("Cel", "°C", "temperature", false),
    ("EL", "s", "duration", false),
    ("GB", "GB", "data_size", false),
    ("Hz", "Hz", "frequency", false),
    ("J", "J", "energy", true),
    ("K", "K", "temperature", false),
    ("KiB", "KiB", "data_size", false),
    ("MB/s", "MB/s", "data_rate", false),
    ("MHz", "MHz", "frequency", false),
    ("Mbit/s", "Mbit/s", "data_rate", false),
    ("Ohm", "Ω", "", false),
    ("Pa", "Pa", "pressure", false),
    ("V", "V", "voltage", false),
    ("VA", "VA", "apparent_power", false),
    ("W", "W", "power", false),
    ("W/m2", "W/m²", "irradiance", false),
    ("Wh", "Wh", "energy", true),
    ("beat/min", "bpm", "", false),
    ("cd/m2", "cd/m²", "", false),
    ("cm", "cm", "distance", false),
    ("count", "", "", true),
    ("dBm", "dBm", "signal_strength", false),
    ("deg", "°", "", false),
    ("g", "g", "weight", false),
    ("h", "h", "duration", false),
    ("hPa", "hPa", "pressure", false),
    ("kW", "kW", "power", false),
    ("kWh", "kWh", "energy", true),
    ("kg", "kg", "weight", false),
    ("kg/m3", "kg/m³", "", false),
    ("km", "km", "distance", false),
    ("km/h", "km/h", "speed", false),
    ("l", "L", "", false),
    ("l/s", "L/s", "", false),
    ("lat", "°", "", false),
    ("lon", "°", "", false),
    ("lx", "lx", "illuminance", false),
    ("m", "m", "distance", false),
    ("m/s", "m/s", "speed", false),
    ("m/s2", "m/s²", "", false),
    ("m2", "m²", "", false),
    ("m3", "m³", "", false),
    ("m3/s", "m³/s", "", false),
    ("mA", "mA", "current", false),
    ("mV", "mV", "voltage", false),
    ("min", "min", "duration", false),
    ("mm", "mm", "distance", false),
    ("ms", "ms", "duration", false),
    ("pH", "", "ph", false),
    ("s", "s", "duration", false),
    ("ug/m3", "µg/m³", "", false),
    ("var", "var", "reactive_power", false),
];

/// What the sum over time of a unit is (RFC 8428 section 4.2: value times seconds).
const SUMS: &[(&str, &str, &str)] = &[
    ("A", "C", ""),
    ("V", "Wb", ""),
    ("W", "J", "energy"),
    ("bit/s", "bit", "data_size"),
    ("l/s", "L", "volume"),
    ("m/s", "m", "distance"),
    ("m3/s", "m³", "volume"),
];

/// A value with the unit `code`. Every other code, known to RFC 8428 or not, stands for itself.
pub(super) fn value(code: Option<&str>) -> Shown {
    let Some(code) = code else { return Shown { unit: None, class: None, total: false } };
    match row(code) {
        Some((_, unit, class, total)) => {
            Shown { unit: filled(unit).map(Cow::Borrowed), class: filled(class), total: *total }
        }
        None => Shown { unit: Some(code.to_owned().into()), class: None, total: false },
    }
}

/// A sum over time of values with the unit `code`.
pub(super) fn sum(code: Option<&str>) -> Shown {
    let code = code.unwrap_or_default();
    if let Some((_, unit, class)) = SUMS.iter().find(|(of, ..)| *of == code) {
        return Shown { unit: Some(Cow::Borrowed(unit)), class: filled(class), total: true };
    }
    let unit = match value(Some(code).filter(|code| !code.is_empty())).unit {
        Some(unit) => format!("{unit}·s").into(),
        None => "s".into(),
    };
    Shown { unit: Some(unit), class: None, total: true }
}

fn row(code: &str) -> Option<&'static Row> {
    let index = UNITS.binary_search_by(|(known, ..)| (*known).cmp(code)).ok()?;
    UNITS.get(index)
}

fn filled(text: &'static str) -> Option<&'static str> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The units that Home Assistant takes for the classes used here.
    const ACCEPTED: &[(&str, &[&str])] = &[
        ("apparent_power", &["VA"]),
        ("battery", &["%"]),
        ("current", &["A", "mA"]),
        ("data_rate", &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "B/s", "kB/s", "MB/s", "GB/s"]),
        ("data_size", &["bit", "kbit", "B", "kB", "MB", "GB", "KiB", "MiB", "GiB"]),
        ("distance", &["km", "m", "cm", "mm"]),
        ("duration", &["d", "h", "min", "s", "ms"]),
        ("energy", &["J", "kJ", "MJ", "GJ", "Wh", "kWh", "MWh"]),
        ("frequency", &["Hz", "kHz", "MHz", "GHz"]),
        ("humidity", &["%"]),
        ("illuminance", &["lx"]),
        ("irradiance", &["W/m²"]),
        ("ph", &[""]),
        ("power", &["W", "kW"]),
        ("pressure", &["Pa", "hPa", "kPa", "bar", "mbar"]),
        ("reactive_power", &["var"]),
        ("signal_strength", &["dB", "dBm"]),
        ("speed", &["m/s", "km/h"]),
        ("temperature", &["°C", "K", "°F"]),
        ("voltage", &["V", "mV"]),
        ("volume", &["L", "mL", "m³"]),
        ("weight", &["kg", "g"]),
    ];

    /// Classes that Home Assistant takes as a total only, and those it takes as either.
    const TOTALS: &[&str] = &["energy", "volume"];
    const EITHER: &[&str] = &["data_size", "distance", "duration", "weight"];

    fn fits(shown: &Shown) {
        let Some(class) = shown.class else { return };
        let unit = shown.unit.as_deref().unwrap_or_default();
        let (_, units) = ACCEPTED.iter().find(|(known, _)| *known == class).unwrap();
        assert!(units.contains(&unit), "{class} is not measured in {unit:?}");
        if !EITHER.contains(&class) {
            assert_eq!(shown.total, TOTALS.contains(&class), "{class}");
        }
    }

    #[test]
    fn every_class_has_a_unit_and_a_state_class_that_home_assistant_takes() {
        for (code, ..) in UNITS {
            fits(&value(Some(code)));
            fits(&sum(Some(code)));
        }
        for (code, ..) in SUMS {
            fits(&sum(Some(code)));
        }
    }

    #[test]
    fn the_table_can_be_searched() {
        assert!(UNITS.is_sorted_by(|a, b| a.0 < b.0));
        for (code, unit, ..) in UNITS {
            assert_eq!(value(Some(code)).unit.unwrap_or_default(), *unit, "{code}");
        }
    }

    #[test]
    fn an_unknown_unit_stands_for_itself_and_a_sum_is_of_seconds() {
        let unit = |shown: Shown| shown.unit.map(Cow::into_owned);
        assert_eq!(unit(value(Some("furlong"))).as_deref(), Some("furlong"));
        assert_eq!(unit(value(None)), None);
        assert_eq!(unit(sum(Some("Cel"))).as_deref(), Some("°C·s"));
        assert_eq!(unit(sum(Some("W"))).as_deref(), Some("J"));
        assert_eq!(unit(sum(None)).as_deref(), Some("s"));
    }
}
