//! Reads packs and resolves them (RFC 8428 section 4.6).

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use compact_str::CompactString;

use super::number::{Fault, number};
use super::{Label, Limits, NAME_MAX, Reject, RejectCode, UNIT_MAX};
use crate::core::batch::{self, Reading, Value};
use crate::core::cbor::{self, Cursor, Header};
use crate::core::clock::is_set;
use crate::core::ids::{DEVICE_ID_MAX, DeviceId};

/// The newest version of SenML that is understood, and the default (RFC 8428 section 4.1).
const VERSION: u64 = 10;
/// Times from here on are absolute (RFC 8428 section 4.5.3).
const FIRST_ABSOLUTE_TIME: f64 = 268_435_456.0;
/// 2100-01-01: the latest time taken whatever the gateway's own clock shows, and the only limit while
/// it is not set.
const LATEST: f64 = 4_102_444_800.0;
/// What a record's fields lie within: the message, the pack and the record.
const DEPTH: usize = 3;
/// The device's id and a separator may come before the name.
const FULL_NAME_MAX: usize = DEVICE_ID_MAX + 1 + NAME_MAX;
/// The shortest record that can make a reading has three bytes.
const RECORD_MIN: usize = 3;

/// Reads a SenML-CBOR pack of `device` and resolves it: base fields applied, times absolute (those
/// below 2^28 count from `now`, Unix seconds), in chronological order, records of the same time in
/// the order in which they came.
///
/// A record with base fields only makes no reading (the first example of RFC 8428 section 5.1.7),
/// unless a base value or base sum applies to it: then that is its value or sum, as section 4.5.4
/// says of every record that has none of its own.
///
/// # Errors
/// The whole pack is refused: [`RejectCode::MalformedSenml`], [`RejectCode::TooManyRecords`], or
/// [`RejectCode::TimeOutOfRange`] for a time before 1970 or more than `max_ahead` after `now`. While
/// `now` lies before 2025 and so cannot be right, the limit is the year 2100, and a time before `now`
/// may come out before 1970: it can be corrected later, and a refusal could not.
pub fn resolve(
    pack: &[u8],
    device: &DeviceId,
    now: f64,
    limits: &Limits,
) -> Result<Vec<Reading>, Reject> {
    let mut cursor = Cursor::new(pack);
    let mut left = match cursor.header()? {
        Header::Array(left) => left,
        other => return Err(malformed(format!("the pack is {}, not an array", other.kind()))),
    };
    let claimed = left.definite().unwrap_or(0);
    if claimed > limits.max_records {
        return Err(too_many(limits));
    }
    let mut resolver = Resolver { device, now, limits, base: Base::default(), index: 0 };
    let mut readings = Vec::with_capacity(claimed.min(cursor.rest().len() / RECORD_MIN));
    while cursor.more(&mut left)? {
        if resolver.index == limits.max_records {
            return Err(too_many(limits));
        }
        let record = resolver.read(&mut cursor)?;
        readings.extend(resolver.resolve(record)?);
        resolver.index += 1;
    }
    cursor.finish()?;
    if readings.is_empty() {
        return Err(malformed("the pack holds no measurement".into()));
    }
    batch::sort(&mut readings);
    Ok(readings)
}

/// The base fields in force (RFC 8428 section 4.1).
#[derive(Default)]
struct Base<'a> {
    version: Option<u64>,
    name: Cow<'a, str>,
    time: f64,
    unit: Option<Cow<'a, str>>,
    value: Option<f64>,
    sum: Option<f64>,
}

/// The regular fields of one record, as they came (RFC 8428 section 4.2).
#[derive(Default)]
struct Record<'a> {
    seen: u16,
    name: Cow<'a, str>,
    unit: Option<Cow<'a, str>>,
    value: Option<Value>,
    sum: Option<f64>,
    time: f64,
    update_time: Option<f64>,
}

const BASE_FIELDS: u16 = Label::BaseVersion.bit()
    | Label::BaseName.bit()
    | Label::BaseTime.bit()
    | Label::BaseUnit.bit()
    | Label::BaseValue.bit()
    | Label::BaseSum.bit();

struct Resolver<'a, 'p> {
    device: &'a DeviceId,
    now: f64,
    limits: &'a Limits,
    base: Base<'p>,
    index: usize,
}

impl<'p> Resolver<'_, 'p> {
    /// Reads the next record; its base fields are in force from here on.
    fn read(&mut self, cursor: &mut Cursor<'p>) -> Result<Record<'p>, Reject> {
        let mut left = match cursor.header()? {
            Header::Map(left) => left,
            other => return Err(self.wrong(&format!("it is {}, not a map", other.kind()))),
        };
        let mut record = Record::default();
        while cursor.more(&mut left)? {
            let label = match cursor.header()? {
                Header::Positive(key) => Label::regular(key),
                Header::Negative(inverted) => Label::base(inverted),
                Header::Text(len) => {
                    self.check_custom_label(&cursor.text(len)?)?;
                    None
                }
                other => {
                    let kind = other.kind();
                    return Err(self.wrong(&format!("a label is {kind}, not an integer or text")));
                }
            };
            let Some(label) = label else {
                cursor.skip(DEPTH)?;
                continue;
            };
            if record.seen & label.bit() != 0 {
                return Err(self.wrong_field(label, "comes twice"));
            }
            record.seen |= label.bit();
            self.field(cursor, label, &mut record)?;
        }
        Ok(record)
    }

    fn field(
        &mut self,
        cursor: &mut Cursor<'p>,
        label: Label,
        record: &mut Record<'p>,
    ) -> Result<(), Reject> {
        let header = cursor.header()?;
        match label {
            Label::BaseVersion => self.version(header)?,
            Label::BaseName => self.base.name = self.text(cursor, header, label)?,
            Label::BaseTime => self.base.time = self.number(cursor, header, label)?,
            Label::BaseUnit => self.base.unit = Some(self.unit(cursor, header, label)?),
            Label::BaseValue => self.base.value = Some(self.number(cursor, header, label)?),
            Label::BaseSum => self.base.sum = Some(self.number(cursor, header, label)?),
            Label::Name => record.name = self.text(cursor, header, label)?,
            Label::Unit => record.unit = Some(self.unit(cursor, header, label)?),
            Label::Sum => record.sum = Some(self.number(cursor, header, label)?),
            Label::Time => record.time = self.number(cursor, header, label)?,
            Label::UpdateTime => {
                let seconds = self.number(cursor, header, label)?;
                if seconds < 0.0 {
                    return Err(self.wrong_field(label, "is negative"));
                }
                record.update_time = Some(seconds);
            }
            Label::Value | Label::StringValue | Label::BooleanValue | Label::DataValue => {
                if record.value.is_some() {
                    return Err(self.wrong("it has more than one of 'v', 'vs', 'vb' and 'vd'"));
                }
                record.value = Some(self.value(cursor, header, label)?);
            }
        }
        Ok(())
    }

    fn value(
        &self,
        cursor: &mut Cursor<'p>,
        header: Header,
        label: Label,
    ) -> Result<Value, Reject> {
        Ok(match (label, header) {
            (Label::StringValue, _) => {
                Value::Text(CompactString::from(self.text(cursor, header, label)?))
            }
            (Label::BooleanValue, Header::FALSE) => Value::Bool(false),
            (Label::BooleanValue, Header::TRUE) => Value::Bool(true),
            (Label::BooleanValue, other) => {
                return Err(self.wrong_field(label, &format!("is {}, not a boolean", other.kind())));
            }
            (Label::DataValue, Header::Bytes(len)) => Value::Data(cursor.bytes(len)?.into()),
            (Label::DataValue, Header::Text(len)) => {
                let text = cursor.text(len)?;
                let bytes = URL_SAFE_NO_PAD
                    .decode(text.trim_end_matches('='))
                    .map_err(|_| self.wrong_field(label, "is text that is not base64url"))?;
                Value::Data(bytes.into())
            }
            (Label::DataValue, other) => {
                let text = format!("is {}, not a byte string", other.kind());
                return Err(self.wrong_field(label, &text));
            }
            _ => Value::Number(self.number(cursor, header, label)?),
        })
    }

    /// All records of a pack have the same version (RFC 8428 section 4.4).
    fn version(&mut self, header: Header) -> Result<(), Reject> {
        let label = Label::BaseVersion;
        let version = match header {
            Header::Positive(version @ 1..=VERSION) => version,
            Header::Positive(0) => return Err(self.wrong_field(label, "is 0, versions start at 1")),
            Header::Positive(version) => {
                let text = format!("is {version}, the newest version understood is {VERSION}");
                return Err(self.wrong_field(label, &text));
            }
            other => {
                let text = format!("is {}, not an unsigned integer", other.kind());
                return Err(self.wrong_field(label, &text));
            }
        };
        let so_far = self.base.version.unwrap_or(VERSION);
        if self.index > 0 && version != so_far {
            let text = format!("is {version}, that of the records before is {so_far}");
            return Err(self.wrong_field(label, &text));
        }
        self.base.version = Some(version);
        Ok(())
    }

    #[inline]
    fn number(&self, cursor: &mut Cursor<'p>, header: Header, label: Label) -> Result<f64, Reject> {
        number(cursor, header).map_err(|fault| match fault {
            Fault::Cbor(error) => error.into(),
            Fault::Wrong(text) => self.wrong_field(label, &text),
        })
    }

    #[inline]
    fn text(
        &self,
        cursor: &mut Cursor<'p>,
        header: Header,
        label: Label,
    ) -> Result<Cow<'p, str>, Reject> {
        match header {
            Header::Text(len) => Ok(cursor.text(len)?),
            other => Err(self.wrong_field(label, &format!("is {}, not text", other.kind()))),
        }
    }

    fn unit(
        &self,
        cursor: &mut Cursor<'p>,
        header: Header,
        label: Label,
    ) -> Result<Cow<'p, str>, Reject> {
        let unit = self.text(cursor, header, label)?;
        if unit.chars().count() > UNIT_MAX {
            let text = format!("is longer than {UNIT_MAX} characters");
            return Err(self.wrong_field(label, &text));
        }
        Ok(unit)
    }

    /// A label that is not one of RFC 8428's integers (sections 4.4 and 6).
    fn check_custom_label(&self, text: &str) -> Result<(), Reject> {
        if text.ends_with('_') {
            let text = format!(
                "the label {} ends in '_', so it must be understood, and it is not known here",
                shown(text)
            );
            return Err(self.wrong(&text));
        }
        match Label::named(text) {
            Some(label) => {
                let text = format!("the label '{text}' is text, in CBOR it is {}", label.key());
                Err(self.wrong(&text))
            }
            None => Ok(()),
        }
    }

    /// Applies the base fields.
    fn resolve(&self, record: Record<'p>) -> Result<Option<Reading>, Reject> {
        let value = match (record.value, self.base.value) {
            (Some(Value::Number(value)), Some(base)) => {
                Some(Value::Number(self.added(value, base, Label::Value)?))
            }
            (None, Some(base)) => Some(Value::Number(base)),
            (value, _) => value,
        };
        let sum = match (record.sum, self.base.sum) {
            (Some(sum), Some(base)) => Some(self.added(sum, base, Label::Sum)?),
            (sum, base) => sum.or(base),
        };
        if value.is_none() && sum.is_none() {
            if record.seen != 0 && record.seen & !BASE_FIELDS == 0 {
                return Ok(None);
            }
            return Err(self.wrong("it has neither a value ('v', 'vs', 'vb', 'vd') nor a sum"));
        }
        let (time, relative) = self.time(record.time)?;
        Ok(Some(Reading {
            name: self.name(&record.name)?,
            unit: record.unit.as_ref().or(self.base.unit.as_ref()).map(CompactString::new),
            value,
            sum,
            time,
            update_time: record.update_time,
            relative,
        }))
    }

    fn added(&self, own: f64, base: f64, label: Label) -> Result<f64, Reject> {
        let sum = own + base;
        if sum.is_finite() {
            Ok(sum)
        } else {
            Err(self.wrong_field(label, "with its base added is not a finite number"))
        }
    }

    /// Section 4.5.1; the device's own id and a separator in front are taken off.
    fn name(&self, name: &str) -> Result<CompactString, Reject> {
        let base = self.base.name.as_bytes();
        let mut buffer = [0; FULL_NAME_MAX];
        let len = base.len() + name.len();
        let Some(full) = buffer.get_mut(..len) else {
            return Err(self.wrong(&format!(
                "its name has {len} characters, the limit is {NAME_MAX} after the device's id"
            )));
        };
        let (front, back) = full.split_at_mut(base.len());
        front.copy_from_slice(base);
        back.copy_from_slice(name.as_bytes());
        let rest = match full.strip_prefix(self.device.as_str().as_bytes()) {
            Some([b':' | b'/' | b'.', rest @ ..]) => rest,
            _ => &*full,
        };
        let fault = match rest {
            [] if full.is_empty() => "it has no name, neither 'n' nor 'bn'",
            [] => "nothing is left of its name after the device's id",
            [_, ..] if rest.len() > NAME_MAX => "its name is longer than 64 characters",
            [first, ..] if !first.is_ascii_alphanumeric() => {
                "its name does not begin with a letter or digit"
            }
            _ if !rest.iter().copied().all(is_name_byte) => {
                "its name holds another character than A-Z a-z 0-9 - : . / _"
            }
            _ => match std::str::from_utf8(rest) {
                Ok(name) => return Ok(CompactString::new(name)),
                Err(_) => "its name is not valid UTF-8",
            },
        };
        Err(self.wrong(&format!("{fault}: {}", shown(&String::from_utf8_lossy(full)))))
    }

    /// Section 4.5.3. Whether it is relative to now comes with it.
    fn time(&self, own: f64) -> Result<(f64, bool), Reject> {
        let given = self.base.time + own;
        let relative = given < FIRST_ABSOLUTE_TIME;
        let time = if relative { self.now + given } else { given };
        let clock_is_set = is_set(self.now);
        let ahead = if clock_is_set { self.now + self.limits.max_ahead } else { LATEST };
        let latest = ahead.min(LATEST);
        let earliest = if clock_is_set { 0.0 } else { -FIRST_ABSOLUTE_TIME };
        if (earliest..=latest).contains(&time) {
            return Ok((time, relative));
        }
        let fault = if time < 0.0 {
            "before 1970".to_owned()
        } else if ahead < LATEST {
            format!("more than {} s ahead of the gateway's clock", self.limits.max_ahead)
        } else {
            "after the year 2099".to_owned()
        };
        Err(Reject {
            code: RejectCode::TimeOutOfRange,
            reason: format!("record {}: its time {time} lies {fault}", self.index),
        })
    }

    #[cold]
    fn wrong(&self, text: &str) -> Reject {
        malformed(format!("record {}: {text}", self.index))
    }

    #[cold]
    fn wrong_field(&self, label: Label, text: &str) -> Reject {
        self.wrong(&format!("'{}' ({}) {text}", label.name(), label.key()))
    }
}

impl From<cbor::Error> for Reject {
    fn from(error: cbor::Error) -> Self {
        malformed(format!("the pack is not well-formed CBOR: {error}"))
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b':' | b'.' | b'/' | b'_')
}

#[cold]
fn malformed(reason: String) -> Reject {
    Reject { code: RejectCode::MalformedSenml, reason }
}

#[cold]
fn too_many(limits: &Limits) -> Reject {
    Reject {
        code: RejectCode::TooManyRecords,
        reason: format!("the pack holds more than {} records", limits.max_records),
    }
}

/// A device's text in an error: quoted, escaped, cut.
fn shown(text: &str) -> String {
    const CHARS: usize = 40;
    let cut: String = text.chars().take(CHARS).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}
