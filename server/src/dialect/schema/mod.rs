//! Turns a client's JSON schemas into schemas that the engine can enforce: removes keywords that constrain nothing, closes objects
//! without `additionalProperties`, and drops keywords that the engine cannot enforce. With `strict` it refuses such keywords.
//!
//! | file | owns |
//! |---|---|
//! | `keywords` | which keywords constrain values, and which of those the engine enforces |
//! | `loosened` | the parts of a schema that are not enforced |
//! | `walk` | a client's schema → a schema of enforced keywords only, with all definitions in one place |
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

/// Returns the enforceable form of a schema.
///
/// # Errors
/// The schema is malformed, or `strict` is set and the engine cannot enforce the whole schema.
pub fn hold(schema: &Value, loosened: &Loosened, strict: bool) -> Result<Value, Refused> {
    if loosened.level == Level::Any {
        return Ok(if is_of_object(schema) { json!({"type": "object"}) } else { json!({}) });
    }
    let mut walker = Walker::new(schema, loosened, strict);
    let root = walker.schema(schema, &mut String::new())?;
    Ok(close::close(root, walker.definitions()?))
}

/// Returns the places with constraints that may exceed the limits of the compiler.
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
