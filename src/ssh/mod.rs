//! The SSH server.

pub mod authorized_keys;
pub mod flow;
pub mod hostkeys;
