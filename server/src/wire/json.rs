//! Deserialises JSON by the rules of the protocol: a member that is `null` is absent, an array is never read as an
//! object, and errors use JSON's names of types.

use std::fmt;

use serde::{
    de::{
        self, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, VariantAccess, Visitor,
        value::{StrDeserializer, StringDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};

/// The fault of a value, without its path.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum JsonError {
    /// The message after the field's name, such as "must be a string, not a number".
    #[error("{0}")]
    Wrong(String),
    /// An object has an unknown member; its name.
    #[error("unknown")]
    Unknown(String),
    /// An object lacks a required member; its name.
    #[error("missing")]
    Missing(&'static str),
}

impl de::Error for JsonError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Wrong(format!("is not valid: {message}"))
    }

    fn invalid_type(found: Unexpected, expected: &dyn Expected) -> Self {
        let expected = expectation(&expected.to_string());
        if matches!(found, Unexpected::Float(_)) && expected.starts_with("a whole number") {
            return Self::Wrong(format!("must be {expected}"));
        }
        Self::Wrong(format!("must be {expected}, not {}", type_name(found)))
    }

    fn invalid_value(_: Unexpected, expected: &dyn Expected) -> Self {
        Self::Wrong(format!("must be {}", expectation(&expected.to_string())))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        let names: Vec<String> = expected.iter().map(|name| format!("'{name}'")).collect();
        Self::Wrong(format!("must be one of {}", names.join(", ")))
    }

    fn unknown_field(field: &str, _: &'static [&'static str]) -> Self {
        Self::Unknown(field.to_owned())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }
}

/// Translates an expectation of serde into JSON's names of types.
fn expectation(expected: &str) -> String {
    let range = match expected {
        "u8" => Some((0, u64::from(u8::MAX))),
        "u16" => Some((0, u64::from(u16::MAX))),
        "u32" => Some((0, u64::from(u32::MAX))),
        "u64" | "usize" => Some((0, u64::MAX)),
        _ => None,
    };
    match (expected, range) {
        (_, Some((least, most))) => format!("a whole number from {least} to {most}"),
        ("i8" | "i16" | "i32" | "i64", _) => "a whole number".into(),
        ("f32" | "f64", _) => "a number".into(),
        ("a boolean", _) => "true or false".into(),
        ("a sequence", _) => "an array".into(),
        ("a map", _) => "an object".into(),
        (named, _) if named.starts_with("struct ") => "an object".into(),
        (named, _) if named.starts_with("enum ") || named == "variant identifier" => "a string".into(),
        (other, _) => other.to_owned(),
    }
}

/// Returns JSON's name of a type.
fn type_name(found: Unexpected) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
        Unexpected::Char(_) | Unexpected::Str(_) | Unexpected::Bytes(_) => "a string",
        Unexpected::Seq => "an array",
        Unexpected::Map => "an object",
        _ => "null",
    }
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(_) => Unexpected::Float(0.0),
        Value::String(value) => Unexpected::Str(value),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

/// Turns a whole number that is written with a point or an exponent, such as `1.0`, into an integer. Returns other values
/// unchanged.
pub fn whole(value: Value) -> Value {
    /// 2^53. Above it, a float no longer represents every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value.as_f64() {
        Some(number) if !value.is_i64() && !value.is_u64() && number.fract() == 0.0 && number.abs() < EXACT => {
            Value::from(number as i64)
        }
        _ => value,
    }
}

/// Deserialises a value.
pub struct Reader(pub Value);

/// Accepts whole numbers with a point or an exponent.
macro_rules! deserialize_whole {
    ($($name:ident)*) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
            Reader(whole(self.0)).deserialize_any(visitor)
        }
    )*};
}

impl Reader {
    fn members<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Object(members) => visitor.visit_map(Members { rest: members.into_iter(), value: None }),
            other => Err(JsonError::invalid_type(unexpected(&other), &"a map")),
        }
    }
}

impl<'de> Deserializer<'de> for Reader {
    type Error = JsonError;

    /// Deserialises a [`Value`] unchanged, with its nulls: `null` has a meaning in a schema.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), ..) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (.., value) => visitor.visit_f64(value.unwrap_or(f64::NAN)),
            },
            Value::String(value) => visitor.visit_string(value),
            Value::Array(items) => visitor.visit_seq(Items { rest: items.into_iter() }),
            Value::Object(members) => visitor.visit_map(Raw { rest: members.into_iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.members(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.members(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(Name(name)),
            other => Err(JsonError::invalid_type(unexpected(&other), &"a string")),
        }
    }

    deserialize_whole! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    forward_to_deserialize_any! {
        bool i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct identifier
        ignored_any
    }
}

/// The items of an array.
struct Items {
    rest: std::vec::IntoIter<Value>,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = JsonError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, JsonError> {
        self.rest.next().map(|item| seed.deserialize(Reader(item))).transpose()
    }
}

/// The members of an object that are not null.
struct Members {
    rest: <Map<String, Value> as IntoIterator>::IntoIter,
    value: Option<Value>,
}

impl<'de> MapAccess<'de> for Members {
    type Error = JsonError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, JsonError> {
        let Some((key, value)) = self.rest.find(|(_, value)| !value.is_null()) else { return Ok(None) };
        self.value = Some(value);
        let key: StringDeserializer<JsonError> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, JsonError> {
        seed.deserialize(Reader(self.value.take().unwrap_or_default()))
    }
}

/// All members of an object.
struct Raw {
    rest: <Map<String, Value> as IntoIterator>::IntoIter,
    value: Option<Value>,
}

impl<'de> MapAccess<'de> for Raw {
    type Error = JsonError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, JsonError> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some(value);
        let key: StringDeserializer<JsonError> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, JsonError> {
        seed.deserialize(Reader(self.value.take().unwrap_or_default()))
    }
}

/// The name of a variant.
struct Name(String);

impl<'de> EnumAccess<'de> for Name {
    type Error = JsonError;
    type Variant = Unit;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Unit), JsonError> {
        let name: StrDeserializer<JsonError> = self.0.as_str().into_deserializer();
        Ok((seed.deserialize(name)?, Unit))
    }
}

/// The content of a variant, which is empty.
struct Unit;

impl<'de> VariantAccess<'de> for Unit {
    type Error = JsonError;

    fn unit_variant(self) -> Result<(), JsonError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, JsonError> {
        Err(JsonError::custom("a name alone"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, JsonError> {
        Err(JsonError::custom("a name alone"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, JsonError> {
        Err(JsonError::custom("a name alone"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        name: Option<String>,
        count: Option<u8>,
        kind: Option<Kind>,
        inner: Option<Inner>,
        pairs: Option<BTreeMap<String, String>>,
        raw: Option<Value>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        on: bool,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Big,
        Small,
    }

    fn read(value: Value) -> Result<Body, JsonError> {
        Body::deserialize(Reader(value))
    }

    #[test]
    fn null_is_absent_except_in_raw_values() {
        let body = read(json!({"name": null, "unheard_of": null, "pairs": {"a": null, "b": "c"},
                               "inner": {"on": true, "off": null}, "raw": {"enum": [null], "x": null}}))
        .unwrap();
        assert_eq!((body.name, body.inner), (None, Some(Inner { on: true })));
        assert_eq!(body.pairs.unwrap(), BTreeMap::from([("b".to_owned(), "c".to_owned())]));
        assert_eq!(body.raw, Some(json!({"enum": [null], "x": null})));
    }

    #[test]
    fn a_whole_number_may_have_a_point() {
        for number in ["3.0", "3e0", "0.3e1", "3"] {
            let body = read(json!({"count": serde_json::from_str::<Value>(number).unwrap()})).unwrap();
            assert_eq!(body.count, Some(3), "{number}");
        }
        let raw = json!({"multipleOf": 1.0});
        assert_eq!(read(json!({"raw": raw})).unwrap().raw, Some(raw), "a schema stays as it is");
    }

    #[test]
    fn errors_name_the_types_of_json() {
        for (value, expected) in [
            (json!([null, null]), "must be an object, not an array"),
            (json!({"inner": [true]}), "must be an object, not an array"),
            (json!({"inner": "x"}), "must be an object, not a string"),
            (json!({"pairs": []}), "must be an object, not an array"),
            (json!({"name": 1}), "must be a string, not a number"),
            (json!({"name": ["a"]}), "must be a string, not an array"),
            (json!({"count": -1}), "must be a whole number from 0 to 255"),
            (json!({"count": 1.5}), "must be a whole number from 0 to 255"),
            (json!({"count": -1.0}), "must be a whole number from 0 to 255"),
            (json!({"count": 1e300}), "must be a whole number from 0 to 255"),
            (json!({"count": 256}), "must be a whole number from 0 to 255"),
            (json!({"count": "1"}), "must be a whole number from 0 to 255, not a string"),
            (json!({"inner": {"on": 1}}), "must be true or false, not a number"),
            (json!({"kind": "middle"}), "must be one of 'big', 'small'"),
            (json!({"kind": {"big": 1}}), "must be a string, not an object"),
        ] {
            assert_eq!(read(value.clone()), Err(JsonError::Wrong(expected.into())), "{value}");
        }
        assert_eq!(read(json!({"inner": {}})), Err(JsonError::Missing("on")));
        assert_eq!(read(json!({"colour": 1})), Err(JsonError::Unknown("colour".into())));
    }
}
