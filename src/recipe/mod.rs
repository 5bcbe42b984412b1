//! Builds an image root from the archive of a recipe: unpack, template, repositories, CA package,
//! kiwi.
//!
//! Called by `job`, a step each. All of it blocks but the wait for the repositories.

pub mod ca_package;
pub mod description;
pub mod kiwi;
pub mod repositories;
pub mod template;
pub mod trust_store;
pub mod unpack;
