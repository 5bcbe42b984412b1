//! The compressors of squashfs, both ways; one encoder or decoder a thread.
//!
//! A block that does not shrink is stored as it is: encoders say so instead of giving a longer one.

mod decode;
mod encode;

pub(crate) use decode::Decoder;
pub(crate) use encode::Encoder;
pub use encode::Settings;

use super::format::Compressor;

/// Why blocks cannot be compressed or decompressed.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("compressor {0} is not supported")]
    Unsupported(&'static str),
    #[error("{name} level {level} is out of range ({least} to {most})")]
    Level { name: &'static str, level: i32, least: i32, most: i32 },
    #[error("cannot set up {0}")]
    Setup(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0} failed to compress a block")]
    Encode(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("a {0} block cannot be decompressed")]
    Decode(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Compressor {
    /// The compressor's name as mksquashfs's `-comp` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Lzma => "lzma",
            Self::Lzo => "lzo",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        (0..100_000u32).flat_map(|i| (i / 7).to_le_bytes()).take(131_072).collect()
    }

    #[test]
    fn every_encoder_is_undone_by_its_decoder() {
        let input = sample();
        for compressor in
            [Compressor::Gzip, Compressor::Xz, Compressor::Lz4, Compressor::Zstd, Compressor::Lzo]
        {
            let settings = Settings { compressor, level: None, block_size: 131_072 };
            let mut packed = Vec::new();
            assert!(Encoder::new(&settings).unwrap().encode(&input, &mut packed).unwrap());
            assert!(packed.len() < input.len());
            let mut back = vec![0; input.len()];
            let length = Decoder::new(compressor).unwrap().decode(&packed, &mut back).unwrap();
            assert_eq!((length, &back), (input.len(), &input), "{compressor:?}");
        }
    }

    #[test]
    fn a_block_that_does_not_shrink_is_left_raw() {
        let noise: Vec<u8> = (0..4096u64)
            .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) >> 13) as u8)
            .collect();
        for compressor in [Compressor::Gzip, Compressor::Xz, Compressor::Lz4, Compressor::Zstd] {
            let settings = Settings { compressor, level: None, block_size: 131_072 };
            let mut encoder = Encoder::new(&settings).unwrap();
            let mut packed = Vec::new();
            assert!(!encoder.encode(&noise[..7], &mut packed).unwrap(), "{compressor:?}");
        }
    }

    #[test]
    fn a_block_that_unpacks_to_more_than_its_room_is_an_error() {
        let input = sample();
        for compressor in
            [Compressor::Gzip, Compressor::Xz, Compressor::Lz4, Compressor::Zstd, Compressor::Lzo]
        {
            let settings = Settings { compressor, level: None, block_size: 131_072 };
            let mut packed = Vec::new();
            Encoder::new(&settings).unwrap().encode(&input, &mut packed).unwrap();
            let mut small = vec![0; 8192];
            assert!(Decoder::new(compressor).unwrap().decode(&packed, &mut small).is_err());
        }
    }
}
