//! Fields of SFTP packets, in and out: pure, bounds-checked, never panicking on what a client sends.
//!
//! Format: draft-ietf-secsh-filexfer-02, section 3; numbers are big-endian, strings are bytes.

use bytes::{Buf, Bytes};

/// Largest packet accepted, without its length field (OpenSSH's SFTP_MAX_MSG_LENGTH).
pub const MAX_PACKET: usize = 256 * 1024;

/// Largest amount of data in one read or write (OpenSSH: packet less 1 KiB).
pub const MAX_DATA: usize = MAX_PACKET - 1024;

/// The packet ends before the field does, or a field says what cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet")]
pub struct Malformed;

/// What is left to read of a packet.
#[derive(Debug)]
pub struct Fields(Bytes);

impl Fields {
    /// The fields of `packet`, which begins after its length.
    pub fn new(packet: Bytes) -> Fields {
        Fields(packet)
    }

    /// True if nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A byte.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed)
    }

    /// A number of 32 bits.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Malformed)
    }

    /// A number of 64 bits.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.0.try_get_u64().map_err(|_| Malformed)
    }

    /// A counted string; shares the packet's memory.
    pub fn string(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u32()? as usize;
        if length > self.0.len() {
            return Err(Malformed);
        }
        Ok(self.0.split_to(length))
    }
}

/// A packet to send, its length field first.
pub struct Packet(Vec<u8>);

impl Packet {
    /// A packet of a type, without fields.
    pub fn new(kind: u8) -> Packet {
        Packet::with_capacity(kind, 64)
    }

    /// The same with room for `capacity` bytes of fields.
    pub fn with_capacity(kind: u8, capacity: usize) -> Packet {
        let mut bytes = Vec::with_capacity(capacity + 5);
        bytes.extend_from_slice(&[0, 0, 0, 0, kind]);
        Packet(bytes)
    }

    /// Adds a number of 32 bits.
    pub fn u32(mut self, value: u32) -> Packet {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Adds a number of 64 bits.
    pub fn u64(mut self, value: u64) -> Packet {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Adds a counted string.
    pub fn string(self, value: &[u8]) -> Packet {
        let mut packet = self.u32(value.len() as u32);
        packet.0.extend_from_slice(value);
        packet
    }

    /// A string of at most `most` bytes that `fill` writes; `fill` returns their number.
    pub fn string_with<E>(
        self,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<Packet, E> {
        let mut packet = self.u32(0).0;
        let start = packet.len();
        packet.resize(start + most, 0);
        let length = fill(&mut packet[start..])?;
        packet.truncate(start + length);
        packet[start - 4..start].copy_from_slice(&(length as u32).to_be_bytes());
        Ok(Packet(packet))
    }

    /// The bytes as they go out.
    pub fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() - 4) as u32;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_read_what_packets_wrote() {
        let bytes = Packet::new(9).u32(1).u64(2).string(b"three").finish();
        assert_eq!(bytes[..4], 22u32.to_be_bytes());
        let mut fields = Fields::new(Bytes::from(bytes).slice(4..));
        assert_eq!(fields.byte(), Ok(9));
        assert_eq!(fields.u32(), Ok(1));
        assert_eq!(fields.u64(), Ok(2));
        assert_eq!(fields.string().unwrap(), "three");
        assert_eq!(fields.byte(), Err(Malformed));
    }

    #[test]
    fn a_filled_string_has_the_length_told() {
        let fill = |room: &mut [u8]| {
            room[..2].copy_from_slice(b"ab");
            Ok::<_, ()>(2)
        };
        let packet = Packet::new(1).string_with(10, fill).unwrap();
        assert_eq!(packet.finish(), Packet::new(1).string(b"ab").finish());
    }
}
