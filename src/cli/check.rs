//! `tidegate check`: every fault of the configuration at once.

use std::io::Write;

use crate::config::Settings;

/// Arguments of `tidegate check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: super::ConfigFile,
    /// Print the outcome as JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// Says `valid`, or fails with the faults.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let file = args.config.path.display();
    let outcome = Settings::load(&args.config.path);
    let mut stdout = std::io::stdout();
    if args.json {
        let (faults, warnings) = match &outcome {
            Ok(settings) => (None, settings.warnings.as_slice()),
            Err(faults) => (Some(faults), &[][..]),
        };
        let json = serde_json::json!({
            "file": file.to_string(),
            "valid": faults.is_none(),
            "faults": faults.map_or_else(|| serde_json::json!([]), |f| serde_json::json!(f)),
            "warnings": warnings,
        });
        writeln!(stdout, "{json:#}")?;
    }
    let settings = outcome?;
    for warning in &settings.warnings {
        eprintln!("{file}: warning: {warning}");
    }
    if !args.json {
        writeln!(stdout, "{file}: valid")?;
    }
    Ok(())
}
