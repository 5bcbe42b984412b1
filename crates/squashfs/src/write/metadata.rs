//! Cuts metadata into compressed blocks as it grows, so that only the packed form is kept.

use super::Error;
use crate::codec::Encoder;
use crate::format::metadata::{BLOCK, HEADER, Header, Reference};

/// One table of metadata blocks.
#[derive(Default)]
pub(super) struct Table {
    packed: Vec<u8>,
    open: Vec<u8>,
    scratch: Vec<u8>,
    /// Where each finished block starts in `packed`.
    starts: Vec<u64>,
}

impl Table {
    /// The place of the next byte.
    pub(super) fn reference(&self) -> Reference {
        Reference::new(self.packed.len() as u64, self.open.len() as u16)
    }

    pub(super) fn write(&mut self, mut bytes: &[u8], encoder: &mut Encoder) -> Result<(), Error> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.open.len()));
            self.open.extend_from_slice(now);
            bytes = later;
            if self.open.len() == BLOCK {
                self.close_block(encoder)?;
            }
        }
        Ok(())
    }

    /// The table as it goes into the image, and where each of its blocks starts in it.
    pub(super) fn finish(mut self, encoder: &mut Encoder) -> Result<(Vec<u8>, Vec<u64>), Error> {
        if !self.open.is_empty() {
            self.close_block(encoder)?;
        }
        Ok((self.packed, self.starts))
    }

    fn close_block(&mut self, encoder: &mut Encoder) -> Result<(), Error> {
        let shrunk = encoder.encode(&self.open, &mut self.scratch)?;
        let stored = if shrunk { &self.scratch } else { &self.open };
        let header = Header { stored: stored.len() as u16, raw: !shrunk };
        self.starts.push(self.packed.len() as u64);
        self.packed.reserve(HEADER + stored.len());
        self.packed.extend_from_slice(&header.encode());
        self.packed.extend_from_slice(stored);
        self.open.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Settings;
    use crate::format::Compressor;

    #[test]
    fn references_never_point_past_a_block() {
        let settings = Settings { compressor: Compressor::Gzip, level: None, block_size: 131_072 };
        let mut encoder = Encoder::new(&settings).unwrap();
        let mut table = Table::default();
        table.write(&[7; BLOCK], &mut encoder).unwrap();
        assert_eq!(table.reference().offset(), 0);
        table.write(&[8; BLOCK + 3], &mut encoder).unwrap();
        assert_eq!(table.reference().offset(), 3);
        let (packed, starts) = table.finish(&mut encoder).unwrap();
        assert_eq!(starts.len(), 3);
        assert_eq!(starts[0], 0);
        assert!(packed.len() < BLOCK);
    }
}
