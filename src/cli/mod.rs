//! The command line.

use clap::{Parser, Subcommand};

mod curves;
pub mod simulate;

#[derive(Debug, Parser)]
#[command(name = "tidegate", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Simulate(simulate::Args),
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> std::process::ExitCode {
    let result = match Cli::parse().command {
        Command::Simulate(args) => simulate::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("tidegate: {error:#}");
        std::process::ExitCode::FAILURE
    })
}
