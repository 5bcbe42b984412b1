//! Decompression of blocks: never more than the caller's room, whatever the block says.

use liblzma::stream::{Action, Status, Stream};

use super::Error;
use crate::format::Compressor;

/// Most memory that an xz block may ask for: the dictionary is a block, at most 1 MiB.
const XZ_MEMORY: u64 = 32 << 20;

/// Decompresses blocks of one compressor; not shared between threads.
pub(crate) struct Decoder {
    kind: Kind,
}

enum Kind {
    Gzip(libdeflater::Decompressor),
    Zstd(zstd::bulk::Decompressor<'static>),
    Xz,
    Lz4,
    Lzo,
}

impl Decoder {
    pub(crate) fn new(compressor: Compressor) -> Result<Self, Error> {
        let kind = match compressor {
            Compressor::Gzip => Kind::Gzip(libdeflater::Decompressor::new()),
            Compressor::Zstd => Kind::Zstd(
                zstd::bulk::Decompressor::new().map_err(|e| Error::Setup("zstd", e.into()))?,
            ),
            Compressor::Xz => Kind::Xz,
            Compressor::Lz4 => Kind::Lz4,
            Compressor::Lzo => Kind::Lzo,
            Compressor::Lzma => return Err(Error::Unsupported("lzma")),
        };
        Ok(Self { kind })
    }

    /// Unpacks `input` to the start of `out`; how many bytes it made. More than `out` holds is an
    /// error.
    pub(crate) fn decode(&mut self, input: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        match &mut self.kind {
            Kind::Gzip(decompressor) => decompressor
                .zlib_decompress(input, out)
                .map_err(|e| Error::Decode("gzip", Box::new(e))),
            Kind::Zstd(decompressor) => decompressor
                .decompress_to_buffer(input, out)
                .map_err(|e| Error::Decode("zstd", e.into())),
            Kind::Xz => xz(input, out),
            Kind::Lz4 => lz4::block::decompress_to_buffer(input, Some(out.len() as i32), out)
                .map_err(|e| Error::Decode("lz4", e.into())),
            Kind::Lzo => lzokay::decompress::decompress(input, out)
                .map_err(|e| Error::Decode("lzo", e.to_string().into())),
        }
    }
}

fn xz(input: &[u8], out: &mut [u8]) -> Result<usize, Error> {
    let mut stream =
        Stream::new_stream_decoder(XZ_MEMORY, 0).map_err(|e| Error::Setup("xz", Box::new(e)))?;
    let status =
        stream.process(input, out, Action::Finish).map_err(|e| Error::Decode("xz", Box::new(e)))?;
    if status == Status::StreamEnd {
        Ok(stream.total_out() as usize)
    } else {
        Err(Error::Decode("xz", "the block is truncated or too long".into()))
    }
}
