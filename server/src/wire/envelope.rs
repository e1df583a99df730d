//! Reads the type and the lane of a WebSocket message and allocates nothing else of it. A request that waits in its lane stays
//! unparsed text.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::lane::is_stream_id;

/// The fields of a message that decide how it is routed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    kind: Option<String>,
    stream_id: Option<Result<String, NotText>>,
}

/// A value that is neither text nor null.
#[derive(Debug, PartialEq, Eq)]
struct NotText;

impl Envelope {
    /// Reads the envelope of a message. Returns an empty one if the message is not a JSON object.
    pub fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Returns the lane of a `response.create`; `None` for any other message, and for a `stream_id` that is not valid.
    pub fn lane_of_create(self) -> Option<Option<String>> {
        if self.kind.as_deref() != Some("response.create") {
            return None;
        }
        match self.stream_id {
            None => Some(None),
            Some(Ok(id)) if is_stream_id(&id) => Some(Some(id)),
            Some(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Envelope;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Envelope, A::Error> {
        let mut envelope = Envelope::default();
        // The last of two fields with one name counts, as it does when the whole message is parsed.
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "type" => envelope.kind = map.next_value::<Short>()?.0.and_then(Result::ok),
                "stream_id" => envelope.stream_id = map.next_value::<Short>()?.0,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(envelope)
    }
}

/// `None` for null, the text of a string, and [`NotText`] for any other value.
struct Short(Option<Result<String, NotText>>);

impl<'de> Deserialize<'de> for Short {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Short;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Short, E> {
        Ok(Short(Some(Ok(text.to_owned()))))
    }

    fn visit_unit<E>(self) -> Result<Short, E> {
        Ok(Short(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Short, E> {
        Ok(Short(Some(Err(NotText))))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Short, E> {
        Ok(Short(Some(Err(NotText))))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Short, E> {
        Ok(Short(Some(Err(NotText))))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Short, E> {
        Ok(Short(Some(Err(NotText))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Short, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Short(Some(Err(NotText))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Short, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Short(Some(Err(NotText))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_by_its_type_and_lane_alone() {
        for (text, expected) in [
            (r#"{"type":"response.create","input":[[[[1]]]]}"#, Some(None)),
            (r#"{"input":{"type":"x","stream_id":"no"},"stream_id":"a","type":"response.create"}"#, Some(Some("a"))),
            (r#"{"type":"response.create","stream_id":null}"#, Some(None)),
            (r#"{"type":"response.create","stream_id":"a b"}"#, None),
            (r#"{"type":"response.create","stream_id":7}"#, None),
            (r#"{"type":"x","type":"response.create"}"#, Some(None)),
            (r#"{"type":"response.cancel"}"#, None),
            (r#"{"type":["response.create"]}"#, None),
            (r#"{"type":"response.create""#, None),
            (r#""response.create""#, None),
        ] {
            let expected = expected.map(|lane: Option<&str>| lane.map(str::to_owned));
            assert_eq!(Envelope::read(text).lane_of_create(), expected, "{text}");
        }
    }
}
