//! The options in front of a key: sshd(8), "AUTHORIZED_KEYS FILE FORMAT".

use std::time::SystemTime;

use super::addresses::PatternList;

/// What a key may be used for. The default is a line without options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Run instead of the program that the client requests.
    pub command: Option<String>,
    pub environment: Vec<(String, String)>,
    pub from: Option<PatternList>,
    pub expiry: Option<SystemTime>,
    pub pty: bool,
    pub port_forwarding: bool,
    pub agent_forwarding: bool,
    /// Empty: anywhere.
    pub permit_open: Vec<PermitOpen>,
    pub permit_listen: Vec<PermitListen>,
    /// The key is an authority's: certificates that it signed may log in, it may not itself.
    pub cert_authority: bool,
    pub principals: Option<Vec<String>>,
}

/// `permitopen="host:port"`: the host is literal, the port a number or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermitOpen {
    pub host: String,
    pub port: Option<u16>,
}

/// `permitlisten="[host:]port"`: the host may have wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermitListen {
    pub host: Host,
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Any,
    Pattern(String),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            command: None,
            environment: Vec::new(),
            from: None,
            expiry: None,
            pty: true,
            port_forwarding: true,
            agent_forwarding: true,
            permit_open: Vec::new(),
            permit_listen: Vec::new(),
            cert_authority: false,
            principals: None,
        }
    }
}

impl Options {
    /// Reads comma-separated options. An option that is not known makes the line bad: it may have
    /// been meant to restrict.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = text;
        loop {
            let (name, value, after) = split(rest)?;
            options.set(&name.to_ascii_lowercase(), value)?;
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None if after.is_empty() => return Ok(options),
                None => return Err(format!("unexpected text after option {name}")),
            }
        }
    }

    fn set(&mut self, name: &str, value: Option<String>) -> Result<(), String> {
        match value {
            None => self.set_flag(name),
            Some(value) => self.set_value(name, value),
        }
    }

    fn set_flag(&mut self, name: &str) -> Result<(), String> {
        match name {
            "restrict" => {
                self.pty = false;
                self.port_forwarding = false;
                self.agent_forwarding = false;
            }
            "pty" => self.pty = true,
            "no-pty" => self.pty = false,
            "port-forwarding" => self.port_forwarding = true,
            "no-port-forwarding" => self.port_forwarding = false,
            "agent-forwarding" => self.agent_forwarding = true,
            "no-agent-forwarding" => self.agent_forwarding = false,
            "cert-authority" => self.cert_authority = true,
            // The server has no X11 forwarding and no rc file, regardless of these options; and it
            // does not check whether a security key was touched.
            "x11-forwarding" | "no-x11-forwarding" | "user-rc" | "no-user-rc"
            | "no-touch-required" => {}
            "verify-required" => return Err("verify-required cannot be enforced".into()),
            _ => return Err(format!("unknown option {name:?}")),
        }
        Ok(())
    }

    fn set_value(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "command" => once(name, &mut self.command, value),
            "from" => once(name, &mut self.from, PatternList::parse(&value)?),
            "principals" => {
                let names = value.split(',').map(|name| name.trim().to_owned());
                once(name, &mut self.principals, names.filter(|name| !name.is_empty()).collect())
            }
            "expiry-time" => {
                let time = expiry(&value)?;
                // Of several, the earliest counts.
                self.expiry = Some(self.expiry.map_or(time, |before| before.min(time)));
                Ok(())
            }
            "environment" => {
                self.environment.push(assignment(&value)?);
                Ok(())
            }
            "permitopen" => {
                self.permit_open.push(permit_open(&value)?);
                Ok(())
            }
            "permitlisten" => {
                self.permit_listen.push(permit_listen(&value)?);
                Ok(())
            }
            "tunnel" => Ok(()),
            _ => Err(format!("unknown option {name:?}")),
        }
    }
}

/// The first option's name and value, and what follows them.
fn split(text: &str) -> Result<(&str, Option<String>, &str), String> {
    let end = text.find(['=', ',']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let Some(value) = rest.strip_prefix('=') else { return Ok((name, None, rest)) };
    let quoted =
        value.strip_prefix('"').ok_or_else(|| format!("the value of {name} is not in quotes"))?;
    let mut text = String::new();
    let mut characters = quoted.char_indices().peekable();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Ok((name, Some(text), &quoted[index + 1..])),
            '\\' if characters.peek().is_some_and(|&(_, next)| next == '"') => {
                characters.next();
                text.push('"');
            }
            other => text.push(other),
        }
    }
    Err(format!("the value of {name} has no closing quote"))
}

fn once<T>(name: &str, slot: &mut Option<T>, value: T) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("option {name} is given twice")),
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("environment needs NAME=value")?;
    let valid = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !value.contains('\0');
    match valid {
        true => Ok((name.to_owned(), value.to_owned())),
        false => Err(format!("{name:?} is not a variable's name")),
    }
}

/// `YYYYMMDD[Z]` or `YYYYMMDDHHMM[SS][Z]`; local time without the `Z`.
fn expiry(text: &str) -> Result<SystemTime, String> {
    use jiff::civil::DateTime;
    use jiff::tz::TimeZone;
    let bad = || format!("{text:?} is not a time (YYYYMMDD[HHMM[SS]][Z])");
    let (digits, zone) = match text.strip_suffix(['Z', 'z']) {
        Some(digits) => (digits, TimeZone::UTC),
        None => (text, TimeZone::system()),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || ![8, 12, 14].contains(&digits.len()) {
        return Err(bad());
    }
    let number = |range: std::ops::Range<usize>| -> i16 {
        digits.get(range).and_then(|part| part.parse().ok()).unwrap_or(0)
    };
    let small = |range| number(range) as i8;
    DateTime::new(
        number(0..4),
        small(4..6),
        small(6..8),
        small(8..10),
        small(10..12),
        small(12..14),
        0,
    )
    .and_then(|time| time.to_zoned(zone))
    .map(|time| time.timestamp().into())
    .map_err(|_| bad())
}

fn permit_open(text: &str) -> Result<PermitOpen, String> {
    let (host, port) =
        host_and_port(text).ok_or_else(|| format!("permitopen {text:?} is not host:port"))?;
    Ok(PermitOpen { host: host.to_owned(), port })
}

fn permit_listen(text: &str) -> Result<PermitListen, String> {
    let bad = || format!("permitlisten {text:?} is not [host:]port");
    if let Some(port) = parse_port(text) {
        return Ok(PermitListen { host: Host::Any, port });
    }
    let (host, port) = host_and_port(text).ok_or_else(bad)?;
    Ok(PermitListen { host: Host::Pattern(host.to_owned()), port })
}

fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']')?,
        None => host,
    };
    if host.is_empty() {
        return None;
    }
    Some((host, parse_port(port)?))
}

/// The outer `None` is a bad port, the inner one `*`.
fn parse_port(text: &str) -> Option<Option<u16>> {
    match text {
        "*" => Some(None),
        number => number.parse().ok().filter(|&port| port > 0).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_of_the_manual_is_understood() {
        let options = Options::parse(
            r#"NO-PTY,no-agent-forwarding,no-X11-forwarding,no-user-rc,no-port-forwarding,environment="A=b=c","#
                .trim_end_matches(',')
                .to_owned()
                .as_str(),
        )
        .unwrap();
        assert!(!options.pty && !options.agent_forwarding && !options.port_forwarding);
        assert_eq!(options.environment, [("A".to_owned(), "b=c".to_owned())]);
        let options = Options::parse(
            r#"cert-authority,principals="root, admin",from="10.0.0.0/8,!10.0.0.1",tunnel="0",permitopen="[::1]:80",permitopen="db:*",permitlisten="8080",permitlisten="localhost:*""#,
        )
        .unwrap();
        assert!(options.cert_authority);
        assert_eq!(options.principals.unwrap(), ["root", "admin"]);
        assert_eq!(options.permit_open[0], PermitOpen { host: "::1".into(), port: Some(80) });
        assert_eq!(options.permit_open[1], PermitOpen { host: "db".into(), port: None });
        assert_eq!(options.permit_listen[0], PermitListen { host: Host::Any, port: Some(8080) });
    }

    #[test]
    fn restrict_takes_all_and_later_options_give_back() {
        let options = Options::parse("restrict,pty").unwrap();
        assert!(options.pty && !options.port_forwarding && !options.agent_forwarding);
    }

    #[test]
    fn bad_options_say_why() {
        for (text, reason) in [
            ("no-such", "unknown option"),
            ("no-such=\"1\"", "unknown option"),
            ("command=ls", "not in quotes"),
            ("command=\"ls", "no closing quote"),
            ("command=\"a\",command=\"b\"", "given twice"),
            ("command=\"a\"b", "unexpected text"),
            ("environment=\"A\"", "NAME=value"),
            ("environment=\"A B=1\"", "not a variable's name"),
            ("expiry-time=\"2026\"", "not a time"),
            ("expiry-time=\"20261340\"", "not a time"),
            ("permitopen=\"80\"", "not host:port"),
            ("permitlisten=\"a:0\"", "not [host:]port"),
            ("from=\"10.0.0.0/99\"", "10.0.0.0/99"),
            ("verify-required", "cannot be enforced"),
            ("pty,", "unknown option"),
            ("", "unknown option"),
        ] {
            let error = Options::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn times_are_read_to_the_second() {
        let seconds = |text: &str| {
            let options = Options::parse(&format!("expiry-time=\"{text}\"")).unwrap();
            options.expiry.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
        };
        assert_eq!(seconds("20260102Z"), 1_767_312_000);
        assert_eq!(seconds("202601020304Z"), 1_767_312_000 + 3 * 3600 + 4 * 60);
        assert_eq!(seconds("20260102030405Z"), 1_767_312_000 + 3 * 3600 + 4 * 60 + 5);
    }
}
