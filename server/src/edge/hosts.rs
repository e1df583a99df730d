//! The host names that the server answers to. Without keys, this check stops DNS rebinding: a web page whose host name resolves to
//! this machine's address must not reach the server.

use std::net::IpAddr;

use crate::settings::{AuthMode, Settings};

/// The accepted host names.
pub enum Hosts {
    Any,
    /// Loopback names, `hosts`, and literal IP addresses if `addresses` is set.
    Known {
        hosts: Vec<String>,
        addresses: bool,
    },
}

impl Hosts {
    pub fn new(settings: &Settings) -> Self {
        let hosts = &settings.server.hosts;
        // A page that rebinds a name has no key.
        match settings.auth.mode {
            AuthMode::Keys => Self::Any,
            _ if hosts.iter().any(|host| host == "*") => Self::Any,
            mode => Self::Known { hosts: hosts.clone(), addresses: mode == AuthMode::Open },
        }
    }

    /// Returns whether the server answers to `host`, which may have a port.
    pub fn serves(&self, host: &str) -> bool {
        let Self::Known { hosts, addresses } = self else { return true };
        let name = without_port(host);
        let known = hosts.iter().any(|known| known.eq_ignore_ascii_case(name) || known.eq_ignore_ascii_case(host));
        known || is_loopback(name) || *addresses && literal(name).is_some()
    }
}

/// Removes the port of a host.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// Parses a literal IP address, with or without brackets.
fn literal(name: &str) -> Option<IpAddr> {
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).parse().ok()
}

/// Returns whether a name can only mean this machine.
fn is_loopback(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_local = |name: &str| name.eq_ignore_ascii_case("localhost");
    is_local(name)
        || name.rsplit_once('.').is_some_and(|(_, last)| is_local(last))
        || literal(name).is_some_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("localhost.:1", true),
            ("app.localhost", true),
            ("127.0.0.1:8080", true),
            ("127.8.9.1", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("evil.example", false),
            ("localhost.evil.example:8080", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1.nip.io:8080", false),
            ("xlocalhost", false),
            ("10.0.0.1", false),
            ("0.0.0.0:8080", false),
            ("[::]:8080", false),
            ("", false),
            (":8080", false),
            ("localhost:x", false),
            ("evil@localhost", false),
        ] {
            assert_eq!(is_loopback(without_port(host)), expected, "{host}");
        }
    }
}
