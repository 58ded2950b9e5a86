//! The values of a configuration file, each checked against its [`Key`] alone; what they mean
//! together is checked in `check`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Faults, Source, suggest};
use super::places::{check_name, credential};
use super::registry::described;
use super::schema::{self, Applies, KEYS, Key, Kind, Otherwise, Repeated, Rule};
use super::units::{parse_size, parse_time};

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// [`Kind::Flag`]
    Flag(bool),
    /// [`Kind::Integer`], [`Kind::OneOfIntegers`]
    Integer(i64),
    /// [`Kind::Number`]
    Number(f64),
    /// [`Kind::Size`], in bytes
    Size(u64),
    /// [`Kind::Time`]
    Time(Duration),
    /// [`Kind::OneOf`], [`Kind::Text`], [`Kind::Path`], [`Kind::File`]
    Text(String),
    /// [`Kind::Texts`]
    Texts(Vec<String>),
    /// [`Kind::Address`]
    Address(SocketAddr),
}

/// The values that are set, and where. Those of a [repeated](schema::Repeated) table have its number
/// in their path, from 0: `push[0].url`.
#[derive(Debug, Clone, Default)]
pub struct Values {
    set: BTreeMap<String, (Value, Range<usize>)>,
    tables: BTreeMap<String, Range<usize>>,
    faulty: BTreeMap<String, Range<usize>>,
    counts: BTreeMap<&'static str, usize>,
}

impl Values {
    /// Reads all keys of `source`. What is wrong goes to `faults`; the rest is in the answer.
    pub fn read(source: &Source<'_>, faults: &mut Faults) -> Self {
        let (root, errors) = DeTable::parse_recoverable(source.text);
        let mut values = Self::default();
        for error in &errors {
            faults.push(source.syntax(error));
        }
        if errors.is_empty() {
            values.table(source, ("", ""), root.get_ref(), faults);
        }
        values
    }

    /// The value of the key `path`, set or by default.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Value> {
        self.set.get(path).map(|(value, _)| value.clone()).or_else(|| default_of(path))
    }

    /// Whether the key is in the file, even with a faulty value.
    #[must_use]
    pub fn mentions(&self, path: &str) -> bool {
        self.set.contains_key(path) || self.is_faulty(path)
    }

    /// Whether the key is in the file with a faulty value; its default is answered then.
    #[must_use]
    pub fn is_faulty(&self, path: &str) -> bool {
        self.faulty.contains_key(path)
    }

    /// How many of a repeated table there are.
    #[must_use]
    pub fn count(&self, path: &str) -> usize {
        self.counts.get(path).copied().unwrap_or(0)
    }

    /// Where the key or table is set, else where a table around it begins, else nowhere.
    #[must_use]
    pub fn span(&self, path: &str) -> Option<Range<usize>> {
        let set = self.set.get(path).map(|(_, span)| span);
        let span = set.or_else(|| self.faulty.get(path)).or_else(|| self.tables.get(path)).cloned();
        span.or_else(|| self.span(path.rsplit_once('.')?.0))
    }

    /// Whether the table is there, even if empty.
    #[must_use]
    pub fn has_table(&self, path: &str) -> bool {
        self.tables.contains_key(path)
    }

    /// An integer. Like the accessors below it answers a neutral value where `path` names no key
    /// of that kind; a test reads every key with the accessor that fits.
    #[must_use]
    pub fn integer<T: TryFrom<i64> + Default>(&self, path: &str) -> T {
        let Some(Value::Integer(n)) = self.get(path) else { return T::default() };
        T::try_from(n).unwrap_or_default()
    }

    /// A switch, if it is known which way it is.
    #[must_use]
    pub fn flag(&self, path: &str) -> Option<bool> {
        let Some(Value::Flag(flag)) = self.get(path) else { return None };
        Some(flag)
    }

    /// A number.
    #[must_use]
    pub fn number(&self, path: &str) -> f64 {
        let Some(Value::Number(n)) = self.get(path) else { return 0.0 };
        n
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self, path: &str) -> u64 {
        let Some(Value::Size(n)) = self.get(path) else { return 0 };
        n
    }

    /// A time.
    #[must_use]
    pub fn time(&self, path: &str) -> Duration {
        let Some(Value::Time(time)) = self.get(path) else { return Duration::ZERO };
        time
    }

    /// A string, if there is one.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        let Some(Value::Text(text)) = self.get(path) else { return None };
        Some(text)
    }

    /// A list of strings.
    #[must_use]
    pub fn texts(&self, path: &str) -> Vec<String> {
        let Some(Value::Texts(texts)) = self.get(path) else { return Vec::new() };
        texts
    }

    /// An address.
    #[must_use]
    pub fn address(&self, path: &str) -> SocketAddr {
        let Some(Value::Address(address)) = self.get(path) else {
            return SocketAddr::from(([127, 0, 0, 1], 0));
        };
        address
    }

    /// The keys that `newer` sets otherwise and whose change takes effect at `applies`.
    #[must_use]
    pub fn changed(&self, newer: &Self, applies: Applies) -> Vec<&'static str> {
        KEYS.iter()
            .filter(|key| key.applies == applies && !self.agree(newer, key.path))
            .map(|key| key.path)
            .collect()
    }

    /// Takes over the values of `newer` whose change takes effect on reload.
    pub fn take_over(&mut self, newer: &Self) {
        for key in KEYS.iter().filter(|key| key.applies == Applies::Reload) {
            match newer.set.get(key.path) {
                Some(value) => self.set.insert(key.path.to_owned(), value.clone()),
                None => self.set.remove(key.path),
            };
        }
    }

    /// Whether the key has the same value in both, in every table that it is in.
    fn agree(&self, other: &Self, path: &str) -> bool {
        let repeated = path.split_once('.').filter(|(table, _)| schema::repeated(table).is_some());
        let Some((table, key)) = repeated else { return self.get(path) == other.get(path) };
        let count = self.count(table);
        count == other.count(table)
            && (0..count)
                .map(|index| format!("{table}[{index}].{key}"))
                .all(|path| self.get(&path) == other.get(&path))
    }

    /// `place` is the path of `table` as it is stored and as the schema has it.
    fn table(
        &mut self,
        source: &Source<'_>,
        place: (&str, &str),
        table: &DeTable<'_>,
        faults: &mut Faults,
    ) {
        let below = |path: &str, name: &str| {
            if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
        };
        for (name, value) in table {
            let stored = below(place.0, name.get_ref());
            let inner = below(place.1, name.get_ref());
            if let Some(key) = schema::find(&inner) {
                match check(key, value) {
                    Ok(checked) => {
                        self.set.insert(stored, (checked, value.span()));
                    }
                    Err((span, problem)) => {
                        self.faulty.insert(stored, value.span());
                        let allowed = Some(key.kind.allowed());
                        faults.push(source.fault(span, key.path, problem, allowed));
                    }
                }
            } else if let Some(repeated) = schema::repeated(&inner) {
                self.repeated(source, repeated, value, faults);
            } else if schema::is_table(&inner) {
                if let Some(table) = value.get_ref().as_table() {
                    self.tables.insert(stored.clone(), name.span());
                    self.table(source, (&stored, &inner), table, faults);
                } else {
                    let keys = schema::members(&inner).collect::<Vec<_>>().join(", ");
                    let problem = format!("is {}", described(value.get_ref()));
                    let allowed = Some(format!("a table with {keys}"));
                    faults.push(source.fault(value.span(), inner, problem, allowed));
                }
            } else {
                let problem = unknown(place.1, name.get_ref());
                let allowed = schema::members(place.1).collect::<Vec<_>>().join(", ");
                faults.push(source.fault(name.span(), inner, problem, Some(allowed)));
            }
        }
    }

    fn repeated(
        &mut self,
        source: &Source<'_>,
        repeated: &'static Repeated,
        value: &Spanned<DeValue<'_>>,
        faults: &mut Faults,
    ) {
        let Repeated { path, max } = *repeated;
        let shape = || {
            let keys = schema::members(path).collect::<Vec<_>>().join(", ");
            Some(format!("one or more [[{path}]] with {keys}"))
        };
        let Some(tables) = value.get_ref().as_array() else {
            let problem = format!("is {}", described(value.get_ref()));
            faults.push(source.fault(value.span(), path, problem, shape()));
            return;
        };
        for (index, entry) in tables.iter().enumerate() {
            let Some(table) = entry.get_ref().as_table() else {
                let problem = format!("holds {}", described(entry.get_ref()));
                faults.push(source.fault(entry.span(), path, problem, shape()));
                continue;
            };
            if index == max {
                let problem = format!("is there {} times", tables.len());
                let allowed = Some(format!("at most {max} times"));
                faults.push(source.fault(entry.span(), path, problem, allowed));
            }
            let stored = format!("{path}[{index}]");
            self.tables.insert(stored.clone(), entry.span());
            self.table(source, (&stored, path), table, faults);
        }
        self.counts.insert(path, tables.len());
    }
}

fn unknown(path: &str, name: &str) -> String {
    if let Some(meant) = suggest(name, schema::members(path)) {
        return format!("unknown key; did you mean {meant:?}?");
    }
    // A key that stands in the wrong table is as common as a misspelt one.
    let elsewhere = KEYS.iter().find(|key| key.path.rsplit('.').next() == Some(name));
    match elsewhere {
        Some(key) => format!("unknown key; did you mean {}?", key.path),
        None => "unknown key".into(),
    }
}

fn default_of(path: &str) -> Option<Value> {
    let key = schema::find(&without_number(path))?;
    let Otherwise::Toml(text) = key.default else { return None };
    let value = DeValue::parse(text).ok()?;
    check(key, &value).ok()
}

/// The path as the schema has it.
pub(super) fn without_number(path: &str) -> Cow<'_, str> {
    match path.split_once('[').and_then(|(table, rest)| Some((table, rest.split_once(']')?.1))) {
        Some((table, key)) => format!("{table}{key}").into(),
        None => path.into(),
    }
}

/// Checks `value` against its key; else where and what is wrong.
fn check(key: &Key, value: &Spanned<DeValue<'_>>) -> Result<Value, (Range<usize>, String)> {
    let here = |problem: String| (value.span(), problem);
    let mismatch = || here(format!("is {}", described(value.get_ref())));
    let held = value.get_ref();
    let integer = || integer_of(held).ok_or_else(mismatch)?.ok_or(here("is too large".into()));
    let string = || held.as_str().ok_or_else(mismatch);
    let in_range = |inside: bool, shown: &dyn std::fmt::Display| {
        if inside { Ok(()) } else { Err(here(format!("{shown} is out of range"))) }
    };
    Ok(match &key.kind {
        Kind::Flag => Value::Flag(held.as_bool().ok_or_else(mismatch)?),
        Kind::Integer(min, max) => {
            let n = integer()?;
            in_range((min..=max).contains(&&n), &n)?;
            Value::Integer(n)
        }
        Kind::OneOfIntegers(choices) => {
            let n = integer()?;
            if !choices.contains(&n) {
                return Err(here(format!("{n} is not one of them")));
            }
            Value::Integer(n)
        }
        Kind::Number(min, max) => {
            let n: f64 = match held.as_float() {
                Some(float) => float.as_str().parse().map_err(|_| mismatch())?,
                None => integer()? as f64,
            };
            in_range((min..=max).contains(&&n), &n)?;
            Value::Number(n)
        }
        Kind::Size(min, max) => {
            let (n, shown) = if let Some(text) = held.as_str() {
                let not_one =
                    || here(format!("{text:?} is not a size; write bytes or KiB, MiB, GiB"));
                (parse_size(text).ok_or_else(not_one)?, text.to_owned())
            } else {
                let n = integer()?;
                // A negative number is below every minimum too.
                (u64::try_from(n).unwrap_or(0), n.to_string())
            };
            in_range((min..=max).contains(&&n), &shown)?;
            Value::Size(n)
        }
        Kind::Time(min, max) => {
            if held.is_integer() {
                return Err(here("has no unit; write ms, s, m, h or d".into()));
            }
            let text = string()?;
            let time = parse_time(text).ok_or_else(|| {
                here(format!("{text:?} is not a time; write a number and ms, s, m, h or d"))
            })?;
            let range = Duration::from_millis(*min)..=Duration::from_millis(*max);
            in_range(range.contains(&time), &text)?;
            Value::Time(time)
        }
        Kind::OneOf(choices) => {
            let text = string()?;
            if !choices.contains(&text) {
                let hint = suggest(text, choices.iter().copied())
                    .map_or(String::new(), |meant| format!("; did you mean {meant:?}?"));
                return Err(here(format!("{text:?} is not one of them{hint}")));
            }
            Value::Text(text.to_owned())
        }
        Kind::Address => {
            let text = string()?;
            let not_one = |_| here(format!("{text:?} is not an IP address and port"));
            Value::Address(text.parse().map_err(not_one)?)
        }
        Kind::Path | Kind::File => {
            let text = string()?;
            if text.is_empty() || text.contains('\0') {
                return Err(here(format!("{text:?} is not a path")));
            }
            match (credential(text), &key.kind) {
                (Some(name), Kind::File) => check_name(name).map_err(here)?,
                (Some(_), _) => {
                    let problem = "changes while the gateway runs, and a credential is a copy that \
                                   systemd makes at the start";
                    return Err(here(problem.into()));
                }
                (None, _) => {}
            }
            Value::Text(text.to_owned())
        }
        Kind::Text(rule) => {
            let text = string()?;
            (rule.check)(text).map_err(here)?;
            Value::Text(text.to_owned())
        }
        Kind::Texts(rule) => texts(rule, held.as_array().ok_or_else(mismatch)?)?,
    })
}

fn texts(rule: &Rule, items: &[Spanned<DeValue<'_>>]) -> Result<Value, (Range<usize>, String)> {
    let mut texts = Vec::new();
    for item in items {
        let problem = match item.get_ref().as_str() {
            Some(text) => {
                texts.push(text.to_owned());
                (rule.check)(text).err()
            }
            None => Some(format!("holds {}", described(item.get_ref()))),
        };
        if let Some(problem) = problem {
            return Err((item.span(), problem));
        }
    }
    Ok(Value::Texts(texts))
}

/// `None`: not an integer. `Some(None)`: one that does not fit.
#[allow(clippy::option_option)] // the two answers make two messages
fn integer_of(value: &DeValue<'_>) -> Option<Option<i64>> {
    let integer = value.as_integer()?;
    Some(i64::from_str_radix(integer.as_str(), integer.radix()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> (Values, Vec<String>) {
        let mut faults = Faults::default();
        let values = Values::read(&Source::new(Path::new("t.toml"), text), &mut faults);
        faults.sort();
        (values, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_default_is_a_valid_value_of_its_key() {
        let values = Values::default();
        for key in KEYS {
            match key.default {
                Otherwise::Toml(text) => {
                    assert!(values.get(key.path).is_some(), "{}: {text}", key.path);
                }
                _ => assert_eq!(values.get(key.path), None, "{}", key.path),
            }
        }
    }

    #[test]
    fn keys_are_unique_and_none_is_also_a_table() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS.iter().skip(index + 1).all(|other| other.path != key.path));
            assert!(!schema::is_table(key.path), "{}", key.path);
        }
    }

    #[test]
    fn inline_dotted_and_headed_tables_are_the_same() {
        for text in [
            "[devices]\nrate = { batches_per_second = 0.5, burst = 2 }",
            "[devices]\nrate.batches_per_second = 0.5\nrate.burst = 2",
            "[devices.rate]\nbatches_per_second = 0.5\nburst = 2.0",
        ] {
            let (values, faults) = read(text);
            assert_eq!(faults, [""; 0]);
            assert!((values.number("devices.rate.batches_per_second") - 0.5).abs() < 1e-9);
            assert!((values.number("devices.rate.burst") - 2.0).abs() < 1e-9);
        }
    }

    #[test]
    fn sizes_may_be_integers_and_integers_may_have_any_base() {
        let (values, faults) =
            read("[devices]\nmax_frame = 4_096\nwindow = 0x10\nmax_unsettled = \"1 MiB\"\n");
        assert_eq!(faults, [""; 0]);
        assert_eq!(values.size("devices.max_frame"), 4096);
        assert_eq!(values.size("devices.max_unsettled"), 1 << 20);
        assert_eq!(values.integer::<u32>("devices.window"), 16);
    }

    #[test]
    fn a_key_in_the_wrong_table_is_shown_its_place() {
        let (_, faults) = read("[mqtt]\nwindow = 3\n");
        assert_eq!(faults.len(), 1);
        assert!(
            faults[0]
                .starts_with("t.toml:2: mqtt.window: unknown key; did you mean devices.window?")
        );
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for text in ["nan", "inf", "-inf", "1e400", "0", "-1.0", "99999999999999999999"] {
            let (_, faults) = read(&format!("[devices.rate]\nbatches_per_second = {text}\n"));
            assert_eq!(faults.len(), 1, "{text}: {faults:?}");
        }
    }

    #[test]
    fn repeated_tables_are_read_one_by_one_headed_or_inline() {
        for text in [
            "[[push]]\nurl = \"http://a/w\"\n[[push]]\nurl = \"http://b/w\"\ngzip = false\n",
            "push = [{ url = \"http://a/w\" }, { url = \"http://b/w\", gzip = false }]",
        ] {
            let (values, faults) = read(text);
            assert_eq!(faults, [""; 0]);
            assert_eq!(values.count("push"), 2);
            assert_eq!(values.text("push[0].url").as_deref(), Some("http://a/w"));
            assert_eq!(values.text("push[1].url").as_deref(), Some("http://b/w"));
            assert_eq!(
                (values.flag("push[0].gzip"), values.flag("push[1].gzip")),
                (None, Some(false))
            );
            assert_eq!(values.integer::<u32>("push[1].batch_size"), 5000);
        }
        assert_eq!(Values::default().count("push"), 0);
    }

    #[test]
    fn faults_in_repeated_tables_have_their_lines() {
        let (_, faults) = read("[[push]]\nbatch_size = 0\n[[push]]\n\nurl = 7\nintervall = 1\n");
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].starts_with("t.toml:2: push.batch_size: 0 is out of range"));
        assert!(faults[1].starts_with("t.toml:5: push.url: is an integer"), "{faults:?}");
        assert!(
            faults[2]
                .starts_with("t.toml:6: push.intervall: unknown key; did you mean \"interval\"?")
        );
        let (_, faults) = read("[push]\nurl = \"http://a/w\"\n");
        assert!(
            faults[0]
                .starts_with("t.toml:1: push: is a table; allowed: one or more [[push]] with name"),
            "{faults:?}"
        );
        let (_, faults) = read("push = [3]\n");
        assert!(faults[0].starts_with("t.toml:1: push: holds an integer"), "{faults:?}");
        let (_, faults) = read(&"[[push]]\n".repeat(9));
        assert_eq!(faults, ["t.toml:9: push: is there 9 times; allowed: at most 8 times"]);
    }

    #[test]
    fn a_change_in_any_of_the_repeated_tables_is_one_of_its_key() {
        let (old, _) = read("[[push]]\ntimeout = \"1s\"\n[[push]]\n");
        let (new, _) = read("[[push]]\ntimeout = \"1s\"\n[[push]]\ntimeout = \"2s\"\n");
        assert_eq!(old.changed(&new, Applies::Restart), ["push.timeout"]);
        assert!(old.changed(&old, Applies::Restart).is_empty());
        assert!(Values::default().changed(&new, Applies::Restart).contains(&"push.url"));
    }

    #[test]
    fn changes_are_told_apart_by_when_they_take_effect() {
        let (old, _) = read("[log]\nlevel = \"info\"\n[devices]\nwindow = 64\n");
        let (new, _) = read("[log]\nlevel = \"debug\"\n[devices]\nwindow = 32\n");
        assert_eq!(old.changed(&new, Applies::Reload), ["log.level"]);
        assert_eq!(old.changed(&new, Applies::Restart), ["devices.window"]);
        assert!(old.changed(&Values::default(), Applies::Restart).is_empty());
    }
}
