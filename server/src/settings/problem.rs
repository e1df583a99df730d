//! What is wrong with the settings, in words. A value is repeated only where no secret can stand: not in `auth` and not in
//! `store`, whatever its type.

use figment::error::{Actual, Kind};

/// Sections of which no value is printed.
const SECRET: [&str; 2] = ["auth", "store"];

/// Settings that earlier versions had, and what took their place.
const GONE: [(&str, &str); 3] = [
    ("engine.mode", "every model runs its generations as one batch, so remove it"),
    ("engine.slots", "engine.max_running is how many generations of a model run at once"),
    ("engine.prefix_cache_mb", "engine.kv_mb is the memory for the keys and values of a model, cached ones included"),
];

/// The setting, what is wrong with it, and where it was set.
pub fn describe(error: &figment::Error) -> String {
    let mut path = error.path.clone();
    if let Kind::UnknownField(field, _) = &error.kind {
        // figment's path ends before the unknown field.
        if path.last() != Some(field) {
            path.push(field.clone());
        }
    }
    let source = error
        .metadata
        .as_ref()
        .map(|m| m.source.as_ref().map_or_else(|| m.name.to_string(), |s| format!("{} {s}", m.name)));
    let source = source.filter(|s| !s.contains("string")).map(|s| format!(" (from {s})")).unwrap_or_default();
    let is_secret = path.first().is_some_and(|section| SECRET.contains(&section.as_str()));
    let in_a_key = path.first().is_some_and(|section| section == "auth") && path.len() > 2;
    if in_a_key && let Kind::UnknownField(_, known) = &error.kind {
        // The key itself may stand where a name should.
        path.pop();
        return format!("{}: an unknown field; there are {}{source}", path.join("."), known.join(", "));
    }
    let (path, kind) = (path.join("."), kind(&error.kind, is_secret));
    match GONE.iter().find(|(gone, _)| path == *gone || path.starts_with("engine.models") && path.ends_with(&gone[6..]))
    {
        Some((_, instead)) => format!("{path}: this setting is gone; {instead}{source}"),
        None => format!("{path}: {kind}{source}"),
    }
}

fn kind(kind: &Kind, is_secret: bool) -> String {
    match kind {
        // A parser's message may quote the line, with what stands on it.
        Kind::Message(message) => message.lines().next().unwrap_or_default().to_owned(),
        Kind::InvalidType(actual, expected) if is_secret => format!("found {}, expected {expected}", masked(actual)),
        Kind::InvalidValue(actual, expected) if is_secret => format!("found {}, expected {expected}", masked(actual)),
        Kind::UnknownVariant(_, known) if is_secret => format!("an unknown value; there are {}", known.join(", ")),
        other => other.to_string(),
    }
}

/// The type of a value.
fn masked(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "a boolean",
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) => "a number",
        Actual::Char(_) | Actual::Str(_) | Actual::Bytes(_) => "a string",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "another type",
    }
}

/// What is wrong with a file, with the line and without what stands on it.
pub fn unreadable(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.lines().count().max(1);
    format!("line {line}: {}", error.message())
}

/// The part of an assignment that can be a key.
pub fn key_of(assignment: &str) -> &str {
    let end = assignment.find(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c)).unwrap_or(assignment.len());
    assignment.get(..end).unwrap_or_default()
}
