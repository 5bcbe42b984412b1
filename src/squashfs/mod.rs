//! Squashfs 4.0: on-disk format, reader, writer, reuse of a base image, the external mksquashfs.

pub mod codec;
pub mod diff;
pub mod external;
pub mod format;
mod marks;
pub mod read;
pub mod reuse;
pub mod unpack;
pub mod write;

pub use unpack::unpack;
pub use write::{Options, Summary, pack};

/// Who packs, `--engine`.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum Engine {
    /// This program: blocks of the base image are used again, the rest is compressed.
    #[default]
    Own,
    /// mksquashfs with its defaults: everything is compressed anew.
    Mksquashfs,
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
