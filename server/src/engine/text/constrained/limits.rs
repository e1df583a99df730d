//! The bounds on grammars and on the work that they cause.

use std::{collections::HashSet, time::Duration};

use llguidance::api::ParserLimits;

use crate::engine::{Grammar, Rules};

/// Bytes of a regex, of a Lark text or of a schema's JSON. The schemas of 128 functions must fit into one Lark text.
const MAX_SOURCE: usize = 2 << 20;
/// Brackets open at once in a regex or a Lark text. The parser of JSON has a bound of its own.
const MAX_NESTING: usize = 200;
/// Bound on the product of all `multipleOf`. The compiler makes a state for every remainder of a division, without a bound of its own.
const MAX_DIVISOR: u64 = 10_000;
/// The least number in a schema. The compiler overflows its stack at ranges that end below the integers of 64 bits.
const LEAST: f64 = -1e18;
/// Bytes of a compilation's stack. The compiler recurses along references; the longest chain that a source can hold fits.
pub const STACK: usize = 256 << 20;
/// Longest time that a request waits for its compilation.
pub const COMPILE_TIME: Duration = Duration::from_secs(4);
/// Longest time that a request waits for its turn to compile.
pub const WAIT_TIME: Duration = Duration::from_secs(5);
/// Compilations that run at once, of all tenants together and of one.
pub const COMPILING: usize = 4;
pub const COMPILING_PER_TENANT: usize = 2;
/// Compilations that wait for their turn, of all tenants together and of one.
pub const WAITING: usize = 128;
pub const WAITING_PER_TENANT: usize = 32;
/// Tenants with cached grammars, and cached grammars of each tenant. A chat sends its schema with every turn.
pub const CACHED_TENANTS: u64 = 64;
pub const CACHED_GRAMMARS: u64 = 16;
/// Most tokens of a completion.
pub const MAX_COMPLETION: usize = 4096;

/// The bounds on llguidance's own work.
pub fn parser_limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 2_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        // A state takes one or two kilobytes.
        max_lexer_states: 25_000,
        // Verbose errors quote the grammar and the output.
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// Refuses a source that would take too much memory, stack or time to compile.
///
/// # Errors
/// The text names the bound that the source exceeds.
pub fn check_source(grammar: &Grammar, source: &str) -> Result<(), String> {
    if source.len() > MAX_SOURCE {
        return Err(format!("The grammar has {} bytes; at most {MAX_SOURCE} are allowed.", source.len()));
    }
    if !matches!(grammar.rules, Rules::JsonSchema(_)) && nesting(source) > MAX_NESTING {
        return Err(format!("The grammar has more than {MAX_NESTING} brackets open at once."));
    }
    if !matches!(grammar.rules, Rules::Regex(_)) && least(source) < LEAST {
        return Err(format!("The grammar has a number below {LEAST:e}."));
    }
    if divisors(source) > MAX_DIVISOR {
        return Err(format!("The numbers of 'multipleOf' multiply to more than {MAX_DIVISOR}."));
    }
    Ok(())
}

/// The product of all different numbers of `multipleOf`, without their decimal points. A Lark text may hold schemas, so it is
/// searched, too.
fn divisors(source: &str) -> u64 {
    // JSON may escape any letter as `\u00XX`.
    let plain = source.split("\\u00").enumerate().fold(String::new(), |mut plain, (at, part)| {
        let code = part.get(..2).filter(|_| at > 0).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        plain.extend(code.map(char::from));
        plain + if code.is_some() { &part[2..] } else { part }
    });
    let numbers = plain.split("\"multipleOf\"").skip(1).filter_map(|rest| {
        let rest = rest.trim_start().strip_prefix(':')?.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let digits = number.replace('.', "");
        // A number that does not fit, or has an exponent, counts as above the bound.
        let number = if after.starts_with(['e', 'E']) { u64::MAX } else { digits.parse().unwrap_or(u64::MAX) };
        Some(number.max(1))
    });
    let different: HashSet<u64> = numbers.collect();
    different.into_iter().fold(1, u64::saturating_mul)
}

/// The least negative number in the source's JSON; 0 if there is none.
fn least(source: &str) -> f64 {
    let begins = |at: usize| source[..at].ends_with(|before: char| before.is_whitespace() || ":[,".contains(before));
    let numbers = source.match_indices('-').filter(|(at, _)| begins(*at)).filter_map(|(at, sign)| {
        let rest = &source[at + sign.len()..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && !".eE+-".contains(c)).unwrap_or(rest.len());
        rest[..end].parse::<f64>().ok()
    });
    -numbers.fold(0.0, f64::max)
}

/// The most brackets that are open at once. Brackets within strings count, too.
fn nesting(source: &str) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_number_is_found() {
        let lark = r#"start: %json {"type": "integer", "maximum": -9223372036854775808, "minimum": -1e3, "x": "a-b"}"#;
        assert_eq!(least(lark), -9_223_372_036_854_775_808.0);
        assert_eq!(least(r#"{"maximum": -1E+19}"#), -1e19);
        assert_eq!(least(r#"{"minimum":-1e+2, "enum": [-3, "6ba7b810-9e99-11d1"], "pattern": "[a-z]-?"}"#), -100.0);
    }

    #[test]
    fn divisors_are_found_however_they_are_written() {
        assert_eq!(divisors(r#"{"multipleOf": 5, "x": {"multipleOf":0.01}}"#), 5);
        assert_eq!(divisors(r#"start: %json {"multipleOf" : 30, "y": {"multiple\u004ff": 7, "multipleOf":7}}"#), 210);
        assert_eq!(divisors("{}"), 1);
        assert_eq!(divisors(r#"{"multipleOf":99999999999999999999999}"#), u64::MAX);
        assert_eq!(divisors(r#"{"multipleOf":1e8}"#), u64::MAX);
    }
}
