//! Where the files are that a configuration names: paths, and credentials that systemd passes.
//!
//! `credential:NAME` is the file NAME in `$CREDENTIALS_DIRECTORY`, which systemd makes for a service
//! with `LoadCredential=` or `SetCredentialEncrypted=` (`systemd.exec(5)`): in memory that is not
//! swapped, readable by that service alone. A file that is really called so is `./credential:NAME`.

use std::path::{Path, PathBuf};

use super::Surroundings;

const PREFIX: &str = "credential:";

/// The longest name, that of a file.
const NAME_MAX: usize = 255;

/// Where the files of one configuration are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    folder: &'a Path,
    credentials: Option<&'a Path>,
}

impl<'a> Places<'a> {
    /// For the configuration `file` on this host.
    pub(super) fn new(file: &'a Path, host: &'a Surroundings) -> Self {
        Self {
            folder: file.parent().unwrap_or(Path::new("")),
            credentials: host.credentials_directory.as_deref(),
        }
    }

    /// The folder of the configuration file.
    pub(super) fn folder(&self) -> &'a Path {
        self.folder
    }

    /// Whether systemd passes any credentials.
    pub(super) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// The file that `text` means. A credential where there are none stays what was written, for the
    /// message of whoever tries to read it.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        match (credential(text), self.credentials) {
            (Some(name), Some(folder)) => folder.join(name),
            (Some(_), None) => text.into(),
            (None, _) => self.folder.join(text),
        }
    }
}

/// The name in `credential:NAME`.
pub(super) fn credential(text: &str) -> Option<&str> {
    text.strip_prefix(PREFIX)
}

/// What is wrong with the name of a credential, by the rules that systemd has for them.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let fits = !matches!(name, "" | "." | "..")
        && name.len() <= NAME_MAX
        && name.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b'/' && byte != b':');
    if fits { Ok(()) } else { Err(format!("{name:?} cannot be the name of a credential")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_in_their_directory_and_all_else_below_the_configuration() {
        let host = Surroundings {
            credentials_directory: Some("/run/credentials/t.service".into()),
            ..Surroundings::default()
        };
        let places = Places::new(Path::new("/etc/t/tidegate.toml"), &host);
        assert_eq!(places.path("credential:a b"), Path::new("/run/credentials/t.service/a b"));
        assert_eq!(places.path("./credential:a"), Path::new("/etc/t/./credential:a"));
        assert_eq!(places.path("/credential:a"), Path::new("/credential:a"));
        assert_eq!(places.path("a.key"), Path::new("/etc/t/a.key"));
        let none = Surroundings::default();
        let places = Places::new(Path::new("tidegate.toml"), &none);
        assert_eq!(places.path("credential:a"), Path::new("credential:a"));
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        for name in ["mqtt-password", "..a", "a.b", "push token"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a/b", "/etc/passwd", "../a", "a:b", "a\0", "a\n", "ä"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name(&"a".repeat(256)).is_err());
    }
}
