//! The sampling options of a request, of a model's defaults, and of both together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Sampling options. An absent option is neutral: it leaves the model's distribution unchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ModelSampling", !deny_unknown_fields)]
pub struct SamplingOptions {
    #[schemars(range(min = 0, max = 2))]
    pub temperature: Option<f32>,
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub top_p: Option<f32>,
    #[schemars(range(min = 1))]
    pub top_k: Option<u32>,
    #[schemars(range(min = 0, max = 1))]
    pub min_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2, max = 2))]
    pub frequency_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2, max = 2))]
    pub presence_penalty: Option<f32>,
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 2))]
    pub repetition_penalty: Option<f32>,
}

/// The names of the options.
const NAMES: [&str; 7] =
    ["temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"];

impl SamplingOptions {
    /// Removes the options from the fields of a request and returns them unparsed. The other fields keep their order.
    pub fn take(request: &mut Value) -> Map<String, Value> {
        let Some(fields) = request.as_object_mut() else { return Map::new() };
        let (options, rest) = std::mem::take(fields).into_iter().partition(|(name, _)| NAMES.contains(&name.as_str()));
        *fields = rest;
        options
    }

    /// Fills the absent options of `self` from `defaults`.
    pub fn or(self, defaults: Self) -> Self {
        Self {
            temperature: self.temperature.or(defaults.temperature),
            top_p: self.top_p.or(defaults.top_p),
            top_k: self.top_k.or(defaults.top_k),
            min_p: self.min_p.or(defaults.min_p),
            frequency_penalty: self.frequency_penalty.or(defaults.frequency_penalty),
            presence_penalty: self.presence_penalty.or(defaults.presence_penalty),
            repetition_penalty: self.repetition_penalty.or(defaults.repetition_penalty),
        }
    }

    /// Returns the options for the log: those of the request, completed by the `defaults` of the model. Two penalties are always
    /// set, because earlier versions of the server cannot read a log without them.
    pub fn completed(self, defaults: Self) -> Self {
        let neutral = Self { frequency_penalty: Some(0.0), presence_penalty: Some(0.0), ..Self::default() };
        self.or(defaults).or(neutral)
    }

    /// Returns the name of the first option that is out of range, and the range in words.
    pub fn out_of_range(&self) -> Option<(&'static str, &'static str)> {
        let is = |value: Option<f32>, holds: fn(f32) -> bool| value.is_none_or(holds);
        let checks = [
            ("temperature", "from 0 to 2", is(self.temperature, |t| (0.0..=2.0).contains(&t))),
            ("top_p", "above 0 and at most 1", is(self.top_p, |p| p > 0.0 && p <= 1.0)),
            ("top_k", "at least 1", self.top_k != Some(0)),
            ("min_p", "from 0 to 1", is(self.min_p, |p| (0.0..=1.0).contains(&p))),
            ("frequency_penalty", "from -2 to 2", is(self.frequency_penalty, |p| (-2.0..=2.0).contains(&p))),
            ("presence_penalty", "from -2 to 2", is(self.presence_penalty, |p| (-2.0..=2.0).contains(&p))),
            ("repetition_penalty", "above 0 and at most 2", is(self.repetition_penalty, |p| p > 0.0 && p <= 2.0)),
        ];
        checks.into_iter().find(|(.., is_within)| !is_within).map(|(name, range, _)| (name, range))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns options that are all set, each to a number of its own.
    fn all() -> SamplingOptions {
        let numbers = (1..).map(|n| json!(n as f32 / 8.0));
        let mut options: Map<_, _> = NAMES.iter().map(|name| (*name).to_owned()).zip(numbers).collect();
        options.insert("top_k".into(), json!(40));
        serde_json::from_value(options.into()).expect("every name is an option's")
    }

    #[test]
    fn every_option_is_taken_from_a_request_and_nothing_else() {
        let mut request = json!(all());
        assert_eq!(request.as_object().unwrap().keys().collect::<Vec<_>>(), NAMES);
        request["input"] = json!("x");
        assert_eq!(json!(SamplingOptions::take(&mut request)), json!(all()));
        assert_eq!(request, json!({"input": "x"}));
        assert!(SamplingOptions::take(&mut json!([])).is_empty());
    }

    #[test]
    fn a_default_stands_only_where_nothing_is_set() {
        assert_eq!(SamplingOptions::default().or(all()), all());
        let own = SamplingOptions { temperature: Some(0.0), ..SamplingOptions::default() };
        assert_eq!(own.or(all()), SamplingOptions { temperature: Some(0.0), ..all() });
        assert_eq!(all().or(own), all());
    }

    #[test]
    fn an_option_out_of_range_is_named_with_its_range() {
        assert_eq!(all().out_of_range(), None);
        for (name, values, range) in [
            ("temperature", vec![-0.1, 2.1], "from 0 to 2"),
            ("top_p", vec![0.0, 1.1], "above 0 and at most 1"),
            ("min_p", vec![-0.1, 1.1], "from 0 to 1"),
            ("frequency_penalty", vec![-2.1, 2.1], "from -2 to 2"),
            ("presence_penalty", vec![-2.1, 2.1], "from -2 to 2"),
            ("repetition_penalty", vec![0.0, 2.1], "above 0 and at most 2"),
        ] {
            for value in values {
                let options: SamplingOptions = serde_json::from_value(json!({name: value})).unwrap();
                assert_eq!(options.out_of_range(), Some((name, range)), "{value}");
            }
        }
        let none = SamplingOptions { top_k: Some(0), ..SamplingOptions::default() };
        assert_eq!(none.out_of_range(), Some(("top_k", "at least 1")));
    }
}
