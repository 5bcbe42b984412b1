//! `CUSTOMIZATION_SCRIPT`: a script of the site's that runs once the shell is up (contract section 2).
//!
//! It is in the container, so it runs there, like a session that is not jailed.

use std::convert::Infallible;
use std::future::pending;
use std::io::PipeReader;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::place::{self, Place};
use super::session::SessionSettings;
use crate::blocking::blocking;
use crate::jail::{self, Child, Jail, Program, Spawn, Stdio3};
use linux::process::Lines;

/// The script and the place where it runs.
pub(crate) struct Script {
    path: PathBuf,
    jail: Jail,
    /// The place is the script's own, and nobody else closes it.
    pub own: Option<Jail>,
}

impl Script {
    /// `sessions` is where the job's sessions live; its filter holds for the script too.
    pub async fn prepare(
        settings: &SessionSettings,
        path: PathBuf,
        sessions: &Place,
    ) -> anyhow::Result<Self> {
        if !settings.session.jail {
            return Ok(Self { path, jail: sessions.jail.clone(), own: None });
        }
        let jail = place::enter(jail::Options {
            filter: sessions.filter.clone(),
            more: settings.rights.capabilities(),
            ..settings.jail(None)
        })
        .await?;
        Ok(Self { path, jail: jail.clone(), own: Some(jail) })
    }

    /// Runs the script and logs how it ended; the job continues in any case.
    pub async fn run(&self) -> Infallible {
        tracing::info!(script = %self.path.display(), "running the customization script");
        match self.run_to_end().await {
            Ok(status) if status.success() => tracing::info!("the customization script has ended"),
            Ok(status) => tracing::warn!(%status, "the customization script failed"),
            Err(error) => {
                tracing::warn!(
                    "the customization script failed: {}",
                    crate::telemetry::chain(error.as_ref())
                );
            }
        }
        pending().await
    }

    async fn run_to_end(&self) -> anyhow::Result<std::process::ExitStatus> {
        let (jail, command) = (self.jail.clone(), command(&self.path));
        let (mut child, output) = blocking(move || start(&jail, command)).await?;
        // Ends when the last process that writes to it has ended.
        tokio::task::spawn_blocking(move || log(output));
        Ok(child.wait().await?)
    }
}

fn start(jail: &Jail, command: Vec<u8>) -> anyhow::Result<(Child, PipeReader)> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let stdio = Stdio3::Pipes {
        stdin: std::fs::File::open("/dev/null").context("cannot open /dev/null")?.into(),
        stdout: writer.try_clone().context("cannot make a pipe")?.into(),
        stderr: writer.into(),
    };
    let spawn = Spawn { program: Program::Command(command), env: Vec::new(), stdio };
    Ok((jail.spawn(spawn)?, reader))
}

fn log(mut output: PipeReader) {
    let mut lines = Lines::default();
    let mut log = |line: &str| tracing::info!("script: {line}");
    // A broken pipe is an end too.
    while lines.read_from(&mut output, &mut log).unwrap_or(false) {}
    lines.flush(&mut log);
}

/// The shell's command that becomes the script.
fn command(path: &Path) -> Vec<u8> {
    let word = shlex::bytes::try_quote(path.as_os_str().as_encoded_bytes());
    [b"exec ", &*word.expect("no path holds a NUL byte")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_is_one_word() {
        for path in ["/opt/a b", "/it's", "/$(id)"] {
            let command = String::from_utf8(command(Path::new(path))).unwrap();
            assert_eq!(shlex::split(&command).unwrap(), ["exec", path]);
        }
    }
}
