//! The interfaces of the Linux kernel that the program uses: mounts, namespaces, processes,
//! capabilities, files.
//!
//! The only crate of the workspace that may use `unsafe`, `libc` and `nix`. It knows nothing of jobs.
//!
//! Guards have an explicit `close()` that reports errors; `Drop` is the last resort.

pub mod binfmt;
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
pub mod fs;
pub mod hardening;
pub mod landlock;
pub mod launch;
pub mod loopdev;
pub mod mount;
pub mod mountinfo;
pub mod namespace;
pub mod nodes;
pub mod openat;
pub mod process;
pub mod pty;
pub mod seccomp;
pub mod service;
pub mod stdio;
pub mod tcp;
pub mod tree;
pub mod trusted;
pub mod unix;
