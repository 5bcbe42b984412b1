//! Pure parsers of values: `True`/`False` text, URLs, UUIDs, hex.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use url::Url;

use crate::telemetry::logs::Level;
use net::Trust;

/// `True`/`False` in any case, and the spellings that shells and YAML add.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("is neither True nor False".into()),
    }
}

pub fn http_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("is not a URL ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("is not an http or https URL".into());
    }
    Ok(url)
}

/// An md5 as `md5sum` prints it; upper case is accepted.
pub fn md5_hex(text: &str) -> Result<String, String> {
    if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("is not an md5 of 32 hex digits".into())
    }
}

pub fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err("is not a number of seconds above 0".into()),
    }
}

/// `90m`, `1h30m`, `2 days`, of 24 hours each; a bare number means seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let span = text.parse::<Span>().map_err(|error| error.to_string())?;
    let exact = span.to_duration(SpanRelativeTo::days_are_24_hours());
    let exact = exact.map_err(|error| error.to_string())?;
    exact.try_into().map_err(|_| "is a negative time".into())
}

pub fn count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("is not a number above 0".into()),
    }
}

pub fn log_level(text: &str) -> Result<Level, String> {
    match text.to_ascii_uppercase().as_str() {
        "DEBUG" => Ok(Level::Debug),
        "INFO" => Ok(Level::Info),
        "WARNING" | "WARN" => Ok(Level::Warning),
        "ERROR" | "CRITICAL" => Ok(Level::Error),
        _ => Err("is not one of DEBUG, INFO, WARNING, ERROR, CRITICAL".into()),
    }
}

/// `S3_SSL_VALIDATE`: a boolean, or the path of a CA file.
pub fn s3_trust(text: &str) -> Result<Trust, String> {
    match boolean(text) {
        Ok(true) => Ok(Trust::System),
        Ok(false) => Ok(Trust::Insecure),
        Err(_) if text.starts_with('/') => Ok(Trust::CaFile(PathBuf::from(text))),
        Err(_) => Err("is neither True, False nor the absolute path of a CA file".into()),
    }
}

/// Where sshd would listen with the options of `SSHD_OPTIONS` (sshd(8): `-p`; sshd_config(5): `Port`,
/// `ListenAddress`). The last one wins; unknown options are ignored.
pub fn sshd_listen(text: &str) -> Result<SocketAddr, String> {
    let mut listen = SocketAddr::from(([0, 0, 0, 0], 22));
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix('-') else { continue };
        let (letter, attached) = option.split_at(option.len().min(1));
        if !matches!(letter, "p" | "o") {
            continue;
        }
        let value = if attached.is_empty() { words.next().unwrap_or_default() } else { attached };
        let (name, value) = match letter {
            "p" => ("port", value),
            _ => value.split_once('=').unwrap_or_default(),
        };
        let unusable = || format!("has {value:?} for {name}");
        match name.to_ascii_lowercase().as_str() {
            "port" => listen.set_port(value.parse().map_err(|_| unusable())?),
            "listenaddress" => {
                let port = listen.port();
                listen = listen_address(value, port).ok_or_else(unusable)?;
            }
            _ => {}
        }
    }
    Ok(listen)
}

/// `ADDRESS:PORT`, or an address alone, with or without brackets.
fn listen_address(text: &str, port: u16) -> Option<SocketAddr> {
    let alone = || {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        bare.unwrap_or(text).parse::<IpAddr>().ok()
    };
    text.parse().ok().or_else(|| Some(SocketAddr::new(alone()?, port)))
}

/// The name of a file in `/boot`. A path below `/boot` is accepted, and one that takes `/boot` for the
/// root; a way out of it is not.
pub fn boot_file(text: &str) -> Result<String, String> {
    let name = text.trim_start_matches('/');
    let stays_below = std::path::Path::new(name)
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    if stays_below && !name.is_empty() {
        Ok(name.into())
    } else {
        Err("does not name a file below /boot".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_in_any_case() {
        for yes in ["True", "TRUE", "true", "1", "on"] {
            assert_eq!(boolean(yes), Ok(true));
        }
        for no in ["False", "false", "0", "off"] {
            assert_eq!(boolean(no), Ok(false));
        }
        assert!(boolean("maybe").is_err());
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, seconds) in
            [("45", 45), ("90m", 5400), ("1h30m", 5400), ("8 hours", 28_800), ("2 days", 172_800)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["-1h", "2 months", "soon", ""] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn s3_validation_is_a_switch_or_a_ca_file() {
        assert_eq!(s3_trust("False"), Ok(Trust::Insecure));
        assert_eq!(s3_trust("off"), Ok(Trust::Insecure));
        assert_eq!(s3_trust("True"), Ok(Trust::System));
        assert_eq!(s3_trust("/etc/ca.crt"), Ok(Trust::CaFile("/etc/ca.crt".into())));
        assert!(s3_trust("ca.crt").is_err());
    }

    #[test]
    fn sshd_listens_where_its_options_say() {
        for (options, address) in [
            ("-E /etc/cray/ims/sshd.log -f /etc/cray/ims/sshd_config", "0.0.0.0:22"),
            ("-p 2222", "0.0.0.0:2222"),
            ("-p2222 -D", "0.0.0.0:2222"),
            ("-oPort=24 -f x", "0.0.0.0:24"),
            ("-o ListenAddress=127.0.0.1:2222", "127.0.0.1:2222"),
            ("-p 2222 -o ListenAddress=127.0.0.1", "127.0.0.1:2222"),
            ("-o ListenAddress=::1 -p 24", "[::1]:24"),
            ("-o ListenAddress=[::1]", "[::1]:22"),
            ("-o ListenAddress=[::1]:2222", "[::1]:2222"),
        ] {
            assert_eq!(sshd_listen(options), Ok(address.parse().unwrap()), "{options}");
        }
        assert!(sshd_listen("-p many").is_err());
        assert!(sshd_listen("-o ListenAddress=somewhere").is_err());
    }

    #[test]
    fn boot_files_stay_below_boot() {
        assert!(boot_file("vmlinuz-6.1").is_ok());
        assert!(boot_file("efi/vmlinuz").is_ok());
        assert_eq!(boot_file("/vmlinuz").unwrap(), "vmlinuz");
        for bad in ["/../etc/shadow", "../etc/shadow", "a/../../b", "/"] {
            assert!(boot_file(bad).is_err(), "{bad}");
        }
    }
}
