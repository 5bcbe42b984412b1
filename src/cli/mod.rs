//! The command line: one file a command, each turning arguments into the configuration of a room.
//!
//! Nothing below `cli` reads the environment (`environment` does), prints or exits: clippy.toml and the lints
//! of the workspace see to it.

mod completions;
mod configure;
mod connect;
mod data;
mod diff;
mod docs;
mod entry_points;
mod environment;
mod exit;
mod host_keys;
mod image;
mod local;
mod ls;
mod node;
mod output;
mod package;
mod recipe;
mod records;
mod run;
mod sessions;
mod squash;
mod standalone;
mod step;
mod unsquash;
mod who;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::exit::Exit;
use crate::contract::{Faults, Session, log_level as log_level_of, record, vars};
use crate::job::{self, Listen};
use crate::telemetry::chain;
use crate::telemetry::logs::{self, Format, Level};
use linux::{cgroup, filesize, hardening, stdio};

/// Run IMS image-management jobs: fetch an image, customize it over SSH, pack, publish and
/// register it
#[derive(Debug, Parser)]
#[command(name = "ims-job-agent", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    /// Format of the log lines on stderr
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human")]
    log_format: Format,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Sessions(sessions::Args),
    #[command(subcommand)]
    Step(step::Step),
    #[command(alias = "attach")]
    Who(who::Args),
    HostKeys(host_keys::Args),
    Package(package::Args),
    Standalone(standalone::Args),
    Image(image::Args),
    Recipe(recipe::Args),
    Data(data::Args),
    Configure(Box<configure::Args>),
    Squash(squash::Args),
    Unsquash(unsquash::Args),
    Ls(ls::Args),
    Diff(diff::Args),
    Docs(docs::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Node(node::Args),
}

/// Parses the command line, runs the command and returns its exit code.
pub fn main() -> ExitCode {
    filesize::survive_limit();
    let exit = match Cli::try_parse_from(entry_points::arguments(std::env::args_os())) {
        Ok(cli) => obey(cli),
        Err(error) => refuse_arguments(&error),
    };
    logs::flush();
    exit
}

/// Longest wait until stderr has taken a usage error.
const COMPLAINT: Duration = Duration::from_secs(3);

/// Prints the usage error, or the help or the version if that was asked for.
fn refuse_arguments(error: &clap::Error) -> ExitCode {
    let text = error.render();
    let colored = |is_terminal: bool| match is_terminal {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    // If stderr takes nothing, the exit code is all there is.
    let complain = |text: String| {
        let _ = stdio::write_within(COMPLAINT, std::io::stderr(), text.into_bytes());
    };
    if error.use_stderr() {
        complain(colored(std::io::stderr().is_terminal()));
    } else if let Err(error) = output::text(&colored(std::io::stdout().is_terminal())) {
        complain(format!("{}\n", chain(error.as_ref())));
        return exit::FAILURE.into();
    }
    u8::try_from(error.exit_code()).map_or(exit::USAGE.into(), ExitCode::from)
}

fn obey(cli: Cli) -> ExitCode {
    let level = log_level();
    logs::init(cli.log_format, *level.as_ref().unwrap_or(&Level::default()));
    if let Err(fault) = level {
        tracing::warn!("{} {fault}; using {:?}", vars::LOG_LEVEL.name, Level::default());
    }
    let result = match cli.command {
        Command::Run(args) => block_on(run::run(args)),
        Command::Sessions(args) => block_on(sessions::run(args)),
        Command::Step(step) => block_on(step::run(step)),
        Command::Who(args) => block_on(who::run(args)),
        Command::HostKeys(args) => host_keys::run(&args),
        Command::Package(args) => block_on(package::run(args)),
        Command::Standalone(args) => block_on(standalone::run(args)),
        Command::Image(args) => block_on(image::run(args)),
        Command::Recipe(args) => block_on(recipe::run(args)),
        Command::Data(args) => block_on(data::run(args)),
        Command::Configure(args) => block_on(configure::run(*args)),
        Command::Squash(args) => block_on(cancellable(move |it| squash::run(&args, it))),
        Command::Unsquash(args) => block_on(cancellable(move |it| unsquash::run(&args, it))),
        Command::Ls(args) => ls::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Docs(args) => docs::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Node(args) => block_on(node::run(args)),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            tracing::error!("{}", chain(error.as_ref()));
            exit::FAILURE.into()
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    tokio::runtime::Builder::new_multi_thread()
        // The host may have many more processors than the pod may use.
        .worker_threads(cgroup::cpus().max(2))
        .enable_all()
        .build()
        .context("cannot start the async runtime")?
        .block_on(work)
}

/// Runs blocking work that a signal cancels.
async fn cancellable(
    work: impl FnOnce(&CancellationToken) -> anyhow::Result<Exit> + Send + 'static,
) -> anyhow::Result<Exit> {
    let cancel = shutdown_token()?;
    let result = tokio::task::spawn_blocking({
        let cancel = cancel.clone();
        move || work(&cancel)
    });
    terminated_or(result.await?, &cancel)
}

/// After a signal, every failure of a command is a consequence of the signal.
fn terminated_or(result: anyhow::Result<Exit>, cancel: &CancellationToken) -> anyhow::Result<Exit> {
    match result {
        Err(_) if cancel.is_cancelled() => Ok(exit::TERMINATED),
        other => other,
    }
}

/// For commands that hold secrets: no other process can read this one's memory or environment, or
/// end it by changing its resource limits.
fn keep_secrets() -> anyhow::Result<()> {
    hardening::keep_own_limits();
    hardening::make_undumpable().context("cannot protect this process's memory")
}

/// Where the SSH server of a job listens.
fn ssh_listen(asked: Option<Listen>, session: &Session) -> Listen {
    asked.or(session.sshd_listen.map(Listen::Address)).unwrap_or_default()
}

/// `LOG_LEVEL`, before anything else is looked at; or what is wrong with it.
fn log_level() -> Result<Level, String> {
    match environment::variable(vars::LOG_LEVEL.name) {
        Some(text) if !text.trim().is_empty() => {
            log_level_of(text.trim()).map_err(|fault| format!("({text:?}) {fault}"))
        }
        _ => Ok(Level::default()),
    }
}

/// Ends a job whose environment is wrong, and sets the status of its record: clients wait for that.
async fn refuse(faults: Faults) -> anyhow::Result<Exit> {
    job::refuse(faults, record(environment::variable), shutdown_token()?).await;
    Ok(exit::USAGE)
}

/// Cancelled by the first SIGTERM or SIGINT.
fn shutdown_token() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let cancel = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::warn!("received {name}, shutting down");
        cancel.cancel();
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_words_are_still_understood() {
        for words in [&["attach"][..], &["squash", "--engine", "own", "root", "out"]] {
            let words = ["ims-job-agent"].iter().chain(words);
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
