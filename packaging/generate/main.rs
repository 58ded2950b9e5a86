//! Makes what the packages carry beside the program and what would otherwise be written twice: the
//! manual pages of the commands and of the configuration, and the completions of three shells.
//!
//! ```text
//! cargo run --example generate -- FOLDER DATE
//! ```
//!
//! leaves `FOLDER/man/*.1`, `FOLDER/man/tidegate.toml.5` and `FOLDER/completions/{bash,fish,zsh}`.
//! DATE (`2026-11-22`) is what the pages are dated, so that the same sources give the same bytes.
//!
//! The packaged program is built without the feature `demo`; its commands are left out here too,
//! however this tool itself was built.

#![forbid(unsafe_code)]

mod commands;
mod completions;
mod settings;

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [folder, date] = arguments.as_slice() else {
        return Err("usage: generate FOLDER DATE".into());
    };
    let program = packaged(&tidegate::cli::command());
    let (man, shells) = (Path::new(folder).join("man"), Path::new(folder).join("completions"));
    std::fs::create_dir_all(&man)?;
    std::fs::create_dir_all(&shells)?;
    commands::write(program.clone(), date, &man)?;
    std::fs::write(man.join("tidegate.toml.5"), settings::page(date)?)?;
    completions::write(&program, &shells)?;
    Ok(())
}

/// The program as it is packaged. clap cannot take a subcommand away, so this one is put together
/// again.
fn packaged(whole: &clap::Command) -> clap::Command {
    let mut program = clap::Command::new("tidegate")
        .version(env!("CARGO_PKG_VERSION"))
        .arg_required_else_help(true)
        .subcommand_required(true)
        .args(whole.get_arguments().cloned());
    if let Some(about) = whole.get_about() {
        program = program.about(about.clone());
    }
    let kept = whole.get_subcommands().filter(|command| !command.get_name().starts_with("demo"));
    program.subcommands(kept.cloned())
}
