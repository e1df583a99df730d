//! JSON schemas in the form to which an output can be held. What constrains nothing is left out, objects are closed where
//! the schema does not say, and what the engine cannot hold an output to is ignored, or refused where the client is strict.
//!
//! | file | owns |
//! |---|---|
//! | `keywords` | which keywords constrain, and which of those an output can be held to |
//! | `loosened` | what of a schema an output is not held to |
//! | `walk` | a client's schema → one of those keywords alone, with all references at one place |
//! | `close` | objects without `additionalProperties` → closed objects, through unions and intersections |
//! | `disjoint` | whether no value fits two schemas |

mod close;
mod disjoint;
mod keywords;
mod loosened;
mod walk;

use serde_json::{Value, json};

pub use loosened::{Level, Loosened};
use walk::Walker;
pub use walk::{Refused, Site, join};

/// The schema as an output is held to it.
///
/// # Errors
/// The schema is malformed, or `strict` and an output cannot be held to all of it.
pub fn hold(schema: &Value, loosened: &Loosened, strict: bool) -> Result<Value, Refused> {
    if loosened.level == Level::Any {
        return Ok(if is_of_object(schema) { json!({"type": "object"}) } else { json!({}) });
    }
    let mut walker = Walker::new(schema, loosened, strict);
    let root = walker.schema(schema, &mut String::new())?;
    Ok(close::close(root, walker.definitions()?))
}

/// The places whose constraints may be more than the compiler is allowed.
///
/// # Errors
/// The schema is malformed.
pub fn sites(schema: &Value) -> Result<Vec<Site>, Refused> {
    let loosened = Loosened::default();
    let mut walker = Walker::new(schema, &loosened, false);
    walker.schema(schema, &mut String::new())?;
    walker.definitions()?;
    Ok(walker.into_sites())
}

fn is_of_object(schema: &Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "object") || schema.get("properties").is_some()
}

#[cfg(test)]
mod tests;
