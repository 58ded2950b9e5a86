//! Readings as Influx line protocol: one line for each reading.
//!
//! ```text
//! readings,gateway=gw-1,device=kiln-3,name=temperature,unit=Cel value=21.5 1763800000125000000
//! ```
//!
//! - The *name is a tag* and the value has one field per kind: `value` (a float), `text`, `state` (a
//!   boolean), and `sum` (a float) beside or instead of it. So a field never changes its type, whatever
//!   devices send, and new names add no columns. Data (`vd`) is left out.
//! - Tags: in names, units and the gateway's name, commas, equal signs and blanks are escaped with a
//!   backslash. No store agrees with the next on a backslash itself there; it becomes `/`, and a
//!   control character `_`.
//! - Text: quotes and backslashes are escaped with a backslash. A line break is written as the two
//!   characters `\n` (or `\r`), since several stores cut lines before they look at quotes. Other
//!   control characters but the tab are written as `\u{…}`. Text over [`TEXT_MAX`] bytes is cut.
//! - Times are nanoseconds since 1970. A reading's time is a 64-bit float of seconds, which today tells
//!   times 0.24 µs apart: where whole microseconds are the same float they are taken (so that a device
//!   that says 1763800000.1 gets …100000000), else the nearest nanosecond of the float itself.

use bytes::{BufMut, BytesMut};

use super::batch::{Batch, Reading, Value};
use super::payload::write_scalar;
use super::policy::Pattern;

/// Longest text in a field, in bytes: what `InfluxDB` takes at most.
pub const TEXT_MAX: usize = 64 * 1024 - 1;

/// Writes the lines of one destination.
#[derive(Debug, Clone)]
pub struct Writer {
    /// Measurement and gateway, up to where the device stands.
    beginning: Vec<u8>,
    readings: Vec<Pattern>,
}

impl Writer {
    /// For lines of `measurement` (which must need no escaping) with the readings that fit one of
    /// `readings`; no pattern means all.
    #[must_use]
    pub fn new(measurement: &str, gateway: &str, readings: Vec<Pattern>) -> Self {
        let mut beginning = BytesMut::with_capacity(128);
        beginning.put_slice(measurement.as_bytes());
        beginning.put_slice(b",gateway=");
        tag(&mut beginning, gateway);
        beginning.put_slice(b",device=");
        Self { beginning: beginning.to_vec(), readings }
    }

    /// How many lines `batch` makes.
    #[must_use]
    pub fn count(&self, batch: &Batch) -> usize {
        batch.readings.iter().filter(|reading| self.takes(reading)).count()
    }

    /// Adds the lines of `batch` to `out`, each with its line break.
    pub fn write(&self, batch: &Batch, out: &mut BytesMut) {
        for reading in batch.readings.iter().filter(|reading| self.takes(reading)) {
            out.put_slice(&self.beginning);
            // A device id needs no escaping: letters, digits, '_' and '-'.
            out.put_slice(batch.device.as_str().as_bytes());
            out.put_slice(b",name=");
            tag(out, &reading.name);
            if let Some(unit) = reading.unit.as_deref().filter(|unit| !unit.is_empty()) {
                out.put_slice(b",unit=");
                tag(out, unit);
            }
            out.put_u8(b' ');
            fields(out, reading);
            out.put_u8(b' ');
            write_scalar(out, &nanoseconds(reading.time));
            out.put_u8(b'\n');
        }
    }

    fn takes(&self, reading: &Reading) -> bool {
        let holds = match reading.value {
            Some(Value::Number(_) | Value::Text(_) | Value::Bool(_)) => true,
            Some(Value::Data(_)) | None => reading.sum.is_some(),
        };
        holds
            && (self.readings.is_empty()
                || self.readings.iter().any(|pattern| pattern.matches(&reading.name)))
    }
}

fn fields(out: &mut BytesMut, reading: &Reading) {
    let start = out.len();
    match &reading.value {
        Some(Value::Number(number)) => {
            out.put_slice(b"value=");
            write_scalar(out, number);
        }
        Some(Value::Text(value)) => {
            out.put_slice(b"text=\"");
            text(out, value);
            out.put_u8(b'"');
        }
        Some(Value::Bool(state)) => {
            out.put_slice(if *state { b"state=true" } else { b"state=false" });
        }
        Some(Value::Data(_)) | None => {}
    }
    if let Some(sum) = reading.sum {
        if out.len() > start {
            out.put_u8(b',');
        }
        out.put_slice(b"sum=");
        write_scalar(out, &sum);
    }
}

fn tag(out: &mut BytesMut, value: &str) {
    let plain = |byte: &u8| !matches!(byte, b',' | b'=' | b' ' | b'\\' | 0..=31 | 127);
    if value.bytes().all(|byte| plain(&byte)) {
        return out.put_slice(value.as_bytes());
    }
    for byte in value.bytes() {
        match byte {
            b',' | b'=' | b' ' => out.put_slice(&[b'\\', byte]),
            b'\\' => out.put_u8(b'/'),
            0..=31 | 127 => out.put_u8(b'_'),
            byte => out.put_u8(byte),
        }
    }
}

fn text(out: &mut BytesMut, value: &str) {
    let mut left = TEXT_MAX;
    let mut buffer = [0; 4];
    for c in value.chars() {
        let unicode;
        let shown = match c {
            '\n' => "\\n",
            '\r' => "\\r",
            c if c.is_ascii_control() && c != '\t' => {
                unicode = c.escape_unicode().to_string();
                &unicode
            }
            c => c.encode_utf8(&mut buffer),
        };
        // What a store counts: without the escaping.
        let Some(rest) = left.checked_sub(shown.len()) else { return };
        left = rest;
        for byte in shown.bytes() {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(b'\\');
            }
            out.put_u8(byte);
        }
    }
}

/// Unix time in seconds as whole nanoseconds, see the module's documentation. Saturates in the year
/// 2262.
#[must_use]
pub fn nanoseconds(time: f64) -> i64 {
    let micros = (time * 1e6).round();
    // Casts saturate, and the range of times is checked when a batch is taken.
    #[allow(clippy::cast_possible_truncation)]
    #[allow(clippy::float_cmp, reason = "whether it is the very same float is the question")]
    if micros / 1e6 == time {
        (micros as i64).saturating_mul(1000)
    } else {
        let seconds = time.floor();
        // Exact: both are multiples of the float's own step.
        let rest = ((time - seconds) * 1e9).round() as i64;
        (seconds as i64).saturating_mul(1_000_000_000).saturating_add(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::clock::Base;
    use crate::core::ids::DeviceId;

    fn reading(name: &str, value: Option<Value>) -> Reading {
        Reading {
            name: name.into(),
            unit: None,
            value,
            sum: None,
            time: 1_763_800_000.125,
            update_time: None,
            relative: false,
        }
    }

    fn batch(readings: Vec<Reading>) -> Batch {
        Batch {
            device: DeviceId::new("kiln-3").unwrap(),
            epoch: 7,
            seq: Some(42),
            received: 1_763_800_000.5,
            base: Base::default(),
            shift: 0.0,
            readings,
        }
    }

    fn lines(gateway: &str, readings: Vec<Reading>) -> String {
        let (writer, batch) = (Writer::new("readings", gateway, Vec::new()), batch(readings));
        let mut out = BytesMut::new();
        writer.write(&batch, &mut out);
        let text = String::from_utf8(out.to_vec()).unwrap();
        assert_eq!(text.matches('\n').count(), writer.count(&batch), "{text}");
        text
    }

    #[test]
    fn a_line_of_each_kind_is_as_documented() {
        let number = |name: &str, number| reading(name, Some(Value::Number(number)));
        let readings = vec![
            Reading { unit: Some("Cel".into()), ..number("temperature", 21.5) },
            number("a/b:c", 7.0),
            number("tiny", -1.5e-300),
            reading("mode", Some(Value::Text("say \"hi\" \\ bye,\na=b".into()))),
            reading("open", Some(Value::Bool(true))),
            reading("shut", Some(Value::Bool(false))),
            reading("photo", Some(Value::Data(Box::new([1, 2])))),
            Reading { sum: Some(3.25), unit: Some("W h,=".into()), ..number("power", 2.0) },
            Reading { sum: Some(4.0), ..reading("energy", None) },
            Reading { sum: Some(5.0), ..reading("both", Some(Value::Data(Box::new([])))) },
        ];
        let expected = r#"
readings,gateway=gw\ 1,device=kiln-3,name=temperature,unit=Cel value=21.5 1763800000125000000
readings,gateway=gw\ 1,device=kiln-3,name=a/b:c value=7.0 1763800000125000000
readings,gateway=gw\ 1,device=kiln-3,name=tiny value=-1.5e-300 1763800000125000000
readings,gateway=gw\ 1,device=kiln-3,name=mode text="say \"hi\" \\ bye,\\na=b" 1763800000125000000
readings,gateway=gw\ 1,device=kiln-3,name=open state=true 1763800000125000000
readings,gateway=gw\ 1,device=kiln-3,name=shut state=false 1763800000125000000
readings,gateway=gw\ 1,device=kiln-3,name=power,unit=W\ h\,\= value=2.0,sum=3.25 1763800000125000000
readings,gateway=gw\ 1,device=kiln-3,name=energy sum=4.0 1763800000125000000
readings,gateway=gw\ 1,device=kiln-3,name=both sum=5.0 1763800000125000000
"#;
        assert_eq!(lines("gw 1", readings), expected.trim_start());
    }

    #[test]
    fn only_readings_that_fit_a_pattern_make_lines() {
        let patterns = vec!["temp*".parse().unwrap(), "open".parse().unwrap()];
        let writer = Writer::new("m", "g", patterns);
        let all = ["temperature", "temp", "pressure", "open"];
        let batch =
            batch(all.map(|name| reading(name, Some(Value::Number(1.0)))).into_iter().collect());
        assert_eq!(writer.count(&batch), 3);
        let mut out = BytesMut::new();
        writer.write(&batch, &mut out);
        let text = String::from_utf8(out.to_vec()).unwrap();
        assert!(!text.contains("pressure") && text.lines().count() == 3, "{text}");
    }

    #[test]
    fn times_come_out_as_devices_write_them() {
        for (time, expected) in [
            (0.0, 0),
            (1_763_800_000.0, 1_763_800_000_000_000_000),
            (1_763_800_000.1, 1_763_800_000_100_000_000),
            (1_763_800_000.123_456, 1_763_800_000_123_456_000),
            (1_763_800_000.999_999, 1_763_800_000_999_999_000),
            (0.000_000_123, 123),
            (1e300, i64::MAX),
        ] {
            assert_eq!(nanoseconds(time), expected, "{time}");
        }
    }

    #[test]
    fn long_text_is_cut_to_what_stores_take() {
        let text = "ü\"".repeat(40_000);
        let lines = lines("g", vec![reading("t", Some(Value::Text(text.as_str().into())))]);
        let parsed = parse(&lines);
        let Field::Text(kept) = &parsed[0].fields[0].1 else { panic!("{parsed:?}") };
        assert!(kept.len() > TEXT_MAX - 4 && kept.len() <= TEXT_MAX, "{}", kept.len());
        assert!(text.starts_with(kept.as_str()));
    }

    // -------------------------------------------------- a strict reader, from InfluxDB's reference

    #[derive(Debug, Clone, PartialEq)]
    enum Field {
        Number(f64),
        Text(String),
        Bool(bool),
    }

    #[derive(Debug, Clone, PartialEq)]
    struct Line {
        measurement: String,
        tags: Vec<(String, String)>,
        fields: Vec<(String, Field)>,
        time: i64,
    }

    /// One byte after the other; whatever is not in the reference fails. Lines are cut first, as the
    /// strictest stores do.
    fn parse(text: &str) -> Vec<Line> {
        assert!(text.is_empty() || text.ends_with('\n'));
        text.split_terminator('\n').map(parse_line).collect()
    }

    /// Up to one of `ends`, which is taken too.
    fn word(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, ends: &str) -> (String, char) {
        let mut word = String::new();
        loop {
            match rest.next().expect("the line goes on") {
                '\\' => match rest.next().expect("a backslash escapes something") {
                    c @ (',' | '=' | ' ') => word.push(c),
                    c => panic!("an escaped {c:?}"),
                },
                c if ends.contains(c) => return (word, c),
                c @ (',' | '=' | ' ') => panic!("{c:?} without a backslash after {word:?}"),
                c => {
                    assert!(!c.is_control(), "{c:?}");
                    word.push(c);
                }
            }
        }
    }

    fn parse_line(line: &str) -> Line {
        let mut rest = line.chars().peekable();
        let (measurement, mut end) = word(&mut rest, ", ");
        let mut tags = Vec::new();
        while end == ',' {
            let (key, _) = word(&mut rest, "=");
            let (value, next) = word(&mut rest, ", ");
            assert!(!key.is_empty() && !value.is_empty());
            tags.push((key, value));
            end = next;
        }
        let mut fields = Vec::new();
        loop {
            let (key, _) = word(&mut rest, "=");
            let (value, next) = if rest.next_if_eq(&'"').is_some() {
                let mut text = String::new();
                loop {
                    match rest.next().expect("the quote ends") {
                        '"' => break,
                        '\\' => match rest.next().expect("a backslash escapes something") {
                            c @ ('"' | '\\') => text.push(c),
                            c => panic!("an escaped {c:?} in text"),
                        },
                        c => text.push(c),
                    }
                }
                (Field::Text(text), rest.next().expect("the line goes on"))
            } else {
                let (value, next) = word(&mut rest, ", ");
                let value = match value.as_str() {
                    "true" => Field::Bool(true),
                    "false" => Field::Bool(false),
                    number => Field::Number(number.parse().expect("a number")),
                };
                (value, next)
            };
            fields.push((key, value));
            if next == ' ' {
                break;
            }
            assert_eq!(next, ',');
        }
        let time: String = rest.collect();
        assert!(time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'), "{time:?}");
        Line { measurement, tags, fields, time: time.parse().expect("nanoseconds") }
    }

    fn any_value() -> impl Strategy<Value = Option<Value>> {
        prop_oneof![
            prop::num::f64::NORMAL.prop_map(|number| Some(Value::Number(number))),
            any::<String>().prop_map(|text| Some(Value::Text(text.into()))),
            "[\"\\\\ ,=\n\r\t\u{0}a]{0,12}".prop_map(|text| Some(Value::Text(text.into()))),
            any::<bool>().prop_map(|state| Some(Value::Bool(state))),
            Just(Some(Value::Data(Box::new([1])))),
            Just(None),
        ]
    }

    fn tag_text(text: &str) -> String {
        let c = |c: char| match c {
            '\\' => '/',
            c if c.is_ascii_control() => '_',
            c => c,
        };
        text.chars().map(c).collect()
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(
            gateway in "[^\u{80}-\u{9f}]{1,20}",
            readings in prop::collection::vec(
                (
                    "[A-Za-z0-9][-A-Za-z0-9:./_]{0,20}",
                    prop::option::of("[ -~\\\\,= é°%/]{0,10}"),
                    any_value(),
                    prop::option::of(prop::num::f64::NORMAL),
                    0.0_f64..4e9,
                ),
                0..6,
            ),
        ) {
            let readings: Vec<Reading> = readings
                .into_iter()
                .map(|(name, unit, value, sum, time)| Reading {
                    unit: unit.map(Into::into),
                    sum,
                    time,
                    ..reading(&name, value)
                })
                .collect();
            let parsed = parse(&lines(&gateway, readings.clone()));
            let mut expected = Vec::new();
            for reading in readings {
                let mut fields = Vec::new();
                match reading.value {
                    Some(Value::Number(number)) => {
                        fields.push(("value".to_owned(), Field::Number(number)));
                    }
                    Some(Value::Text(text)) => {
                        let shown = |c: char| match c {
                            '\n' => "\\n".to_owned(),
                            '\r' => "\\r".to_owned(),
                            c if c.is_ascii_control() && c != '\t' => c.escape_unicode().to_string(),
                            c => c.to_string(),
                        };
                        let text = text.chars().map(shown).collect();
                        fields.push(("text".to_owned(), Field::Text(text)));
                    }
                    Some(Value::Bool(state)) => {
                        fields.push(("state".to_owned(), Field::Bool(state)));
                    }
                    _ => {}
                }
                fields.extend(reading.sum.map(|sum| ("sum".to_owned(), Field::Number(sum))));
                if fields.is_empty() {
                    continue;
                }
                let mut tags = vec![
                    ("gateway".to_owned(), tag_text(&gateway)),
                    ("device".to_owned(), "kiln-3".to_owned()),
                    ("name".to_owned(), reading.name.to_string()),
                ];
                let unit = reading.unit.filter(|unit| !unit.is_empty());
                tags.extend(unit.map(|unit| ("unit".to_owned(), tag_text(&unit))));
                let time = nanoseconds(reading.time);
                expected.push(Line { measurement: "readings".to_owned(), tags, fields, time });
            }
            prop_assert_eq!(parsed, expected);
        }

        #[test]
        fn nanoseconds_keep_floats_apart_and_are_never_further_off_than_half_a_microsecond(
            time in 0.0_f64..4e9,
        ) {
            let nanos = nanoseconds(time);
            // To the float of whole nanoseconds there is another rounding of 0.24 µs.
            prop_assert!((nanos as f64 / 1e9 - time).abs() < 1e-6, "{} {}", time, nanos);
            // Two floats of this century never share a nanosecond.
            let century = 1.7e9 + time % 4e8;
            prop_assert!(nanoseconds(century) < nanoseconds(f64::from_bits(century.to_bits() + 1)));
        }
    }
}
