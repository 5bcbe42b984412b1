//! One line of authorized_keys: `[options] type base64 [comment]`.

use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, PublicKey};

use super::options::Options;

/// RSA keys below this are refused, in the file and from certificates (OpenSSH's `RequiredRSASize`,
/// whose default is 1024; 2048 is the least that NIST still allows).
pub const REQUIRED_RSA_SIZE: u32 = 2048;

const BLANK: [char; 2] = [' ', '\t'];

/// The key and options of a line; `None` for a blank line or a comment.
pub(super) fn parse(line: &str) -> Result<Option<(PublicKey, Options)>, String> {
    let line = line.trim_end_matches(['\r', ' ', '\t']).trim_start_matches(BLANK);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if let Some(key) = key(line)? {
        return Ok(Some((key, Options::default())));
    }
    let (options, rest) = line.split_at(options_length(line));
    let options = Options::parse(options)?;
    match key(rest.trim_start_matches(BLANK))? {
        Some(key) => Ok(Some((key, options))),
        None => Err("no key after the options".into()),
    }
}

/// Where the options end: at the first blank outside quotes (sshd's auth2-pubkeyfile.c reads alike).
fn options_length(line: &str) -> usize {
    let mut quoted = false;
    let mut bytes = line.bytes().enumerate().peekable();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'\\' if bytes.peek().is_some_and(|&(_, next)| next == b'"') => {
                bytes.next();
            }
            b'"' => quoted = !quoted,
            b' ' | b'\t' if !quoted => return index,
            _ => {}
        }
    }
    line.len()
}

/// `Ok(None)` when the text does not begin with a key type's name.
fn key(text: &str) -> Result<Option<PublicKey>, String> {
    let mut words = text.splitn(3, BLANK).filter(|word| !word.is_empty());
    let Some(kind) = words.next().filter(|word| is_key_type(word)) else { return Ok(None) };
    // Several blanks may stand between type and key.
    let rest = text[kind.len()..].trim_start_matches(BLANK);
    let base64 = rest.split(BLANK).next().unwrap_or_default();
    let comment = rest[base64.len()..].trim_matches(BLANK);
    let mut key = PublicKey::from_openssh(&format!("{kind} {base64}"))
        .map_err(|error| format!("the {kind} key cannot be read ({error})"))?;
    key.set_comment(comment);
    acceptable(key.key_data())?;
    Ok(Some(key))
}

fn is_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"]
        .iter()
        .any(|prefix| word.starts_with(prefix))
        && !word.contains(['=', '"'])
}

/// Refuses keys that a server should not accept.
pub fn acceptable(key: &KeyData) -> Result<(), String> {
    match key {
        KeyData::Rsa(rsa) if rsa.key_size() < REQUIRED_RSA_SIZE => Err(format!(
            "an RSA key of {} bits; at least {REQUIRED_RSA_SIZE} are needed",
            rsa.key_size()
        )),
        other => match other.algorithm() {
            Algorithm::Dsa => Err("a DSA key".into()),
            Algorithm::Other(name) => Err(format!("a key of unknown type {}", name.as_str())),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDIvvRJeMvOZV6mzlxUY5lPK2KpwDq/c/\
        V1cZArkDU9oGwZjrRsKF8spIhzPcP0wKsK9e5wUVC+gkExyhWYxkRWlXfoOzKE0Zt4T9Zd8JLyKNsHU9H7Oz/HCnsHI\
        4k3CqcxITHMDOHM1xTyYbJ5NSKqsIY4xkmf8DKXq/RQc2Cx0Q==";

    #[test]
    fn comments_hold_blanks_and_may_be_missing() {
        let (key, _) = parse(&format!("{ED25519}   a  b")).unwrap().unwrap();
        assert_eq!(key.comment().as_str_lossy(), "a  b");
        let options = format!("no-pty  {}", ED25519.replace(' ', "\t "));
        assert!(!parse(&options).unwrap().unwrap().1.pty);
    }

    #[test]
    fn quoted_blanks_and_quotes_stay_inside_an_option() {
        let line = format!(r#"command="say \"a b\" # x",no-pty {ED25519} me"#);
        let (_, options) = parse(&line).unwrap().unwrap();
        assert_eq!(options.command.as_deref(), Some(r#"say "a b" # x"#));
        assert!(!options.pty);
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        for (line, reason) in [
            (RSA_1024, "1024 bits"),
            ("ssh-ed25519 AAAA", "cannot be read"),
            ("ssh-ed25519", "cannot be read"),
            ("no-pty", "no key after the options"),
            ("nonsense", "unknown option"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
