//! The configuration and its command line from outside: `check`, `device`, `status`, the examples
//! and the documentation.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod commands;
mod documents;
mod faults;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The real binary, untouched by the surroundings of the test.
fn tidegate(arguments: &[&str], config: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .arg("--config")
        .arg(config)
        .env_remove("STATE_DIRECTORY")
        .env_remove("JOURNAL_STREAM")
        .output()
        .unwrap()
}

/// A configuration in a folder of its own.
fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidegate.toml");
    std::fs::write(&file, text).unwrap();
    (folder, file)
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}
