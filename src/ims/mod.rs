//! The IMS REST API as a client: OAuth tokens, records, status patches. Called by `job`, `publish` and
//! `transfer`.

mod client;
mod collections;
mod create;
mod error;
mod oauth;
mod records;
mod request;
#[cfg(test)]
mod tests;

pub use client::{Client, Config};
pub use collections::Collection;
pub use error::Error;
pub use oauth::{ConfigError, OAuthConfig, OAuthOverrides};
pub use records::{Image, Job, Link, PublicKey, Recipe};
