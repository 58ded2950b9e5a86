//! Reads the sources and fails where the shape of the house is given up.

#[cfg(test)]
mod sources;

use std::collections::BTreeMap;
use std::path::Path;

use sources::{code, crate_roots, files, names, room, sources};

/// Where a room may reach, besides itself and what lies below: see `src/lib.rs`.
const ROOMS: [&str; 8] =
    ["engine", "device", "uplink", "spool", "ledger", "dashboard", "push", "client"];
const GROUND: [&str; 6] = ["config", "host", "ports", "metrics", "storage", "core"];

#[test]
fn the_core_is_pure() {
    let crates = ["tokio", "tokio_util", "tracing", "log", "sled", "rumqttc", "rand", "std::fs"];
    // Addresses are values; sockets, clocks and the process around are not.
    let names_anywhere = [
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "UnixListener",
        "ToSocketAddrs",
        "Instant",
        "SystemTime",
        "std::env",
        "std::process",
        "std::thread",
        "println!",
    ];
    for source in sources().iter().filter(|source| room(&source.name) == "core") {
        for name in crates {
            assert!(!names(&source.code, name), "{} uses {name}", source.name);
        }
        for name in names_anywhere {
            assert!(!source.code.contains(name), "{} uses {name}", source.name);
        }
        for root in crate_roots(&source.code) {
            assert_eq!(root, "core", "{} looks outside the core", source.name);
        }
    }
}

#[test]
fn imports_point_one_way() {
    for source in sources() {
        let room = room(&source.name);
        let roots = crate_roots(&source.code);
        let allowed: Vec<&str> = match room {
            "main" | "lib" | "cli" => continue,
            "app" => [&ROOMS[..], &GROUND, &["app"]].concat(),
            "core" => vec!["core"],
            "ports" | "metrics" | "storage" => vec!["core", room],
            "config" | "host" => vec!["core", "ports", "metrics", "config", room],
            _ => {
                assert!(ROOMS.contains(&room), "{}: a room this test does not know", source.name);
                [&GROUND[..], &[room]].concat()
            }
        };
        for root in roots {
            assert!(allowed.contains(&root.as_str()), "{} reaches into {root}", source.name);
        }
    }
}

#[test]
fn nothing_but_the_command_line_ends_the_process_or_prints() {
    for source in sources() {
        if ["cli", "main"].contains(&room(&source.name)) {
            continue;
        }
        for name in ["println!", "eprintln!", "process::exit", "dbg!"] {
            let found = source.code.contains(name);
            assert!(!found, "{} uses {name}; logs go through tracing", source.name);
        }
    }
}

#[test]
fn each_outside_library_has_one_door() {
    // The demo's printed picture of the upstream side is a subscriber of its own.
    let doors: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("sled", &["storage/store.rs"][..]),
        ("rumqttc", &["uplink/mqtt.rs"][..]),
        ("rumqttd", &["cli/demo.rs", "cli/demo/broker.rs"][..]),
        ("axum", &["dashboard/"][..]),
        ("lz4_flex", &["spool/", "dashboard/history/"][..]),
        ("flate2", &["push/", "dashboard/assets.rs"][..]),
    ]);
    for (library, doors) in doors {
        let mut users = Vec::new();
        for source in sources() {
            if names(&source.code, library) {
                users.push(source.name);
            }
        }
        assert!(!users.is_empty(), "{library} is used nowhere: drop it from Cargo.toml");
        for user in users {
            let allowed = doors.iter().any(|door| user.starts_with(door));
            assert!(allowed, "{user} uses {library}, whose door is {doors:?}");
        }
    }
}

#[test]
fn no_file_outgrows_600_lines() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|source| source.lines > 600)
        .map(|source| format!("{} has {} lines without its tests", source.name, source.lines))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
    for file in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), "rs") {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 600, "{} has {lines} lines", file.display());
    }
}

#[test]
fn nothing_is_left_to_be_done() {
    for source in sources() {
        for name in ["todo!", "unimplemented!"] {
            assert!(!source.code.contains(name), "{} has {name}", source.name);
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in files(&root.join("src"), "rs") {
        let text = std::fs::read_to_string(&file).unwrap();
        for word in ["TODO", "FIXME", "XXX"] {
            assert!(!text.contains(word), "{} has {word}", file.display());
        }
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<_> =
        sources().into_iter().filter(|s| !s.documented).map(|source| source.name).collect();
    assert!(silent.is_empty(), "no module documentation: {silent:?}");
}

#[test]
fn every_example_configuration_passes_check() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut checked = 0;
    for file in files(&folder, "toml") {
        let text = std::fs::read_to_string(&file).unwrap();
        // Registries and user lists stand beside the configurations that name them.
        if !text.lines().any(|line| line.trim() == "[gateway]") {
            continue;
        }
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["check", "--config"])
            .arg(&file)
            .current_dir(&folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {said}", file.display());
        checked += 1;
    }
    assert!(checked > 0, "no example configuration in {}", folder.display());
}

/// By the manifest, for every target there is: tests, benches and examples too.
#[test]
fn unsafe_code_is_forbidden_everywhere() {
    let manifest = toml("Cargo.toml");
    assert_eq!(manifest["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    for source in sources() {
        assert!(!source.code.contains("allow(unsafe_code)"), "{}", source.name);
    }
}

/// Both tools read the same database; an exception has its reason in one place and a line for
/// operators in the other.
#[test]
fn exceptions_for_advisories_are_the_same_everywhere() {
    let id = |entry: &toml::Value| {
        let id = entry.get("id").unwrap_or(entry);
        id.as_str().unwrap().to_owned()
    };
    let deny = toml("deny.toml");
    let ignored = deny["advisories"]["ignore"].as_array().unwrap();
    for entry in ignored {
        assert!(entry["reason"].as_str().is_some_and(|reason| reason.len() > 20), "{entry}");
    }
    let audit = toml(".cargo/audit.toml");
    let audited = audit["advisories"]["ignore"].as_array().unwrap();
    let (ignored, audited): (Vec<_>, Vec<_>) =
        (ignored.iter().map(id).collect(), audited.iter().map(id).collect());
    assert_eq!(ignored, audited);
    let told = std::fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let told: Vec<_> = told.lines().filter(|line| line.starts_with("| RUSTSEC-")).collect();
    assert_eq!(told.len(), ignored.len(), "{told:?}");
    for (line, id) in told.iter().zip(&ignored) {
        assert!(line.starts_with(&format!("| {id} |")), "{line}");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[allow(clippy::unwrap_used, reason = "a helper of tests")]
fn toml(name: &str) -> toml::Table {
    std::fs::read_to_string(root().join(name)).unwrap().parse().unwrap()
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let text = "use crate::{core::ids, ports::{self, Feed}};\n// crate::no\nlet a = \"crate::no\";\n\
                let b = r#\"crate::no \"quoted\"\"#; crate::spool::x();";
    assert_eq!(crate_roots(&code(text)), ["core", "ports", "spool"]);
    assert!(names("use sled::Db;", "sled") && names("= sled::open()", "sled"));
    assert!(!names("use unsled::Db; x::sled::y", "sled"));
    assert_eq!(code(r#"f('"', "a\"b") // c"#), "f(, ) ");
}

#[test]
fn there_is_one_crypto_provider() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).unwrap();
    let bans = std::fs::read_to_string(root.join("deny.toml")).unwrap();
    let has = |name: &str| lock.contains(&format!("name = \"{name}\"\n"));
    assert!(has("ring") && has("rustls"), "the lock file is read as it is written");
    for other in ["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys"] {
        assert!(!has(other), "{other} is in the tree: TLS is rustls with ring alone");
        let banned = format!("crate = \"{other}\"");
        assert!(bans.contains(&banned), "{other} is not banned in deny.toml");
    }
}
