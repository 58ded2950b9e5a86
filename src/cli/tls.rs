//! `tidegate tls`: certificates for a site that has no authority of its own.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::config::Surroundings;
use crate::core::ids::DeviceId;
use crate::host::authority::{Authority, Pair};
use crate::host::clock::SystemClock;
use crate::ports::Clock;

/// Arguments of `tidegate tls`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a private authority, a certificate for the gateway, and one for each device named. Run
    /// again, it adds devices. Prints the files that it made.
    New {
        /// The folder for them.
        folder: PathBuf,
        /// A host name or address by which devices and browsers reach the gateway. May be repeated;
        /// without it this host's name, localhost and the loopback addresses.
        #[arg(long, value_name = "NAME")]
        host: Vec<String>,
        /// A device that is to get a certificate. May be repeated.
        #[arg(long, value_name = "ID")]
        device: Vec<DeviceId>,
        /// Replace the gateway's certificate. A running gateway takes up the new one.
        #[arg(long)]
        renew: bool,
        /// How many days the gateway's certificate is good for. Browsers of Apple refuse more than
        /// 825.
        #[arg(long, value_name = "N", default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// How many days a device's certificate is good for.
        #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        device_days: u32,
    },
    /// Withdraw a device's certificate: put it on the list for devices.tls.crl, and print where that
    /// is.
    Revoke {
        /// The folder of `tls new`.
        folder: PathBuf,
        /// The device.
        id: DeviceId,
    },
}

/// Makes or withdraws certificates.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let now = SystemClock::new().unix();
    match args.command {
        Command::New { folder, host, device, renew, days, device_days } => {
            let this = Surroundings::of_host().host_name;
            let name = format!("tidegate {}", this.as_deref().unwrap_or("gateway"));
            let (authority, new) = Authority::open_or_new(&folder, &name, now)?;
            let hosts = if host.is_empty() { own_names(this) } else { host.clone() };
            if new {
                tell(&[&authority.certificate(), &authority.list()])?;
            }
            if renew {
                let Pair { cert, key } = authority.renew_server(&hosts, days)?;
                tell(&[&cert, &key])?;
            } else if !authority.has_server() || !host.is_empty() {
                let Pair { cert, key } = authority.new_server(&hosts, days)?;
                tell(&[&cert, &key])?;
            }
            for id in &device {
                let Pair { cert, key } = authority.new_device(id, device_days)?;
                tell(&[&cert, &key])?;
            }
            explain(&folder, new, device.first());
        }
        Command::Revoke { folder, id } => {
            let name = "tidegate";
            let (authority, _) = Authority::open_or_new(&folder, name, now)?;
            let list = authority.revoke(&id)?;
            writeln!(std::io::stdout(), "{}", list.display())?;
            eprintln!(
                "{id} is on the list; a running gateway that has it as devices.tls.crl knows it \
                 within a few seconds. An open connection with it is closed"
            );
        }
    }
    Ok(())
}

/// Tells on standard output which files there are now.
fn tell(paths: &[&Path]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    for path in paths {
        writeln!(stdout, "{}", path.display())?;
    }
    Ok(())
}

/// The names by which this machine is reached where nobody says otherwise.
fn own_names(host: Option<String>) -> Vec<String> {
    let own = host.into_iter().flat_map(|name| [format!("{name}.local"), name]);
    own.chain(["localhost", "127.0.0.1", "::1"].map(str::to_owned)).collect()
}

fn explain(folder: &Path, new: bool, device: Option<&DeviceId>) {
    let folder = folder.display();
    if new {
        eprintln!(
            "\nin the configuration:\n\n    [devices.tls]\n    cert = \"{folder}/server.crt\"\n    \
             key = \"{folder}/server.key\"\n    client_ca = \"{folder}/ca.crt\"   # with devices.auth \
             = \"mtls\"\n    crl = \"{folder}/revoked.crl\"    # likewise\n\ndevices and browsers need {folder}/ca.crt to trust the gateway. Keep \
             {folder}/ca.key safe: whoever has it can be any device"
        );
    }
    if let Some(id) = device {
        eprintln!(
            "\ntake devices/{id}.crt and devices/{id}.key to the device, then delete the key here"
        );
    }
}
