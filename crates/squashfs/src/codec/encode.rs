//! Compression of blocks.

use liblzma::stream::{Action, Check, Filters, LzmaOptions, Status, Stream};
use lz4::block::CompressionMode;

use super::Error;
use crate::format::options::Options;
use crate::format::{Compressor, metadata};

/// libdeflate's level 6 gives smaller blocks than zlib's 9 (mksquashfs's default) in a thirtieth of
/// the time; docs/benchmarks.md has the figures.
const GZIP_LEVEL: i32 = 6;
/// mksquashfs's default.
const ZSTD_LEVEL: i32 = 15;
const XZ_LEVEL: i32 = 6;
/// lz4: 0 is the fast encoder, above it the high-compression one with that effort.
const LZ4_LEVEL: i32 = 0;

/// Which compressor, and how hard it tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The compressor; images with lzma can be read and not made.
    pub compressor: Compressor,
    /// gzip 1 to 12 (libdeflate's), zstd 1 to 22, xz 0 to 9, lz4 0 to 12; `None` for the default.
    pub level: Option<i32>,
    /// Bytes in a data block; sets xz's dictionary, which the kernel limits to this.
    pub block_size: u32,
}

impl Settings {
    fn level(&self) -> Result<i32, Error> {
        let (default, least, most) = match self.compressor {
            Compressor::Gzip => (GZIP_LEVEL, 1, 12),
            Compressor::Zstd => (ZSTD_LEVEL, 1, 22),
            Compressor::Xz => (XZ_LEVEL, 0, 9),
            Compressor::Lz4 => (LZ4_LEVEL, 0, 12),
            Compressor::Lzo => (1, 1, 1),
            Compressor::Lzma => return Err(Error::Unsupported("lzma")),
        };
        let level = self.level.unwrap_or(default);
        if (least..=most).contains(&level) {
            Ok(level)
        } else {
            Err(Error::Level { name: self.compressor.name(), level, least, most })
        }
    }

    /// The option block that an image made with these settings carries.
    pub fn options(&self) -> Result<Option<Options>, Error> {
        let level = self.level()?;
        Ok(match self.compressor {
            // The kernel refuses lz4 images without it.
            Compressor::Lz4 => Some(Options::Lz4 { high: level > 0 }),
            Compressor::Zstd if level != ZSTD_LEVEL => Some(Options::Zstd { level: level as u32 }),
            _ => None,
        })
    }

    /// Bytes that one encoder holds, roughly; bounds the number of threads.
    pub fn encoder_memory(&self) -> u64 {
        let block = u64::from(self.block_size);
        match self.compressor {
            Compressor::Xz => (block * 12).max(2 << 20),
            Compressor::Zstd => 8 << 20,
            _ => 1 << 20,
        }
    }
}

/// Compresses blocks with one compressor; not shared between threads.
pub(crate) struct Encoder {
    kind: Kind,
}

enum Kind {
    Gzip(libdeflater::Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
    Xz(Filters),
    Lz4(Option<CompressionMode>),
    Lzo(Box<lzokay::compress::Dict>),
}

impl Encoder {
    pub(crate) fn new(settings: &Settings) -> Result<Self, Error> {
        let level = settings.level()?;
        let kind = match settings.compressor {
            Compressor::Gzip => {
                let level = libdeflater::CompressionLvl::new(level)
                    .map_err(|_| Error::Setup("gzip", "the level is refused".into()))?;
                Kind::Gzip(libdeflater::Compressor::new(level))
            }
            Compressor::Zstd => Kind::Zstd(
                zstd::bulk::Compressor::new(level).map_err(|e| Error::Setup("zstd", e.into()))?,
            ),
            Compressor::Xz => Kind::Xz(xz_filters(level as u32, settings.block_size)?),
            Compressor::Lz4 if level > 0 => {
                Kind::Lz4(Some(CompressionMode::HIGHCOMPRESSION(level)))
            }
            Compressor::Lz4 => Kind::Lz4(None),
            Compressor::Lzo => Kind::Lzo(lzokay::compress::Dict::new()),
            Compressor::Lzma => return Err(Error::Unsupported("lzma")),
        };
        Ok(Self { kind })
    }

    /// Compresses `input` into `out` (what was there is dropped). `false`: it would not shrink, and
    /// `out` holds nothing of use.
    pub(crate) fn encode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<bool, Error> {
        if input.len() < 2 {
            return Ok(false);
        }
        let written = match &mut self.kind {
            Kind::Gzip(compressor) => {
                out.resize(input.len() - 1, 0);
                match compressor.zlib_compress(input, out) {
                    Ok(written) => written,
                    Err(libdeflater::CompressionError::InsufficientSpace) => return Ok(false),
                }
            }
            Kind::Zstd(compressor) => {
                out.resize(zstd::zstd_safe::compress_bound(input.len()), 0);
                compressor
                    .compress_to_buffer(input, &mut out[..])
                    .map_err(|e| Error::Encode("zstd", e.into()))?
            }
            Kind::Xz(filters) => match xz(filters, input, out)? {
                Some(written) => written,
                None => return Ok(false),
            },
            Kind::Lz4(mode) => {
                let bound = lz4::block::compress_bound(input.len())
                    .map_err(|e| Error::Encode("lz4", e.into()))?;
                out.resize(bound, 0);
                lz4::block::compress_to_buffer(input, *mode, false, out)
                    .map_err(|e| Error::Encode("lz4", e.into()))?
            }
            Kind::Lzo(dictionary) => {
                *out = lzokay::compress::compress_with_dict(input, dictionary)
                    .map_err(|e| Error::Encode("lzo", e.to_string().into()))?;
                out.len()
            }
        };
        out.truncate(written);
        Ok(written < input.len())
    }
}

/// The kernel's decoder reserves a dictionary of the block size, at least a metadata block.
fn xz_filters(level: u32, block_size: u32) -> Result<Filters, Error> {
    let mut options =
        LzmaOptions::new_preset(level).map_err(|e| Error::Setup("xz", Box::new(e)))?;
    options.dict_size(block_size.max(metadata::BLOCK as u32));
    let mut filters = Filters::new();
    filters.lzma2(&options);
    Ok(filters)
}

/// The kernel's decoder takes CRC32 as the only check.
fn xz(filters: &Filters, input: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, Error> {
    let mut stream = Stream::new_stream_encoder(filters, Check::Crc32)
        .map_err(|e| Error::Encode("xz", Box::new(e)))?;
    out.resize(input.len(), 0);
    let status =
        stream.process(input, out, Action::Finish).map_err(|e| Error::Encode("xz", Box::new(e)))?;
    Ok((status == Status::StreamEnd).then(|| stream.total_out() as usize))
}
