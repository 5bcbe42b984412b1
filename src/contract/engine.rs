//! Who packs an image.

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
