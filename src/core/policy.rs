//! What a device may publish, how much of it, and which commands it may be sent: glob patterns and
//! limits from the registry.

use std::fmt;

use super::batch::Reading;
use super::senml::{Reject, RejectCode};

/// Longest pattern, in characters.
pub const PATTERN_MAX: usize = 128;

/// How many patterns a refusal names; the rest are counted.
const PATTERNS_SHOWN: usize = 8;

/// A glob over names: `*` stands for any run of characters, also an empty one and across
/// separators, `?` for exactly one character, everything else for itself. Case counts.
///
/// Matching takes time in proportion to the pattern's length times the name's at worst.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    source: Box<str>,
    tokens: Box<[Token]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Run,
    One,
    Char(char),
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// It is empty, so it would match nothing that has a name.
    #[error("a pattern is empty: write \"*\" to allow every name")]
    Empty,
    /// It is longer than [`PATTERN_MAX`].
    #[error("the pattern {0:?}… is longer than {PATTERN_MAX} characters")]
    TooLong(String),
    /// It holds a blank or a control character, which no name does.
    #[error("the pattern {0:?} holds a blank or a control character, which no name has")]
    Character(String),
}

impl Pattern {
    /// Checks and takes `pattern`.
    ///
    /// # Errors
    /// When it is empty, over [`PATTERN_MAX`] characters, or holds white space or control
    /// characters.
    pub fn new(pattern: &str) -> Result<Self, BadPattern> {
        if pattern.is_empty() {
            return Err(BadPattern::Empty);
        }
        if pattern.chars().count() > PATTERN_MAX {
            return Err(BadPattern::TooLong(pattern.chars().take(40).collect()));
        }
        if pattern.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(BadPattern::Character(pattern.to_owned()));
        }
        let mut tokens: Vec<Token> = Vec::with_capacity(pattern.len());
        for c in pattern.chars() {
            match c {
                '*' if tokens.last() == Some(&Token::Run) => {}
                '*' => tokens.push(Token::Run),
                '?' => tokens.push(Token::One),
                c => tokens.push(Token::Char(c)),
            }
        }
        Ok(Self { source: pattern.into(), tokens: tokens.into() })
    }

    /// Whether the whole of `name` fits.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut tokens = self.tokens.iter();
        let mut chars = name.chars();
        // Where to go on when what follows the last run does not fit: that run takes one more.
        let mut retry: Option<(std::slice::Iter<'_, Token>, std::str::Chars<'_>)> = None;
        loop {
            let before = chars.clone();
            let fits = match tokens.next() {
                Some(Token::Run) => {
                    retry = Some((tokens.clone(), before));
                    continue;
                }
                Some(Token::One) => chars.next().is_some(),
                Some(Token::Char(c)) => chars.next() == Some(*c),
                None if chars.as_str().is_empty() => return true,
                None => false,
            };
            if fits {
                continue;
            }
            let Some((after_run, taken)) = &mut retry else { return false };
            if taken.next().is_none() {
                return false;
            }
            tokens = after_run.clone();
            chars = taken.clone();
        }
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.source, f)
    }
}

impl std::str::FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(pattern: &str) -> Result<Self, Self::Err> {
        Self::new(pattern)
    }
}

/// What one device may do. An empty list allows everything, so the default does too.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Permissions {
    /// Names of readings it may publish.
    pub readings: Vec<Pattern>,
    /// Names of commands it may be sent.
    pub commands: Vec<Pattern>,
    /// How much it may send.
    pub own: OwnLimits,
}

/// How much one device may send, where that is another amount than the settings allow to every
/// device: more or less. What is not set here is as the settings say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OwnLimits {
    /// Batches per second in the long run, for `devices.rate.batches_per_second`.
    pub batches_per_second: Option<f64>,
    /// Batches that may come at once, for `devices.rate.burst`.
    pub burst: Option<f64>,
    /// Records in a pack, for `devices.max_records`.
    pub max_records: Option<usize>,
}

impl OwnLimits {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Permissions {
    /// Whether the device may publish readings called `name`.
    #[must_use]
    pub fn allows_reading(&self, name: &str) -> bool {
        allows(&self.readings, name)
    }

    /// Whether the device may be sent the command `name`.
    #[must_use]
    pub fn allows_command(&self, name: &str) -> bool {
        allows(&self.commands, name)
    }

    /// Checks a resolved pack.
    ///
    /// # Errors
    /// [`RejectCode::NameNotPermitted`] when a reading's name is not allowed; the reason names the
    /// first such reading and what is allowed.
    pub fn check(&self, readings: &[Reading]) -> Result<(), Reject> {
        match readings.iter().find(|reading| !self.allows_reading(&reading.name)) {
            None => Ok(()),
            Some(reading) => Err(Reject {
                code: RejectCode::NameNotPermitted,
                reason: format!(
                    "reading {:?} does not match the device's readings patterns [{}]",
                    reading.name,
                    listed(&self.readings)
                ),
            }),
        }
    }
}

fn allows(patterns: &[Pattern], name: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
}

fn listed(patterns: &[Pattern]) -> String {
    let shown: Vec<_> =
        patterns.iter().take(PATTERNS_SHOWN).map(|pattern| format!("{pattern:?}")).collect();
    let shown = shown.join(", ");
    match patterns.len().saturating_sub(PATTERNS_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
