//! The SSH server of a job: root logs in with a key and gets a shell, commands and sftp in the
//! jail.
//!
//! `job` starts one with [`Server::start`] and controls it with its [`Handle`]. russh implements
//! the protocol; this room implements the rest of a server. The structure: `handler` turns the
//! library's callbacks into state and messages (what it does with a channel is in `requests`) and
//! never waits; `session` has one task a program; `flow` bounds what clients send; `server`
//! accepts, admits and ends connections.

mod admission;
mod algorithms;
mod auth;
pub mod authorized_keys;
mod channel;
mod config;
mod connection;
mod environment;
mod flow;
mod forward;
mod handler;
pub mod hostkeys;
mod public_hostkeys;
mod registry;
mod requests;
mod server;
mod session;
mod signals;

pub use config::{Config, Forwarding, Limits, MaxStartups, Motd};
pub use registry::{Activity, SessionInfo};
pub use server::{Handle, Server};
