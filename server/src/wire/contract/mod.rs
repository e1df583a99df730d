//! The protocol as documents for other programs: OpenAPI 3.1 of the HTTP routes, AsyncAPI 3 of a WebSocket's events. The schemas
//! come from the types that the server reads and writes.

mod asyncapi;
mod openapi;
pub mod rules;
mod schemas;

use serde_json::Value;

pub use openapi::routes;

/// Builds the OpenAPI document.
pub fn openapi() -> Value {
    openapi::document()
}

/// Builds the AsyncAPI document.
pub fn asyncapi() -> Value {
    asyncapi::document()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// The documents in `docs/` equal those of the types. `CAUDAL_RENEW=1` rewrites them.
    #[test]
    fn the_documents_in_the_repository_are_current() {
        for (name, document) in [("openapi.json", openapi()), ("asyncapi.json", asyncapi())] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
            let current = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
            if std::env::var_os("CAUDAL_RENEW").is_some() {
                fs::write(&path, &current).unwrap();
            }
            let stored = fs::read_to_string(&path).unwrap_or_default();
            assert!(stored == current, "docs/{name} differs from the types; `make renew` rewrites it");
        }
    }

    #[test]
    fn every_reference_has_its_schema() {
        for document in [openapi(), asyncapi()] {
            let mut references = vec![];
            schemas::each_reference(&mut document.clone(), &mut |reference| references.push(reference.clone()));
            assert!(references.len() > 50);
            for reference in references {
                let path = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(path).is_some(), "{reference}");
            }
        }
    }
}
