//! Jinja as in Hugging Face's Transformers: makes minijinja behave like Jinja2 and Python where they differ.

use std::fmt::{self, Write as _};

use minijinja::{
    Environment, Error, ErrorKind, State, Value, escape_formatter,
    value::{Kwargs, ValueKind, from_args},
};

use super::{
    arguments::{DIGITS, with_digits},
    contents::MARK,
};

/// Makes an environment with the template `name`.
///
/// # Errors
/// The template does not compile.
pub fn environment(name: &'static str, template: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_unknown_method_callback(method);
    // Transformers renders with both.
    environment.set_lstrip_blocks(true);
    environment.set_trim_blocks(true);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Seq | ValueKind::Map => write!(out, "{}", Python(value)).map_err(Error::from),
        _ => escape_formatter(out, state, value),
    });
    environment.add_function("raise_exception", raise);
    environment.add_function("strftime_now", now);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: &Value| match value.kind() {
        ValueKind::Seq | ValueKind::Map => Value::from(Python(value).to_string()),
        _ => Value::from(value.to_string()),
    });
    // In Python, texts and dictionaries are sequences, and `none` is not iterable.
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_template_owned(name, without_generation(template))?;
    Ok(environment)
}

/// Replaces `generation` statements, which mark the text that a model is trained to write, by statements that print their content.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let statement = tag.trim_start_matches(['-', '+']).trim_start();
        let is_word = |rest: &&str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let instead = [("generation", "if true"), ("endgeneration", "endif")]
            .into_iter()
            .find_map(|(word, instead)| Some((statement.strip_prefix(word).filter(is_word)?, instead)));
        rest = tag;
        if let Some((after, instead)) = instead {
            out.push_str(&tag[..tag.len() - statement.len()]);
            out.push_str(instead);
            rest = after;
        }
    }
    out + rest
}

fn raise(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn now(format: String) -> Result<String, Error> {
    let mut text = String::new();
    let wrong = |_| Error::new(ErrorKind::InvalidOperation, format!("`{format}` is not a valid time format"));
    write!(text, "{}", chrono::Utc::now().format(&format)).map_err(wrong)?;
    Ok(text)
}

/// Calls Python's methods of texts, lists and dictionaries.
fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args);
    };
    match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, after) = text.split_once(separator).unwrap_or((text, ""));
            let separator = if before.len() == text.len() { "" } else { separator };
            Ok([before, separator, after].map(Value::from).to_vec().into())
        }
        "rsplit" => {
            let (separator, most): (&str, Option<usize>) = from_args(args)?;
            let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
            let mut parts: Vec<&str> = text.rsplitn(most, separator).collect();
            parts.reverse();
            Ok(parts.into_iter().map(Value::from).collect())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Prints a value as Python does within a list or a dictionary.
struct Python<'v>(&'v Value);

impl fmt::Display for Python<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = |value: &Value| value.try_iter().map_err(|_| fmt::Error);
        match self.0.kind() {
            ValueKind::String => text(out, self.0.as_str().unwrap_or_default()),
            ValueKind::Seq => {
                out.write_char('[')?;
                for (at, member) in members(self.0)?.enumerate() {
                    out.write_str(if at > 0 { ", " } else { "" })?;
                    write!(out, "{}", Python(&member))?;
                }
                out.write_char(']')
            }
            ValueKind::Map => {
                out.write_char('{')?;
                for (at, key) in members(self.0)?.enumerate() {
                    out.write_str(if at > 0 { ", " } else { "" })?;
                    let member = self.0.get_item(&key).unwrap_or_default();
                    write!(out, "{}: {}", Python(&key), Python(&member))?;
                }
                out.write_char('}')
            }
            _ => write!(out, "{}", self.0),
        }
    }
}

fn text(out: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if text.starts_with(DIGITS) {
        return out.write_str(text);
    }
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\\' => out.write_str("\\\\")?,
            c if c == quote => write!(out, "\\{c}")?,
            c if c < ' ' || c == '\u{7f}' => write!(out, "\\x{:02x}", u32::from(c))?,
            c => out.write_char(c)?,
        }
    }
    out.write_char(quote)
}

/// The filter `tojson`. Writes JSON as Python's `json.dumps` does, with spaces after commas and colons, because models were trained on
/// it. Like Transformers' filter, and unlike Jinja2's, it does not escape HTML.
fn to_json(value: Value, arguments: Kwargs) -> Result<Value, Error> {
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut json = serde_json::to_value(&value).map_err(failed)?;
    let indent: Option<usize> = arguments.get("indent")?;
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    if arguments.get::<Option<bool>>("sort_keys")? == Some(true) {
        json.sort_all_objects();
    }
    let is_ascii = arguments.get::<Option<bool>>("ensure_ascii")? == Some(true);
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ => (", ".to_owned(), ": ".to_owned()),
    };
    let mut out = Vec::new();
    let written = match indent {
        Some(width) => {
            let pad = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(pad.as_bytes());
            serde::Serialize::serialize(&json, &mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
        None => {
            let formatter = Spaced { item, key };
            serde::Serialize::serialize(&json, &mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
    };
    written.map_err(failed)?;
    let json = with_digits(String::from_utf8_lossy(&out).into_owned());
    Ok(Value::from_safe_string(if is_ascii { escaped(&json) } else { json }))
}

/// Escapes all characters of a JSON text that are not ASCII, except marks.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() || c == MARK {
            out.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out
}

/// Formats JSON on one line, with these separators.
struct Spaced {
    item: String,
    key: String,
}

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    /// The expected texts are those of Jinja2 3.1 with Transformers' filters.
    #[test]
    fn templates_render_as_in_python() {
        let value = serde_json::json!({"a": [1, 2.5, true, null, "x'y", "q\"r", "é\n\\"], "b": {}});
        for (template, expected) in [
            ("{{ value }}", r#"{'a': [1, 2.5, True, None, "x'y", 'q"r', 'é\n\\'], 'b': {}}"#),
            (
                "{{ value | tojson(ensure_ascii=True) }}",
                r#"{"a": [1, 2.5, true, null, "x'y", "q\"r", "\u00e9\n\\"], "b": {}}"#,
            ),
            ("{{ '🙂' | tojson(ensure_ascii=True) }}", r#""\ud83d\ude42""#),
            (
                "{{ none is iterable }}{{ [] is iterable }}{{ 'a' is iterable }}{{ {} is iterable }}",
                "FalseTrueTrueTrue",
            ),
            ("{{ 'a' is sequence }}{{ {} is sequence }}{{ [] is sequence }}{{ 1 is sequence }}", "TrueTrueTrueFalse"),
            ("{{ 'abc'[::-1] }}{{ [1, 2][::-1][0] }}{{ [1, 2, 3][:-1] | length }}", "cba22"),
            ("a {%- generation -%} b {%- endgeneration %} c", "ab c"),
            ("{% generation %}\nx{% endgeneration %}", "x"),
            ("{% set generation = 1 %}{{ generation }}", "1"),
            (
                "{{ 'a,b,c'.rsplit(',', 1) }}{{ 'a-b'.partition('-') }}{{ 'ab'.partition('-') }}",
                "['a,b', 'c']['a', '-', 'b']['ab', '', '']",
            ),
            ("{{ 'ab'.removeprefix('a') }}{{ 'ab'.removesuffix('b') }}{{ ' x'.lstrip() }}", "bax"),
        ] {
            let rendered = environment("t", template)
                .and_then(|environment| environment.get_template("t")?.render(context! { value => value }));
            assert_eq!(rendered.as_deref().unwrap_or("refused"), expected, "{template}");
        }
    }

    #[test]
    fn a_format_of_time_that_is_wrong_is_an_error() {
        let rendered = environment("t", "{{ strftime_now('%Q') }}")
            .and_then(|environment| environment.get_template("t")?.render(context! {}));
        assert!(rendered.is_err_and(|error| error.to_string().contains("%Q")));
    }
}
