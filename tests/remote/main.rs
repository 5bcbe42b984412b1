//! Jobs on a remote build node: a second host with a network, a `/tmp` and an sshd of its own, and all
//! that can go wrong between the two.

#![allow(clippy::print_stdout, reason = "what a failed test is known by")]

mod create;
mod customize;
mod cut;
mod host;
mod refused;
#[path = "../support/mod.rs"]
mod support;

use support::{pod, recipe as lab};
