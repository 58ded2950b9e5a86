//! tidegate.toml(5): types, defaults and ranges from the schema that the program reads files by, the
//! meanings from the table in `docs/configuration.md`, which tests hold against the same schema.

use std::collections::HashMap;

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use tidegate::config::schema::{Applies, KEYS, Key, Otherwise, repeated};

const DOCUMENT: &str = include_str!("../../docs/configuration.md");
const MINIMAL: &str = include_str!("../../config/minimal.toml");
const NETWORK: &str = include_str!("../../config/tls.toml");

/// The page, or which key has no meaning in the document.
pub(crate) fn page(date: &str) -> Result<String, String> {
    let meanings = meanings();
    let mut roff = Roff::new();
    let source = concat!("tidegate ", env!("CARGO_PKG_VERSION"));
    roff.control("TH", ["TIDEGATE.TOML", "5", date, source, "tidegate"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("tidegate.toml - configuration of the telemetry gateway tidegate")]);
    roff.control("SH", ["DESCRIPTION"]);
    for (number, paragraph) in introduction().iter().enumerate() {
        if number > 0 {
            roff.control("PP", []);
        }
        roff.text(inline(paragraph));
    }
    let mut table = "";
    for key in KEYS {
        let (parent, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if parent != table {
            table = parent;
            let title = match repeated(parent) {
                Some(times) => format!("[[{parent}]], up to {} times", times.max),
                None => format!("[{parent}]"),
            };
            roff.control("SH", [title.as_str()]);
        }
        let meaning = meanings
            .get(key.path)
            .ok_or_else(|| format!("docs/configuration.md does not say what {} means", key.path))?;
        entry(&mut roff, key, name, meaning);
    }
    example(&mut roff, "The least that a gateway needs:", MINIMAL);
    example(&mut roff, "A gateway on a network:", NETWORK);
    roff.control("SH", ["FILES"]);
    for (file, what) in [
        ("/etc/tidegate/tidegate.toml", "The configuration."),
        ("/etc/tidegate/devices.toml", "The registry: who may connect, by tidegate-device(1)."),
        ("/usr/share/doc/tidegate/examples", "Every key with its default, and other examples."),
    ] {
        roff.control("TP", []);
        roff.text([bold(file)]);
        roff.text([roman(what)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("tidegate"),
        roman("(1), "),
        bold("tidegate-check"),
        roman(
            "(1); /usr/share/doc/tidegate/configuration.md has the registry, the metrics and more.",
        ),
    ]);
    Ok(roff.to_roff())
}

/// The document from its title to the first heading: paragraphs, and items of its list.
fn introduction() -> Vec<String> {
    let text = DOCUMENT.split_once("\n## ").map_or(DOCUMENT, |(before, _)| before);
    let mut paragraphs: Vec<String> = Vec::new();
    let mut fresh = true;
    for line in text.lines().skip(1) {
        let line = line.trim();
        let item = line.strip_prefix("- ");
        match paragraphs.last_mut() {
            Some(last) if !fresh && item.is_none() && !line.is_empty() => {
                last.push(' ');
                last.push_str(line);
            }
            _ if !line.is_empty() => paragraphs.push(item.unwrap_or(line).to_owned()),
            _ => {}
        }
        fresh = line.is_empty();
    }
    paragraphs
}

/// What each key means, by its path: the last column of the tables of keys.
fn meanings() -> HashMap<&'static str, &'static str> {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    rows.filter_map(|row| {
        let cells: Vec<_> = row.splitn(6, " | ").collect();
        match cells.as_slice() {
            [key, _, _, _, "restart" | "SIGHUP", meaning] => {
                Some((key.strip_suffix('`')?, *meaning))
            }
            _ => None,
        }
    })
    .collect()
}

fn entry(roff: &mut Roff, key: &Key, name: &str, meaning: &str) {
    roff.control("TP", []);
    roff.text([bold(name), roman(" = "), italic(key.kind.name())]);
    roff.text(inline(meaning));
    let default = match key.default {
        Otherwise::Toml(text) => format!("Default: {text}. "),
        Otherwise::Found(words) => format!("Default: {words}. "),
        Otherwise::Absent => String::new(),
    };
    let applies = match key.applies {
        Applies::Reload => "A change takes effect on SIGHUP.",
        Applies::Restart => "A change needs a restart.",
    };
    roff.control("br", []);
    roff.text([roman(format!("{default}Allowed: {}. {applies}", key.kind.allowed()))]);
}

fn example(roff: &mut Roff, title: &str, text: &str) {
    roff.control("SH", [&*format!("EXAMPLE: {}", title.trim_end_matches(':').to_uppercase())]);
    roff.control("nf", []);
    for line in text.lines() {
        // An empty line would be one too many spaces in some formatters, and a warning in others.
        if line.is_empty() {
            roff.control("sp", []);
        } else {
            roff.text([roman(line)]);
        }
    }
    roff.control("fi", []);
}

/// Markdown within a line: code and strong text are bold, emphasis italic, links their text.
fn inline(text: &str) -> Vec<Inline> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '*', '[']) {
        let (before, from) = rest.split_at(at);
        parts.push(roman(before));
        let marked = [("`", "`"), ("**", "**"), ("*", "*"), ("[", "](")].into_iter().find_map(
            |(open, close)| {
                let (inner, after) = from.strip_prefix(open)?.split_once(close)?;
                (!inner.is_empty() && !inner.starts_with(' ')).then_some((open, inner, after))
            },
        );
        match marked {
            Some(("[", inner, after)) if after.contains(')') => {
                parts.extend(inline(inner));
                rest = after.split_once(')').map_or("", |(_, after)| after);
            }
            Some(("`" | "**", inner, after)) => {
                parts.push(bold(inner));
                rest = after;
            }
            Some(("*", inner, after)) => {
                parts.push(italic(inner));
                rest = after;
            }
            _ => {
                let (mark, after) = from.split_at(1);
                parts.push(roman(mark));
                rest = after;
            }
        }
    }
    parts.push(roman(rest));
    parts
}
