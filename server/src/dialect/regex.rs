//! Translates clients' regular expressions into the syntax of the engine's compiler, which is that of the crate `regex`.

/// The members of `\d` and `\w`. In the compiler's syntax these classes include the digits and letters of all scripts.
const DIGIT: &str = "0-9";
const WORD: &str = "A-Za-z0-9_";

/// Translates a `pattern` of a JSON schema, which is of ECMA 262: `\d` and `\w` are ASCII, and a bracket within a class is literal.
pub fn pattern(ecma: &str) -> String {
    rewritten(ecma, true)
}

/// Translates a regex that a client wrote in the compiler's syntax, so that `\d` and `\w` are ASCII.
pub fn ascii(regex: &str) -> String {
    rewritten(regex, false)
}

/// `flat`: a class has no nested classes and no operators.
fn rewritten(regex: &str, flat: bool) -> String {
    let mut out = String::with_capacity(regex.len());
    let mut open = 0usize;
    let mut chars = regex.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let members = |set: &str| if open > 0 { set.to_owned() } else { format!("[{set}]") };
                match chars.next() {
                    Some('d') => out.push_str(&members(DIGIT)),
                    Some('w') => out.push_str(&members(WORD)),
                    Some('D') => out.push_str(&format!("[^{DIGIT}]")),
                    Some('W') => out.push_str(&format!("[^{WORD}]")),
                    other => out.extend(std::iter::once(c).chain(other)),
                }
                continue;
            }
            '[' if open > 0 && flat => out.push('\\'),
            '[' => open += 1,
            ']' => open = open.saturating_sub(1),
            '&' | '~' if open > 0 && flat => out.push('\\'),
            _ => {}
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_read_as_ecma_reads_it() {
        for (ecma, expected) in [
            (r"^\d{3}-\w+$", "^[0-9]{3}-[A-Za-z0-9_]+$"),
            (r"[\d.][^\w\D]\W", "[0-9.][^A-Za-z0-9_[^0-9]][^A-Za-z0-9_]"),
            (r"\\d\[\d", r"\\d\[[0-9]"),
            (r#"[^<>()[\]\\.,;:\s@"]+"#, r#"[^<>()\[\]\\.,;:\s@"]+"#),
            ("[a-z&&b][[:x]", r"[a-z\&\&b][\[:x]"),
            (r"\p{L}\u0041(a|b)?[é-ü]\", r"\p{L}\u0041(a|b)?[é-ü]\"),
        ] {
            assert_eq!(pattern(ecma), expected);
        }
        assert_eq!(ascii(r"[a-z&&[^\d]]\d"), "[a-z&&[^0-9]][0-9]");
    }
}
