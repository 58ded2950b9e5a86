//! tidegate(1), and a page for each of its commands.

use std::io::{self, Write};
use std::path::Path;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

const MANUAL: &str = "tidegate";

/// What stands under EXIT STATUS.
const EXIT: [(&str, &str); 4] = [
    ("0", "Done."),
    ("1", "It failed; standard error says why."),
    ("2", "The arguments are wrong."),
    (
        "78",
        "The configuration, the registry or the list of users is not valid; each fault has a line.",
    ),
];

const SIGNALS: [(&str, &str); 2] = [
    (
        "SIGTERM, SIGINT",
        "The gateway stops in order: what is not settled goes to the disk, within gateway.grace.",
    ),
    (
        "SIGHUP",
        "It reads the configuration, the registry, the users and the certificates again. The log \
         says what needs a restart.",
    ),
];

const ENVIRONMENT: [(&str, &str); 2] = [
    ("TIDEGATE_TOKEN_FILE", "The file with the API token, where --token-file is not given."),
    (
        "STATE_DIRECTORY, CREDENTIALS_DIRECTORY, NOTIFY_SOCKET, WATCHDOG_USEC",
        "Set by systemd(1) for the service.",
    ),
];

const FILES: [(&str, &str); 3] = [
    ("/etc/tidegate/tidegate.toml", "The configuration, see tidegate.toml(5)."),
    ("/etc/tidegate/devices.toml", "Who may connect; tidegate-device(1) writes it."),
    ("/var/lib/tidegate", "The buffer, the commands, the history and the audit log."),
];

/// Writes `tidegate.1` and a page for each command and subcommand.
pub(crate) fn write(program: clap::Command, date: &str, folder: &Path) -> io::Result<()> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    page(&program, date, folder, true)
}

fn page(command: &clap::Command, date: &str, folder: &Path, whole: bool) -> io::Result<()> {
    let shown = || command.get_subcommands().filter(|sub| !sub.is_hide_set());
    for sub in shown() {
        page(sub, date, folder, false)?;
    }
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .date(date)
        .source(concat!("tidegate ", env!("CARGO_PKG_VERSION")))
        .manual(MANUAL);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    // clap_mangen's own synopsis leaves the values of options out.
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let usage = command.clone().render_usage().to_string();
    roff.text([bold(usage.trim_start_matches("Usage:").trim())]);
    roff.to_writer(&mut text)?;
    man.render_description_section(&mut text)?;
    let mut options = Vec::new();
    man.render_options_section(&mut options)?;
    // Between help and possible values it leaves an empty line, which formatters warn about.
    text.extend(String::from_utf8_lossy(&options).replace(".br\n\n.br\n", ".br\n").bytes());
    let mut roff = Roff::new();
    if shown().next().is_some() {
        roff.control("SH", ["COMMANDS"]);
        for sub in shown() {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            item(&mut roff, &format!("{name}-{}(1)", sub.get_name()), &about);
        }
    }
    if whole {
        section(&mut roff, "EXIT STATUS", &EXIT);
        section(&mut roff, "SIGNALS", &SIGNALS);
        section(&mut roff, "ENVIRONMENT", &ENVIRONMENT);
        section(&mut roff, "FILES", &FILES);
    }
    roff.control("SH", ["SEE ALSO"]);
    let mut others = vec![bold("tidegate.toml"), roman("(5)")];
    if !whole {
        others.splice(..0, [bold("tidegate"), roman("(1), ")]);
    }
    others.push(roman("; /usr/share/doc/tidegate"));
    roff.text(others);
    roff.to_writer(&mut text)?;
    let mut file = std::fs::File::create(folder.join(format!("{name}.1")))?;
    file.write_all(&text)
}

fn section(roff: &mut Roff, title: &str, items: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (name, text) in items {
        item(roff, name, text);
    }
}

fn item(roff: &mut Roff, name: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(name)]);
    roff.text([roman(text)]);
}
