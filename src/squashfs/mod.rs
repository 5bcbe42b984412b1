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
    /// The built-in packer: reuses blocks of the base image and compresses the rest.
    #[default]
    #[value(name = "builtin", alias = "own")]
    Own,
    /// mksquashfs with its defaults: compresses everything again.
    Mksquashfs,
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
