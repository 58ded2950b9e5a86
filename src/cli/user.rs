//! `tidegate user`: who may use the dashboard, and the tokens of programs.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;

use super::{ConfigFile, secret};
use crate::config::Settings;
use crate::config::units::{datetime_from_unix, parse_time};
use crate::config::users::edit::{EditError, Editor};
use crate::config::users::password::{MAX, Password};
use crate::config::users::{Role, Users, check_name};
use crate::config::watch;
use crate::host::clock::SystemClock;
use crate::ports::Clock;

/// Arguments of `tidegate user`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a user; asks for the password, twice.
    Add {
        /// 1 to 64 letters, digits, '_', '-', '.' or '@', a letter or digit first.
        #[arg(value_parser = name)]
        name: String,
        /// viewer (sees readings), operator (may command) or admin (sees the audit log).
        #[arg(long)]
        role: Role,
        #[command(flatten)]
        password: PasswordFile,
    },
    /// Change a user's password; its sessions end.
    Passwd {
        /// The user.
        name: String,
        #[command(flatten)]
        password: PasswordFile,
    },
    /// List users and tokens.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a user or a token out; its sessions and feeds end.
    Remove {
        /// The user or token.
        name: String,
    },
    /// Make an API token for a program and print it, once: only a hash of it is kept.
    Token {
        /// As for users; it stands in the audit log.
        #[arg(value_parser = name)]
        name: String,
        /// What the program may do, as for users.
        #[arg(long)]
        role: Role,
        /// How long it works, for example 90d; without it until it is removed.
        #[arg(long, value_name = "TIME", value_parser = time)]
        expires: Option<Duration>,
    },
}

#[derive(Debug, clap::Args)]
struct PasswordFile {
    /// Read the password from the first line of this file, - for standard input, instead of asking.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Changes or lists the users that the configuration names.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let settings = args.config.settings()?;
    let Some(users) = settings.dashboard.users.clone() else {
        bail!(
            "{} names no file of users: set users = \"users.toml\" in [dashboard] and restart the \
             gateway",
            settings.file.display()
        );
    };
    let now = SystemClock::new().unix();
    match args.command {
        Command::Add { name, role, password } => {
            // Asked before the file is locked: a person takes its time.
            let known = Users::load(&users)?.unwrap_or_default();
            if known.user(&name).is_some() || known.token(&name).is_some() {
                return Err(EditError::Exists(name).into());
            }
            let password = password.read(&name)?;
            let mut editor = Editor::open(&users)?;
            editor.add(&name, role, &password)?;
            editor.save()?;
            done(&settings, &users, &format!("{name} is added"), &format!("added {name}, {role}"));
        }
        Command::Passwd { name, password } => {
            let known = Users::load(&users)?.unwrap_or_default();
            if known.user(&name).is_none() && known.token(&name).is_none() {
                return Err(EditError::Unknown(name).into());
            }
            let password = password.read(&name)?;
            let mut editor = Editor::open(&users)?;
            editor.change_password(&name, &password)?;
            editor.save()?;
            let what = format!("{name} has a new password");
            done(&settings, &users, &what, &format!("new password of {name}"));
        }
        Command::Remove { name } => {
            let mut editor = Editor::open(&users)?;
            editor.remove(&name)?;
            editor.save()?;
            done(&settings, &users, &format!("{name} is removed"), &format!("removed {name}"));
        }
        Command::Token { name, role, expires } => {
            let mut editor = Editor::open(&users)?;
            let expires = expires.map(|expires| now + expires.as_secs_f64());
            let token = editor.add_token(&name, role, now, expires)?;
            editor.save()?;
            let what = format!("the token {name} is added");
            done(&settings, &users, &what, &format!("added token {name}, {role}"));
            writeln!(std::io::stdout(), "{token}")?;
        }
        Command::List { json } => list(&users, json, now)?,
    }
    Ok(())
}

fn done(settings: &Settings, users: &Path, what: &str, noted: &str) {
    super::audit(settings, "user", noted);
    let seconds = watch::INTERVAL.as_secs() * 2;
    eprintln!("{what} in {}; a running gateway knows it within {seconds} s", users.display());
}

impl PasswordFile {
    fn read(&self, name: &str) -> anyhow::Result<Password> {
        let text = match &self.password_file {
            Some(path) => {
                let mut text = String::new();
                let limit = u64::try_from(MAX)?.saturating_mul(4);
                let read = if path.as_os_str() == "-" {
                    std::io::stdin().lock().take(limit).read_to_string(&mut text)
                } else {
                    std::fs::File::open(path).and_then(|f| f.take(limit).read_to_string(&mut text))
                };
                read.with_context(|| format!("{} cannot be read", path.display()))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            None if std::io::stdin().is_terminal() => {
                let text = secret::ask(&format!("Password of {name}: "))?;
                if secret::ask("Once more: ")? != text {
                    bail!("the two are not the same; nothing is changed");
                }
                text
            }
            None => bail!(
                "there is no terminal to ask for the password; --password-file FILE reads it from \
                 a file, --password-file - from standard input"
            ),
        };
        Ok(Password::new(&text)?)
    }
}

fn list(path: &Path, as_json: bool, now: f64) -> anyhow::Result<()> {
    let users = Users::load(path)?.unwrap_or_default();
    let mut rows: Vec<_> = users
        .users()
        .map(|(name, user)| (name, "user", user.role(), None, None))
        .chain(users.tokens().map(|(name, t)| (name, "token", t.role(), t.created(), t.expires())))
        .collect();
    rows.sort_by_key(|(name, kind, ..)| (std::cmp::Reverse(*kind), *name));
    let mut stdout = std::io::stdout().lock();
    if as_json {
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(name, kind, role, created, expires)| {
                json!({
                    "name": name, "kind": kind, "role": role.as_str(),
                    "created": created.map(date), "expires": expires.map(date),
                })
            })
            .collect();
        writeln!(stdout, "{:#}", json!(rows))?;
        return Ok(());
    }
    if rows.is_empty() {
        let path = path.display();
        eprintln!("nobody is in {path}; `tidegate user add NAME --role admin` adds the first");
        return Ok(());
    }
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max(4);
    writeln!(stdout, "{:width$}  KIND   ROLE      EXPIRES", "NAME")?;
    for (name, kind, role, _, expires) in rows {
        let expires = match expires {
            Some(expires) if expires <= now => format!("{} (over)", date(expires)),
            Some(expires) => date(expires),
            None => "-".to_owned(),
        };
        writeln!(stdout, "{name:width$}  {kind:5}  {:8}  {expires}", role.as_str())?;
    }
    Ok(())
}

fn date(unix: f64) -> String {
    datetime_from_unix(unix).to_string()
}

fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|bad| bad.to_string())
}

fn time(text: &str) -> Result<Duration, String> {
    parse_time(text)
        .ok_or_else(|| "write a number and ms, s, m, h or d, for example 90d".to_owned())
}
