//! Messages about wrong settings. No message contains a value of a section in `SECRET`, because the value may be a secret.

use figment::error::{Actual, Kind};

use super::sources::{DEFAULTS, Given, shown};

/// Sections whose values are not printed.
const SECRET: [&str; 3] = ["auth", "kv_store", "store"];

/// Removed settings, and what to do instead.
const GONE: [(&str, &str); 3] = [
    ("engine.mode", "every model runs its generations as one batch, so remove it"),
    ("engine.slots", "engine.max_running is how many generations of a model run at once"),
    ("engine.prefix_cache_mb", "engine.kv_mb is the memory for the keys and values of a model, cached ones included"),
];

/// Settings whose type does not describe the expected value.
const EXPECTED: [(&str, &str); 2] = [("server.bind", ADDRESS), ("server.admin_bind", ADDRESS)];
const ADDRESS: &str = "ADDRESS:PORT with an IP address, such as 127.0.0.1:9090";

/// An error in the settings. The message names the setting and the place that set it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub(super) String);

/// Describes an error: the setting, the fault, and the place that set it.
pub fn describe(error: &figment::Error, given: &Given) -> String {
    let mut path = error.path.clone();
    if let Kind::UnknownField(field, _) = &error.kind {
        // figment's path ends before the unknown field.
        if path.last() != Some(field) {
            path.push(field.clone());
        }
    }
    let source = given.place(&path).map(|place| format!(" ({place})")).unwrap_or_default();
    let is_secret = path.first().is_some_and(|section| SECRET.contains(&section.as_str()));
    let in_a_key = path.first().is_some_and(|section| section == "auth") && path.len() > 2;
    if let Kind::UnknownField(field, known) = &error.kind {
        let instead = GONE.iter().find(|(gone, _)| is_gone(&path, gone));
        if let Some((_, instead)) = instead {
            return format!("{}: this setting is gone; {instead}{source}", shown(&path));
        }
        let parent = path.split_last().map_or(&[][..], |(_, parent)| parent);
        if in_a_key {
            // The unknown name may be a key by mistake, so it is not printed.
            return format!("{}: an unknown field; there are {}{source}", shown(parent), known.join(", "));
        }
        return format!("unknown setting {}; {}{source}", shown(&path), hint(parent, field, known));
    }
    let name = shown(&path);
    match EXPECTED.iter().find(|(setting, _)| *setting == name) {
        Some((_, expected)) => format!("{name}: expected {expected}{source}"),
        None => format!("{name}: {}{source}", kind(&error.kind, is_secret)),
    }
}

fn is_gone(path: &[String], gone: &str) -> bool {
    let name = shown(path);
    name == gone
        || name.starts_with("engine.models") && path.last().is_some_and(|last| gone.ends_with(&format!(".{last}")))
}

/// Suggests a known setting for an unknown one.
fn hint(parent: &[String], field: &str, known: &[&str]) -> String {
    let named = |name: &str| shown(&[parent, &[name.to_owned()]].concat());
    let distance = |name: &str| strsim::damerau_levenshtein(name, field);
    let is_close =
        |name: &str| name.starts_with(field) || field.starts_with(name) || distance(name) <= (field.len() / 3).max(1);
    let sections: toml::Table = toml::from_str(DEFAULTS).unwrap_or_default();
    let mut sections = sections.iter().filter_map(|(name, section)| Some((name, section.as_table()?)));
    if let Some((section, _)) = sections.find(|(_, section)| section.contains_key(field)) {
        return format!("did you mean {section}.{field}?");
    }
    match known.iter().filter(|name| is_close(name)).min_by_key(|name| distance(name)) {
        Some(close) => format!("did you mean {}?", named(close)),
        None if parent.is_empty() => format!("the sections are {}", known.join(", ")),
        None => format!("{} has {}", shown(parent), known.join(", ")),
    }
}

fn kind(kind: &Kind, is_secret: bool) -> String {
    match kind {
        // The later lines of a parser's message may quote a secret.
        Kind::Message(message) => message.lines().next().unwrap_or_default().to_owned(),
        Kind::InvalidType(actual, wanted) | Kind::InvalidValue(actual, wanted) => {
            let found = if is_secret { masked(actual).to_owned() } else { found(actual) };
            format!("found {found}, expected {}", expected(wanted))
        }
        Kind::UnknownVariant(_, known) if is_secret => format!("expected {}", one_of(known)),
        Kind::UnknownVariant(found, known) => format!("found {found:?}, expected {}", one_of(known)),
        Kind::MissingField(field) => format!("{field} is missing"),
        other => other.to_string(),
    }
}

/// Translates Rust's name of a type into plain words.
fn expected(wanted: &str) -> String {
    match wanted {
        "usize" | "u64" => "a whole number, 0 or more".into(),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "i64" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        wanted if wanted.starts_with("struct ") => "a table".into(),
        other => other.to_owned(),
    }
}

/// Joins the names as `"a", "b" or "c"`.
fn one_of(known: &[&str]) -> String {
    let known: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
    match known.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => known.concat(),
    }
}

/// Describes a value as it was written. A list or a table is only called so.
fn found(actual: &Actual) -> String {
    match actual {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Str(value) => format!("{value:?}"),
        other => masked(other).to_owned(),
    }
}

/// Returns the type of a value, without the value.
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

/// Describes a fault of a file with the number of the line, without its text.
pub fn unreadable(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.lines().count().max(1);
    format!("line {line}: {}", error.message())
}
