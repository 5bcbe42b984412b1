//! Network access of sessions. In a pod, which has its own network, they use all of it. If they
//! share the network with a host (`standalone`), they reach no service on loopback except their
//! own.
//!
//! The processes of a job's sessions are in their own control group (cgroup v2). BPF programs are
//! attached to it, which the kernel runs for their sockets; they are in `programs`.

mod programs;
mod rules;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use rules::Rules;

use linux::bpf::{self, Hook, SocketMarks};
use linux::cgroup2::Group;
use programs::Parts;

/// What of the network sessions get.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum Network {
    /// The same network as the agent: for a pod, which has its own network
    #[default]
    Host,
    /// Other hosts, and on loopback only services that sessions of the job started: for a host
    /// with other services
    Filtered,
}

/// Names of the groups begin so.
const PREFIX: &str = "ims-job-sessions-";

/// Keeps sessions from the services of this host. All jails of a job have the same: what one serves, the
/// others may use. Clones are the same filter.
#[derive(Debug, Clone)]
pub struct Filter(Arc<Mutex<Group>>);

/// Why sessions cannot be kept from the services of this host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot create a control group (cgroup v2) for the sessions")]
    Group(#[source] io::Error),
    #[error("cannot mark the sockets of sessions (BPF)")]
    Marks(#[source] io::Error),
    #[error("cannot load the filter for {hook:?} (BPF): {objections}")]
    Load { hook: Hook, objections: String, source: io::Error },
    #[error("cannot attach the filter for {0:?} to the control group of the sessions")]
    Attach(Hook, #[source] io::Error),
    #[error("cannot list the addresses of this host")]
    Addresses(#[source] io::Error),
}

impl Filter {
    /// Takes CAP_SYS_ADMIN. Blocks for some milliseconds.
    pub fn make(rules: &Rules) -> Result<Filter, Error> {
        let group = Group::make(PREFIX).map_err(Error::Group)?;
        let marks = SocketMarks::new().map_err(Error::Marks)?;
        let errors = bpf::load(Hook::Connect4, &programs::probe_of_errors()).is_ok();
        for (hook, program) in programs::all(Parts { rules, marks: marks.number(), errors }) {
            let loaded = bpf::load(hook, &program).map_err(|source| {
                let objections = bpf::objections(hook, &program);
                Error::Load { hook, objections, source }
            })?;
            bpf::attach(hook, &loaded, &group).map_err(|source| Error::Attach(hook, source))?;
        }
        Ok(Filter(Arc::new(Mutex::new(group))))
    }

    /// Puts a process under it, with what it will start. Sockets that it has already stay as they are.
    pub(super) fn add(&self, pid: i32) -> io::Result<()> {
        self.group().add(pid)
    }

    /// Takes the group away when all jails have been closed. A second call does nothing.
    pub fn remove(&self) -> io::Result<()> {
        self.group().remove()
    }

    fn group(&self) -> MutexGuard<'_, Group> {
        // Whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel checks a program whole when it is loaded: each shape that rules give it.
    #[test]
    fn the_kernel_takes_the_programs_whatever_the_rules() {
        let marks = SocketMarks::new().unwrap();
        for ports in [vec![], vec![8180, 8190, 22]] {
            for resolv_conf in ["nameserver 10.0.0.1", "nameserver 127.0.0.53\nnameserver ::1"] {
                let rules = Rules::new(ports.clone(), resolv_conf).unwrap();
                for errors in [false, true] {
                    for (hook, program) in
                        programs::all(Parts { rules: &rules, marks: marks.number(), errors })
                    {
                        if let Err(error) = bpf::load(hook, &program) {
                            panic!("{hook:?}: {error}: {}", bpf::objections(hook, &program));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_kernel_has_against_a_program_is_told() {
        let mut asm = bpf::asm::Asm::default();
        asm.call(bpf::asm::Helper::Release);
        asm.exit(0);
        let said = bpf::objections(Hook::Egress, &asm.finish());
        assert!(said.contains("R1"), "{said}");
    }
}
