//! Checks the names in requests. A web page whose name resolves to this machine (DNS rebinding)
//! sends its own name as Host; the browser of a page of another origin sends that origin.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, StatusCode, header};

use crate::standalone::api::problem::Problem;

/// The names that are ours: those of loopback, the address that is listened on, and those given.
#[derive(Debug, Clone)]
pub struct Hosts {
    listen: IpAddr,
    names: Vec<String>,
}

impl Hosts {
    /// `names` are given by the operator; where we listen on every address, the machine's own is one too.
    pub fn new(listen: SocketAddr, names: &[String]) -> Self {
        let mut names: Vec<_> = names.iter().map(|name| plain(name)).collect();
        if listen.ip().is_unspecified() {
            names.extend(machine_name().map(|name| plain(&name)));
        }
        Self { listen: listen.ip().to_canonical(), names }
    }

    /// Refuses requests for other hosts, and requests of pages of another origin.
    pub fn check<B>(&self, request: &http::Request<B>) -> Result<(), Problem> {
        let host = host(request.headers())?;
        let of_uri = request.uri().authority().map(|authority| authority.as_str());
        for called in [Some(host), of_uri].into_iter().flatten() {
            if !self.is_ours(called) {
                return Err(Problem::new(
                    StatusCode::MISDIRECTED_REQUEST,
                    format!(
                        "{called:?} is not a name of this service. To allow it, start standalone \
                         with --allowed-host."
                    ),
                ));
            }
        }
        let foreign = |detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, detail));
        if let Some(origin) = request.headers().get(header::ORIGIN)
            && !origin.to_str().is_ok_and(|origin| is_same(origin, host))
        {
            return foreign("Web pages of other origins are not served.");
        }
        let site = request.headers().get("sec-fetch-site");
        if site.is_some_and(|site| site != "same-origin" && site != "none") {
            return foreign("Web pages of other sites are not served.");
        }
        Ok(())
    }

    /// Whatever the port: a proxy before us has another.
    fn is_ours(&self, called: &str) -> bool {
        let name = plain(without_port(called));
        match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) => {
                let ip = ip.to_canonical();
                ip.is_loopback() || ip == self.listen || self.listen.is_unspecified()
            }
            Err(_) => name == "localhost" || self.names.contains(&name),
        }
    }
}

/// The one `Host` of a request: HTTP/1.1 demands it, and what has none is no client of ours.
fn host(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut all = headers.get_all(header::HOST).iter();
    let one = all.next().filter(|_| all.next().is_none());
    let host = one.and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty());
    host.ok_or_else(|| Problem::bad_request("The request has no Host header."))
}

/// Whether an `Origin` is that of a page which we have served under this name.
fn is_same(origin: &str, host: &str) -> bool {
    let name = origin.split_once("://").map(|(_, name)| name);
    name.is_some_and(|name| name.eq_ignore_ascii_case(host))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // Not a colon in the middle of [::1].
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn plain(name: &str) -> String {
    name.trim().trim_end_matches('.').to_ascii_lowercase()
}

/// The name of this machine.
pub fn machine_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listen: &str, names: &[&str]) -> Hosts {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Hosts::new(listen.parse().unwrap(), &names)
    }

    fn status(hosts: &Hosts, headers: &[(&str, &str)]) -> u16 {
        let mut request = http::Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let checked = hosts.check(&request.body(()).unwrap());
        checked.map_or_else(|problem| problem.status(), |()| 200)
    }

    #[test]
    fn only_our_own_names_are_answered_to() {
        let local = hosts("127.0.0.1:8180", &["IMS.example"]);
        for own in [
            "127.0.0.1:8180",
            "127.0.0.1:4711",
            "127.0.0.1",
            "localhost:8180",
            "LOCALHOST.",
            "[::1]:8180",
            "127.1.2.3",
            "ims.example",
            "ims.example:443",
        ] {
            assert_eq!(status(&local, &[("host", own)]), 200, "{own}");
        }
        for foreign in [
            "evil.example",
            "evil.example:8180",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1:8180",
            "0.0.0.0:8180",
            "x:127.0.0.1",
        ] {
            assert_eq!(status(&local, &[("host", foreign)]), 421, "{foreign}");
        }
        assert_eq!(status(&local, &[]), 400);
        assert_eq!(status(&local, &[("host", "localhost"), ("host", "evil.example")]), 400);
        assert_eq!(status(&hosts("10.0.0.1:8180", &[]), &[("host", "10.0.0.1:8180")]), 200);
        assert_eq!(status(&hosts("10.0.0.1:8180", &[]), &[("host", "10.0.0.2:8180")]), 421);
        assert_eq!(status(&hosts("0.0.0.0:8180", &[]), &[("host", "10.0.0.2:8180")]), 200);
        assert_eq!(status(&hosts("0.0.0.0:8180", &[]), &[("host", "evil.example")]), 421);
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let local = hosts("127.0.0.1:8180", &[]);
        let with = |name, value| status(&local, &[("host", "127.0.0.1:8180"), (name, value)]);
        assert_eq!(with("origin", "http://127.0.0.1:8180"), 200);
        for origin in
            ["http://evil.example", "http://127.0.0.1:8181", "http://localhost:8180", "null"]
        {
            assert_eq!(with("origin", origin), 403, "{origin}");
        }
        assert_eq!(with("sec-fetch-site", "none"), 200);
        assert_eq!(with("sec-fetch-site", "cross-site"), 403);
        assert_eq!(with("sec-fetch-site", "same-site"), 403);
    }
}
