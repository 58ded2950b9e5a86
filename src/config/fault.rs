//! What is wrong with a file, said so that the person who must mend it can: where, what, and what
//! is allowed instead.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// The file it is in.
    pub file: PathBuf,
    /// The line, from 1; absent when the fault is not at one place (a file that cannot be read).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The column in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// The dotted path of the key, empty for a syntax error.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.problem)?;
        if let Some(allowed) = &self.allowed {
            write!(f, "; allowed: {allowed}")?;
        }
        Ok(())
    }
}

/// Everything that is wrong, in the order of the file; one line each when displayed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Faults(Vec<Fault>);

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl Faults {
    /// What a file says; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is not text.
    pub fn text_of(file: &Path) -> Result<Option<String>, Self> {
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Self::of_file(file, format!("cannot be read: {error}"))),
        }
    }

    /// A single fault of a whole file.
    #[must_use]
    pub fn of_file(file: &Path, problem: impl Into<String>) -> Self {
        Self(vec![Fault {
            file: file.to_owned(),
            line: None,
            column: None,
            key: String::new(),
            problem: problem.into(),
            allowed: None,
        }])
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much is wrong.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The faults one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }

    /// Adds one.
    pub fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// Adds those of another file.
    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Into the order of each file; faults without a line come last in theirs.
    pub fn sort(&mut self) {
        let mut files: Vec<PathBuf> = Vec::new();
        for fault in &self.0 {
            if !files.contains(&fault.file) {
                files.push(fault.file.clone());
            }
        }
        self.0.sort_by_key(|fault| {
            let file = files.iter().position(|file| *file == fault.file);
            (file, fault.line.unwrap_or(usize::MAX), fault.column)
        });
    }

    /// `Ok` with `value` when nothing is wrong.
    ///
    /// # Errors
    /// These faults, sorted.
    pub fn or<T>(mut self, value: T) -> Result<T, Self> {
        if self.is_empty() {
            return Ok(value);
        }
        self.sort();
        Err(self)
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A file's text, to turn byte ranges into lines.
#[derive(Debug)]
pub struct Source<'a> {
    /// The file's name as faults show it.
    pub file: &'a Path,
    /// Its text.
    pub text: &'a str,
    /// Where each line but the first begins: a file with thousands of faults costs no more to
    /// report than to read.
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    /// Of `text`, which faults say is in `file`.
    #[must_use]
    pub fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, lines: text.match_indices('\n').map(|(at, _)| at + 1).collect() }
    }

    /// A fault at `span` (a byte range of the text).
    #[must_use]
    pub fn fault(
        &self,
        span: Range<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        allowed: Option<String>,
    ) -> Fault {
        let start = span.start.min(self.text.len());
        let before = self.lines.partition_point(|line| *line <= start);
        let line_start = before.checked_sub(1).and_then(|last| self.lines.get(last).copied());
        let in_line = self.text.get(line_start.unwrap_or(0)..start).unwrap_or_default();
        Fault {
            file: self.file.to_owned(),
            line: Some(before + 1),
            column: Some(in_line.chars().count() + 1),
            key: key.into(),
            problem: problem.into(),
            allowed,
        }
    }

    /// A fault that the TOML parser found.
    #[must_use]
    pub fn syntax(&self, error: &toml::de::Error) -> Fault {
        let span = error.span().unwrap_or_default();
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        let mut fault = self.fault(span, "", String::new(), None);
        fault.problem = format!("not TOML: {message} (column {})", fault.column.unwrap_or(1));
        fault
    }
}

/// A known key that `unknown` is probably meant to be.
#[must_use]
pub fn suggest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|key| (strsim::jaro_winkler(unknown, key), key))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_counts_lines_and_characters_from_one() {
        let source = Source::new(Path::new("x.toml"), "a = 1\né = 2\n");
        let fault = source.fault(9..10, "k", "is wrong", Some("1 to 3".into()));
        assert_eq!((fault.line, fault.column), (Some(2), Some(3)));
        assert_eq!(fault.to_string(), "x.toml:2: k: is wrong; allowed: 1 to 3");
        let beyond = source.fault(900..901, "", "is wrong", None);
        assert_eq!(beyond.line, Some(3));
    }

    #[test]
    fn a_syntax_error_names_line_and_column() {
        let source = Source::new(Path::new("x.toml"), "a = 1\nb = = 2\n");
        let error = toml::de::DeTable::parse(source.text).unwrap_err();
        let text = source.syntax(&error).to_string();
        assert!(text.starts_with("x.toml:2: not TOML: "), "{text}");
    }
}
