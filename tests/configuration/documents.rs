//! The examples in `config/` and the tables in `docs/configuration.md` say what the program does.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate::config::schema::{Applies, KEYS, Key, Otherwise};
use tidegate::config::{Settings, Surroundings};

use crate::{stdout, tidegate};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn examples() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("config")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| {
        file.extension().is_some_and(|e| e == "toml") && !file.ends_with("devices.toml")
    });
    assert!(files.len() >= 3, "{files:?}");
    files
}

fn parse(text: &str) -> Settings {
    let host = Surroundings { host_name: Some("host".into()), ..Surroundings::default() };
    Settings::parse(text, Path::new("/etc/tidegate/tidegate.toml"), &host).unwrap()
}

/// A row of the documentation as far as the program knows it.
fn row(key: &Key) -> String {
    let default = match key.default {
        Otherwise::Toml(text) => format!("`{text}`"),
        Otherwise::Found(words) => words.to_owned(),
        Otherwise::Absent => "none".to_owned(),
    };
    let applies = match key.applies {
        Applies::Reload => "SIGHUP",
        Applies::Restart => "restart",
    };
    let (kind, allowed) = (key.kind.name(), key.kind.allowed());
    format!("| `{}` | {kind} | {default} | {allowed} | {applies} | ", key.path)
}

#[test]
fn the_documentation_has_every_key_with_its_type_default_and_range() {
    let text = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut rows =
        text.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `tidegate "));
    for key in KEYS {
        let found = rows.next().unwrap_or_else(|| panic!("no row for {}", key.path));
        let expected = row(key);
        assert!(
            found.starts_with(&expected),
            "in the documentation:\n{found}\nexpected:\n{expected}…"
        );
        assert!(found.len() > expected.len() + 10, "{}: no meaning", key.path);
    }
    assert_eq!(rows.next(), None, "a row for a key that there is not");
}

#[test]
fn the_full_example_shows_every_key_with_its_default() {
    let text = std::fs::read_to_string(root().join("config/tidegate.toml")).unwrap();
    // Commented-out keys have no space after the #, prose has.
    let keys: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix('#').or(Some(line)))
        .filter(|line| !line.starts_with([' ', '#']))
        .collect();
    let shown: toml::Table = toml::from_str(&keys.join("\n")).unwrap();
    let mut count = 0;
    for key in KEYS {
        let mut value = Some(&toml::Value::Table(shown.clone())).cloned();
        for name in key.path.split('.') {
            value = value.and_then(|value| value.get(name).cloned());
            // Of a repeated table the example has one.
            value = value.map(|value| match value {
                toml::Value::Array(tables) if tables.iter().all(toml::Value::is_table) => {
                    tables.first().cloned().unwrap_or(toml::Value::Array(tables))
                }
                value => value,
            });
        }
        let value = value.unwrap_or_else(|| panic!("{} is not in the example", key.path));
        if let Otherwise::Toml(default) = key.default {
            let default: toml::Table = toml::from_str(&format!("x = {default}")).unwrap();
            assert_eq!(default["x"], value, "{}", key.path);
        }
        count += 1;
    }
    let leaves = keys.iter().filter(|line| line.contains(" = ")).count();
    assert_eq!(leaves, count, "the example has a key that there is not");
    // As it stands, it sets nothing.
    let changes = parse("").changes(&parse(&text));
    assert_eq!((changes.now, changes.after_restart), (vec![], vec![]));
}

#[test]
fn every_example_passes_check() {
    for example in examples() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(example.file_name().unwrap());
        let text = std::fs::read_to_string(&example).unwrap();
        std::fs::write(&file, &text).unwrap();
        std::fs::copy(root().join("config/devices.toml"), folder.path().join("devices.toml"))
            .unwrap();
        certificates(&text, folder.path());
        let output = tidegate(&["check"], &file);
        assert!(output.status.success(), "{}: {output:?}", example.display());
        assert_eq!(crate::stderr(&output), "", "{}", example.display());
        assert!(stdout(&output).ends_with(": valid\n"));
    }
}

/// Makes the files that active lines name: self-signed certificates with their keys.
fn certificates(text: &str, folder: &Path) {
    let named = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split('"').nth(1).map(|name| folder.join(name)));
    for file in named {
        match file.extension().and_then(|e| e.to_str()) {
            Some("crt") => {
                let made = Command::new("openssl")
                    .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
                    .args(["-nodes", "-days", "1", "-subj", "/CN=test", "-keyout"])
                    .arg(file.with_extension("key"))
                    .arg("-out")
                    .arg(&file)
                    .output()
                    .unwrap();
                assert!(made.status.success(), "{made:?}");
            }
            Some("password") => {
                std::fs::write(&file, "secret\n").unwrap();
                // As the documentation asks: one that everybody may read is warned about.
                std::fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
            }
            _ => {}
        }
    }
}

#[test]
fn a_key_that_is_not_its_certificates_is_found() {
    let folder = tempfile::tempdir().unwrap();
    certificates("\"a.crt\"\n\"b.crt\"\n", folder.path());
    let file = folder.path().join("tidegate.toml");
    std::fs::write(&file, "[devices.tls]\ncert = \"a.crt\"\nkey = \"a.key\"\n").unwrap();
    assert!(tidegate(&["check"], &file).status.success());
    for (cert, key, line, problem) in [
        ("a.crt", "b.key", 3, "b.key is not the key of "),
        ("a.key", "a.key", 2, "a.key holds no certificate"),
        ("a.crt", "a.crt", 3, "a.crt holds no private key"),
        ("none", "a.key", 2, "none cannot be read: No such file"),
    ] {
        let text = format!("[devices.tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n");
        std::fs::write(&file, text).unwrap();
        let output = tidegate(&["check"], &file);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let said = crate::stderr(&output);
        assert!(
            said.contains(&format!("tidegate.toml:{line}: ")) && said.contains(problem),
            "{said}"
        );
    }
}

#[test]
fn the_example_registry_is_one() {
    let output = tidegate(&["device", "list"], &root().join("config/minimal.toml"));
    assert!(
        stdout(&output).contains("\nkiln-3 ") && stdout(&output).contains("\npump-1 "),
        "{output:?}"
    );
}
