//! Who is at the other end of a connection, and by which name the client calls this server. Forwarded headers count only where
//! the connection comes from a proxy of `server.trusted_proxies`.

use std::net::{IpAddr, SocketAddr};

use actix_web::{
    dev::RequestHead,
    http::header::{self, HeaderName},
};

use crate::settings::Network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The client's address: the last that no trusted proxy has.
pub fn address(head: &RequestHead, trusted: &[Network]) -> Option<IpAddr> {
    let mut address = head.peer_addr?.ip().to_canonical();
    let values: Vec<&str> = head
        .headers
        .get_all(FORWARDED_FOR)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','))
        .collect();
    for forwarded in values.into_iter().rev() {
        if !is_trusted(address, trusted) {
            break;
        }
        let Some(next) = parse_address(forwarded.trim()) else { break };
        address = next;
    }
    Some(address)
}

fn is_trusted(address: IpAddr, trusted: &[Network]) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

fn parse_address(text: &str) -> Option<IpAddr> {
    let alone = text.trim_start_matches('[').trim_end_matches(']').parse().ok();
    alone.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip())).map(|ip: IpAddr| ip.to_canonical())
}

/// Every name, with its port, by which the request calls this server: what is checked must hold for all of them. `None`: a
/// header is not text.
pub fn hosts<'a>(head: &'a RequestHead, trusted: &[Network]) -> Option<Vec<&'a str>> {
    let mut hosts: Vec<&str> = head.uri.authority().map(|authority| authority.as_str()).into_iter().collect();
    for value in head.headers.get_all(header::HOST) {
        hosts.push(value.to_str().ok()?);
    }
    let through_proxy = head.peer_addr.is_some_and(|peer| is_trusted(peer.ip().to_canonical(), trusted));
    if through_proxy {
        for value in head.headers.get_all(FORWARDED_HOST) {
            hosts.extend(value.to_str().ok()?.split(',').map(str::trim));
        }
    }
    Some(hosts)
}

/// A host without its port.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// The address that stands in place of a name, if one does.
pub fn literal(name: &str) -> Option<IpAddr> {
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).parse().ok()
}

/// Whether a name can only mean this machine.
pub fn is_loopback(name: &str) -> bool {
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
