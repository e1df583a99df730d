//! Reads the header of a GGUF file: little-endian, a magic number, a version, two counts, keys with typed values, and the descriptions
//! of the weights. Every length is checked against the rest of the file, so a damaged file is an error and never a large allocation.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

/// How deep arrays may nest.
const MAX_DEPTH: usize = 4;
/// Dimensions of a weight.
const MAX_DIMENSIONS: u32 = 8;
/// The error of a file that was not fetched to its end.
const TOO_SHORT: &str = "it ends within its header, so fetch it again";

/// A value. Integers and floats of all widths are stored in 64 bits.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Vec<Value>),
}

/// The description of a weight in the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    pub name: String,
    /// The number of its type.
    pub kind: u32,
    pub elements: u64,
    /// Offset of the weight's first byte in the file.
    pub begin: u64,
}

/// All keys of a file with their values.
pub struct Metadata(HashMap<String, Value>);

/// Reads the descriptions of the weights of a GGUF file. Also returns the size of the file in bytes.
///
/// # Errors
/// The file cannot be read, or is not a GGUF file.
pub fn weights(path: &Path) -> Result<(Vec<Weight>, u64), String> {
    header(path, |reader| {
        let bytes = reader.left;
        let (values, count) = reader.metadata()?;
        Ok((reader.weights(&values, count, bytes)?, bytes))
    })
}

fn header<T>(path: &Path, read: impl FnOnce(&mut Reader<BufReader<File>>) -> Result<T, String>) -> Result<T, String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| format!("cannot open {shown}: {error}"))?;
    let bytes = file.metadata().map_err(|error| format!("cannot read {shown}: {error}"))?.len();
    let mut reader = Reader { source: BufReader::new(file), left: bytes };
    read(&mut reader).map_err(|error| format!("{shown} is not a GGUF file this server can read: {error}"))
}

impl Metadata {
    /// # Errors
    /// The file cannot be read, or is not a GGUF file.
    pub fn read(path: &Path) -> Result<Self, String> {
        header(path, |reader| reader.metadata()).map(|(values, _)| Self(values))
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        match self.0.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key)?.as_number()
    }

    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.0.get(key)? {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub fn array(&self, key: &str) -> Option<&[Value]> {
        match self.0.get(key)? {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }
}

impl Value {
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_number(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }
}

struct Reader<R> {
    source: R,
    /// Bytes of the file that were not read yet.
    left: u64,
}

impl<R: Read> Reader<R> {
    /// Reads all keys and the number of weights.
    fn metadata(&mut self) -> Result<(HashMap<String, Value>, u64), String> {
        let magic = self.bytes::<4>()?;
        if &magic != b"GGUF" {
            return Err(format!("it begins with `{}`, not `GGUF`", magic.escape_ascii()));
        }
        let version = u32::from_le_bytes(self.bytes()?);
        if !(2..=3).contains(&version) {
            return Err(format!("its version is {version}; versions 2 and 3 are supported"));
        }
        let weights = self.u64()?;
        let count = self.u64()?;
        let mut all = HashMap::new();
        for _ in 0..count {
            let key = self.text()?;
            let kind = u32::from_le_bytes(self.bytes()?);
            let value = self.value(kind, 0).map_err(|error| format!("{key}: {error}"))?;
            all.insert(key, value);
        }
        Ok((all, weights))
    }

    /// Reads the descriptions of the weights, which follow the keys. `bytes`: the size of the file.
    fn weights(&mut self, values: &HashMap<String, Value>, count: u64, bytes: u64) -> Result<Vec<Weight>, String> {
        let mut weights = Vec::new();
        for _ in 0..count {
            let name = self.text()?;
            let dimensions = u32::from_le_bytes(self.bytes()?);
            if dimensions > MAX_DIMENSIONS {
                return Err(format!("{name} has {dimensions} dimensions"));
            }
            let mut elements = Some(1u64);
            for _ in 0..dimensions {
                let length = self.u64()?;
                elements = elements.and_then(|elements| elements.checked_mul(length));
            }
            let kind = u32::from_le_bytes(self.bytes()?);
            let elements = elements.ok_or_else(|| format!("{name} is too large"))?;
            weights.push(Weight { name, kind, elements, begin: self.u64()? });
        }
        let alignment = values.get("general.alignment").and_then(Value::as_number).unwrap_or(32).max(1);
        let begin = (bytes - self.left).checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        weights.iter_mut().for_each(|weight| weight.begin = weight.begin.saturating_add(begin));
        Ok(weights)
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.bytes()?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::Unsigned(u32::from_le_bytes(self.bytes()?).into()),
            5 => Value::Signed(i32::from_le_bytes(self.bytes()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes()?).into()),
            7 => Value::Bool(u8::from_le_bytes(self.bytes()?) != 0),
            8 => Value::Text(self.text()?),
            9 if depth < MAX_DEPTH => {
                let kind = u32::from_le_bytes(self.bytes()?);
                let count = self.u64()?;
                // Every value takes at least a byte.
                if count > self.left {
                    return Err(TOO_SHORT.into());
                }
                (0..count).map(|_| self.value(kind, depth + 1)).collect::<Result<_, _>>().map(Value::Array)?
            }
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.bytes()?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            other => return Err(format!("a value has the unknown type {other}")),
        })
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        if length > self.left {
            return Err(TOO_SHORT.into());
        }
        let mut bytes = Vec::new();
        self.source.by_ref().take(length).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        self.left -= length;
        // Some files have tokens that are not UTF-8.
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes).map_err(|_| TOO_SHORT.to_owned())?;
        self.left = self.left.saturating_sub(N as u64);
        Ok(bytes)
    }
}

#[cfg(test)]
pub mod write {
    //! Writes GGUF files for tests, with metadata only.

    use super::Value;

    pub fn file(entries: &[(&str, Value)]) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(0u64.to_le_bytes());
        out.extend((entries.len() as u64).to_le_bytes());
        for (key, value) in entries {
            text(&mut out, key);
            out.extend(kind(value).to_le_bytes());
            write(&mut out, value);
        }
        out
    }

    fn kind(value: &Value) -> u32 {
        match value {
            Value::Unsigned(_) => 10,
            Value::Signed(_) => 5,
            Value::Float(_) => 6,
            Value::Bool(_) => 7,
            Value::Text(_) => 8,
            Value::Array(_) => 9,
        }
    }

    fn write(out: &mut Vec<u8>, value: &Value) {
        match value {
            Value::Unsigned(value) => out.extend(value.to_le_bytes()),
            Value::Signed(value) => out.extend((*value as i32).to_le_bytes()),
            Value::Float(value) => out.extend((*value as f32).to_le_bytes()),
            Value::Bool(value) => out.push(u8::from(*value)),
            Value::Text(value) => text(out, value),
            Value::Array(values) => {
                out.extend(values.first().map_or(4, kind).to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| write(out, value));
            }
        }
    }

    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<HashMap<String, Value>, String> {
        Reader { source: bytes, left: bytes.len() as u64 }.metadata().map(|(values, _)| values)
    }

    #[test]
    fn values_of_every_type_are_read() {
        let entries = [
            ("a", Value::Text("é".into())),
            ("b", Value::Array(vec![Value::Signed(-3), Value::Signed(4)])),
            ("c", Value::Float(0.5)),
            ("d", Value::Bool(true)),
            ("e", Value::Unsigned(1 << 40)),
            ("f", Value::Array(vec![])),
        ];
        let all = read(&write::file(&entries)).expect("it is read");
        assert_eq!(all.len(), entries.len());
        assert!(entries.iter().all(|(key, value)| all.get(*key) == Some(value)), "{all:?}");
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let whole = write::file(&[("key", Value::Array(vec![Value::Text("one".into()), Value::Text("two".into())]))]);
        for end in 0..whole.len() {
            let error = read(&whole[..end]).expect_err("it was cut");
            assert!(error.ends_with(TOO_SHORT), "cut after {end}: {error}");
        }
        assert_eq!(read(b"[auth]\nmode"), Err("it begins with `[aut`, not `GGUF`".into()));
        // Any single byte may be wrong, also in a length.
        for at in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[at] ^= 0xff;
            let _ = read(&wrong);
        }
    }
}
