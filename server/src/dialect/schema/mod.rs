//! JSON schemas in the form to which an output can be held. What constrains nothing is left out, objects are closed where
//! the schema does not say, and what the engine cannot hold an output to is ignored, or refused where the client is strict.
//!
//! | file | owns |
//! |---|---|
//! | `keywords` | which keywords constrain, and which of those an output can be held to |
//! | `walk` | a client's schema → one of those keywords alone, with all references at one place |
//! | `close` | objects without `additionalProperties` → closed objects, through unions and intersections |
//! | `disjoint` | whether no value fits two schemas |

mod close;
mod disjoint;
mod keywords;
mod walk;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use walk::Walker;

/// What of a schema is not held to, because compiling it failed. Part of a response's header, so that every replica holds the
/// output to the same grammar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loosened {
    pub level: Level,
    /// Paths of keywords, such as `properties.name.pattern`.
    pub dropped: BTreeSet<String>,
}

/// How much of a schema an output is held to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// All of it.
    #[default]
    Whole,
    /// Types, properties and enumerations; no patterns, formats and bounds.
    Shape,
    /// Any object, or any JSON where the schema is not of an object.
    Any,
}

/// Why a schema is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of the keyword within the schema, such as `properties.name.pattern`. Empty: the schema itself.
    pub path: String,
    pub reason: String,
}

/// Constraints of one place of a schema, as a schema of its own.
#[derive(Debug, PartialEq)]
pub struct Site {
    /// Of the place. A keyword's path is this, a dot, and its name; the name alone where this is empty.
    pub path: String,
    /// In the order in which they are given up.
    pub keywords: Vec<String>,
    pub schema: Value,
}

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

/// `path` and a keyword, as one path.
pub fn join(path: &str, keyword: &str) -> String {
    if path.is_empty() { keyword.to_owned() } else { format!("{path}.{keyword}") }
}

fn is_of_object(schema: &Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "object") || schema.get("properties").is_some()
}

#[cfg(test)]
mod tests;
