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
    /// The built-in packer: reuses blocks of the base image and compresses the rest.
    #[default]
    #[value(name = "builtin", alias = "own")]
    Own,
    /// mksquashfs with its defaults: compresses everything again.
    Mksquashfs,
}
