//! The explanation as text.

use std::fmt::Write as _;

use super::advice::Advice;
use super::{Picture, date};
use crate::cli::words::{count, span};
use crate::core::policy::Pattern;

/// All of it.
pub(super) fn tell(picture: &Picture) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_all(picture, &mut text);
    text
}

fn write_all(picture: &Picture, out: &mut String) -> std::fmt::Result {
    writeln!(out, "{}\n", state(picture))?;
    writeln!(out, "registered   {}", registration(picture))?;
    let permissions = picture.permissions();
    writeln!(out, "may publish  {}", names(&permissions.readings, "readings"))?;
    writeln!(out, "may be sent  {}", names(&permissions.commands, "commands"))?;
    let own = picture.entry().map(|entry| entry.permissions().own).unwrap_or_default();
    let whose = |is_own: bool| if is_own { "" } else { " (as for all)" };
    writeln!(
        out,
        "rate         {} batches/s{}, burst {}{}",
        permissions.own.batches_per_second.unwrap_or_default(),
        whose(own.batches_per_second.is_some()),
        permissions.own.burst.unwrap_or_default(),
        whose(own.burst.is_some()),
    )?;
    let records = permissions.own.max_records.unwrap_or_default();
    writeln!(out, "a pack       {records} records{}", whose(own.max_records.is_some()))?;
    let findings = picture.findings();
    if !findings.is_empty() {
        writeln!(out)?;
    }
    for finding in &findings {
        writeln!(out, "- {}", finding.text)?;
        command(finding, "  ", out)?;
    }
    let refusals = picture.refusals();
    if !refusals.is_empty() {
        writeln!(out, "\nrefused lately, the newest first:")?;
    }
    for (refusal, advice) in &refusals {
        let ago = span(picture.now - refusal["time"].as_f64().unwrap_or(picture.now));
        let times = count(refusal["count"].as_u64().unwrap_or(1), "time", "times");
        let (kind, code) = (refusal["kind"].as_str().unwrap_or("?"), &refusal["code"]);
        let reason = refusal["reason"].as_str().unwrap_or_default();
        writeln!(out, "- {kind} {code}, {times}, last {ago} ago: {reason}")?;
        writeln!(out, "  {}", advice.text)?;
        command(advice, "  ", out)?;
    }
    Ok(())
}

fn command(advice: &Advice, indent: &str, out: &mut String) -> std::fmt::Result {
    match &advice.command {
        Some(command) => writeln!(out, "{indent}$ {command}"),
        None => Ok(()),
    }
}

/// The first line.
fn state(picture: &Picture) -> String {
    let device = &picture.device;
    let seen = match &picture.gateway {
        Err(error) => return format!("the gateway cannot be asked ({error}); from the registry:"),
        Ok(seen) => seen.device.as_ref(),
    };
    let Some(seen) = seen else {
        return format!("{device} is not connected; the gateway knows no device of this id");
    };
    if picture.is_connected() {
        let since = span(picture.now - seen["since"].as_f64().unwrap_or(picture.now));
        let address = seen["address"].as_str().unwrap_or("?");
        return format!("{device} is connected, for {since}, from {address}");
    }
    match seen["last_seen"].as_f64() {
        None => format!("{device} has not connected since the gateway started"),
        Some(time) => {
            format!("{device} is not connected; it was last heard {} ago", span(picture.now - time))
        }
    }
}

fn registration(picture: &Picture) -> String {
    let file = picture.file.display();
    let Some(entry) = picture.entry() else { return format!("no, not in {file}") };
    let created = entry.created().map_or("yes".to_owned(), |unix| format!("since {}", date(unix)));
    let token = if entry.has_token() { "with a token" } else { "without a token" };
    let old = match entry.previous_expires() {
        Some(expires) if picture.now < expires => {
            format!("; the one before works until {}", date(expires))
        }
        _ => String::new(),
    };
    format!("{created}, {token}{old}")
}

fn names(patterns: &[Pattern], what: &str) -> String {
    if patterns.is_empty() || patterns.iter().any(|pattern| pattern.as_str() == "*") {
        return format!("all {what}");
    }
    patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(", ")
}
