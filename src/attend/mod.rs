//! The time in which users have an image root: sessions open, a signal comes, sessions close.
//!
//! It knows neither IMS nor the store; who calls it says what is reported when users can log in.

pub mod control;
pub(crate) mod grace;
pub mod limits;
pub mod listen;
pub(crate) mod place;
pub(crate) mod rights;
pub(crate) mod root;
mod script;
pub(crate) mod session;
