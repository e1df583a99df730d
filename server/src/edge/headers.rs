//! Headers with the ignored parts of a request and with the remaining quota.

use actix_web::{
    HttpResponse, ResponseError,
    http::header::{HeaderName, HeaderValue},
};

use super::{error::Answer, grants::limited_key, state::Edge};
use crate::{access::Identity, store::rates::Unit};

/// Names the parts of a request that the server ignored.
pub const IGNORED: HeaderName = HeaderName::from_static("x-caudal-ignored");

/// Adds the ignored parts of the request, separated by commas.
pub fn ignored(mut answer: HttpResponse, ignored: &[String]) -> HttpResponse {
    // Clients choose the names. Characters that a header cannot carry are left out.
    let visible = |name: &String| name.chars().filter(|c| (' '..='~').contains(c) && *c != ',').collect::<String>();
    let names: Vec<String> = ignored.iter().map(visible).collect();
    if let Ok(value) = HeaderValue::from_str(&names.join(", "))
        && !names.is_empty()
    {
        answer.headers_mut().insert(IGNORED, value);
    }
    answer
}

/// Adds `x-ratelimit-*` to an answer or a refusal if the key or the tenant has a limit.
pub async fn rates(edge: &Edge, identity: &Identity, answer: Answer) -> Answer {
    let quotas = edge.generations.quotas(&identity.tenant, limited_key(identity).as_ref()).await;
    if quotas.is_empty() {
        return answer;
    }
    let mut answer = answer.unwrap_or_else(|error| error.error_response());
    for quota in quotas {
        let unit = match quota.unit {
            Unit::Requests => "requests",
            Unit::Tokens => "tokens",
        };
        let values = [
            ("limit", quota.limit.to_string()),
            ("remaining", quota.remaining.to_string()),
            ("reset", format!("{}ms", quota.reset_ms)),
        ];
        for (name, value) in values {
            let name = HeaderName::try_from(format!("x-ratelimit-{name}-{unit}"));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
                answer.headers_mut().insert(name, value);
            }
        }
    }
    Ok(answer)
}
