//! What the registry says about how much a device may send. The ranges are those of the settings
//! that are replaced.

use toml::Spanned;
use toml::de::DeValue;

use super::Parser;
use crate::config::schema::{self, Kind};
use crate::core::policy::OwnLimits;

/// The setting that a device's `max_records` stands in for.
const MAX_RECORDS: &str = "devices.max_records";

impl Parser<'_> {
    /// `rate = { batches_per_second = N, burst = N }`, one or both.
    pub(super) fn rate(&mut self, path: &str, value: &Spanned<DeValue<'_>>, own: &mut OwnLimits) {
        let Some(table) = value.get_ref().as_table() else {
            return self.wrong_type(value, path, "{ batches_per_second = N, burst = N }");
        };
        for (key, value) in table {
            let path = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "batches_per_second" => {
                    own.batches_per_second =
                        self.number(&path, value, "devices.rate.batches_per_second");
                }
                "burst" => own.burst = self.number(&path, value, "devices.rate.burst"),
                unknown => self.unknown(key, &path, unknown, &["batches_per_second", "burst"]),
            }
        }
    }

    /// `max_records = N`.
    pub(super) fn max_records(
        &mut self,
        path: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<usize> {
        // The range is one of whole numbers far below what a float holds exactly.
        self.number(path, value, MAX_RECORDS).and_then(|number| {
            let whole = value.get_ref().as_integer().is_some();
            if !whole {
                self.wrong_type(value, path, &allowed(MAX_RECORDS));
            }
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            whole.then_some(number as usize)
        })
    }

    /// A number in the range of the setting `setting`.
    fn number(&mut self, path: &str, value: &Spanned<DeValue<'_>>, setting: &str) -> Option<f64> {
        let number = match value.get_ref() {
            DeValue::Integer(integer) => {
                i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|n| n as f64)
            }
            DeValue::Float(float) => float.as_str().parse().ok(),
            _ => {
                self.wrong_type(value, path, &allowed(setting));
                return None;
            }
        };
        let fits = number.filter(|number| range(setting).is_some_and(|r| r.contains(number)));
        if fits.is_none() {
            self.fault(value.span(), path, "is out of range".to_owned(), &allowed(setting));
        }
        fits
    }
}

/// Whether `number` is one that the setting `setting` may have; what is allowed, where it is not.
///
/// # Errors
/// The range.
pub fn check(setting: &str, number: f64) -> Result<f64, String> {
    match range(setting) {
        Some(range) if range.contains(&number) => Ok(number),
        _ => Err(allowed(setting)),
    }
}

fn range(setting: &str) -> Option<std::ops::RangeInclusive<f64>> {
    match schema::find(setting)?.kind {
        Kind::Number(min, max) => Some(min..=max),
        Kind::Integer(min, max) => Some(min as f64..=max as f64),
        _ => None,
    }
}

fn allowed(setting: &str) -> String {
    schema::find(setting).map(|key| key.kind.allowed()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::registry::Registry;
    use crate::core::ids::DeviceId;
    use crate::core::policy::OwnLimits;

    #[test]
    fn limits_of_a_device_are_read_whole_or_in_part() {
        let text = "[devices.a]\nrate = { batches_per_second = 0.5, burst = 3 }\nmax_records = 7\n\
                    [devices.b]\nrate.burst = 1_000\n[devices.c]\n";
        let registry = Registry::parse(text, Path::new("d")).unwrap();
        let own = |id| registry.permissions(&DeviceId::new(id).unwrap()).unwrap().own;
        let a = OwnLimits { batches_per_second: Some(0.5), burst: Some(3.0), max_records: Some(7) };
        assert_eq!(own("a"), a);
        assert_eq!(own("b"), OwnLimits { burst: Some(1000.0), ..OwnLimits::default() });
        assert!(own("c").is_empty());
    }

    #[test]
    fn limits_that_cannot_be_are_faults_with_their_range() {
        let text = "[devices.a]\nrate = 5\nmax_records = 0\n[devices.b]\nmax_records = 1.5\n\
                    rate = { batches_per_second = -1, burst = nan, bursts = 2 }\n";
        let faults = Registry::parse(text, Path::new("d")).unwrap_err();
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            [
                "d:2: devices.a.rate: is an integer; allowed: { batches_per_second = N, burst = N }",
                "d:3: devices.a.max_records: is out of range; allowed: 1 to 65536",
                "d:5: devices.b.max_records: is a number with a fraction; allowed: 1 to 65536",
                "d:6: devices.b.rate.batches_per_second: is out of range; allowed: 0.001 to 1000000",
                "d:6: devices.b.rate.burst: is out of range; allowed: 1 to 1000000",
                "d:6: devices.b.rate.bursts: unknown key; did you mean \"burst\"?; allowed: \
                 batches_per_second, burst",
            ]
        );
    }
}
