//! Errors as HTTP answers.

use actix_web::{
    HttpResponse, ResponseError,
    http::{ConnectionType, StatusCode, header},
};
use serde_json::json;

use crate::wire::error::WireError;

/// The content encodings that the server decodes. An answer to a client that used another one lists them.
const ENCODINGS: &str = "gzip, zstd";

/// An error as an HTTP answer: its status, `{error: {…}}`, and `Retry-After` if a retry can help.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ApiError(#[from] pub WireError);

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.code().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Some(ms) = self.0.retry_after_ms() {
            response.insert_header((header::RETRY_AFTER, ms.div_ceil(1000).to_string()));
            response.insert_header(("retry-after-ms", ms.to_string()));
        }
        match self.0 {
            WireError::InvalidApiKey | WireError::InvalidAdminKey => {
                response.insert_header((header::WWW_AUTHENTICATE, "Bearer realm=\"caudal\""));
            }
            WireError::UnsupportedEncoding => {
                response.insert_header((header::ACCEPT_ENCODING, ENCODINGS));
            }
            WireError::UpgradeRequired(_) => {
                response.insert_header((header::UPGRADE, "websocket"));
                response.insert_header((header::SEC_WEBSOCKET_VERSION, "13"));
            }
            _ => {}
        }
        let response = response.json(json!({"error": self.0.body()}));
        // The rest of the body stays unread, so the connection cannot be reused.
        let unread = matches!(self.0, WireError::BodyTimeout | WireError::MessageTooLarge { .. });
        if unread { closing(response) } else { response }
    }
}

pub type Answer = Result<HttpResponse, ApiError>;

/// Makes the connection close after the answer, because the rest of the request is not read.
pub fn closing(mut response: HttpResponse) -> HttpResponse {
    response.head_mut().set_connection_type(ConnectionType::Close);
    response
}
