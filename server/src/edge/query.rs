//! The query of a request, with the same rules as bodies: an unknown parameter is refused, and errors name the parameter.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web};

use super::error::ApiError;
use crate::wire::{error::WireError, request::check_includable};

/// The decoded parameters, in the order of the request.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl FromRequest for Query {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
        ready(match pairs {
            Ok(pairs) => Ok(Self(pairs.into_inner())),
            Err(error) => Err(WireError::InvalidRequest { param: None, message: error.to_string() }.into()),
        })
    }
}

impl Query {
    /// Takes a parameter that may be given once. An empty value counts as absent.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, WireError> {
        let (found, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0).into_iter().partition(|(key, _)| key == name);
        self.0 = rest;
        if found.len() > 1 {
            return Err(WireError::invalid(name, format!("'{name}' is given more than once.")));
        }
        Ok(found.into_iter().next().map(|(_, value)| value).filter(|value| !value.is_empty()))
    }

    /// Takes a whole number.
    pub fn number(&mut self, name: &str) -> Result<Option<u64>, WireError> {
        let number = |text: String| text.parse().ok();
        self.parsed(name, "a whole number", number)
    }

    /// Takes `true` or `false`.
    pub fn flag(&mut self, name: &str) -> Result<bool, WireError> {
        let flag = |text: String| text.to_ascii_lowercase().parse().ok();
        Ok(self.parsed(name, "true or false", flag)?.unwrap_or(false))
    }

    fn parsed<T>(
        &mut self,
        name: &str,
        what: &str,
        parse: impl Fn(String) -> Option<T>,
    ) -> Result<Option<T>, WireError> {
        let wrong = || WireError::invalid(name, format!("'{name}' must be {what}."));
        self.text(name)?.map(|text| parse(text).ok_or_else(wrong)).transpose()
    }

    /// Takes `include` in all notations of a list: `include`, `include[]` and `include[0]`, each any number of times, and values
    /// separated by commas. Checks the values; they have no effect.
    pub fn includes(&mut self) -> Result<(), WireError> {
        let is_include = |key: &str| key == "include" || key.starts_with("include[") && key.ends_with(']');
        let (found, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.0).into_iter().partition(|(key, _)| is_include(key));
        self.0 = rest;
        found
            .iter()
            .flat_map(|(_, value)| value.split(','))
            .filter(|what| !what.is_empty())
            .try_for_each(|what| check_includable("include", what))
    }

    /// Refuses the parameters that were not taken.
    pub fn end(self) -> Result<(), WireError> {
        match self.0.first() {
            Some((name, _)) => Err(WireError::invalid(name, format!("Unknown parameter '{name}'."))),
            None => Ok(()),
        }
    }
}
