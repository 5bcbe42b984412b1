//! File attributes of protocol version 3 (draft section 5).

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use super::codec::{Fields, Malformed, Packet};

const SIZE: u32 = 1;
const UIDGID: u32 = 2;
const PERMISSIONS: u32 = 4;
const ACMODTIME: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;

/// What a client sets or gets. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// Bytes.
    pub size: Option<u64>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// Type and permission bits, as stat(2) has them.
    pub permissions: Option<u32>,
    /// Access, then modification.
    pub times: Option<(u32, u32)>,
}

impl Attrs {
    /// Those of a file.
    pub fn of(metadata: &Metadata) -> Attrs {
        // The protocol has 32 bits for a time; OpenSSH cuts off what is above, and so do we.
        let times = (metadata.atime() as u32, metadata.mtime() as u32);
        Attrs {
            size: Some(metadata.size()),
            owner: Some((metadata.uid(), metadata.gid())),
            permissions: Some(metadata.mode()),
            times: Some(times),
        }
    }

    /// Reads them from a packet.
    pub fn read(fields: &mut Fields) -> Result<Attrs, Malformed> {
        let flags = fields.u32()?;
        let mut attrs = Attrs::default();
        if flags & SIZE != 0 {
            attrs.size = Some(fields.u64()?);
        }
        if flags & UIDGID != 0 {
            attrs.owner = Some((fields.u32()?, fields.u32()?));
        }
        if flags & PERMISSIONS != 0 {
            attrs.permissions = Some(fields.u32()?);
        }
        if flags & ACMODTIME != 0 {
            attrs.times = Some((fields.u32()?, fields.u32()?));
        }
        if flags & EXTENDED != 0 {
            // A vendor's own: read over. Each takes 8 bytes, so the packet bounds the count.
            for _ in 0..fields.u32()? {
                fields.string()?;
                fields.string()?;
            }
        }
        Ok(attrs)
    }

    /// Adds them to a packet.
    pub fn write(&self, packet: Packet) -> Packet {
        let flag = |present: bool, flag: u32| if present { flag } else { 0 };
        let flags = flag(self.size.is_some(), SIZE)
            | flag(self.owner.is_some(), UIDGID)
            | flag(self.permissions.is_some(), PERMISSIONS)
            | flag(self.times.is_some(), ACMODTIME);
        let mut packet = packet.u32(flags);
        if let Some(size) = self.size {
            packet = packet.u64(size);
        }
        for (first, second) in [self.owner].into_iter().flatten() {
            packet = packet.u32(first).u32(second);
        }
        if let Some(permissions) = self.permissions {
            packet = packet.u32(permissions);
        }
        if let Some((access, modification)) = self.times {
            packet = packet.u32(access).u32(modification);
        }
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn body(packet: Packet) -> Fields {
        Fields::new(Bytes::from(packet.finish()).slice(5..))
    }

    #[test]
    fn attributes_come_back_as_written() {
        let attrs = Attrs {
            size: Some(u64::MAX),
            owner: Some((1, 2)),
            permissions: Some(0o100644),
            times: Some((3, 4)),
        };
        for attrs in [attrs, Attrs::default()] {
            assert_eq!(Attrs::read(&mut body(attrs.write(Packet::new(0)))), Ok(attrs));
        }
    }

    #[test]
    fn a_count_of_extensions_beyond_the_packet_is_malformed() {
        let packet = Packet::new(0).u32(EXTENDED).u32(u32::MAX).string(b"a").string(b"b");
        assert_eq!(Attrs::read(&mut body(packet)), Err(Malformed));
    }
}
