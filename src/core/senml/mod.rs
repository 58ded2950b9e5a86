//! SenML packs in CBOR (RFC 8428 section 6): read and resolved, and written resolved.
//!
//! What [`resolve()`] accepts beyond the letter of the RFC, because devices in the field send it:
//! indefinite-length arrays, maps and strings, and `vd` as base64url text instead of a byte
//! string. What it refuses beyond the letter: a label of the RFC written as text (it must be its
//! integer in CBOR), a known label twice in one record, a unit over [`UNIT_MAX`] or a name over
//! [`NAME_MAX`] characters, and a pack without any measurement.

mod encode;
mod number;
mod resolve;

pub use encode::encode;
pub use resolve::resolve;

/// Longest name of a reading, in characters, without the device's own id in front.
pub const NAME_MAX: usize = 64;
/// Longest unit, in characters.
pub const UNIT_MAX: usize = 64;

/// What a pack may hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Most records in one pack.
    pub max_records: usize,
    /// Seconds that a reading may lie ahead of now.
    pub max_ahead: f64,
}

/// Why a batch is refused for ever, as REJECT says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectCode {
    /// The pack breaks RFC 8428 or holds a non-finite number.
    MalformedSenml = 1,
    /// It holds a name that the device may not publish.
    NameNotPermitted = 2,
    /// It holds more records than the gateway takes.
    TooManyRecords = 3,
    /// A time lies before 1970 or too far ahead.
    TimeOutOfRange = 4,
    /// The broker will never take it.
    RefusedByBroker = 5,
}

impl RejectCode {
    /// The number in REJECT.
    #[must_use]
    pub fn code(self) -> u64 {
        self as u64
    }

    /// The code as the label of a metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedSenml => "1",
            Self::NameNotPermitted => "2",
            Self::TooManyRecords => "3",
            Self::TimeOutOfRange => "4",
            Self::RefusedByBroker => "5",
        }
    }
}

/// A refusal: the code for the device's program, the reason for its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Reject {
    /// What kind.
    pub code: RejectCode,
    /// Names the record (counted from 0) and the label.
    pub reason: String,
}

/// The labels of RFC 8428 table 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    BaseVersion,
    BaseName,
    BaseTime,
    BaseUnit,
    BaseValue,
    BaseSum,
    Name,
    Unit,
    Value,
    StringValue,
    BooleanValue,
    Sum,
    Time,
    UpdateTime,
    DataValue,
}

impl Label {
    const ALL: [Self; 15] = [
        Self::BaseVersion,
        Self::BaseName,
        Self::BaseTime,
        Self::BaseUnit,
        Self::BaseValue,
        Self::BaseSum,
        Self::Name,
        Self::Unit,
        Self::Value,
        Self::StringValue,
        Self::BooleanValue,
        Self::Sum,
        Self::Time,
        Self::UpdateTime,
        Self::DataValue,
    ];

    /// The label of a non-negative key.
    #[inline]
    fn regular(key: u64) -> Option<Self> {
        Some(match key {
            0 => Self::Name,
            1 => Self::Unit,
            2 => Self::Value,
            3 => Self::StringValue,
            4 => Self::BooleanValue,
            5 => Self::Sum,
            6 => Self::Time,
            7 => Self::UpdateTime,
            8 => Self::DataValue,
            _ => return None,
        })
    }

    /// The label of the key `-1 - inverted`, the way CBOR writes negative integers.
    #[inline]
    fn base(inverted: u64) -> Option<Self> {
        Some(match inverted {
            0 => Self::BaseVersion,
            1 => Self::BaseName,
            2 => Self::BaseTime,
            3 => Self::BaseUnit,
            4 => Self::BaseValue,
            5 => Self::BaseSum,
            _ => return None,
        })
    }

    /// The label that JSON writes as `name`.
    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|label| label.name() == name)
    }

    /// The integer that CBOR writes.
    const fn key(self) -> i8 {
        match self {
            Self::BaseVersion => -1,
            Self::BaseName => -2,
            Self::BaseTime => -3,
            Self::BaseUnit => -4,
            Self::BaseValue => -5,
            Self::BaseSum => -6,
            Self::Name => 0,
            Self::Unit => 1,
            Self::Value => 2,
            Self::StringValue => 3,
            Self::BooleanValue => 4,
            Self::Sum => 5,
            Self::Time => 6,
            Self::UpdateTime => 7,
            Self::DataValue => 8,
        }
    }

    /// What JSON writes.
    const fn name(self) -> &'static str {
        match self {
            Self::BaseVersion => "bver",
            Self::BaseName => "bn",
            Self::BaseTime => "bt",
            Self::BaseUnit => "bu",
            Self::BaseValue => "bv",
            Self::BaseSum => "bs",
            Self::Name => "n",
            Self::Unit => "u",
            Self::Value => "v",
            Self::StringValue => "vs",
            Self::BooleanValue => "vb",
            Self::Sum => "s",
            Self::Time => "t",
            Self::UpdateTime => "ut",
            Self::DataValue => "vd",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}
