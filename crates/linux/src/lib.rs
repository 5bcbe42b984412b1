//! The interfaces of the Linux kernel that the program uses: mounts, namespaces, processes,
//! capabilities, files.
//!
//! The only crate of the workspace that may use `unsafe`, `libc` and `nix`. It knows nothing of jobs.
//! Error numbers, signals and process ids are nix's types under names of this crate.
//!
//! Guards have an explicit `close()` that reports errors; `Drop` is the last resort.

#![warn(missing_docs, unreachable_pub)]
#![allow(unsafe_code, reason = "this crate is where the kernel is called; elsewhere it is denied")]

pub mod binfmt;
pub mod blocks;
pub mod bpf;
pub mod capability;
pub mod cgroup;
pub mod cgroup2;
pub mod dir;
pub mod disk;
pub mod entry;
pub mod error;
pub mod exec;
pub mod fd;
pub mod fdpass;
pub mod files;
pub mod filesize;
pub mod hardening;
pub mod interfaces;
pub mod landlock;
pub mod launch;
pub mod loopdev;
pub mod mount;
pub mod mountinfo;
pub mod namespace;
pub mod passed;
pub mod process;
pub mod pty;
pub mod seccomp;
pub mod service;
pub mod signals;
pub mod stat;
pub mod stdio;
pub mod tcp;
pub mod testing;
pub mod trusted;
pub mod unix;
pub mod wildcard;
pub mod xattrs;

pub use error::errno_of;
pub use nix::errno::Errno;
pub use nix::sys::signal::Signal;
pub use nix::unistd::Pid;
