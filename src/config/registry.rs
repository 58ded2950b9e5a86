//! The registry of devices (`devices.toml`): who may connect, with which token, and what it may do.
//!
//! ```toml
//! [devices.kiln-3]
//! token = "sha256:9f86d0…"          # the hash of the token; the token itself is nowhere
//! previous = { token = "sha256:60303a…", expires = 2025-11-22T09:26:40Z }   # while rotating
//! created = 2025-11-22T08:26:40Z
//! readings = ["*"]                  # names it may publish; empty or absent: all
//! commands = ["*"]                  # commands it may be sent; empty or absent: all
//! rate = { batches_per_second = 5, burst = 20 }   # in place of devices.rate
//! max_records = 100                 # in place of devices.max_records
//! ```
//!
//! A token is 256 random bits, so a plain SHA-256 of it cannot be searched and costs a Pi a
//! microsecond per connection instead of the tenth of a second that a password hash would.

pub mod edit;
pub mod limits;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Faults, Source, suggest};
use super::units::unix_from_datetime;
use crate::core::ids::DeviceId;
use crate::core::policy::{Pattern, Permissions};

const HASH_PREFIX: &str = "sha256:";
/// Of a device's token.
const WRITER: &str = "tidegate device add";
const KEYS: [&str; 7] =
    ["token", "previous", "created", "readings", "commands", "rate", "max_records"];

/// The devices that may connect. Made once per change of the file and shared.
#[derive(Debug, Default)]
pub struct Registry {
    devices: HashMap<DeviceId, Device>,
    has_file: bool,
}

/// What the registry holds about one device.
#[derive(Debug, Clone, Default)]
pub struct Device {
    token: Option<Hash>,
    previous: Option<Previous>,
    created: Option<f64>,
    permissions: Arc<Permissions>,
}

/// Which of a device's secrets opened a connection; to find out later whether it still holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential(Hash);

/// Why a token does not let a device in. For the operator alone: who offers the token must not
/// learn it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistrust {
    /// The device is not in the registry.
    Unknown,
    /// It is, without a token.
    NoToken,
    /// The token is that before the last rotation, whose overlap has ended.
    Expired,
    /// It is not the device's token.
    Foreign,
}

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hash([u8; 32]);

#[derive(Debug, Clone)]
struct Previous {
    token: Hash,
    /// Unix time in seconds.
    expires: f64,
}

impl Registry {
    /// Reads the file. `Ok(None)` when there is none: no device is registered yet.
    ///
    /// # Errors
    /// Everything that is wrong with the file, each fault with its line.
    pub fn load(path: &Path) -> Result<Option<Self>, Faults> {
        Faults::text_of(path)?.map(|text| Self::parse(&text, path)).transpose()
    }

    /// Reads the registry from `text`; `file` is what faults call it.
    ///
    /// # Errors
    /// Everything that is wrong, each fault with its line.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Faults> {
        Parser::read(text, file, |parser, root, registry: &mut Self| {
            registry.has_file = true;
            parser.root(root, &mut registry.devices);
        })
    }

    /// What `device` may do, if `token` is its own: the current one, or the one before within its
    /// overlap. `now` is Unix time in seconds. An unknown device costs the same work as a wrong
    /// token, and the comparison takes the same time wherever the tokens differ.
    #[must_use]
    pub fn verify(&self, device: &DeviceId, token: &str, now: f64) -> Option<Arc<Permissions>> {
        self.credential(device, token, now).and_then(|_| self.permissions(device))
    }

    /// Like [`Self::verify`], but says which secret it was; ask [`Self::still_valid`] about it
    /// whenever the registry has changed or time has passed.
    #[must_use]
    pub fn credential(&self, device: &DeviceId, token: &str, now: f64) -> Option<Credential> {
        let offered = Hash::of(token);
        bool::from(self.holds(device, &offered, now)).then_some(Credential(offered))
    }

    /// Whether a connection that was opened with `credential` may go on at `now` (Unix time in
    /// seconds): the device is still there, and the token neither replaced nor expired.
    #[must_use]
    pub fn still_valid(&self, credential: &Credential, device: &DeviceId, now: f64) -> bool {
        self.holds(device, &credential.0, now).into()
    }

    /// Why a connection of `device` with the token of `offered` was refused at `now` (Unix time in
    /// seconds). Takes as long as it takes: the answer must be on its way before this is asked.
    #[must_use]
    pub fn mistrust(&self, device: &DeviceId, offered: &Credential, now: f64) -> Mistrust {
        let Some(entry) = self.devices.get(device) else { return Mistrust::Unknown };
        let expired = |p: &Previous| p.token == offered.0 && p.expires <= now;
        match &entry.previous {
            Some(previous) if expired(previous) => Mistrust::Expired,
            _ if entry.token.is_none() => Mistrust::NoToken,
            _ => Mistrust::Foreign,
        }
    }

    /// What `device` may do; `None` when it is not registered.
    #[must_use]
    pub fn permissions(&self, device: &DeviceId) -> Option<Arc<Permissions>> {
        self.devices.get(device).map(|d| Arc::clone(&d.permissions))
    }

    /// One device's entry.
    #[must_use]
    pub fn get(&self, device: &DeviceId) -> Option<&Device> {
        self.devices.get(device)
    }

    /// All entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceId, &Device)> {
        self.devices.iter()
    }

    /// How many devices are registered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Whether there is a file, be it one that lists nobody. The default registry has none.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.has_file
    }

    /// Always two comparisons, whatever is registered.
    fn holds(&self, device: &DeviceId, offered: &Hash, now: f64) -> Choice {
        let entry = self.devices.get(device);
        let current = entry.and_then(|d| d.token);
        let previous = entry.and_then(|d| d.previous.as_ref()).filter(|p| now < p.expires);
        let matches = |stored: Option<Hash>| {
            let equal = stored.unwrap_or(Hash([0; 32])).ct_eq(offered);
            equal & Choice::from(u8::from(stored.is_some()))
        };
        matches(current) | matches(previous.map(|p| p.token))
    }
}

impl Device {
    /// When it was registered: Unix time in seconds.
    #[must_use]
    pub fn created(&self) -> Option<f64> {
        self.created
    }

    /// Whether it has a token. Without one it can only prove itself by a client certificate.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Until when the token before the last rotation works: Unix time in seconds.
    #[must_use]
    pub fn previous_expires(&self) -> Option<f64> {
        self.previous.as_ref().map(|p| p.expires)
    }

    /// What it may do.
    #[must_use]
    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }
}

impl Credential {
    /// That of `token`, whether it opens anything or not.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Hash::of(token))
    }
}

impl Hash {
    pub(crate) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Takes the same time wherever they differ.
    fn ct_eq(&self, other: &Self) -> Choice {
        #[cfg(test)]
        tests::COMPARISONS.with(|count| count.set(count.get() + 1));
        self.0.ct_eq(&other.0)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix(HASH_PREFIX)?.as_bytes();
        let mut hash = [0; 32];
        if hex.len() != hash.len() * 2 {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(HASH_PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Shows the start alone: enough to tell two apart.
impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_string().get(..HASH_PREFIX.len() + 8).unwrap_or_default())
    }
}

/// Reads a file of entries; for that of the users too.
pub(super) struct Parser<'a> {
    source: Source<'a>,
    faults: Faults,
    /// Devices with the same patterns share one [`Permissions`]; by what they look like.
    shared: HashMap<String, Arc<Permissions>>,
}

impl<'a> Parser<'a> {
    /// Has `read_root` read what the file's tables say, unless it is no TOML.
    pub(super) fn read<T: Default>(
        text: &'a str,
        file: &'a Path,
        read_root: impl FnOnce(&mut Self, &DeTable<'a>, &mut T),
    ) -> Result<T, Faults> {
        let source = Source::new(file, text);
        let mut parser = Self { source, faults: Faults::default(), shared: HashMap::new() };
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            parser.faults.push(parser.source.syntax(error));
        }
        let mut value = T::default();
        if errors.is_empty() {
            read_root(&mut parser, root.get_ref(), &mut value);
        }
        parser.faults.or(value)
    }

    pub(super) fn fault(&mut self, span: Range<usize>, key: &str, problem: String, allowed: &str) {
        let allowed = (!allowed.is_empty()).then(|| allowed.to_owned());
        self.faults.push(self.source.fault(span, key, problem, allowed));
    }

    fn root(&mut self, root: &DeTable<'_>, devices: &mut HashMap<DeviceId, Device>) {
        for (key, value) in root {
            if key.get_ref() != "devices" {
                self.unknown(key, key.get_ref(), key.get_ref(), &["devices"]);
                continue;
            }
            let Some(table) = value.get_ref().as_table() else {
                self.wrong_type(value, "devices", "[devices.ID] tables");
                continue;
            };
            for (id, entry) in table {
                let path = format!("devices.{}", id.get_ref());
                let Some(entry) = entry.get_ref().as_table() else {
                    self.wrong_type(entry, &path, "a table");
                    continue;
                };
                let device = self.device(&path, entry);
                match DeviceId::new(id.get_ref()) {
                    Ok(id) => drop(devices.insert(id, device)),
                    Err(bad) => self.fault(id.span(), &path, bad.to_string(), ""),
                }
            }
        }
    }

    fn device(&mut self, path: &str, entry: &DeTable<'_>) -> Device {
        let mut device = Device::default();
        let mut permissions = Permissions::default();
        for (key, value) in entry {
            let path = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "token" => device.token = self.hash(&path, value, WRITER),
                "created" => device.created = self.date(&path, value),
                "previous" => device.previous = self.previous(&path, value),
                "readings" => permissions.readings = self.patterns(&path, value),
                "commands" => permissions.commands = self.patterns(&path, value),
                "rate" => self.rate(&path, value, &mut permissions.own),
                "max_records" => permissions.own.max_records = self.max_records(&path, value),
                unknown => self.unknown(key, &path, unknown, &KEYS),
            }
        }
        let shared = self.shared.entry(format!("{permissions:?}"));
        device.permissions = Arc::clone(shared.or_insert_with(|| Arc::new(permissions)));
        device
    }

    fn previous(&mut self, path: &str, value: &Spanned<DeValue<'_>>) -> Option<Previous> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(value, path, "{ token = \"sha256:…\", expires = DATE }");
            return None;
        };
        let (mut token, mut expires) = (None, None);
        let faults_before = self.faults.len();
        for (key, value) in table {
            let path = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "token" => token = self.hash(&path, value, WRITER),
                "expires" => expires = self.date(&path, value),
                unknown => self.unknown(key, &path, unknown, &["token", "expires"]),
            }
        }
        if self.faults.len() == faults_before && (token.is_none() || expires.is_none()) {
            let problem = "needs both token and expires".to_owned();
            self.fault(value.span(), path, problem, "{ token = \"sha256:…\", expires = DATE }");
        }
        Some(Previous { token: token?, expires: expires? })
    }

    /// The hash of a token, which the command `writer` writes.
    pub(super) fn hash(
        &mut self,
        path: &str,
        value: &Spanned<DeValue<'_>>,
        writer: &str,
    ) -> Option<Hash> {
        let allowed = format!("\"sha256:\" and 64 hexadecimal digits, as `{writer}` writes it");
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(value, path, &allowed);
            return None;
        };
        let hash = Hash::parse(text);
        if hash.is_none() {
            // The text is not repeated: it may be a token that was put here by mistake.
            self.fault(value.span(), path, "is not the hash of a token".to_owned(), &allowed);
        }
        hash
    }

    pub(super) fn date(&mut self, path: &str, value: &Spanned<DeValue<'_>>) -> Option<f64> {
        let allowed = "a date and time such as 2025-11-22T08:26:40Z";
        let Some(date) = value.get_ref().as_datetime() else {
            self.wrong_type(value, path, allowed);
            return None;
        };
        let unix = unix_from_datetime(date);
        if unix.is_none() {
            let problem = format!("{date} is not a point in time after 1970");
            self.fault(value.span(), path, problem, allowed);
        }
        unix
    }

    fn patterns(&mut self, path: &str, value: &Spanned<DeValue<'_>>) -> Vec<Pattern> {
        let allowed = "a list of patterns such as [\"temperature\", \"motor-*\"]";
        let mut patterns = Vec::new();
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(value, path, allowed);
            return patterns;
        };
        for item in items {
            match item.get_ref().as_str().map(Pattern::new) {
                Some(Ok(pattern)) => patterns.push(pattern),
                Some(Err(bad)) => self.fault(item.span(), path, bad.to_string(), ""),
                None => self.wrong_type(item, path, allowed),
            }
        }
        patterns
    }

    pub(super) fn wrong_type(&mut self, value: &Spanned<DeValue<'_>>, path: &str, allowed: &str) {
        let problem = format!("is {}", described(value.get_ref()));
        self.fault(value.span(), path, problem, allowed);
    }

    pub(super) fn unknown(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        path: &str,
        name: &str,
        known: &[&str],
    ) {
        let hint = suggest(name, known.iter().copied())
            .map_or(String::new(), |meant| format!("; did you mean {meant:?}?"));
        let problem = format!("unknown key{hint}");
        self.fault(key.span(), path, problem, &known.join(", "));
    }
}

/// A value's type with its article, for "is …".
pub(crate) fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        pub(super) static COMPARISONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    fn comparisons() -> usize {
        COMPARISONS.with(std::cell::Cell::get)
    }

    fn faults(text: &str) -> Vec<String> {
        let faults = Registry::parse(text, Path::new("devices.toml")).unwrap_err();
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_file_is_a_registry_without_devices() {
        let empty = Registry::parse("", Path::new("d")).unwrap();
        assert!(empty.is_empty() && empty.has_file() && !Registry::default().has_file());
        assert!(Registry::parse("[devices]\n", Path::new("d")).unwrap().is_empty());
    }

    #[test]
    fn a_missing_file_is_told_from_a_broken_one() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Registry::load(&folder.path().join("none")).unwrap().is_none());
        assert!(Registry::load(folder.path()).is_err());
    }

    #[test]
    fn every_fault_is_reported_with_its_line() {
        let text = "\
[devices.good]
[devices.-bad]
token = \"secret\"
created = 2025-11-22
reading = []
[devices.c]
previous = { token = 3 }
readings = [\"a\", 7]
commands = \"x\"
[devices.d]
previous = { expires = 2025-11-22T08:26:40Z }
[device.e]
";
        let allowed_hash =
            "\"sha256:\" and 64 hexadecimal digits, as `tidegate device add` writes it";
        let list = "a list of patterns such as [\"temperature\", \"motor-*\"]";
        assert_eq!(
            faults(text),
            [
                "devices.toml:2: devices.-bad: \"-bad\" is not a device id: 1 to 64 letters, digits, '_' or '-', a letter or digit first".to_owned(),
                format!("devices.toml:3: devices.-bad.token: is not the hash of a token; allowed: {allowed_hash}"),
                "devices.toml:4: devices.-bad.created: 2025-11-22 is not a point in time after 1970; allowed: a date and time such as 2025-11-22T08:26:40Z".to_owned(),
                "devices.toml:5: devices.-bad.reading: unknown key; did you mean \"readings\"?; allowed: token, previous, created, readings, commands, rate, max_records".to_owned(),
                format!("devices.toml:7: devices.c.previous.token: is an integer; allowed: {allowed_hash}"),
                format!("devices.toml:8: devices.c.readings: is an integer; allowed: {list}"),
                format!("devices.toml:9: devices.c.commands: is a string; allowed: {list}"),
                "devices.toml:11: devices.d.previous: needs both token and expires; allowed: { token = \"sha256:…\", expires = DATE }".to_owned(),
                "devices.toml:12: device: unknown key; did you mean \"devices\"?; allowed: devices".to_owned(),
            ]
        );
    }

    #[test]
    fn a_token_that_was_put_in_place_of_its_hash_is_not_repeated() {
        let text = "[devices.a]\ntoken = \"tg_secret\"\n";
        assert!(!faults(text).concat().contains("tg_secret"));
    }

    #[test]
    fn devices_with_the_same_patterns_share_them() {
        let text = "[devices.a]\nreadings=['t*']\n[devices.b]\nreadings=['t*']\n[devices.c]\n";
        let registry = Registry::parse(text, Path::new("d")).unwrap();
        let of = |id| registry.permissions(&DeviceId::new(id).unwrap()).unwrap();
        assert!(Arc::ptr_eq(&of("a"), &of("b")));
        assert!(of("a").allows_reading("temperature") && !of("a").allows_reading("x"));
        assert!(of("c").allows_reading("x"));
    }

    #[test]
    fn every_check_hashes_once_and_compares_twice_whoever_asks() {
        let (right, old) = (Hash::of("right"), Hash::of("old"));
        let text = format!(
            "[devices.both]\ntoken = \"{right}\"\n\
             previous = {{ token = \"{old}\", expires = 2100-01-01T00:00:00Z }}\n\
             [devices.one]\ntoken = \"{right}\"\n[devices.none]\n"
        );
        let registry = Registry::parse(&text, Path::new("d")).unwrap();
        let now = 1_763_800_000.0;
        for device in ["both", "one", "none", "unknown"] {
            let device = DeviceId::new(device).unwrap();
            for token in ["right", "old", "wrong", ""] {
                let before = comparisons();
                let credential = registry.credential(&device, token, now);
                assert_eq!(comparisons() - before, 2, "{device} with {token:?}");
                let opens = match device.as_str() {
                    "both" => ["right", "old"].contains(&token),
                    "one" => token == "right",
                    _ => false,
                };
                assert_eq!(credential.is_some(), opens, "{device} with {token:?}");
            }
        }
    }

    #[test]
    fn a_device_without_a_token_cannot_be_opened_with_any() {
        let registry = Registry::parse("[devices.a]\n", Path::new("d")).unwrap();
        let id = DeviceId::new("a").unwrap();
        for token in ["", "\0", "tg_"] {
            assert!(registry.verify(&id, token, 0.0).is_none());
        }
        assert!(!registry.get(&id).unwrap().has_token());
    }
}
