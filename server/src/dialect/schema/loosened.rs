//! What of a schema an output is not held to.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

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
