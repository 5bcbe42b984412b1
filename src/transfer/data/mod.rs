//! Exports and imports the data of a whole IMS (contract section 9): records, artifacts, public
//! keys.

pub mod export;
pub mod import;
pub mod layout;
pub mod pack;
pub mod plan;
mod sums;
