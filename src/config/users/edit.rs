//! Changes to the users' file. Comments and order are kept; writers take turns, and readers never
//! see half a change.

use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

use super::password::Password;
use super::{Role, Users};
use crate::config::fault::Faults;
use crate::config::guarded::{self, FileError, Turn};
use crate::config::registry::Hash;
use crate::config::registry::edit::new_token;
use crate::config::units::datetime_from_unix;

/// What every API token begins with, so that one that leaked can be recognised.
pub const TOKEN_PREFIX: &str = "tga_";

/// Why the users could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file as it stands is not valid; it is not touched.
    #[error("the file of users is not valid, mend it first:\n{0}")]
    Invalid(#[from] Faults),
    /// There is such a name.
    #[error(
        "there is a user or token {0} already; `tidegate user passwd {0}` changes a user's password, \
         `tidegate user remove {0}` makes the name free"
    )]
    Exists(String),
    /// There is no such name.
    #[error("there is no user or token {0}; `tidegate user list` shows who there is")]
    Unknown(String),
    /// Tokens have no password.
    #[error("{0} is a token, and a token has no password; remove it and make a new one")]
    Token(String),
    /// A file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The random source failed.
    #[error("cannot read random bytes from the system: {0}")]
    Random(io::Error),
}

/// The users' file, locked for a change. Nothing happens to it until [`Self::save`].
#[derive(Debug)]
pub struct Editor {
    path: PathBuf,
    document: DocumentMut,
    users: Users,
    /// Held until the editor is dropped.
    _turn: Turn,
}

impl Editor {
    /// Waits until no other writer holds the file, locks it and reads it. A file that is not there
    /// holds nobody.
    ///
    /// # Errors
    /// When the folder is not writable or the file is not valid.
    pub fn open(path: &Path) -> Result<Self, EditError> {
        // Through symbolic links: they stay, and all names of a file share one lock.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let turn = Turn::take(&path)?;
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Faults::of_file(&path, format!("cannot be read: {e}")).into()),
        };
        let users = Users::parse(&text, &path)?;
        let document = text
            .parse::<DocumentMut>()
            .map_err(|e| Faults::of_file(&path, e.message().to_owned()))?;
        Ok(Self { path, document, users, _turn: turn })
    }

    /// Who there is, without the changes of this editor.
    #[must_use]
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Adds a user.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn add(&mut self, name: &str, role: Role, password: &Password) -> Result<(), EditError> {
        self.free(name)?;
        let mut entry = Table::new();
        entry.insert("role", toml_edit::value(role.as_str()));
        entry.insert("password", toml_edit::value(password.as_str()));
        self.kind("users")?.insert(name, Item::Table(entry));
        Ok(())
    }

    /// Gives a user another password.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn change_password(&mut self, name: &str, password: &Password) -> Result<(), EditError> {
        if self.users.token(name).is_some() {
            return Err(EditError::Token(name.to_owned()));
        }
        let entry = self
            .kind("users")?
            .get_mut(name)
            .and_then(Item::as_table_like_mut)
            .ok_or_else(|| EditError::Unknown(name.to_owned()))?;
        let mut value = Value::from(password.as_str());
        if let Some(old) = entry.get("password").and_then(Item::as_value) {
            // The decor of a value is what stands around it: a comment behind it stays there.
            *value.decor_mut() = old.decor().clone();
        }
        entry.insert("password", Item::Value(value));
        Ok(())
    }

    /// Makes an API token and returns it; it exists nowhere else. `now` and `expires` are Unix time
    /// in seconds.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn add_token(
        &mut self,
        name: &str,
        role: Role,
        now: f64,
        expires: Option<f64>,
    ) -> Result<String, EditError> {
        self.free(name)?;
        let token = new_token(TOKEN_PREFIX).map_err(EditError::Random)?;
        let mut entry = Table::new();
        entry.insert("role", toml_edit::value(role.as_str()));
        entry.insert("token", toml_edit::value(Hash::of(&token).to_string()));
        entry.insert("created", Item::Value(datetime_from_unix(now).into()));
        if let Some(expires) = expires {
            entry.insert("expires", Item::Value(datetime_from_unix(expires).into()));
        }
        self.kind("tokens")?.insert(name, Item::Table(entry));
        Ok(token)
    }

    /// Takes a user or a token out.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn remove(&mut self, name: &str) -> Result<(), EditError> {
        let kind = if self.users.user(name).is_some() {
            "users"
        } else if self.users.token(name).is_some() {
            "tokens"
        } else {
            return Err(EditError::Unknown(name.to_owned()));
        };
        self.kind(kind)?.remove(name);
        Ok(())
    }

    /// Writes the file, as [`guarded::replace`] does.
    ///
    /// # Errors
    /// When it cannot be written; the old file is in place then.
    pub fn save(self) -> Result<(), EditError> {
        Ok(guarded::replace(&self.path, self.document.to_string().as_bytes())?)
    }

    fn free(&self, name: &str) -> Result<(), EditError> {
        let taken = self.users.user(name).is_some() || self.users.token(name).is_some();
        if taken { Err(EditError::Exists(name.to_owned())) } else { Ok(()) }
    }

    fn kind(&mut self, kind: &str) -> Result<&mut dyn TableLike, EditError> {
        let item = self.document.entry(kind).or_insert_with(|| {
            let mut table = Table::new();
            // No header of its own above `[users.NAME]`.
            table.set_implicit(true);
            Item::Table(table)
        });
        item.as_table_like_mut()
            .ok_or_else(|| Faults::of_file(&self.path, format!("{kind} is not a table")).into())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: f64 = 1_763_800_000.0;

    fn edit<T>(path: &Path, change: impl FnOnce(&mut Editor) -> Result<T, EditError>) -> T {
        let mut editor = Editor::open(path).unwrap();
        let done = change(&mut editor).unwrap();
        editor.save().unwrap();
        done
    }

    #[test]
    fn users_and_tokens_come_change_and_go_and_comments_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        let (one, two) = (Password::of_nobody(), Password::new("correct horse").unwrap());
        std::fs::write(
            &path,
            format!(
                "# us\n[users.zoe]\nrole = \"admin\" # she\npassword = \"{}\" # hers\n",
                one.as_str()
            ),
        )
        .unwrap();
        edit(&path, |editor| editor.add("anna@site.example", Role::Viewer, &one));
        edit(&path, |editor| editor.change_password("zoe", &two));
        let token = edit(&path, |e| e.add_token("prom", Role::Viewer, NOW, Some(NOW + 60.0)));
        let users = Users::load(&path).unwrap().unwrap();
        assert!(users.user("zoe").unwrap().password().is("correct horse"));
        assert_eq!(users.user("anna@site.example").unwrap().role(), Role::Viewer);
        assert_eq!(users.holder(&token, NOW).unwrap().0, "prom");
        assert!(users.holder(&token, NOW + 60.0).is_none());
        assert!(token.starts_with(TOKEN_PREFIX) && token.len() == TOKEN_PREFIX.len() + 43);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&token));
        for kept in ["# us\n", "\"admin\" # she\n", "\" # hers\n"] {
            assert!(text.contains(kept), "{kept:?} in {text}");
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let mut editor = Editor::open(&path).unwrap();
        for taken in ["zoe", "prom"] {
            assert!(matches!(editor.add(taken, Role::Viewer, &one), Err(EditError::Exists(_))));
            let token = editor.add_token(taken, Role::Viewer, NOW, None);
            assert!(matches!(token, Err(EditError::Exists(_))));
        }
        assert!(matches!(editor.change_password("x", &one), Err(EditError::Unknown(_))));
        assert!(matches!(editor.change_password("prom", &one), Err(EditError::Token(_))));
        assert!(matches!(editor.remove("x"), Err(EditError::Unknown(_))));
        drop(editor);
        for name in ["zoe", "prom", "anna@site.example"] {
            edit(&path, |editor| editor.remove(name));
        }
        let users = Users::load(&path).unwrap().unwrap();
        assert!(users.is_empty() && users.tokens().next().is_none());
    }
}
