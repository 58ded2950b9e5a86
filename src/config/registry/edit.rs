//! Changes to the registry file: adding, rotating and removing devices.
//!
//! Comments and order are kept. Writers take turns, and readers never see half a change.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value};

use super::{Hash, Registry};
use crate::config::fault::Faults;
use crate::config::guarded::{self, FileError, Turn};
use crate::config::units::datetime_from_unix;
use crate::core::ids::DeviceId;
use crate::core::policy::{OwnLimits, Pattern, Permissions};

/// What every token begins with, so that one that leaked can be recognised.
pub const TOKEN_PREFIX: &str = "tg_";

/// Why the registry could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file as it stands is not valid; it is not touched.
    #[error("the registry is not valid, mend it first:\n{0}")]
    Invalid(#[from] Faults),
    /// There is such a device.
    #[error("{0} is registered already; `tidegate device rotate {0}` gives it a new token")]
    Exists(DeviceId),
    /// There is no such device.
    #[error("{0} is not registered; `tidegate device list` shows who is")]
    Unknown(DeviceId),
    /// A file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The random source failed.
    #[error("cannot read random bytes from the system: {0}")]
    Random(io::Error),
}

/// What [`Editor::set`] changes. `Some(None)` takes a limit out, so that the setting holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Names of readings it may publish; none for all.
    pub readings: Option<Vec<Pattern>>,
    /// Names of commands it may be sent; none for all.
    pub commands: Option<Vec<Pattern>>,
    /// See [`OwnLimits`].
    pub batches_per_second: Option<Option<f64>>,
    /// See [`OwnLimits`].
    pub burst: Option<Option<f64>>,
    /// See [`OwnLimits`].
    pub max_records: Option<Option<usize>>,
}

impl Changes {
    /// The limits that `own` sets.
    fn of(own: &OwnLimits) -> Self {
        Self {
            batches_per_second: own.batches_per_second.map(Some),
            burst: own.burst.map(Some),
            max_records: own.max_records.map(Some),
            ..Self::default()
        }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The registry file, locked for a change. Nothing happens to it until [`Self::save`].
#[derive(Debug)]
pub struct Editor {
    path: PathBuf,
    document: DocumentMut,
    registry: Registry,
    /// Held until the editor is dropped.
    _turn: Turn,
}

impl Editor {
    /// Waits until no other writer holds the file, locks it and reads it. A file that is not there
    /// is an empty registry.
    ///
    /// # Errors
    /// When the folder is not writable or the file is not a valid registry.
    pub fn open(path: &Path) -> Result<Self, EditError> {
        // Through symbolic links: they stay, and all names of a file share one lock.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let path = path.as_path();
        let turn = Turn::take(path)?;
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Faults::of_file(path, format!("cannot be read: {e}")).into()),
        };
        let registry = Registry::parse(&text, path)?;
        let document = text
            .parse::<DocumentMut>()
            .map_err(|e| Faults::of_file(path, e.message().to_owned()))?;
        Ok(Self { path: path.to_owned(), document, registry, _turn: turn })
    }

    /// Registers `device` and returns its token, which exists nowhere else. `now` is Unix time in
    /// seconds.
    ///
    /// # Errors
    /// When it is registered already.
    pub fn add(
        &mut self,
        device: &DeviceId,
        permissions: &Permissions,
        now: f64,
    ) -> Result<String, EditError> {
        if self.registry.get(device).is_some() {
            return Err(EditError::Exists(device.clone()));
        }
        let token = new_token(TOKEN_PREFIX).map_err(EditError::Random)?;
        let mut entry = Table::new();
        entry.insert("token", toml_edit::value(Hash::of(&token).to_string()));
        entry.insert("created", Item::Value(datetime_from_unix(now).into()));
        entry.insert("readings", toml_edit::value(list(&permissions.readings)));
        entry.insert("commands", toml_edit::value(list(&permissions.commands)));
        self.devices()?.insert(device.as_str(), Item::Table(entry));
        self.set(device, &Changes::of(&permissions.own))?;
        Ok(token)
    }

    /// Gives `device` a new token and returns it. The one before works on for `overlap`, or ends
    /// at once without. `now` is Unix time in seconds.
    ///
    /// # Errors
    /// When it is not registered.
    pub fn rotate(
        &mut self,
        device: &DeviceId,
        overlap: Option<Duration>,
        now: f64,
    ) -> Result<String, EditError> {
        let entry = self.entry(device)?;
        let token = new_token(TOKEN_PREFIX).map_err(EditError::Random)?;
        let hash = Value::from(Hash::of(&token).to_string());
        let old = if let Some(value) = entry.get_mut("token").and_then(Item::as_value_mut) {
            // The decor of a value is what stands around it: a comment behind it stays there.
            let mut new = hash;
            *new.decor_mut() = value.decor().clone();
            Some(std::mem::replace(value, new))
        } else {
            entry.insert("token", Item::Value(hash));
            None
        };
        entry.remove("previous");
        if let (Some(mut old), Some(overlap)) = (old, overlap) {
            let mut previous = InlineTable::new();
            old.decor_mut().clear();
            previous.insert("token", old);
            previous.insert("expires", datetime_from_unix(now + overlap.as_secs_f64()).into());
            entry.insert("previous", toml_edit::value(previous));
        }
        Ok(token)
    }

    /// Changes what `device` may do; what is `None` stays as it is.
    ///
    /// # Errors
    /// When it is not registered.
    pub fn set(&mut self, device: &DeviceId, changes: &Changes) -> Result<(), EditError> {
        let entry = self.entry(device)?;
        for (key, patterns) in [("readings", &changes.readings), ("commands", &changes.commands)] {
            if let Some(patterns) = patterns {
                put(entry, key, Some(Value::from(list(patterns))));
            }
        }
        if let Some(max) = changes.max_records {
            put(entry, "max_records", max.map(records));
        }
        let rate = [("batches_per_second", changes.batches_per_second), ("burst", changes.burst)];
        for (key, number) in rate {
            let Some(number) = number else { continue };
            if entry.get("rate").and_then(Item::as_table_like).is_none() {
                entry.insert("rate", toml_edit::value(InlineTable::new()));
            }
            if let Some(rate) = entry.get_mut("rate").and_then(Item::as_table_like_mut) {
                put(rate, key, number.map(plain));
                if rate.is_empty() {
                    entry.remove("rate");
                }
            }
        }
        Ok(())
    }

    /// Takes `device` out.
    ///
    /// # Errors
    /// When it is not registered.
    pub fn remove(&mut self, device: &DeviceId) -> Result<(), EditError> {
        self.entry(device)?;
        self.devices()?.remove(device.as_str());
        Ok(())
    }

    /// Writes the file, as [`guarded::replace`] does.
    ///
    /// # Errors
    /// When it cannot be written; the old file is in place then.
    pub fn save(self) -> Result<(), EditError> {
        Ok(guarded::replace(&self.path, self.document.to_string().as_bytes())?)
    }

    fn devices(&mut self) -> Result<&mut dyn toml_edit::TableLike, EditError> {
        let item = self.document.entry("devices").or_insert_with(|| {
            let mut table = Table::new();
            // No `[devices]` header of its own above `[devices.ID]`.
            table.set_implicit(true);
            Item::Table(table)
        });
        item.as_table_like_mut()
            .ok_or_else(|| Faults::of_file(&self.path, "devices is not a table").into())
    }

    fn entry(&mut self, device: &DeviceId) -> Result<&mut dyn toml_edit::TableLike, EditError> {
        self.devices()?
            .get_mut(device.as_str())
            .and_then(Item::as_table_like_mut)
            .ok_or_else(|| EditError::Unknown(device.clone()))
    }
}

/// Puts `value` in the place of what `key` had, with the comment behind it, or takes `key` out.
fn put(table: &mut dyn toml_edit::TableLike, key: &str, value: Option<Value>) {
    let Some(mut value) = value else {
        table.remove(key);
        return;
    };
    if let Some(old) = table.get_mut(key).and_then(Item::as_value_mut) {
        *value.decor_mut() = old.decor().clone();
        *old = value;
    } else {
        table.insert(key, Item::Value(value));
    }
}

fn records(max: usize) -> Value {
    i64::try_from(max).unwrap_or(i64::MAX).into()
}

/// A whole number without a fraction, as a person would write it.
fn plain(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        // Exact, as it is whole and small.
        #[allow(clippy::cast_possible_truncation)]
        return (number as i64).into();
    }
    number.into()
}

/// An empty list allows everything; the file says so in so many words.
fn list(patterns: &[Pattern]) -> Array {
    if patterns.is_empty() {
        return Array::from_iter(["*"]);
    }
    patterns.iter().map(Pattern::as_str).collect()
}

/// 256 random bits from the system, base64url, behind `prefix`.
pub(crate) fn new_token(prefix: &str) -> io::Result<String> {
    let mut bytes = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: f64 = 1_763_800_000.0;

    fn id(text: &str) -> DeviceId {
        DeviceId::new(text).unwrap()
    }

    fn add(path: &Path, device: &str) -> String {
        let mut editor = Editor::open(path).unwrap();
        let token = editor.add(&id(device), &Permissions::default(), NOW).unwrap();
        editor.save().unwrap();
        token
    }

    fn load(path: &Path) -> Registry {
        Registry::load(path).unwrap().unwrap()
    }

    #[test]
    fn a_new_token_opens_the_door_for_its_device_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        let (a, b) = (add(&path, "a"), add(&path, "b"));
        assert_ne!(a, b);
        assert_eq!(a.len(), TOKEN_PREFIX.len() + 43);
        let registry = load(&path);
        assert!(registry.verify(&id("a"), &a, NOW).is_some());
        assert!(registry.verify(&id("b"), &b, NOW).is_some());
        assert!(registry.verify(&id("a"), &b, NOW).is_none());
        assert!(registry.verify(&id("c"), &a, NOW).is_none());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&a) && !text.contains(a.trim_start_matches(TOKEN_PREFIX)));
    }

    #[test]
    fn a_rotation_ends_the_old_token_at_once_or_after_its_overlap() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        let old = add(&path, "a");
        let before = load(&path).credential(&id("a"), &old, NOW).unwrap();

        let mut editor = Editor::open(&path).unwrap();
        let new = editor.rotate(&id("a"), Some(Duration::from_secs(60)), NOW).unwrap();
        editor.save().unwrap();
        let registry = load(&path);
        assert!(registry.verify(&id("a"), &new, NOW).is_some());
        assert!(registry.still_valid(&before, &id("a"), NOW + 59.0));
        assert!(!registry.still_valid(&before, &id("a"), NOW + 60.0));
        assert!(registry.verify(&id("a"), &old, NOW + 59.0).is_some());
        assert!(registry.verify(&id("a"), &old, NOW + 60.0).is_none());
        assert_eq!(registry.get(&id("a")).unwrap().previous_expires(), Some(NOW + 60.0));

        let mut editor = Editor::open(&path).unwrap();
        let newest = editor.rotate(&id("a"), None, NOW).unwrap();
        editor.save().unwrap();
        let registry = load(&path);
        assert!(registry.verify(&id("a"), &newest, NOW).is_some());
        assert!(registry.verify(&id("a"), &new, NOW).is_none());
        assert!(registry.verify(&id("a"), &old, NOW).is_none());
    }

    #[test]
    fn a_removed_device_is_locked_out_and_can_be_added_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        let token = add(&path, "a");
        let credential = load(&path).credential(&id("a"), &token, NOW).unwrap();
        let mut editor = Editor::open(&path).unwrap();
        assert!(matches!(
            editor.add(&id("a"), &Permissions::default(), NOW),
            Err(EditError::Exists(_))
        ));
        assert!(matches!(editor.remove(&id("b")), Err(EditError::Unknown(_))));
        editor.remove(&id("a")).unwrap();
        editor.save().unwrap();
        let registry = load(&path);
        assert!(registry.is_empty());
        assert!(!registry.still_valid(&credential, &id("a"), NOW));
        let again = add(&path, "a");
        assert!(load(&path).verify(&id("a"), &again, NOW).is_some());
    }

    #[test]
    fn comments_and_order_survive_every_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        let text = format!(
            "# our devices\n\n[devices.z] # the last\ntoken = \"{}\" # hers\n\n# first\n[devices.a]\nreadings = [ \"t\" ] # one\n",
            Hash::of("x")
        );
        std::fs::write(&path, &text).unwrap();
        add(&path, "m");
        let mut editor = Editor::open(&path).unwrap();
        editor.rotate(&id("z"), Some(Duration::from_secs(1)), NOW).unwrap();
        editor.save().unwrap();
        let mut editor = Editor::open(&path).unwrap();
        editor.remove(&id("m")).unwrap();
        editor.save().unwrap();
        let after = std::fs::read_to_string(&path).unwrap();
        for kept in [
            "# our devices\n",
            "[devices.z] # the last\n",
            "\" # hers\n",
            "# first\n[devices.a]\nreadings = [ \"t\" ] # one\n",
        ] {
            assert!(after.contains(kept), "{kept:?} in {after}");
        }
        assert!(after.find("devices.z") < after.find("devices.a"));
        assert!(load(&path).verify(&id("z"), "x", NOW).is_some());
    }

    #[test]
    fn what_a_device_may_do_is_changed_piece_by_piece_and_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        let limits =
            OwnLimits { batches_per_second: Some(0.5), burst: Some(20.0), max_records: Some(9) };
        let mut editor = Editor::open(&path).unwrap();
        editor.add(&id("a"), &Permissions { own: limits, ..Permissions::default() }, NOW).unwrap();
        editor.save().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("rate = { batches_per_second = 0.5, burst = 20 }\n"), "{text}");
        assert_eq!(load(&path).permissions(&id("a")).unwrap().own, limits);
        let set = |changes: &Changes| {
            let mut editor = Editor::open(&path).unwrap();
            editor.set(&id("a"), changes).unwrap();
            editor.save().unwrap();
            load(&path).permissions(&id("a")).unwrap()
        };
        let readings = Some(vec!["t*".parse().unwrap()]);
        let now = set(&Changes { readings, burst: Some(None), ..Changes::default() });
        assert_eq!(now.own, OwnLimits { burst: None, ..limits });
        assert!(now.allows_reading("t1") && !now.allows_reading("x"));
        let changes = Changes {
            readings: Some(Vec::new()),
            batches_per_second: Some(None),
            max_records: Some(None),
            ..Changes::default()
        };
        let all: Vec<Pattern> = vec!["*".parse().unwrap()];
        assert_eq!(
            *set(&changes),
            Permissions { readings: all.clone(), commands: all, ..Permissions::default() }
        );
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("rate") && !text.contains("max_records"), "{text}");
        let mut editor = Editor::open(&path).unwrap();
        assert!(matches!(editor.set(&id("b"), &changes), Err(EditError::Unknown(_))));
    }

    #[test]
    fn a_limit_is_changed_in_any_form_of_table_and_comments_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        for text in [
            "[devices.a]\nrate = { burst = 2 } # small\n",
            "[devices.a]\nrate.burst = 2 # small\n",
            "[devices.a.rate]\nburst = 2 # small\n",
            "devices.a = { rate = { burst = 2 } } # small\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let mut editor = Editor::open(&path).unwrap();
            let changes = Changes { burst: Some(Some(3.0)), ..Changes::default() };
            editor.set(&id("a"), &changes).unwrap();
            editor.save().unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text.replace('2', "3"));
        }
    }

    #[test]
    fn an_inline_or_dotted_registry_can_be_changed_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        let hash = Hash::of("x");
        std::fs::write(&path, format!("devices = {{ a = {{ token = \"{hash}\" }} }}\n")).unwrap();
        let b = add(&path, "b");
        let mut editor = Editor::open(&path).unwrap();
        let a = editor.rotate(&id("a"), Some(Duration::from_secs(9)), NOW).unwrap();
        editor.save().unwrap();
        let registry = load(&path);
        for (device, token) in [("a", a.as_str()), ("a", "x"), ("b", b.as_str())] {
            assert!(registry.verify(&id(device), token, NOW).is_some(), "{device}");
        }
    }

    #[test]
    fn writers_take_turns_and_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    for n in 0..5 {
                        add(path, &format!("d{writer}-{n}"));
                    }
                });
            }
            // Whoever reads meanwhile sees a whole file.
            for _ in 0..200 {
                Registry::load(&path).unwrap();
            }
        });
        assert_eq!(load(&path).len(), 40);
    }

    #[test]
    fn the_file_is_for_its_owner_and_a_group_that_was_let_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        add(&path, "a");
        assert_eq!(mode(), 0o600);
        for (was, is) in [(0o640, 0o640), (0o644, 0o600), (0o600, 0o600), (0o400, 0o600)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(was)).unwrap();
            add(&path, &format!("d{was}"));
            assert_eq!(mode(), is, "{was:o}");
        }
        assert!(!path.with_extension("toml.new").exists());
    }

    #[test]
    fn symbolic_links_are_followed_to_the_registry_and_not_from_a_leftover() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (path, link, other) = (at("real.toml"), at("devices.toml"), at("other"));
        add(&path, "a");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        std::fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, path.with_extension("toml.new")).unwrap();
        add(&link, "b");
        assert_eq!(load(&path).len(), 2);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "precious");
    }

    #[test]
    fn a_broken_registry_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        std::fs::write(&path, "[devices.a]\ntoken = 3\n").unwrap();
        let Err(EditError::Invalid(faults)) = Editor::open(&path) else { panic!("accepted") };
        assert!(faults.to_string().contains(":2: devices.a.token: is an integer"), "{faults}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        add(&path, "a");
        let before = std::fs::read(&path).unwrap();
        let mut editor = Editor::open(&path).unwrap();
        editor.add(&id("b"), &Permissions::default(), NOW).unwrap();
        // A folder stands where the new file would be written.
        std::fs::create_dir(path.with_extension("toml.new")).unwrap();
        assert!(matches!(editor.save(), Err(EditError::File(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
