//! WebSocket close codes. The range tells a client what to do: 4000–4499 reconnect and resume, 4500–4999 do not.

/// The server is stopping or restarting: reconnect.
pub const RESTART: u16 = 1012;
/// The key or client secret has expired or was revoked.
pub const POLICY: u16 = 1008;
/// A message was larger than the limit.
pub const TOO_LARGE: u16 = 1009;
/// A frame of a kind that the protocol does not use, such as a binary frame.
pub const UNSUPPORTED: u16 = 1003;
/// Text that is not UTF-8.
pub const NOT_UTF8: u16 = 1007;
/// The peer broke the WebSocket protocol.
pub const PROTOCOL: u16 = 1002;
/// The client read too slowly and its unsent bytes reached the limit: reconnect and resume.
pub const SLOW_CLIENT: u16 = 4000;
/// The client sent nothing for the idle timeout: reconnect and resume.
pub const IDLE: u16 = 4001;
/// A message did not arrive completely in time, or the tenant's incomplete messages have too many bytes: reconnect and resume.
pub const UNFINISHED: u16 = 4003;
/// The connection reached its maximum age: reconnect and resume.
pub const CONNECTION_LIMIT: u16 = 4002;
