//! The address of the client and the host names in its request. Forwarded headers count only if the connection comes from a proxy
//! of `server.trusted_proxies`.

use std::net::{IpAddr, SocketAddr};

use actix_web::{
    dev::RequestHead,
    http::header::{self, HeaderName},
};

use crate::settings::Network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Returns the client's address: that of the peer, or behind trusted proxies the last forwarded address that is not trusted.
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

/// Returns every host name of the request, with its port. A check must hold for all of them. `None`: a header is not text.
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
