//! `GET /openapi.json` and `/asyncapi.json`: the protocol as documents for other programs.

use std::sync::LazyLock;

use actix_web::{HttpResponse, http::header, web::Bytes};

use crate::wire::contract;

static OPENAPI: LazyLock<Bytes> = LazyLock::new(|| contract::openapi().to_string().into());
static ASYNCAPI: LazyLock<Bytes> = LazyLock::new(|| contract::asyncapi().to_string().into());

pub async fn openapi() -> HttpResponse {
    document(&OPENAPI)
}

pub async fn asyncapi() -> HttpResponse {
    document(&ASYNCAPI)
}

fn document(body: &Bytes) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header((header::CACHE_CONTROL, "public, max-age=3600"))
        .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .body(body.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the paths that a source file passes to `resource`.
    fn paths(source: &str, scope: &str) -> Vec<String> {
        let quoted = source.split("resource(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
        let paths = quoted.filter_map(|rest| rest.split('"').next());
        paths.map(|path| format!("{scope}{}", path.replace("{id:.+}", "{id}"))).collect()
    }

    #[test]
    fn every_route_is_described() {
        let (api, rest) = include_str!("../v1.rs").split_once("pub fn admin_routes").expect("the table of routes");
        let (admin, root) = rest.split_once("pub fn probe_routes").expect("the probes and documents");
        let routes = [paths(api, "/v1"), paths(admin, "/admin"), paths(root, "")].concat();
        assert!(routes.len() > 20, "{routes:?}");
        let described = contract::routes();
        for path in routes {
            assert!(described.iter().any(|(_, other)| *other == path), "{path} is not in the document");
        }
    }
}
