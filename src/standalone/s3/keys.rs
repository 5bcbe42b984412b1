//! Names of objects as text: which ones are accepted, and how lists encode them.

use s3s::dto::EncodingType;
use s3s::{S3Result, s3_error};

/// Refuses keys that a list could not contain. S3 accepts them; its lists are then invalid XML,
/// except for clients that request encoded keys.
pub fn check(key: &str) -> S3Result<()> {
    match key.chars().find(|c| !is_xml(*c)) {
        None => Ok(()),
        Some(c) => Err(s3_error!(
            InvalidArgument,
            "a key with the character {:?} is not taken here: lists, which are XML, could not name it",
            c
        )),
    }
}

/// XML 1.0, section 2.2.
fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// How a list writes names.
#[derive(Debug, Clone, Copy)]
pub struct Writer {
    encoded: bool,
}

impl Writer {
    pub fn new(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self { encoded: false }),
            Some(EncodingType::URL) => Ok(Self { encoded: true }),
            Some(_) => {
                Err(s3_error!(InvalidArgument, "the one encoding-type that there is is url"))
            }
        }
    }

    /// A name for the list, as it is or percent-encoded. A plain list cannot hold what XML does not, or
    /// what its readers take for something else.
    pub fn write(self, name: String) -> S3Result<String> {
        if self.encoded {
            return Ok(encode(&name));
        }
        match name.chars().find(|c| !is_xml(*c) || *c == '\r') {
            None => Ok(name),
            Some(_) => Err(s3_error!(
                InvalidRequest,
                "this list has the name {:?}, which XML does not hold: ask with encoding-type=url",
                name
            )),
        }
    }

    pub fn write_some(self, name: Option<String>) -> S3Result<Option<String>> {
        name.map(|name| self.write(name)).transpose()
    }
}

/// Everything but unreserved characters and the slash, as S3 does it.
fn encode(name: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            other => {
                let _ = write!(out, "%{other:02X}"); // a String takes everything
            }
        }
    }
    out
}

/// Where the next page begins, as a token that survives XML and URLs.
pub fn token(name: &str) -> String {
    hex::encode(name)
}

pub fn from_token(token: &str) -> S3Result<String> {
    let name = hex::decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    name.ok_or_else(|| s3_error!(InvalidArgument, "this continuation token is not from here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_so_that_clients_read_the_same() {
        assert_eq!(encode("a+b c%2fd/\u{fc}\n"), "a%2Bb%20c%252fd/%C3%BC%0A");
        let plain = Writer::new(None).unwrap();
        assert_eq!(plain.write("a+b".into()).unwrap(), "a+b");
        assert!(plain.write("a\u{1}".into()).is_err());
        assert!(plain.write("a\r".into()).is_err());
        assert!(check("a\u{1}").is_err() && check("a\u{fffe}").is_err());
        assert!(check("a\n\r\t \u{fc}//").is_ok());
        assert_eq!(from_token(&token("\u{fc}\u{1}")).unwrap(), "\u{fc}\u{1}");
        assert!(from_token("x").is_err());
    }
}
