//! Compressed streams of several frames, as created by parallel compressors and `cat`. Zeros after
//! the last frame, with which tapes and `dd conv=sync` fill their blocks, are not part of the
//! stream.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use zstd::stream::read::Decoder;

/// One frame that is read.
enum Frame<R: BufRead> {
    Gzip(Box<GzDecoder<R>>),
    Zstd(Decoder<'static, R>),
}

/// What all frames hold.
pub struct Frames<R: BufRead> {
    /// None at the end.
    frame: Option<Frame<R>>,
}

impl<R: BufRead> Frames<R> {
    pub fn gzip(input: R) -> Self {
        Self { frame: Some(Frame::Gzip(Box::new(GzDecoder::new(input)))) }
    }

    pub fn zstd(input: R) -> io::Result<Self> {
        Ok(Self { frame: Some(Frame::Zstd(Decoder::with_buffer(input)?.single_frame())) })
    }
}

impl<R: BufRead> Frame<R> {
    /// The frame behind this one, which is at its end.
    fn next(self) -> io::Result<Option<Self>> {
        Ok(match self {
            Self::Gzip(decoder) => past_zeros(decoder.into_inner())?
                .map(|input| Self::Gzip(Box::new(GzDecoder::new(input)))),
            Self::Zstd(decoder) => past_zeros(decoder.finish())?
                .map(Decoder::with_buffer)
                .transpose()?
                .map(|decoder| Self::Zstd(decoder.single_frame())),
        })
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(frame) = &mut self.frame {
            let read = match frame {
                Frame::Gzip(decoder) => decoder.read(buffer)?,
                Frame::Zstd(decoder) => decoder.read(buffer)?,
            };
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            self.frame = self.frame.take().map(Frame::next).transpose()?.flatten();
        }
        Ok(0)
    }
}

/// The input from its next byte on that is not 0; `None` at its end.
fn past_zeros<R: BufRead>(mut input: R) -> io::Result<Option<R>> {
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let is_done = zeros < bytes.len();
        input.consume(zeros);
        if is_done {
            return Ok(Some(input));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &str) -> Vec<u8> {
        zstd::encode_all(text.as_bytes(), 1).unwrap()
    }

    fn read(mut input: impl Read) -> io::Result<String> {
        let mut text = String::new();
        input.read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn frames_are_joined_and_padding_is_left_out() {
        for zeros in [0, 1, 5000] {
            let padding = vec![0; zeros];
            let both = [gzip("one"), gzip("two"), padding.clone()].concat();
            assert_eq!(read(Frames::gzip(&both[..])).unwrap(), "onetwo");
            let both = [zstd("one"), zstd("two"), padding].concat();
            assert_eq!(read(Frames::zstd(&both[..]).unwrap()).unwrap(), "onetwo");
        }
    }

    #[test]
    fn what_is_cut_short_or_followed_by_something_else_is_an_error() {
        for (whole, open) in [
            (gzip("text"), (|bytes| Box::new(Frames::gzip(bytes))) as fn(_) -> Box<dyn Read>),
            (zstd("text"), |bytes| Box::new(Frames::zstd(bytes).unwrap())),
        ] {
            let leaked: &'static [u8] = whole.clone().leak();
            for end in 1..leaked.len() {
                assert!(read(open(&leaked[..end])).is_err(), "{end} of {}", leaked.len());
            }
            let more: &'static [u8] = [&whole[..], b"garbage"].concat().leak();
            assert!(read(open(more)).is_err());
        }
    }
}
