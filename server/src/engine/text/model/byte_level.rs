//! Bytes as printable characters. Byte-pair vocabularies write each byte of a token as one character: printable bytes as themselves,
//! the others as characters from U+0100 on, in order.

/// The byte that a character stands for, if any.
pub fn byte(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        _ => (0..=u8::MAX).filter(|byte| !prints(*byte)).nth(usize::try_from(code.checked_sub(0x100)?).ok()?),
    }
}

fn prints(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The bytes of a token's text. A character that stands for no byte is written in UTF-8.
pub fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match byte(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character() {
        assert_eq!(bytes("Ġthe"), b" the");
        assert_eq!(bytes("Ċ"), b"\n");
        assert_eq!(bytes("Ã©"), "é".as_bytes());
        let all: std::collections::HashSet<u8> = (0x21..0x200).filter_map(char::from_u32).filter_map(byte).collect();
        assert_eq!(all.len(), 256);
        assert_eq!(bytes("日"), "日".as_bytes());
    }
}
