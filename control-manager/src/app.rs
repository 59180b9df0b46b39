//! `main` of the manager.

mod init;
mod lists;
mod repo;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use writ_common::config::not_text;
use writ_common::daemon::{self, Fatal, Threads};
use writ_common::health;
use writ_common::systemd::Start;

use crate::authority::Files;
use crate::config::Config;

/// Lists servers as its entities, sees how they stand, and tells them what to do. It never holds a key that
/// agents obey.
///
/// Exit codes: 0 ended in good order; 1 it failed, or its result cannot be written; 2 a flag is wrong;
/// 64 a value or the configuration is wrong. A reader that goes away early changes no exit code.
#[derive(Debug, Parser)]
#[command(name = "writ-control-manager", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new manager: its certificate authority (or yours), its keys, the first administrator.
    Init(Init),
    /// Have the channel's certificate carry more host names or addresses.
    Names(Names),
    /// Serve entities and operators until SIGTERM.
    Run(Run),
    /// Ask the manager that runs on this host whether it works; for containers and load balancers. Exit code
    /// 1 when it does not.
    Health(Health),
    /// Lists of files, domains and URLs: made, shown, looked up. Needs no manager.
    #[command(subcommand)]
    Lists(lists::Lists),
    /// Repositories of lists and other components, which servers update from: made, filled, published. Needs
    /// no manager, and any web server can hold what is published.
    #[command(subcommand)]
    Repo(repo::Repo),
}

#[derive(Debug, Args)]
struct Health {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask whether it does what it is for, not only whether it works: for readiness, not for restarts.
    #[arg(long)]
    ready: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Args)]
struct Init {
    #[command(flatten)]
    folder: Folder,
    /// The manager's name.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Host names and addresses entities and operators find it at; repeat for several.
    #[arg(long = "tls-name", value_name = "NAME")]
    tls_names: Vec<String>,
    #[command(flatten)]
    custom: Option<Custom>,
    /// Its database is lost: go on with the keys that are here and a new database. Servers go on trusting
    /// it, and are registered again.
    #[arg(long, conflicts_with_all = ["tls_names", "custom_ca", "if_new"])]
    keep_keys: bool,
    /// Do nothing, and succeed, when the manager of this name is here already.
    #[arg(long)]
    if_new: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Certificates of the organisation's own authority, instead of one made here.
#[derive(Debug, Args)]
#[group(multiple = true, requires_all = ["custom_ca", "tls_certificate", "tls_key", "signing_certificate", "signing_key"])]
struct Custom {
    /// The organisation's root CA, PEM: what is uploaded to servers.
    #[arg(long, value_name = "FILE", required = false)]
    custom_ca: PathBuf,
    /// The channel's certificate, then what is between it and the root, PEM.
    #[arg(long, value_name = "FILE", required = false)]
    tls_certificate: PathBuf,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", required = false)]
    tls_key: PathBuf,
    /// The certificate of the key that signs instructions (digitalSignature), then what is between it and
    /// the root, PEM.
    #[arg(long, value_name = "FILE", required = false)]
    signing_certificate: PathBuf,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", required = false)]
    signing_key: PathBuf,
}

#[derive(Debug, Args)]
struct Names {
    #[command(flatten)]
    folder: Folder,
    /// A host name or address; repeat for several.
    #[arg(long = "tls-name", value_name = "NAME", required = true)]
    tls_names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    folder: Folder,
}

/// Which manager.
#[derive(Debug, Args)]
struct Folder {
    /// Configuration file. Without it /etc/writ/control-manager.toml is read if it is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where state and keys live: overrides `data_dir` of the configuration.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

impl Folder {
    fn config(&self) -> Result<Config, Fatal> {
        Config::load(self.config.as_deref(), self.data_dir.as_deref()).map_err(Fatal::usage)
    }

    /// How the manager is started on it.
    fn start(&self) -> Start<'_> {
        let Self { config, data_dir } = self;
        Start { program: "writ-control-manager", config: config.as_deref(), data_dir: data_dir.as_deref() }
    }

    /// Where everything is. A folder that is named needs no configuration, which may be what is broken.
    fn files(&self) -> Result<Files, Fatal> {
        match &self.data_dir {
            Some(folder) if folder.to_str().is_none() => {
                Err(Fatal::usage(format!("--data-dir {}", not_text(folder))))
            }
            Some(folder) => Ok(Files::new(folder)),
            None => Ok(Files::new(&self.config()?.data_dir)),
        }
    }
}

/// The command line, for manuals and shells.
#[must_use]
pub fn command_line() -> clap::Command {
    Arguments::command()
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    daemon::run("writ-control-manager", Threads::PerCore, |shutdown| async move {
        match arguments.command {
            Command::Init(options) => init::init(options, &shutdown).await,
            Command::Names(options) => init::names(options).await,
            Command::Health(options) => health(options).await,
            Command::Lists(command) => lists::run(command, &shutdown),
            Command::Repo(command) => repo::run(command).await,
            Command::Run(options) => run::run(options, shutdown).await,
        }
    })
}

/// A manager whose keys cannot be used, and what mends it.
fn unusable(files: &Files, error: &dyn std::error::Error) -> Fatal {
    let folder = files.folder().display();
    let cure = format!(
        "cannot use the keys in {folder}: put the file back from a copy; without one: mv {folder} {folder}.damaged, make a new manager by writ-control-manager init, and on each server: writ manager settings set --ca control-manager-ca.pem; writ manager register. The cause"
    );
    Fatal::caused(cure, error)
}

async fn health(options: Health) -> Result<(), Fatal> {
    let config = Config::load(options.config.as_deref(), None).map_err(Fatal::usage)?;
    let asked = health::ask(config.listen_admin, if options.ready { health::READY } else { "" }).await;
    match options.output {
        Output::Text => asked,
        Output::Json => health::say(asked),
    }
}
