//! The parts of a schema that are not enforced.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The parts of a schema that are not enforced because they cannot be compiled. Stored in the header of a response, so that every
/// replica enforces the same grammar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loosened {
    pub level: Level,
    /// Paths of keywords, such as `properties.name.pattern`.
    pub dropped: BTreeSet<String>,
}

/// The part of a schema that is enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The whole schema, except the dropped keywords.
    #[default]
    Whole,
    /// Types, properties and enumerations; no patterns, formats or bounds.
    Shape,
    /// Any object, or any JSON if the schema is not of an object.
    Any,
}
