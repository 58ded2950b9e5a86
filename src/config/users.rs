//! The users (`users.toml`): who may see the dashboard, who may command, and with what they show it.
//!
//! ```toml
//! [users.anna]
//! role = "operator"                 # "viewer" | "operator" | "admin"
//! password = "$argon2id$v=19$…"     # the hash; the password itself is nowhere
//!
//! [tokens.prometheus]               # for programs
//! role = "viewer"
//! token = "sha256:9f86d0…"
//! created = 2025-11-22T08:26:40Z
//! expires = 2026-11-22T08:26:40Z    # absent: never
//! ```
//!
//! A password is hashed with argon2id, as people choose it; a token is 256 random bits, for which a
//! plain SHA-256 will do. No user and token have the same name, so that a name in the audit log
//! says who it was.

pub mod edit;
pub mod password;
pub mod watch;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use subtle::{Choice, ConstantTimeEq};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use self::password::Password;
use super::fault::{Faults, suggest};
use super::registry::{Hash, Parser};

/// Most characters of a name.
const NAME_MAX: usize = 64;
/// Of a token.
const WRITER: &str = "tidegate user token";
const KINDS: [&str; 2] = ["users", "tokens"];

/// What somebody may do; each role may what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See devices, readings, commands and metrics.
    Viewer,
    /// Command devices; see the log and the configuration.
    Operator,
    /// See the audit log.
    Admin,
}

/// Who may use the dashboard. Made once per change of the file and shared.
#[derive(Debug, Default)]
pub struct Users {
    people: HashMap<String, User>,
    tokens: HashMap<String, Token>,
    has_file: bool,
}

/// A person. Two are equal when neither role nor password has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    role: Role,
    password: Password,
}

/// A program's token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    role: Role,
    hash: Hash,
    created: Option<f64>,
    expires: Option<f64>,
}

/// What is wrong with a user's name.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a name: 1 to 64 letters, digits, '_', '-', '.' or '@', a letter or digit first"
)]
pub struct BadName(String);

/// What is wrong with a role.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a role: \"viewer\", \"operator\" or \"admin\"")]
pub struct BadRole(String);

impl Users {
    /// Reads the file. `Ok(None)` when there is none: nobody can sign in yet.
    ///
    /// # Errors
    /// Everything that is wrong with the file, each fault with its line.
    pub fn load(path: &Path) -> Result<Option<Self>, Faults> {
        Faults::text_of(path)?.map(|text| Self::parse(&text, path)).transpose()
    }

    /// Reads users from `text`; `file` is what faults call it.
    ///
    /// # Errors
    /// Everything that is wrong, each fault with its line.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Faults> {
        Parser::read(text, file, |parser, root, users: &mut Self| {
            users.has_file = true;
            users.root(parser, root);
        })
    }

    /// The user of that name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.people.get(name)
    }

    /// The token of that name.
    #[must_use]
    pub fn token(&self, name: &str) -> Option<&Token> {
        self.tokens.get(name)
    }

    /// Whose token `offered` is, if it holds at `now` (Unix time in seconds). It is compared with
    /// every token there is, each in constant time.
    #[must_use]
    pub fn holder(&self, offered: &str, now: f64) -> Option<(&str, &Token)> {
        let offered = Hash::of(offered);
        let mut found = None;
        for (name, token) in &self.tokens {
            if bool::from(token.hash.equals(&offered) & Choice::from(u8::from(token.holds(now)))) {
                found = Some((name.as_str(), token));
            }
        }
        found
    }

    /// All users, in no particular order.
    pub fn users(&self) -> impl Iterator<Item = (&str, &User)> {
        self.people.iter().map(|(name, user)| (name.as_str(), user))
    }

    /// All tokens, in no particular order.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &Token)> {
        self.tokens.iter().map(|(name, token)| (name.as_str(), token))
    }

    /// Whether there is no user; tokens do not count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.people.is_empty()
    }

    /// Whether there is a file, be it one that lists nobody.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.has_file
    }

    fn root(&mut self, parser: &mut Parser<'_>, root: &DeTable<'_>) {
        // The one kind after the other, so that a name that both have is reported for the token.
        for kind in KINDS {
            let Some((_, value)) = root.iter().find(|(key, _)| key.get_ref() == kind) else {
                continue;
            };
            let Some(table) = value.get_ref().as_table() else {
                parser.wrong_type(value, kind, &format!("[{kind}.NAME] tables"));
                continue;
            };
            for (key, entry) in table {
                let name = key.get_ref().as_ref();
                let path = format!("{kind}.{name}");
                if let Err(bad) = check_name(name) {
                    parser.fault(key.span(), &path, bad.to_string(), "");
                }
                if self.people.contains_key(name) {
                    let problem = format!("{name} is the name of a user already");
                    parser.fault(key.span(), &path, problem, "a name that no user has");
                }
                let Some(table) = entry.get_ref().as_table() else {
                    parser.wrong_type(entry, &path, "a table");
                    continue;
                };
                let entry = Entry::read(parser, kind, &path, key.span(), table);
                match entry {
                    Entry { role: Some(role), password: Some(password), .. } => {
                        self.people.insert(name.to_owned(), User { role, password });
                    }
                    Entry { role: Some(role), hash: Some(hash), created, expires, .. } => {
                        let token = Token { role, hash, created, expires };
                        self.tokens.insert(name.to_owned(), token);
                    }
                    // Reported.
                    _ => {}
                }
            }
        }
        for key in root.keys().filter(|key| !KINDS.contains(&key.get_ref().as_ref())) {
            parser.unknown(key, key.get_ref(), key.get_ref(), &KINDS);
        }
    }
}

/// What an entry may hold.
#[derive(Default)]
struct Entry {
    role: Option<Role>,
    password: Option<Password>,
    hash: Option<Hash>,
    created: Option<f64>,
    expires: Option<f64>,
}

impl Entry {
    fn read(
        parser: &mut Parser<'_>,
        kind: &str,
        path: &str,
        place: std::ops::Range<usize>,
        table: &DeTable<'_>,
    ) -> Self {
        let is_user = kind == "users";
        let known: &[&str] =
            if is_user { &["role", "password"] } else { &["role", "token", "created", "expires"] };
        let mut entry = Self::default();
        for (key, value) in table {
            let path = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "role" => entry.role = role(parser, &path, value),
                "password" if is_user => entry.password = password(parser, &path, value),
                "token" if !is_user => entry.hash = parser.hash(&path, value, WRITER),
                "created" if !is_user => entry.created = parser.date(&path, value),
                "expires" if !is_user => entry.expires = parser.date(&path, value),
                unknown => parser.unknown(key, &path, unknown, known),
            }
        }
        for needed in known.iter().take(2) {
            if !table.keys().any(|key| key.get_ref() == needed) {
                parser.fault(place.clone(), path, format!("needs {needed}"), &known.join(", "));
            }
        }
        entry
    }
}

fn role(parser: &mut Parser<'_>, path: &str, value: &Spanned<DeValue<'_>>) -> Option<Role> {
    let allowed = "\"viewer\", \"operator\", \"admin\"";
    let Some(text) = value.get_ref().as_str() else {
        parser.wrong_type(value, path, allowed);
        return None;
    };
    let role = text.parse().ok();
    if role.is_none() {
        let hint = suggest(text, Role::ALL.iter().map(|role| role.as_str()))
            .map_or(String::new(), |meant| format!("; did you mean {meant:?}?"));
        parser.fault(value.span(), path, format!("{text:?} is not a role{hint}"), allowed);
    }
    role
}

fn password(parser: &mut Parser<'_>, path: &str, value: &Spanned<DeValue<'_>>) -> Option<Password> {
    let allowed = "an argon2id hash, as `tidegate user passwd` writes it";
    let Some(text) = value.get_ref().as_str() else {
        parser.wrong_type(value, path, allowed);
        return None;
    };
    // The text is not repeated: it may be a password that was put here by mistake.
    Password::parse(text)
        .map_err(|problem| parser.fault(value.span(), path, problem.into(), allowed))
        .ok()
}

/// Whether `name` can be the name of a user or a token.
///
/// # Errors
/// When it cannot.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= NAME_MAX && name.bytes().all(fits) {
        return Ok(());
    }
    Err(BadName(name.chars().take(NAME_MAX + 1).collect()))
}

impl Role {
    /// All of them, each above the ones before it.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// As it stands in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = BadRole;

    fn from_str(text: &str) -> Result<Self, BadRole> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| BadRole(text.chars().take(NAME_MAX).collect()))
    }
}

impl User {
    /// What it may do.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The hash of its password.
    #[must_use]
    pub fn password(&self) -> &Password {
        &self.password
    }
}

impl Token {
    /// What it may do.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// When it was made: Unix time in seconds.
    #[must_use]
    pub fn created(&self) -> Option<f64> {
        self.created
    }

    /// Until when it works: Unix time in seconds.
    #[must_use]
    pub fn expires(&self) -> Option<f64> {
        self.expires
    }

    /// Whether it works at `now`, Unix time in seconds.
    #[must_use]
    pub fn holds(&self, now: f64) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

impl Hash {
    fn equals(&self, other: &Self) -> Choice {
        self.as_bytes().ct_eq(other.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: &str =
        "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn faults(text: &str) -> Vec<String> {
        let faults = Users::parse(text, Path::new("users.toml")).unwrap_err();
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_is_reported_with_its_line_and_no_secret() {
        let text = format!(
            "[users.anna]\nrole = \"operater\"\npassword = \"hunter2\"\n\
             [users.-b]\nrole = 3\npassword = \"{FAST}\"\n\
             [users.c]\npasword = \"x\"\n\
             [users.d]\nrole = \"viewer\"\npassword = \"{FAST}\"\n\
             [tokens.d]\nrole = \"viewer\"\ntoken = \"tga_secret\"\nexpires = 2025-11-22\n\
             [token.e]\n"
        );
        let found = faults(&text);
        let text = found.join("\n");
        assert!(!text.contains("hunter2") && !text.contains("tga_secret"), "{text}");
        let places: Vec<_> = found
            .iter()
            .map(|fault| fault.split(": ").take(2).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            places,
            [
                "users.toml:2 users.anna.role",
                "users.toml:3 users.anna.password",
                "users.toml:4 users.-b",
                "users.toml:5 users.-b.role",
                "users.toml:7 users.c",
                "users.toml:7 users.c",
                "users.toml:8 users.c.pasword",
                "users.toml:12 tokens.d",
                "users.toml:14 tokens.d.token",
                "users.toml:15 tokens.d.expires",
                "users.toml:16 token",
            ],
            "{text}"
        );
        assert!(text.contains("did you mean \"operator\"?"), "{text}");
    }

    #[test]
    fn a_token_opens_until_it_expires_and_no_other_does() {
        let token = Hash::of("tga_x");
        let text = format!(
            "[tokens.p]\nrole = \"viewer\"\ntoken = \"{token}\"\nexpires = 2025-11-22T08:26:40Z\n\
             [tokens.q]\nrole = \"admin\"\ntoken = \"{}\"\n",
            Hash::of("tga_y")
        );
        let users = Users::parse(&text, Path::new("u")).unwrap();
        let holder = |offered, now| users.holder(offered, now).map(|(name, t)| (name, t.role()));
        assert_eq!(holder("tga_x", 1_763_799_999.0), Some(("p", Role::Viewer)));
        assert_eq!(holder("tga_x", 1_763_800_000.0), None);
        assert_eq!(holder("tga_y", 1e12), Some(("q", Role::Admin)));
        for wrong in ["", "tga_", "tga_z", &token.to_string()] {
            assert_eq!(holder(wrong, 0.0), None);
        }
    }

    #[test]
    fn roles_are_in_order_and_names_are_plain() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
        for good in ["a", "anna", "anna.b@example", "9"] {
            check_name(good).unwrap();
        }
        for bad in ["", "-a", ".", "a b", "a\n", "ä", "a/b", &"a".repeat(65)] {
            check_name(bad).unwrap_err();
        }
    }
}
