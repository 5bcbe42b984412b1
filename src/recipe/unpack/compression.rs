//! Detects the compression of an archive by its first bytes: a name is not reliable.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::Error;

/// Where the magic of a tar header is (POSIX.1-1988, `ustar`).
const TAR_MAGIC: std::ops::Range<usize> = 257..262;

/// The uncompressed content of the archive at `path`.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read>, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut head = [0; 512];
    let length = read_up_to(&mut file, &mut head).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let file = BufReader::new(file);
    match &head[..length] {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(file))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(failed)?;
            Ok(Box::new(decoder))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Ok(Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file)))
        }
        head if head.get(TAR_MAGIC) == Some(b"ustar") => Ok(Box::new(file)),
        _ => Err(Error::NoArchive { path: path.into() }),
    }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            count => length += count,
        }
    }
    Ok(length)
}
