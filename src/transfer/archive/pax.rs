//! PAX extended headers (POSIX pax Interchange Format): records of length, keyword and value.
//!
//! Read by length and not by line: values of attributes are binary and may contain newlines.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use linux::xattrs::Xattrs;

/// libarchive leaves the padding of base64 out.
const UNPADDED: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What extended headers say of the entry that follows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pax {
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pax {
    /// Reads the records of a header and adds them; `None` if they are malformed.
    pub fn extend(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
            let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            self.records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
            bytes = &bytes[length..];
        }
        Some(())
    }

    /// These records, and behind them those of `other`, which win.
    pub fn overlaid(&self, other: Self) -> Self {
        let mut records = self.records.clone();
        records.extend(other.records);
        Self { records }
    }

    /// The last value of a keyword; an empty one takes an earlier one away.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let found = self.records.iter().rev().find(|(name, _)| name == key.as_bytes());
        found.map(|(_, value)| value.as_slice()).filter(|value| !value.is_empty())
    }

    /// Every value of a keyword in order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let same = move |(name, _): &&(Vec<u8>, Vec<u8>)| name == key.as_bytes();
        self.records.iter().filter(same).map(|(_, value)| value.as_slice())
    }

    /// A number; `None` if there is none, `Some(None)` if it cannot be read.
    pub fn number(&self, key: &str) -> Option<Option<u64>> {
        self.get(key).map(|value| std::str::from_utf8(value).ok()?.parse().ok())
    }

    /// Whole seconds of a time like `1700000000.25`; times before 1970 round down.
    pub fn seconds(&self, key: &str) -> Option<Option<i64>> {
        let value = self.get(key)?;
        let read = |value| -> Option<i64> {
            let text = std::str::from_utf8(value).ok()?;
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let seconds: i64 = whole.parse().ok()?;
            let before = text.starts_with('-') && fraction.bytes().any(|byte| byte != b'0');
            Some(seconds - i64::from(before))
        };
        Some(read(value))
    }

    /// Extended attributes: those of star and GNU tar (binary), of libarchive (encoded), and GNU tar's
    /// SELinux context. An attribute given in two ways is used once.
    pub fn xattrs(&self) -> Xattrs {
        let mut found = Xattrs::new();
        for (key, value) in &self.records {
            let attribute = if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                Some((name.to_vec(), value.clone()))
            } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                decoded(name, value)
            } else if key == b"RHT.security.selinux" {
                let value = [value.strip_suffix(b"\0").unwrap_or(value), b"\0"].concat();
                Some((b"security.selinux".to_vec(), value))
            } else {
                None
            };
            let Some((name, value)) = attribute else { continue };
            found.retain(|(known, _)| *known != name);
            found.push((name, value));
        }
        found
    }

    /// True if there are access control lists, which squashfs cannot hold.
    pub fn has_acl(&self) -> bool {
        self.records.iter().any(|(key, _)| key.starts_with(b"SCHILY.acl."))
    }
}

/// An attribute as libarchive writes it: the name percent-encoded, the value in base64.
fn decoded(name: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut plain = Vec::new();
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'%')
            .then(|| std::str::from_utf8(tail.get(..2)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    let value = STANDARD.decode(value).or_else(|_| UNPADDED.decode(value)).ok()?;
    Some((plain, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pax(records: &[(&str, &[u8])]) -> Pax {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let digits = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
            bytes.extend_from_slice(format!("{} {key}=", rest + digits).as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        let mut pax = Pax::default();
        pax.extend(&bytes).unwrap();
        pax
    }

    #[test]
    fn values_are_binary() {
        let pax = pax(&[("SCHILY.xattr.user.a", b"1\n2=\0"), ("path", b"x\ny")]);
        assert_eq!(pax.xattrs(), [(b"user.a".to_vec(), b"1\n2=\0".to_vec())]);
        assert_eq!(pax.get("path"), Some(&b"x\ny"[..]));
    }

    #[test]
    fn attributes_are_read_in_every_dialect_and_once() {
        let pax = pax(&[
            ("LIBARCHIVE.xattr.user.a%25b", b"aGk"),
            ("SCHILY.xattr.user.a%b", b"hi"),
            ("RHT.security.selinux", b"system_u"),
        ]);
        assert_eq!(
            pax.xattrs(),
            [
                (b"user.a%b".to_vec(), b"hi".to_vec()),
                (b"security.selinux".to_vec(), b"system_u\0".to_vec())
            ]
        );
    }

    #[test]
    fn times_are_cut_to_seconds() {
        let pax = pax(&[("mtime", b"12.75"), ("old", b"-1.5"), ("bad", b"x")]);
        assert_eq!(pax.seconds("mtime"), Some(Some(12)));
        assert_eq!(pax.seconds("old"), Some(Some(-2)));
        assert_eq!(pax.seconds("bad"), Some(None));
        assert_eq!(pax.seconds("none"), None);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [&b"x"[..], b"5 a=b", b"99 a=b\n", b"0 a=b\n", b"7 ab=cd\n", b"6 abcd\n"] {
            assert_eq!(Pax::default().extend(bad), None, "{}", bad.escape_ascii());
        }
    }
}
