#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

mod arch;
mod client;
mod collections;
mod create;
mod error;
mod oauth;
mod records;
mod request;
mod status;
#[cfg(test)]
mod tests;

pub use arch::Arch;
pub use client::{Client, Config};
pub use collections::Collection;
pub use error::Error;
pub use oauth::{ConfigError, OAuthConfig, OAuthOverrides};
pub use records::{Image, Job, Link, PublicKey, Recipe};
pub use status::Status;
